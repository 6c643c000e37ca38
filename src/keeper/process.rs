//! A process that need not be our child, held by a descriptor (pidfd_open(2)): its number may be used again, the descriptor
//! is for this process alone, also across pid namespaces.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};

/// How long whoever started a process may take to collect it.
const COLLECTED: Duration = Duration::from_secs(1);
/// How often to look whether that has happened.
const LOOK: Duration = Duration::from_millis(20);

/// One process, for ever.
#[derive(Debug)]
pub struct Process {
    fd: AsyncFd<OwnedFd>,
    pid: Option<i32>,
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
        let pid = number(&fd);
        // SAFETY: an owned descriptor stays open, and the same one, until the registration is dropped.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self { fd: fd.map_err(|error| Error::socket(&error.into()))?, pid })
    }

    /// The number that it has, or had, in the pid namespace of this process; `None` when it is not seen from here.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Waits for its end and says how it ended, if the kernel tells somebody who is not its parent (Linux 6.15).
    pub async fn exit_status(&self) -> Option<ExitStatus> {
        self.ended().await;
        let known = async {
            loop {
                if let Some(code) = exit_code(self.as_fd()) {
                    return ExitStatus::from_raw(code);
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(COLLECTED, known).await.ok()
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

/// The number of a process as this process would see it in /proc (proc_pid_fdinfo(5)).
fn number(pidfd: &OwnedFd) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok();
    pid.filter(|pid| *pid > 0)
}

/// `struct pidfd_info` of <linux/pidfd.h>, in its first size.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    users_and_groups: [u32; 8],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`: how a process has ended, once it has been collected.
const EXIT: u64 = 1 << 3;

nix::ioctl_readwrite!(pidfd_get_info, 0xff, 11, PidfdInfo);

#[expect(unsafe_code, reason = "an ioctl has no safe form")]
fn exit_code(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let mut info = PidfdInfo { mask: EXIT, ..PidfdInfo::default() };
    // SAFETY: the kernel writes into a structure of the size that the request's number contains.
    unsafe { pidfd_get_info(pidfd.as_raw_fd(), &raw mut info) }.ok()?;
    (info.mask & EXIT != 0).then_some(info.exit_code)
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
        process.signal(Signal::SIGKILL);
        tokio::time::timeout(Duration::from_secs(5), copy.ended()).await.expect("ended");
        child.wait().await.expect("reaped");
        process.ended().await;
        assert!(Process::open(i32::MAX).is_err());
        assert_eq!((process.pid(), copy.pid()), (Some(pid), Some(pid)));
        // An older kernel tells its parent only.
        if let Some(status) = copy.exit_status().await {
            assert_eq!(status.signal(), Some(libc::SIGKILL));
        }
    }

    #[tokio::test]
    async fn an_exit_code_is_told_once_the_parent_has_collected_it() {
        let mut child = tokio::process::Command::new("sh").args(["-c", "exit 7"]).spawn().expect("started");
        let pid = i32::try_from(child.id().expect("runs")).expect("fits");
        let process = Process::open(pid).expect("a zombie has a number, too");
        let (told, waited) = tokio::join!(process.exit_status(), child.wait());
        assert_eq!(waited.expect("collected").code(), Some(7));
        assert!(told.is_none_or(|status| status.code() == Some(7)), "{told:?}");
    }
}
