//! Telling the kernel what to forget: notices, which it takes like answers.
//!
//! The kernel may have to wait until it can forget: for the READ that fills a page, for whoever changes the directory of
//! a name. So notices are sent from a thread of their own, on which no answer depends.

use std::io;
use std::sync::{Arc, Weak, mpsc};
use std::thread;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use stead_base::{Errno, Ino};
use stead_vfs::KernelCache;
use tokio::sync::oneshot;
use tracing::{debug, warn};
use zerocopy::IntoBytes as _;

use crate::abi::{self, notify};
use crate::device::Device;

enum Notice {
    Inode(Ino, oneshot::Sender<()>),
    Entry(Ino, Vec<u8>),
}

/// Where notices are put.
pub(crate) struct Notifier(mpsc::Sender<Notice>);

impl Notifier {
    /// Starts the thread. It ends when nobody can send a notice any more.
    pub(crate) fn start(device: &Arc<Device>) -> io::Result<Self> {
        let (notices, waiting) = mpsc::channel();
        // Whoever may send notices must not keep the connection open.
        let device = Arc::downgrade(device);
        thread::Builder::new().name("fuse-notify".to_owned()).spawn(move || send_all(&device, &waiting))?;
        Ok(Self(notices))
    }
}

impl KernelCache for Notifier {
    fn forget_inode(&self, ino: Ino) -> BoxFuture<'static, ()> {
        let (done, sent) = oneshot::channel();
        // If the thread is gone, so is the mount: nobody keeps anything any more.
        let _gone = self.0.send(Notice::Inode(ino, done));
        sent.map(|_sent_or_gone| ()).boxed()
    }

    fn forget_entry(&self, parent: Ino, name: &[u8]) {
        let _gone = self.0.send(Notice::Entry(parent, name.to_vec()));
    }
}

fn send_all(device: &Weak<Device>, waiting: &mpsc::Receiver<Notice>) {
    while let Ok(notice) = waiting.recv() {
        let Some(device) = device.upgrade() else { return };
        match notice {
            Notice::Inode(ino, done) => {
                told(send_inode(&device, ino));
                // Nobody may be waiting any more.
                let _unheard = done.send(());
            }
            Notice::Entry(parent, name) => told(send_entry(&device, parent, &name)),
        }
    }
}

/// From the first byte to the last.
fn send_inode(device: &Device, ino: Ino) -> io::Result<()> {
    let all = abi::NotifyInvalInodeOut { ino: ino.0, off: 0, len: 0 };
    device.send(0, notify::INVAL_INODE, &[all.as_bytes()])
}

fn send_entry(device: &Device, parent: Ino, name: &[u8]) -> io::Result<()> {
    let namelen = u32::try_from(name.len()).map_err(io::Error::other)?;
    let entry = abi::NotifyInvalEntryOut { parent: parent.0, namelen, flags: 0 };
    device.send(0, notify::INVAL_ENTRY, &[entry.as_bytes(), name, &[0]])
}

fn told(sent: io::Result<()>) {
    match sent {
        Ok(()) => {}
        // It knows nothing of that inode or name.
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT.0) => {}
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV.0) => debug!(%error, "unmounted"),
        Err(error) => warn!(%error, "the kernel took no notice"),
    }
}
