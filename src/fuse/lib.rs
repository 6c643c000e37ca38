//! The kernel's side: FUSE requests become calls of [`stead_vfs`], and their answers replies.
//!
//! A request begins on the thread that read it: its work is polled there once. What needs no waiting is answered at once,
//! without a task; what does is handed to the runtime and answered from there. Nothing blocks a kernel thread.
//!
//! `fuser` does the protocol, and its types go no further than this crate. Its limits: a request that is interrupted runs
//! to its end all the same (INTERRUPT is answered ENOSYS, after which the kernel sends no more of them); FORGET needs no
//! answer, and none is needed, since nothing is kept for inodes that are merely known; a session ends when the mount does,
//! and cannot be given up before.

mod adapter;
mod convert;
mod session;
#[cfg(test)]
mod tests;

pub use session::{FuseConfig, Session};
