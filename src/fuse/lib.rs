//! The kernel's side: FUSE requests become calls of [`stead_vfs`], and their answers replies.
//!
//! A request begins on the thread that read it: its work is polled there once. What needs no waiting is answered at once,
//! without a task; what does is handed to the runtime and answered from there. Nothing blocks a kernel thread. So a request
//! costs one read(2) and one writev(2), and data is copied once: by us out of the request, by the kernel out of the answer.
//!
//! FORGET needs no answer and leads to nothing, since nothing is kept for inodes that are merely known: node id = inode
//! number. A session ends when the mount does; before that it can be suspended and left to another process.

mod abi;
mod device;
mod files;
mod init;
mod locks;
mod names;
mod notify;
mod pending;
mod reply;
mod request;
mod server;
mod session;
#[cfg(test)]
mod tests;
mod vigil;

pub use init::Negotiated;
pub use session::{FuseConfig, Session, Unanswered};
