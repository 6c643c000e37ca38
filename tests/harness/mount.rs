//! A mounted volume, by either client, in the foreground of a process of its own.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use crate::process::{Process, children, eventually, signal_to};
use crate::tools;
use crate::volume::TempVolume;

/// Who formats or mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The binary under test.
    Stead,
    /// The Go client of the same format.
    Go,
}

impl Client {
    /// The program.
    pub fn program(self) -> PathBuf {
        match self {
            Self::Stead => tools::stead(),
            Self::Go => tools::juicefs(),
        }
    }
}

/// A mount in the foreground. Dropping it unmounts and stops the process.
pub struct Mount {
    process: Process,
    dir: PathBuf,
}

impl Mount {
    /// Mounts `volume` and waits until it serves. `label` names mount point and cache: the same label, the same cache.
    pub fn start(client: Client, volume: &TempVolume, label: &str, options: &[&str]) -> Self {
        let cache = volume.scratch(&format!("cache-{label}"));
        let mut command = Command::new(client.program());
        command.arg("mount").args(options).arg("--cache-dir").arg(cache);
        if client == Client::Go {
            command.args(["--no-usage-report", "--no-syslog", "--enable-xattr", "--backup-meta", "0"]);
        } else {
            command.arg("--enable-xattr");
        }
        let dir = volume.scratch(&format!("mnt-{label}"));
        command.arg(&volume.url).arg(&dir);
        let log = volume.path().join(format!("{label}.log"));
        let mut process = Process::start(&format!("{client:?} mount"), &mut command, &log);
        eventually("the mount serves", Duration::from_secs(30), || {
            process.expect_alive();
            serves(&dir).then_some(())
        });
        Self { process, dir }
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The process that serves it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The serving process' id and those of its children (the Go client has a supervisor).
    pub fn process_ids(&self) -> Vec<u32> {
        let own = self.process.id();
        std::iter::once(own).chain(children(own)).collect()
    }

    /// Unmounts as an administrator would, and expects the process to end in order.
    pub fn unmount(mut self) {
        eventually("the mount is not busy", Duration::from_secs(30), || umount2(&self.dir, MntFlags::empty()).ok());
        let ended = self.process.wait(Duration::from_secs(60));
        assert!(
            ended.is_some_and(|status| status.success()),
            "after umount the process ended with {ended:?}:\n{}",
            self.process.log_tail()
        );
    }

    /// `kill -9`, and the dead mount is taken away.
    pub fn crash(mut self) {
        for pid in self.process_ids() {
            signal_to(pid, Signal::SIGKILL);
        }
        self.process.kill();
        detach(&self.dir);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if umount2(&self.dir, MntFlags::empty()).is_err() {
            detach(&self.dir);
        }
        if self.process.wait(Duration::from_secs(20)).is_none() {
            children(self.process.id()).into_iter().for_each(|pid| signal_to(pid, Signal::SIGTERM));
        }
    }
}

/// Takes every mount at a directory away, busy or dead.
pub fn detach(dir: &Path) {
    while umount2(dir, MntFlags::MNT_DETACH).is_ok() {}
}

/// Whether a volume is mounted there and answers.
pub fn serves(dir: &Path) -> bool {
    is_mounted(dir) && std::fs::metadata(dir).is_ok_and(|found| found.ino() == 1)
}

/// Whether the kernel has a FUSE mount at a directory.
pub fn is_mounted(dir: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the kernel's table of mounts");
    let wanted = dir.to_string_lossy();
    table.lines().any(|line| line.split(' ').nth(4) == Some(&wanted) && line.contains(" - fuse"))
}
