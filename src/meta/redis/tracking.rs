//! Client tracking: the server tells which attributes and directories change, so that what is remembered of them need not
//! be asked for again.
//!
//! By default it tells of what we have asked for ([`ClientCache::Asked`]), each thing once until it is asked for again, so
//! that it never has more to tell than was asked: of names that were looked up, and of what we have changed. Of what scripts
//! ask only keys count that they declare, before version 7.2 all of these as soon as one is read, and only those that are
//! read since. Our own commits are not told of (NOLOOP), but end the telling, so the last thing their script does is to read
//! what it has written.
//!
//! With `client-cache=true` it tells everybody of every change in the volume ([`ClientCache::All`]), also of our own
//! commits, since NOLOOP does not cover scripts there, and of ours and another client's in one message. So what we have just
//! written ourselves is then neither trusted nor taken for changed by somebody else: it counts as any other recent answer.
//!
//! Either way a memory is trusted for as long only as the server is known to be there ([`HEARD`]).

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue, PushInfo, PushKind, Value};
use stead_base::Ino;
use tokio::time::Instant;

use super::health::value_of;
use super::seeds::Seeds;
use crate::records::{Key, Write};
use crate::store::{Change, ChangeHook};
use crate::url::ClientCache;

/// Changes that are remembered, and things that the server tells of.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");
/// For so long after a commit of ours was sent a change is taken for its echo.
const ECHO: Duration = Duration::from_secs(1);
/// Nothing is trusted when the server has not answered anything that was asked so lately: what it tells may be held up.
const HEARD: Duration = Duration::from_secs(1);
/// Keys that a server can tell of if it does not say otherwise.
const USUAL_TABLE: u64 = 1_000_000;
/// So often the server is asked whether it has room to tell of more.
const ROOM_EVERY: Duration = Duration::from_secs(2);
/// An older answer to that is none. Twice as many keys do not come in so short a time.
const ROOM_KNOWN: Duration = Duration::from_secs(4);
/// From which version on our own scripts are not told of (`tracking.c`; before, that came in the middle of other answers).
const OLDEST: [u32; 3] = [7, 0, 5];

/// The command that asks of how many keys the server can tell.
pub(super) fn ask_limit() -> Cmd {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg("tracking-table-max-keys");
    command
}

/// The command in front of one that reads what the server is to tell of.
pub(super) fn caching() -> Cmd {
    let mut command = redis::cmd("CLIENT");
    command.arg("CACHING").arg("YES");
    command
}

/// Whether a server with this INFO can tell of what was asked for.
///
/// # Errors
/// Why not.
pub(super) fn check_version(info: &str) -> Result<(), String> {
    let version = value_of(info, "redis_version").unwrap_or_default();
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or_default());
    let known: [u32; 3] = std::array::from_fn(|_part| parts.next().unwrap_or_default());
    if known >= OLDEST { Ok(()) } else { Err(format!("version {version:?} is older than 7.0.5")) }
}

/// What the server has told.
#[derive(Debug)]
pub(super) struct Tracking {
    scope: ClientCache,
    prefix: String,
    expire: Duration,
    seeds: Arc<Seeds>,
    told: Mutex<Told>,
    hook: Mutex<Hook>,
}

#[derive(Default)]
struct Hook(Option<ChangeHook>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hook").field(&self.0.is_some()).finish()
    }
}

#[derive(Debug)]
struct Told {
    /// The connection on which the server tells, and since when.
    since: Option<(u64, Instant)>,
    /// When the question was asked that was answered last.
    heard: Option<Instant>,
    /// What the server tells of ([`ClientCache::Asked`]).
    watched: LruCache<Place, Watch>,
    /// When the server was asked last how much it has to tell of, and whether there is room for more.
    room: Option<(Instant, bool)>,
    /// Of how many keys it can tell; 0 is no limit.
    limit: u64,
    changed: LruCache<Place, Instant>,
    /// When a commit of ours was sent that changes it.
    ours: LruCache<Place, Instant>,
    /// When the youngest change was told that is not remembered any more.
    forgotten: Option<Instant>,
}

/// The question after which the server tells of something: from some moment between these two on.
#[derive(Clone, Copy, Debug)]
struct Watch {
    asked: Instant,
    answered: Instant,
}

impl Watch {
    /// Whether a change of what was asked for at `at` would have been told: what the question itself brought is of the
    /// moment from which on the server tells.
    fn covers(self, at: Instant) -> bool {
        at == self.asked || at >= self.answered
    }
}

impl Told {
    /// Takes note that something has changed, or may since nobody tells.
    fn note(&mut self, place: Place) {
        self.watched.pop(&place);
        if let Some((old, at)) = self.changed.push(place, Instant::now())
            && old != place
        {
            self.forgotten = self.forgotten.max(Some(at));
        }
    }

    fn last_change(&self, place: Place) -> Option<Instant> {
        self.changed.peek(&place).copied().max(self.forgotten)
    }
}

/// What a key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    Inode(Ino),
    Directory(Ino),
    /// The list of all sessions.
    Sessions,
}

impl Place {
    pub(super) fn of(key: &Key) -> Option<Self> {
        match key {
            Key::Attr(ino) => Some(Self::Inode(*ino)),
            Key::Entry(dir, _name) => Some(Self::Directory(*dir)),
            _ => None,
        }
    }

    pub(super) fn changed_by(write: &Write) -> Option<Self> {
        match write {
            Write::SetAttr(ino, _) | Write::DelAttr(ino) => Some(Self::Inode(*ino)),
            Write::SetEntry(dir, ..) | Write::DelEntry(dir, _) => Some(Self::Directory(*dir)),
            Write::PutSession(..) | Write::TouchSession(..) | Write::DelSession(_) => Some(Self::Sessions),
            _ => None,
        }
    }
}

impl Tracking {
    /// `expire` is how long an answer is trusted at most.
    pub(super) fn new(scope: ClientCache, prefix: String, expire: Duration, seeds: Arc<Seeds>) -> Self {
        let told = Told {
            since: None,
            heard: None,
            watched: LruCache::new(REMEMBERED),
            room: None,
            limit: USUAL_TABLE,
            changed: LruCache::new(REMEMBERED),
            ours: LruCache::new(REMEMBERED),
            forgotten: None,
        };
        Self { scope, prefix, expire, seeds, told: Mutex::new(told), hook: Mutex::default() }
    }

    /// Whether a server that cannot do it will do.
    pub(super) fn is_optional(&self) -> bool {
        self.scope != ClientCache::All
    }

    /// Whether the server tells of what is declared and read.
    pub(super) fn watches(&self) -> bool {
        let told = self.told.lock();
        self.scope == ClientCache::Asked && told.since.is_some() && told.room.is_some_and(|(_at, room)| room)
    }

    /// Whether the server has to be asked how much it has to tell of. Once its table is full it forgets something with each
    /// command, in silence if the command is ours.
    pub(super) fn wonders_about_room(&self) -> bool {
        let told = self.told.lock();
        let known = told.room.is_some_and(|(at, _room)| at.elapsed() < ROOM_EVERY);
        self.scope == ClientCache::Asked && told.since.is_some() && !known
    }

    /// What INFO stats said at `at` of how much the server has to tell of; `config` is the answer to [`ask_limit`] if it was
    /// asked for. Who does not say how much has no room.
    pub(super) fn learn_room(&self, stats: &Value, config: Option<Value>, at: Instant) {
        let stats = String::from_redis_value_ref(stats).unwrap_or_default();
        let keys = value_of(&stats, "tracking_total_keys").and_then(|keys| keys.parse().ok()).unwrap_or(u64::MAX);
        let limit = config.and_then(|config| Vec::<(String, u64)>::from_redis_value(config).ok()?.pop());
        let mut told = self.told.lock();
        if let Some((_name, limit)) = limit {
            told.limit = limit;
        }
        let room = told.limit == 0 || keys < told.limit / 2;
        if !room {
            told.watched.clear();
        }
        told.room = Some((at, room));
    }

    /// A key of the volume.
    pub(super) fn some_key(&self) -> String {
        format!("{}i1", self.prefix)
    }

    /// The command that makes the server tell. No keys but those of attributes and directories begin like them.
    pub(super) fn command(&self) -> Cmd {
        let mut command = redis::cmd("CLIENT");
        command.arg("TRACKING").arg("ON").arg("NOLOOP");
        if self.scope == ClientCache::Asked {
            // The server remembers each key that it is to tell of: only what may be asked for again is worth it.
            command.arg("OPTIN");
        } else {
            command.arg("BCAST");
            for kind in ["i", "d"] {
                for digit in 1..=9 {
                    command.arg("PREFIX").arg(format!("{}{kind}{digit}", self.prefix));
                }
            }
        }
        command
    }

    /// From now on the server tells on connection `number`.
    pub(super) fn begin(&self, number: u64) {
        let mut told = self.told.lock();
        told.watched.clear();
        told.room = None;
        told.since = Some((number, Instant::now()));
    }

    /// Connection `number` is given up.
    pub(super) fn ended(&self, number: u64) {
        if self.told.lock().since.is_some_and(|(current, _since)| current == number) {
            self.end();
        }
    }

    /// The server does not tell any more.
    pub(super) fn end(&self) {
        self.told.lock().since = None;
        self.everything_changed();
    }

    /// Something was answered that was asked at `at`.
    pub(super) fn heard(&self, at: Instant) {
        let mut told = self.told.lock();
        told.heard = told.heard.max(Some(at));
    }

    /// The question of `at` that was answered has declared and read these.
    pub(super) fn watch(&self, places: impl IntoIterator<Item = Place>, at: Instant) {
        let mut told = self.told.lock();
        if self.scope != ClientCache::Asked || told.since.is_none_or(|(_number, since)| at <= since) {
            return;
        }
        let watch = Watch { asked: at, answered: Instant::now() };
        for place in places {
            if told.last_change(place).is_none_or(|changed| changed < at) && told.watched.get(&place).is_none() {
                told.watched.put(place, watch);
            }
        }
    }

    /// The server may tell of these no more, also not for the sake of questions that are under way.
    pub(super) fn unwatch(&self, places: impl IntoIterator<Item = Place>) {
        if self.scope != ClientCache::Asked {
            return;
        }
        let mut told = self.told.lock();
        places.into_iter().for_each(|place| told.note(place));
    }

    /// A commit of ours with these writes is about to be sent.
    pub(super) fn announce(&self, writes: &[Write]) {
        if self.scope != ClientCache::All {
            return;
        }
        let (now, mut told) = (Instant::now(), self.told.lock());
        for place in writes.iter().filter_map(Place::changed_by) {
            told.ours.put(place, now);
        }
    }

    /// Whom to tell of the changes of other clients. False: of most changes the server does not tell.
    pub(super) fn set_hook(&self, hook: ChangeHook) -> bool {
        let all = self.scope == ClientCache::All;
        if all {
            self.hook.lock().0 = Some(hook);
        }
        all
    }

    /// Takes what the server, or the end of connection `number`, tells.
    pub(super) fn take(&self, number: u64, push: PushInfo) {
        match push.kind {
            PushKind::Invalidate => match push.data.into_iter().next() {
                Some(Value::Array(keys)) => {
                    for key in keys.iter().filter_map(|key| String::from_redis_value_ref(key).ok()) {
                        self.changed(&key);
                    }
                }
                _ => self.everything_changed(),
            },
            PushKind::Disconnection => self.ended(number),
            _ => {}
        }
    }

    fn place_of(&self, key: &str) -> Option<Place> {
        let name = key.strip_prefix(&self.prefix)?;
        if name == "allSessions" {
            return Some(Place::Sessions);
        }
        let (kind, number) = name.split_at_checked(1)?;
        let ino = number.parse().map(Ino).ok()?;
        match kind {
            "i" => Some(Place::Inode(ino)),
            "d" => Some(Place::Directory(ino)),
            _ => None,
        }
    }

    fn changed(&self, key: &str) {
        let Some(place) = self.place_of(key) else { return };
        let ours = {
            let mut told = self.told.lock();
            told.note(place);
            told.ours.peek(&place).is_some_and(|sent| sent.elapsed() < ECHO)
        };
        if !ours && let Some(hook) = self.hook() {
            self.tell(place, &hook);
        }
    }

    fn hook(&self) -> Option<ChangeHook> {
        self.hook.lock().0.clone()
    }

    fn tell(&self, place: Place, hook: &ChangeHook) {
        match place {
            Place::Inode(ino) if self.seeds.has(&Key::Attr(ino)) => hook(Change::Inode(ino)),
            Place::Inode(_) | Place::Sessions => {}
            Place::Directory(dir) => {
                for name in self.seeds.names(dir) {
                    hook(Change::Entry(dir, name));
                }
            }
        }
    }

    fn everything_changed(&self) {
        {
            let mut told = self.told.lock();
            told.watched.clear();
            told.changed.clear();
            told.forgotten = Some(Instant::now());
        }
        if let Some(hook) = self.hook() {
            hook(Change::Everything);
        }
    }

    /// What the server has told of a record that was asked for at `at`.
    pub(super) fn trust(&self, key: &Key, at: Instant) -> Trust {
        Place::of(key).map_or(Trust::Unknown, |place| self.trust_in(place, at))
    }

    /// The same for all that is known of a place.
    pub(super) fn trust_in(&self, place: Place, at: Instant) -> Trust {
        let told = self.told.lock();
        if told.last_change(place).is_some_and(|changed| changed >= at) {
            return Trust::Changed;
        }
        let would_be_told = match self.scope {
            ClientCache::Off => false,
            ClientCache::Asked => {
                let room = told.room.is_some_and(|(at, room)| room && at.elapsed() < ROOM_KNOWN);
                room && told.watched.peek(&place).is_some_and(|watch| watch.covers(at))
            }
            ClientCache::All => told.since.is_some_and(|(_number, since)| at > since),
        };
        let there = told.heard.is_some_and(|heard| heard.elapsed() < HEARD);
        if there && would_be_told && at.elapsed() < self.expire { Trust::Unchanged } else { Trust::Unknown }
    }
}

/// Whether a memory is still good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// It is as if it had been asked for now.
    Unchanged,
    /// It has been changed since, perhaps by ourselves.
    Changed,
    /// Nobody has told.
    Unknown,
}
