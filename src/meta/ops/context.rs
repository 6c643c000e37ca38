//! What the body of an operation knows besides its arguments: the time, the volume's rules, what this client has open.
//!
//! A body may run several times and on another thread, so it owns a [`Context`]; what changes meanwhile is shared.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stead_base::{Ino, SessionId, Timestamp};

use crate::error::Error;
use crate::records::{AclRule, Attr, Counter, Entry, Key, Name, Principal, Record, flags};
use crate::store::{Step, Stop, Txn};

use super::acl::{self, Acls};
use super::types::Caller;

/// Directories deeper than this are a loop.
const MAX_DEPTH: usize = 4096;
/// More remembered directories than this are forgotten at once.
const MAX_DIRECTORIES: usize = 200_000;

/// The surroundings of one operation.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) now: Timestamp,
    pub(super) sid: SessionId,
    /// Whether removed names go to the trash.
    pub(super) trash: bool,
    pub(super) dir_stats: bool,
    pub(super) skip_dir_mtime: Duration,
    /// Bytes; 0 is no limit.
    pub(super) capacity: u64,
    /// 0 is no limit.
    pub(super) inodes: u64,
    /// Directories that have a quota, as of the last heartbeat.
    pub(super) quotas: Arc<BTreeSet<Ino>>,
    /// Whether the usage of each user and group is kept.
    pub(super) owner_usage: bool,
    /// Users and groups that have a limit, as of the last heartbeat.
    pub(super) limited: Arc<BTreeSet<Principal>>,
    pub(super) directories: Arc<Directories>,
    pub(super) opened: Arc<OpenFiles>,
    pub(super) acls: Arc<Acls>,
}

impl Context {
    /// Fetches what the operation will compare, and the hints for the limits of changes below `dirs`, at once.
    pub(super) fn prime(&self, txn: &mut Txn<'_>, keys: &[Key], dirs: &[Ino]) -> Step<()> {
        let mut hints = Vec::new();
        if self.capacity > 0 {
            hints.push(Key::Counter(Counter::UsedSpace));
        }
        if self.inodes > 0 {
            hints.push(Key::Counter(Counter::TotalInodes));
        }
        let hinted = self.prime_hints(txn, hints, dirs);
        txn.prime(keys).and(hinted)
    }

    /// Fetches hints, and those for the quotas above `dirs`.
    pub(super) fn prime_hints(&self, txn: &mut Txn<'_>, mut hints: Vec<Key>, dirs: &[Ino]) -> Step<()> {
        hints.extend(self.known_quotas(dirs).into_iter().map(Key::DirQuota));
        let mut missing = false;
        for hint in &hints {
            match txn.hint(hint) {
                Ok(_) => {}
                Err(Stop::NotYet) => missing = true,
                Err(failed) => return Err(failed),
            }
        }
        if missing { Err(Stop::NotYet) } else { Ok(()) }
    }

    /// The quotas above `dirs` as far as they are remembered.
    fn known_quotas(&self, dirs: &[Ino]) -> BTreeSet<Ino> {
        let mut found = BTreeSet::new();
        if self.quotas.is_empty() {
            return found;
        }
        for dir in dirs {
            let mut at = Some(*dir);
            for _depth in 0..MAX_DEPTH {
                let Some(dir) = at.filter(|dir| !dir.is_trash()) else { break };
                if self.quotas.contains(&dir) {
                    found.insert(dir);
                }
                at = self.directories.parent(dir).filter(|parent| *parent != dir);
            }
        }
        found
    }

    /// The directories with a quota that count what lies in `dir`, `dir` first. None in the trash.
    pub(super) fn quotas_above(&self, txn: &mut Txn<'_>, dir: Ino) -> Step<Vec<Ino>> {
        let mut found = Vec::new();
        if self.quotas.is_empty() {
            return Ok(found);
        }
        let mut at = dir;
        for _depth in 0..MAX_DEPTH {
            if at.is_trash() || at.0 == 0 {
                break;
            }
            if self.quotas.contains(&at) {
                found.push(at);
            }
            if at == Ino::ROOT {
                break;
            }
            at = match self.directories.parent(at) {
                Some(parent) => parent,
                None => match txn.hint(&Key::Attr(at))? {
                    Some(Record::Attr(attr)) => {
                        self.directories.remember(at, attr.parent);
                        attr.parent
                    }
                    _ => break,
                },
            };
        }
        Ok(found)
    }

    /// Sets the times of a directory whose entries changed. False: they are young enough to be left alone.
    pub(super) fn touch(&self, dir: &mut Attr, always: bool) -> bool {
        let due = always || self.now.since(dir.mtime) >= self.skip_dir_mtime;
        if due {
            dir.mtime = self.now;
            dir.ctime = self.now;
        }
        due
    }
}

/// Parents of directories, remembered to find quotas without asking the engine.
#[derive(Debug, Default)]
pub(super) struct Directories {
    parents: Mutex<HashMap<Ino, Ino>>,
}

impl Directories {
    pub(super) fn remember(&self, dir: Ino, parent: Ino) {
        let mut parents = self.parents.lock();
        if parents.len() >= MAX_DIRECTORIES {
            parents.clear();
        }
        parents.insert(dir, parent);
    }

    /// Other clients move directories too: called at each heartbeat.
    pub(super) fn forget_all(&self) {
        self.parents.lock().clear();
    }

    fn parent(&self, dir: Ino) -> Option<Ino> {
        self.parents.lock().get(&dir).copied()
    }
}

/// Files that this client has open, and those of them that have no name any more.
#[derive(Debug, Default)]
pub(super) struct OpenFiles {
    state: Mutex<OpenState>,
}

#[derive(Debug, Default)]
struct OpenState {
    counts: HashMap<Ino, u32>,
    nameless: HashSet<Ino>,
}

impl OpenFiles {
    pub(super) fn open(&self, ino: Ino) {
        *self.state.lock().counts.entry(ino).or_default() += 1;
    }

    /// One open less. True when it was the last one of a file that has lost its last name.
    pub(super) fn close(&self, ino: Ino) -> bool {
        let mut state = self.state.lock();
        let Some(count) = state.counts.get_mut(&ino) else { return false };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        state.counts.remove(&ino);
        state.nameless.remove(&ino)
    }

    pub(super) fn is_open(&self, ino: Ino) -> bool {
        self.state.lock().counts.contains_key(&ino)
    }

    /// Notes that the last name is gone. False when the file was closed meanwhile: nobody else will remove it.
    pub(super) fn lost_name(&self, ino: Ino) -> bool {
        let mut state = self.state.lock();
        let open = state.counts.contains_key(&ino);
        if open {
            state.nameless.insert(ino);
        }
        open
    }
}

/// The attributes of an inode that must exist.
pub(super) fn existing(txn: &mut Txn<'_>, ino: Ino) -> Step<Attr> {
    Ok(txn.attr(ino)?.ok_or(Error::NoInode { ino })?)
}

/// The attributes of a directory that must exist.
pub(super) fn directory(txn: &mut Txn<'_>, ino: Ino) -> Step<Attr> {
    let attr = existing(txn, ino)?;
    if attr.is_dir() { Ok(attr) } else { Err(Error::NotDirectory { ino }.into()) }
}

/// An entry that must exist.
pub(super) fn named(txn: &mut Txn<'_>, parent: Ino, name: &Name) -> Step<Entry> {
    Ok(txn.entry(parent, name)?.ok_or_else(|| no_entry(parent, name))?)
}

/// Refuses an inode that has one of `refused` set.
pub(super) fn not_flagged(ino: Ino, attr: &Attr, refused: u8) -> Result<(), Error> {
    match attr.flags & refused {
        0 => Ok(()),
        found if found & flags::IMMUTABLE != 0 => Err(Error::NotPermitted { ino, why: "it is immutable" }),
        _ => Err(Error::NotPermitted { ino, why: "it is append-only" }),
    }
}

/// Whether new names may be put into a directory.
pub(super) fn takes_names(dir: Ino, attr: &Attr) -> Result<(), Error> {
    if dir.is_trash() {
        return Err(Error::NotPermitted { ino: dir, why: "nothing is put into the trash by hand" });
    }
    if attr.parent.0 > Ino::TRASH.0 {
        return Err(Error::NoInode { ino: dir });
    }
    not_flagged(dir, attr, flags::IMMUTABLE)
}

/// The sticky bit's rule: only the owner of the file or of the directory takes a name away.
pub(super) fn not_sticky(caller: &Caller, dir: &Attr, ino: Ino, attr: &Attr) -> Result<(), Error> {
    let sticky = dir.mode & 0o1000 != 0;
    if sticky && !caller.is_root() && caller.uid != dir.uid && caller.uid != attr.uid {
        return Err(Error::AccessDenied { ino, why: "its directory is sticky, and neither belongs to the caller" });
    }
    Ok(())
}

/// Whether the caller gets `wanted` (4 read, 2 write, 1 execute) by the mode bits or the access list.
pub(super) fn permits(txn: &mut Txn<'_>, caller: &Caller, attr: &Attr, wanted: u16) -> Step<bool> {
    if attr.access_acl == 0 || caller.is_root() {
        return Ok(mode_permits(caller, attr, wanted));
    }
    let rule = txn.acl(attr.access_acl)?.ok_or_else(|| acl::missing(attr.access_acl))?;
    Ok(acl_permits(&rule, caller, attr, wanted))
}

/// The same by an access list alone. Groups that only the kernel knows give nothing.
pub(super) fn acl_permits(rule: &AclRule, caller: &Caller, attr: &Attr, wanted: u16) -> bool {
    let mut groups = caller.groups.clone().unwrap_or_default();
    groups.push(caller.gid);
    caller.is_root() || rule.permits(caller.uid, &groups, (attr.uid, attr.gid), wanted)
}

/// The same by the mode bits alone.
pub(super) fn mode_permits(caller: &Caller, attr: &Attr, wanted: u16) -> bool {
    let shift = if caller.uid == attr.uid {
        6
    } else if caller.in_group(attr.gid) {
        3
    } else {
        0
    };
    let unknown = shift == 3 && caller.groups.is_none() && caller.gid != attr.gid;
    let granted = (attr.mode >> shift) | if unknown { attr.mode } else { 0 };
    caller.is_root() || granted & wanted == wanted
}

pub(super) fn no_entry(parent: Ino, name: &Name) -> Error {
    Error::NoEntry { parent, name: name.to_string() }
}

pub(super) fn exists(parent: Ino, name: &Name) -> Error {
    Error::Exists { parent, name: name.to_string() }
}
