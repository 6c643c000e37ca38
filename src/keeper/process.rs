//! A process that need not be our child, held by a descriptor (pidfd_open(2)): its number may be used again, the descriptor
//! is for this process alone, also across pid namespaces.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};

/// One process, for ever.
#[derive(Debug)]
pub struct Process {
    fd: AsyncFd<OwnedFd>,
}

impl Process {
    /// The process that has this number now. To be called within a runtime, as all of these.
    #[expect(unsafe_code, reason = "nix has no pidfd_open")]
    pub fn open(pid: i32) -> Result<Self> {
        // SAFETY: the call takes two numbers and touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            return Err(Error::socket(&std::io::Error::last_os_error()));
        }
        // SAFETY: the kernel has just made this descriptor for us.
        Self::of(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// The process behind a descriptor that somebody else has opened.
    #[expect(unsafe_code, reason = "registering a descriptor has no safe form")]
    pub fn of(fd: OwnedFd) -> Result<Self> {
        // SAFETY: an owned descriptor stays open, and the same one, until the registration is dropped.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self { fd: fd.map_err(|error| Error::socket(&error.into()))? })
    }

    /// Its number in our pid namespace; `None` when it has ended, or is in a namespace that we do not see.
    #[must_use]
    pub fn id(&self) -> Option<i32> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.fd.get_ref().as_raw_fd())).ok()?;
        let number = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
        number.trim().parse().ok().filter(|pid| *pid > 0)
    }

    /// Waits for its end. After that nothing of it runs any more.
    pub async fn ended(&self) {
        // It cannot be waited for any other way; then it is as good as gone.
        let _ready = self.fd.readable().await;
    }

    /// Sends a signal if it still runs and is in a pid namespace that we see.
    #[expect(unsafe_code, reason = "nix has no pidfd_send_signal")]
    pub fn signal(&self, signal: Signal) {
        let (fd, none) = (self.fd.get_ref().as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        // SAFETY: the descriptor is open, and without information about the signal no memory is read.
        let _gone = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal as i32, none, 0) };
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_end_of_a_process_is_seen_by_whoever_holds_it() {
        let mut child = tokio::process::Command::new("sleep").arg("60").spawn().expect("started");
        let pid = i32::try_from(child.id().expect("runs")).expect("fits");
        let process = Process::open(pid).expect("runs");
        let copy = Process::of(process.as_fd().try_clone_to_owned().expect("a copy")).expect("a process");
        assert!(tokio::time::timeout(Duration::from_millis(50), copy.ended()).await.is_err(), "it runs");
        assert_eq!(copy.id(), Some(pid));
        process.signal(Signal::SIGKILL);
        tokio::time::timeout(Duration::from_secs(5), copy.ended()).await.expect("ended");
        child.wait().await.expect("reaped");
        process.ended().await;
        assert_eq!(copy.id(), None);
        assert!(Process::open(i32::MAX).is_err());
    }
}
