//! A request becomes a call of the file system: here, if it needs no waiting, otherwise on the runtime.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use stead_base::{Errno, Ino};
use stead_vfs::{Caller, Vfs};
use tokio::runtime::Handle;
use tracing::{debug, error};

use crate::abi::{self, InHeader, UNIQUE_RESEND};
use crate::device::Device;
use crate::pending::{OnInterrupt, Pending};
use crate::reply::{Answer, Body};
use crate::request::{Operation, Request};
use crate::{files, locks, names};

/// What the threads that read requests share.
pub(crate) struct Server {
    pub(crate) device: Arc<Device>,
    vfs: Arc<Vfs>,
    pub(crate) runtime: Handle,
    pub(crate) pending: Arc<Pending>,
}

/// When a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// It has been, unless it wants no answer.
    AtOnce,
    /// By a task.
    Later,
}

/// Who asks about which inode, as the work on a request needs it.
pub(crate) struct Context {
    pub(crate) vfs: Arc<Vfs>,
    pub(crate) caller: Caller,
    pub(crate) node: Ino,
}

impl Server {
    pub(crate) fn new(device: Arc<Device>, vfs: Arc<Vfs>, runtime: Handle) -> Self {
        Self { device, vfs, runtime, pending: Arc::default() }
    }

    /// Answers the request in `bytes`, or starts what will. The calling thread must be inside the runtime.
    pub(crate) fn serve(&self, bytes: &[u8]) -> Served {
        let request = match Request::parse(bytes) {
            Ok(request) => request,
            Err(malformed) => {
                error!(%malformed, "the kernel sent no request");
                return Served::AtOnce;
            }
        };
        let InHeader { opcode, unique, .. } = request.header;
        match request.operation() {
            Ok(operation) => self.dispatch(&request.header, operation),
            Err(malformed) => {
                error!(%malformed, opcode, "a request that cannot be understood");
                self.answer(unique, &Err(Errno::EINVAL))
            }
        }
    }

    fn answer(&self, unique: u64, answer: &Answer) -> Served {
        self.device.reply(unique, answer);
        Served::AtOnce
    }

    fn dispatch(&self, header: &InHeader, operation: Operation<'_>) -> Served {
        use OnInterrupt::{EndLater, Finish, Leave};
        let cx = self.context(header);
        let work: (OnInterrupt, BoxFuture<'static, Answer>) = match operation {
            Operation::Lookup(name) => (EndLater, names::lookup(cx, name.to_vec()).boxed()),
            Operation::GetAttr => (EndLater, names::getattr(cx).boxed()),
            Operation::Read(read) => (EndLater, files::read(cx, read).boxed()),
            Operation::Write(write, data) => return self.write(header, cx, &write, data),
            Operation::Create(create, name) => (Finish, files::create(cx, create, name.to_vec()).boxed()),
            Operation::Open(open) => (Finish, files::open(cx, open).boxed()),
            Operation::Flush(flush) => (Leave, files::flush(cx, flush).boxed()),
            Operation::Release(release) => (Finish, files::release(cx, release).boxed()),
            Operation::FSync(fsync) => (EndLater, files::fsync(cx, fsync).boxed()),
            Operation::Lock { what, how } => (locks::on_interrupt(how), locks::lock(cx, what, how).boxed()),
            Operation::LSeek(seek) => (EndLater, files::lseek(cx, seek).boxed()),
            Operation::FAllocate(range) => (Finish, files::fallocate(cx, range).boxed()),
            Operation::CopyFileRange(range) => (Finish, files::copy_file_range(cx, range).boxed()),
            Operation::OpenDir => (Finish, names::opendir(cx).boxed()),
            Operation::ReadDir { what, plus } => (EndLater, names::readdir(cx, what, plus).boxed()),
            Operation::ReleaseDir(release) => (Finish, names::releasedir(cx, release.fh).boxed()),
            Operation::FSyncDir => (EndLater, names::fsyncdir(cx).boxed()),
            Operation::StatFs => (EndLater, names::statfs(cx).boxed()),
            Operation::SyncFs => (EndLater, files::syncfs(cx).boxed()),
            Operation::GetXattr { name, size } => (EndLater, names::getxattr(cx, name.to_vec(), size).boxed()),
            Operation::ListXattr { size } => (EndLater, names::listxattr(cx, size).boxed()),
            Operation::ReadLink => (EndLater, names::readlink(cx).boxed()),
            // Nothing is kept for inodes that are merely known.
            Operation::Forget => return Served::AtOnce,
            Operation::Interrupt(interrupt) => return self.interrupt(header.unique, interrupt.unique),
            // INIT comes once, before the readers are started.
            Operation::Init(..) => return self.answer(header.unique, &Err(Errno::EIO)),
            Operation::Destroy => return self.answer(header.unique, &Ok(Body::EMPTY)),
            other => match change(cx, other) {
                Some(work) => (Finish, work),
                None => {
                    debug!(opcode = header.opcode, "not served");
                    return self.answer(header.unique, &Err(Errno::ENOSYS));
                }
            },
        };
        self.start(header.unique, work.0, work.1)
    }

    fn context(&self, header: &InHeader) -> Context {
        let again = header.unique & UNIQUE_RESEND != 0;
        let caller = Caller::new(header.uid, header.gid, header.pid).asking(header.unique & !UNIQUE_RESEND, again);
        Context { vfs: Arc::clone(&self.vfs), caller, node: Ino(header.nodeid) }
    }

    /// Straight from the buffer that the request lies in, if there is room for the data.
    fn write(&self, header: &InHeader, cx: Context, write: &abi::WriteIn, data: &[u8]) -> Served {
        let taken = guarded(|| self.vfs.try_write(&cx.caller, write.fh, write.offset, data));
        match taken {
            Some(Some(result)) => self.answer(header.unique, &result.map(crate::reply::written)),
            Some(None) => {
                let work = files::write(cx, *write, data.to_vec());
                self.start(header.unique, OnInterrupt::EndLater, work.boxed())
            }
            None => self.answer(header.unique, &Err(Errno::EIO)),
        }
    }

    fn interrupt(&self, unique: u64, whom: u64) -> Served {
        if !self.pending.interrupt(whom) {
            // Read but not begun, or just answered: the kernel asks again if it still matters.
            self.device.reply(unique, &Err(Errno::EAGAIN));
        }
        Served::AtOnce
    }

    /// Polls `work` once and answers if that was enough; otherwise it goes on as a task.
    fn start(&self, unique: u64, policy: OnInterrupt, mut work: BoxFuture<'static, Answer>) -> Served {
        let first = guarded(|| work.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())));
        match first {
            Some(Poll::Ready(answer)) => self.answer(unique, &answer),
            None => self.answer(unique, &Err(Errno::EIO)),
            Some(Poll::Pending) => {
                let (device, waiting) = (Arc::clone(&self.device), self.pending.enter(unique, policy));
                // The task polls again before it sleeps, so the waker of the first poll may have been woken in vain.
                self.runtime.spawn(async move {
                    let answer = AssertUnwindSafe(waiting.run(&mut work)).catch_unwind().await;
                    let unfinished = policy == OnInterrupt::Leave && waiting.was_left();
                    drop(waiting);
                    // Before the answer: who asks again must not find what was given up.
                    let work = unfinished.then_some(work);
                    device.reply(unique, &answer.unwrap_or_else(|_panic| Err(panicked())));
                    if let Some(work) = work {
                        let _nobody_waits = AssertUnwindSafe(work).catch_unwind().await;
                    }
                });
                Served::Later
            }
        }
    }
}

/// The work on what changes names and attributes. `None`: not served.
fn change(cx: Context, operation: Operation<'_>) -> Option<BoxFuture<'static, Answer>> {
    Some(match operation {
        Operation::SetAttr(set) => names::setattr(cx, set).boxed(),
        Operation::Symlink { name, target } => names::symlink(cx, name.to_vec(), target.to_vec()).boxed(),
        Operation::MkNod(node, name) => names::mknod(cx, node, name.to_vec()).boxed(),
        Operation::MkDir(dir, name) => names::mkdir(cx, dir, name.to_vec()).boxed(),
        Operation::Unlink(name) => names::unlink(cx, name.to_vec()).boxed(),
        Operation::RmDir(name) => names::rmdir(cx, name.to_vec()).boxed(),
        Operation::Rename { name, new_parent, new_name, flags } => {
            names::rename(cx, name.to_vec(), Ino(new_parent), new_name.to_vec(), flags).boxed()
        }
        Operation::Link { inode, name } => names::link(cx, Ino(inode), name.to_vec()).boxed(),
        Operation::SetXattr { name, value, flags } => names::setxattr(cx, name.to_vec(), value.to_vec(), flags).boxed(),
        Operation::RemoveXattr(name) => names::removexattr(cx, name.to_vec()).boxed(),
        Operation::TmpFile(create) => files::tmpfile(cx, create).boxed(),
        Operation::Ioctl(what, input) => files::ioctl(cx, what, input.to_vec()).boxed(),
        _ => return None,
    })
}

/// Calls `work`. `None`: it panicked, which must not end the thread that reads requests.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).inspect_err(|_panic| _ = panicked()).ok()
}

fn panicked() -> Errno {
    error!("a request panicked and was answered with EIO");
    Errno::EIO
}
