//! flock(2) and fcntl(2) locks of open files. The engine decides who has a lock; here is the waiting for it, and the
//! memory of what is to be given back when a descriptor or an open file goes.
//!
//! * A wait that is given up (its future is dropped) leaves no lock, whatever the engine has answered meanwhile.
//! * What was written under a lock is committed before the lock is given back, and what another client wrote under it is
//!   asked for before it is granted here.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stead_base::{Errno, Ino, SessionId};
use stead_meta::Meta;
use stead_meta::ops::{Caller, FlockRequest, LOCK_EOF};
use stead_meta::records::{LockKind, LockRange};
use tokio::sync::{Notify, oneshot};
use tracing::warn;

use crate::Vfs;
use crate::errno::{Result, fail};
use crate::files::handle_ino;
use crate::handles::{FileHandle, Handle, HandleId};
use crate::operation::Op;

/// Between the first two attempts to get a lock; each pause is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// Another client's unlock is noticed after this time at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// A lock or an unlock as the engine is asked for it.
#[derive(Clone, Copy, Debug)]
enum Request {
    File { owner: u64, request: FlockRequest },
    Range { owner: u64, kind: Option<LockKind>, start: u64, end: u64, pid: u32 },
}

impl Request {
    async fn send(self, meta: &Meta, ino: Ino) -> Result<bool> {
        let granted = match self {
            Self::File { owner, request } => meta.flock(ino, owner, request).await,
            Self::Range { owner, kind, start, end, pid } => meta.set_plock(ino, owner, kind, start, end, pid).await,
        };
        granted.map_err(fail)
    }

    fn undone(self) -> Self {
        match self {
            Self::File { owner, .. } => Self::File { owner, request: FlockRequest::Unlock },
            Self::Range { owner, start, end, pid, .. } => Self::Range { owner, kind: None, start, end, pid },
        }
    }

    /// Whether somebody may get a lock that was refused before.
    const fn makes_room(self) -> bool {
        !matches!(
            self,
            Self::File { request: FlockRequest::Write, .. } | Self::Range { kind: Some(LockKind::Write), .. }
        )
    }

    const fn unlocks(self) -> bool {
        matches!(self, Self::File { request: FlockRequest::Unlock, .. } | Self::Range { kind: None, .. })
    }

    const fn everything(owner: u64) -> Self {
        Self::Range { owner, kind: None, start: 0, end: LOCK_EOF, pid: 0 }
    }
}

/// What the kernel's owners hold through this mount, and who waits.
#[derive(Default)]
pub(crate) struct LockTable(Mutex<State>);

#[derive(Default)]
struct State {
    /// Handles with a lock of the whole file: its owner for the engine.
    files: HashMap<HandleId, u64>,
    /// Owners of locks on ranges, and the handles through which they got them.
    ranges: HashMap<Ino, HashMap<u64, HashSet<HandleId>>>,
    waiting: HashMap<Ino, Arc<Notify>>,
}

impl LockTable {
    fn note(&self, fh: HandleId, ino: Ino, request: Request) {
        let mut state = self.0.lock();
        match request {
            Request::File { request: FlockRequest::Unlock, .. } => drop(state.files.remove(&fh)),
            Request::File { owner, .. } => drop(state.files.insert(fh, owner)),
            // The owner may have more ranges: unlocking them again does no harm.
            Request::Range { kind: None, .. } => {}
            Request::Range { owner, .. } => {
                state.ranges.entry(ino).or_default().entry(owner).or_default().insert(fh);
            }
        }
    }

    fn has_file(&self, fh: HandleId) -> bool {
        self.0.lock().files.contains_key(&fh)
    }

    /// Forgets an owner's locks on ranges. False: it has none.
    fn take_ranges(&self, ino: Ino, owner: u64) -> bool {
        let mut state = self.0.lock();
        let Some(owners) = state.ranges.get_mut(&ino) else { return false };
        let found = owners.remove(&owner).is_some();
        if owners.is_empty() {
            state.ranges.remove(&ino);
        }
        found
    }

    /// Forgets what goes with the last close of an open file: its flock, and the locks whose owner is the open file
    /// itself (`F_OFD_SETLK`). Those of processes went when the processes closed their descriptors.
    fn take_handle(&self, fh: HandleId, ino: Ino) -> Vec<Request> {
        let mut state = self.0.lock();
        let file = state.files.remove(&fh);
        let mut undo = Vec::from_iter(file.map(|owner| Request::File { owner, request: FlockRequest::Unlock }));
        if let Some(owners) = state.ranges.get_mut(&ino) {
            owners.retain(|owner, handles| {
                let last = handles.remove(&fh) && handles.is_empty();
                if last {
                    undo.push(Request::everything(*owner));
                }
                !last
            });
            if owners.is_empty() {
                state.ranges.remove(&ino);
            }
        }
        undo
    }

    fn wait(&self, ino: Ino) -> Waiting<'_> {
        let notify = Arc::clone(self.0.lock().waiting.entry(ino).or_default());
        Waiting { table: self, ino, notify }
    }

    /// Somebody of this mount gave a lock back.
    fn unlocked(&self, ino: Ino) {
        if let Some(notify) = self.0.lock().waiting.get(&ino) {
            notify.notify_waiters();
        }
    }
}

/// One who waits for a lock of a file.
struct Waiting<'a> {
    table: &'a LockTable,
    ino: Ino,
    notify: Arc<Notify>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.table.0.lock();
        // The table's and ours.
        if state.waiting.get(&self.ino).is_some_and(|notify| Arc::strong_count(notify) <= 2) {
            state.waiting.remove(&self.ino);
        }
    }
}

/// A lock that the engine has granted. Unless it is kept, it is given back.
struct Granted {
    vfs: Arc<Vfs>,
    ino: Ino,
    undo: Option<Request>,
}

impl Granted {
    fn keep(mut self) {
        self.undo = None;
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some(undo) = self.undo {
            let (vfs, ino) = (Arc::clone(&self.vfs), self.ino);
            self.vfs.tasks.spawn("unlock", async move { vfs.give_back(ino, undo).await });
        }
    }
}

impl Vfs {
    /// Whether locks are the file system's. A client without a session can hold none: then the kernel keeps them to
    /// itself, as for a local file system.
    pub fn enable_locks(&self) -> bool {
        !self.meta.options().read_only && self.meta.session() != SessionId::NONE
    }

    /// flock(2) by the kernel's `owner` of the open file. With `wait`, waits as long as the lock is another's; dropping
    /// the future ends that. EAGAIN: it is another's.
    pub async fn flock(
        &self,
        caller: &Caller,
        fh: HandleId,
        owner: u64,
        request: FlockRequest,
        wait: bool,
    ) -> Result<()> {
        let asked = Request::File { owner: owner ^ fh, request };
        let handle = self.handles.get(fh)?;
        let work = self.lock(fh, &handle, asked, wait);
        self.observed(Op::FLock, caller, work, |out, _| {
            let _ = write!(out, "({},{fh},{owner:016X},{request:?},{wait})", handle_ino(&handle));
        })
        .await
    }

    /// Locks the bytes `start ..= end`, or unlocks them (`None`), for the kernel's `owner`: a process, or an open file
    /// (`F_OFD_SETLK`). `wait` and errors as of [`Vfs::flock`]; EINVAL for an empty range.
    #[expect(clippy::too_many_arguments, reason = "the members of the kernel's request")]
    pub async fn set_lock(
        &self,
        caller: &Caller,
        fh: HandleId,
        owner: u64,
        kind: Option<LockKind>,
        (start, end): (u64, u64),
        pid: u32,
        wait: bool,
    ) -> Result<()> {
        let handle = self.handles.get(fh)?;
        let work = self.lock(fh, &handle, Request::Range { owner, kind, start, end, pid }, wait);
        self.observed(Op::SetLk, caller, work, |out, _| {
            let _ = write!(out, "({},{fh},{owner:016X},{start},{end},{kind:?},{wait},{pid})", handle_ino(&handle));
        })
        .await
    }

    /// A lock that keeps `owner` from locking the bytes `start ..= end`; its `pid` is 0 when another client holds it.
    pub async fn get_lock(
        &self,
        caller: &Caller,
        fh: HandleId,
        owner: u64,
        kind: LockKind,
        (start, end): (u64, u64),
    ) -> Result<Option<LockRange>> {
        let handle = self.handles.get(fh)?;
        let work = async {
            let ino = self.lockable(&handle)?.ino();
            self.meta.get_plock(ino, owner, kind, start, end).await.map_err(fail)
        };
        self.observed(Op::GetLk, caller, work, |out, found: Option<&Option<LockRange>>| {
            let _ = write!(out, "({},{fh},{owner:016X}): ({:?})", handle_ino(&handle), found.copied().flatten());
        })
        .await
    }

    fn lockable<'a>(&self, handle: &'a Handle) -> Result<&'a FileHandle> {
        match handle {
            _ if !self.enable_locks() => Err(Errno::ENOLCK),
            Handle::File(file) => Ok(file),
            Handle::Directory(_) | Handle::Virtual(_) => Err(Errno::EPERM),
        }
    }

    async fn lock(&self, fh: HandleId, handle: &Handle, request: Request, wait: bool) -> Result<()> {
        let file = self.lockable(handle)?;
        let ino = file.ino();
        if request.makes_room() {
            self.flush_file(&file.inode).await?;
        }
        let granted = match self.attempt(ino, request).await? {
            Some(granted) => granted,
            None if wait => self.wait_for_lock(fh, ino, request).await?,
            None => return Err(Errno::EAGAIN),
        };
        self.locks.note(fh, ino, request);
        if !request.unlocks() {
            self.refresh(&file.inode).await?;
        }
        granted.keep();
        if request.makes_room() {
            self.locks.unlocked(ino);
        }
        Ok(())
    }

    /// Asks the engine once. The question runs to its end even if nobody waits for the answer any more.
    async fn attempt(&self, ino: Ino, request: Request) -> Result<Option<Granted>> {
        let vfs = self.me.upgrade().ok_or(Errno::EINTR)?;
        let (answer, answered) = oneshot::channel();
        self.tasks.spawn("lock", async move {
            let granted = request.send(&vfs.meta, ino).await;
            let undo = (!request.unlocks()).then(|| request.undone());
            let granted = granted.map(|granted| granted.then(|| Granted { vfs: Arc::clone(&vfs), ino, undo }));
            // If nobody takes it, it is dropped, and the lock given back.
            let _ = answer.send(granted);
        });
        answered.await.map_err(|_runtime_ends| Errno::EINTR)?
    }

    async fn wait_for_lock(&self, fh: HandleId, ino: Ino, request: Request) -> Result<Granted> {
        if let Request::File { owner, .. } = request
            && self.locks.has_file(fh)
        {
            // As flock(2) has it: whoever waits for another kind of lock gives up the one it has. Two readers that both
            // want to write would wait for each other for ever.
            let unlock = Request::File { owner, request: FlockRequest::Unlock };
            unlock.send(&self.meta, ino).await?;
            self.locks.note(fh, ino, unlock);
            self.locks.unlocked(ino);
        }
        let waiting = self.locks.wait(ino);
        let stopping = self.tasks.stopping();
        let mut pause = FIRST_PAUSE;
        loop {
            let unlocked = waiting.notify.notified();
            tokio::pin!(unlocked);
            unlocked.as_mut().enable();
            if let Some(granted) = self.attempt(ino, request).await? {
                return Ok(granted);
            }
            tokio::select! {
                () = stopping.cancelled() => return Err(Errno::EINTR),
                () = unlocked => {}
                () = tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)) => {}
            }
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// A process closes a descriptor of the file: all its locks on ranges go, as POSIX wants it.
    pub(crate) async fn unlock_process(&self, fh: HandleId, handle: &Handle, owner: u64) -> Result<()> {
        let ino = handle_ino(handle);
        // What was locked for a process before this one only the engine knows.
        let unknown = matches!(handle, Handle::File(file) if file.inherited) && self.enable_locks();
        if !self.locks.take_ranges(ino, owner) && !unknown {
            return Ok(());
        }
        let undo = Request::everything(owner);
        if let Err(errno) = undo.send(&self.meta, ino).await {
            // The last close of the file tries again.
            self.locks.note(fh, ino, Request::Range { owner, kind: Some(LockKind::Read), start: 0, end: 0, pid: 0 });
            return Err(errno);
        }
        self.locks.unlocked(ino);
        Ok(())
    }

    /// An open file is about to be closed that the kernel's `owner` has locked by flock(2). That is known here unless it
    /// was a process before this one that was asked for the lock.
    pub fn flock_goes(&self, fh: HandleId, owner: u64) {
        if let Ok(handle) = self.handles.get(fh)
            && matches!(&*handle, Handle::File(file) if file.inherited)
        {
            let locked = Request::File { owner: owner ^ fh, request: FlockRequest::Write };
            self.locks.note(fh, handle_ino(&handle), locked);
        }
    }

    /// The open file is closed for good.
    pub(crate) async fn unlock_handle(&self, fh: HandleId, file: &FileHandle) {
        let ino = file.ino();
        for undo in self.locks.take_handle(fh, ino) {
            self.give_back(ino, undo).await;
        }
        if file.inherited
            && self.enable_locks()
            && self.inodes.has_one_handle(ino)
            && let Err(error) = self.meta.unlock_all(ino).await
        {
            warn!(%ino, %error, "locks of a process before this one stay");
        }
    }

    /// An unlock where nobody hears of a failure: the lock then stays until the session ends.
    async fn give_back(&self, ino: Ino, undo: Request) {
        match undo.send(&self.meta, ino).await {
            Ok(_granted) => self.locks.unlocked(ino),
            Err(errno) => warn!(%ino, errno = errno.name(), "a lock could not be given back"),
        }
    }
}
