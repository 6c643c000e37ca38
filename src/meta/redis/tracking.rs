//! Client tracking (`client-cache=true`): the server tells which attributes and directories change, so that what is
//! remembered of them need not be asked for again.
//!
//! A memory is trusted if it was asked for while the server has been telling, and after the last change that it told. The
//! server tells of our own commits, too, since they are scripts (NOLOOP does not cover them), and of ours and another
//! client's in one message. So what we have just written ourselves is neither trusted nor taken for changed by somebody
//! else: it counts as any other recent answer.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue, PushInfo, PushKind, Value};
use stead_base::Ino;
use tokio::time::Instant;

use super::seeds::Seeds;
use crate::records::{Key, Write};
use crate::store::{Change, ChangeHook};

/// Changes that are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");
/// For so long after a commit of ours was sent a change is taken for its echo.
const ECHO: Duration = Duration::from_secs(1);

/// What the server has told.
#[derive(Debug)]
pub(super) struct Tracking {
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
    changed: LruCache<Place, Instant>,
    /// When a commit of ours was sent that changes it.
    ours: LruCache<Place, Instant>,
    /// When the youngest change was told that is not remembered any more.
    forgotten: Option<Instant>,
}

/// What a key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Inode(Ino),
    Directory(Ino),
}

impl Place {
    fn of(key: &Key) -> Option<Self> {
        match key {
            Key::Attr(ino) => Some(Self::Inode(*ino)),
            Key::Entry(dir, _name) => Some(Self::Directory(*dir)),
            _ => None,
        }
    }

    fn changed_by(write: &Write) -> Option<Self> {
        match write {
            Write::SetAttr(ino, _) | Write::DelAttr(ino) => Some(Self::Inode(*ino)),
            Write::SetEntry(dir, ..) | Write::DelEntry(dir, _) => Some(Self::Directory(*dir)),
            _ => None,
        }
    }
}

impl Tracking {
    /// `expire` is how long an answer is trusted at most.
    pub(super) fn new(prefix: String, expire: Duration, seeds: Arc<Seeds>) -> Self {
        let told =
            Told { since: None, changed: LruCache::new(REMEMBERED), ours: LruCache::new(REMEMBERED), forgotten: None };
        Self { prefix, expire, seeds, told: Mutex::new(told), hook: Mutex::default() }
    }

    /// The command that makes the server tell of attributes and directories. No other key begins like them.
    pub(super) fn command(&self) -> Cmd {
        let mut command = redis::cmd("CLIENT");
        command.arg("TRACKING").arg("ON").arg("BCAST").arg("NOLOOP");
        for kind in ["i", "d"] {
            for digit in 1..=9 {
                command.arg("PREFIX").arg(format!("{}{kind}{digit}", self.prefix));
            }
        }
        command
    }

    /// From now on the server tells on connection `number`.
    pub(super) fn begin(&self, number: u64) {
        self.told.lock().since = Some((number, Instant::now()));
    }

    /// A commit of ours with these writes is about to be sent.
    pub(super) fn announce(&self, writes: &[Write]) {
        let (now, mut told) = (Instant::now(), self.told.lock());
        for write in writes {
            if let Some(place) = Place::changed_by(write) {
                told.ours.put(place, now);
            }
        }
    }

    /// Whom to tell of the changes of other clients.
    pub(super) fn set_hook(&self, hook: ChangeHook) {
        self.hook.lock().0 = Some(hook);
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
            PushKind::Disconnection => {
                let mut told = self.told.lock();
                if told.since.is_some_and(|(current, _since)| current == number) {
                    told.since = None;
                    drop(told);
                    self.everything_changed();
                }
            }
            _ => {}
        }
    }

    fn changed(&self, key: &str) {
        let Some(name) = key.strip_prefix(&self.prefix) else { return };
        let Some((kind, number)) = name.split_at_checked(1) else { return };
        let Ok(ino) = number.parse().map(Ino) else { return };
        let place = if kind == "i" { Place::Inode(ino) } else { Place::Directory(ino) };
        let ours = {
            let (now, mut told) = (Instant::now(), self.told.lock());
            if let Some((old, at)) = told.changed.push(place, now)
                && old != place
            {
                told.forgotten = told.forgotten.max(Some(at));
            }
            told.ours.peek(&place).is_some_and(|sent| now.duration_since(*sent) < ECHO)
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
            Place::Inode(_) => {}
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
            told.changed.clear();
            told.forgotten = Some(Instant::now());
        }
        if let Some(hook) = self.hook() {
            hook(Change::Everything);
        }
    }

    /// What the server has told of a record that was asked for at `at`.
    pub(super) fn trust(&self, key: &Key, at: Instant) -> Trust {
        let Some(place) = Place::of(key) else { return Trust::Unknown };
        let told = self.told.lock();
        let changed = told.changed.peek(&place).copied().max(told.forgotten);
        match told.since {
            _ if changed.is_some_and(|changed| changed >= at) => Trust::Changed,
            Some((_number, since)) if at > since && at.elapsed() < self.expire => Trust::Unchanged,
            _ => Trust::Unknown,
        }
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
