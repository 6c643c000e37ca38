//! Requests about locks: flock(2), fcntl(2) `F_SETLK` and its relatives. Who has a lock is the file system's to say.

use stead_base::Errno;
use stead_vfs::{FlockRequest, LockKind};

use crate::abi::{self, FileLock, LK_FLOCK};
use crate::pending::OnInterrupt;
use crate::reply::{self, Answer, Body};
use crate::request::Locking;
use crate::server::Context;

/// The numbers of `F_RDLCK`, `F_WRLCK` and `F_UNLCK`.
const READ: u32 = 0;
const WRITE: u32 = 1;
const UNLOCK: u32 = 2;

/// What an interrupt does: only a wait for a lock is ended by it, and at once.
pub(crate) fn on_interrupt(how: Locking) -> OnInterrupt {
    match how {
        Locking::Wait => OnInterrupt::End,
        Locking::Get => OnInterrupt::EndLater,
        Locking::Set => OnInterrupt::Finish,
    }
}

pub(crate) async fn lock(cx: Context, what: abi::LkIn, how: Locking) -> Answer {
    let wait = how == Locking::Wait;
    let kind = match what.lk.type_ {
        READ => Some(LockKind::Read),
        WRITE => Some(LockKind::Write),
        UNLOCK => None,
        _ => return Err(Errno::EINVAL),
    };
    match (how, kind) {
        (Locking::Get, Some(kind)) => get(cx, &what, kind).await,
        (Locking::Get, None) => Err(Errno::EINVAL),
        (Locking::Set | Locking::Wait, kind) if what.lk_flags & LK_FLOCK != 0 => {
            let request = match kind {
                Some(LockKind::Read) => FlockRequest::Read,
                Some(LockKind::Write) => FlockRequest::Write,
                None => FlockRequest::Unlock,
            };
            cx.vfs.flock(&cx.caller, what.fh, what.owner, request, wait).await.map(reply::done)
        }
        (Locking::Set | Locking::Wait, kind) => {
            let (range, pid) = ((what.lk.start, what.lk.end), what.lk.pid);
            cx.vfs.set_lock(&cx.caller, what.fh, what.owner, kind, range, pid, wait).await.map(reply::done)
        }
    }
}

async fn get(cx: Context, what: &abi::LkIn, kind: LockKind) -> Answer {
    let range = (what.lk.start, what.lk.end);
    let found = cx.vfs.get_lock(&cx.caller, what.fh, what.owner, kind, range).await?;
    Ok(Body::of(&match found {
        Some(held) => {
            let type_ = if held.kind == LockKind::Write { WRITE } else { READ };
            FileLock { start: held.start, end: held.end, type_, pid: held.pid }
        }
        None => FileLock { type_: UNLOCK, ..what.lk },
    }))
}
