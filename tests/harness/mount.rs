//! A mounted volume, by either client, in the foreground of a process of its own.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
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
        Self::start_with(client, volume, label, options, &[])
    }

    /// The same with variables in the process' environment.
    pub fn start_with(
        client: Client,
        volume: &TempVolume,
        label: &str,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut mount = Self::begin(client, volume, label, options, environment);
        eventually("the mount serves", Duration::from_secs(30), || {
            mount.process.expect_alive();
            serves(&mount.dir).then_some(())
        });
        mount
    }

    /// The same for a process that may be killed before it serves: `None` then.
    pub fn start_or_killed(volume: &TempVolume, label: &str, options: &[&str], plan: &str) -> Option<Self> {
        let environment = [("STEAD_FAILPOINTS", plan)];
        let mut mount = Self::begin(Client::Stead, volume, label, options, &environment);
        let ended = eventually("the mount serves", Duration::from_secs(30), || {
            mount.process.ended().map(Some).or_else(|| serves(&mount.dir).then_some(None))
        });
        let Some(status) = ended else { return Some(mount) };
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}\n{}", mount.process.log_tail());
        detach(&mount.dir);
        None
    }

    fn begin(client: Client, volume: &TempVolume, label: &str, options: &[&str], environment: &[(&str, &str)]) -> Self {
        let cache = volume.scratch(&format!("cache-{label}"));
        let mut command = Command::new(client.program());
        command.envs(environment.iter().copied());
        command.arg("mount").args(options).envs([tools::RSA_PASSPHRASE]);
        if !options.contains(&"--cache-dir") {
            command.arg("--cache-dir").arg(cache);
        }
        // A test's machine may have little room left: the default leaves a tenth of the disk free and caches nothing then.
        if !options.contains(&"--free-space-ratio") {
            command.args(["--free-space-ratio", "0.01"]);
        }
        if client == Client::Go {
            command.args(["--no-usage-report", "--no-syslog", "--enable-xattr", "--backup-meta", "0"]);
        } else {
            command.arg("--enable-xattr");
        }
        let dir = volume.scratch(&format!("mnt-{label}"));
        command.arg(&volume.url).arg(&dir);
        let log = volume.path().join(format!("{label}.log"));
        let process = Process::start(&format!("{client:?} mount"), &mut command, &log);
        Self { process, dir }
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// One of the figures in `.stats`.
    pub fn figure(&self, name: &str) -> f64 {
        let stats = std::fs::read_to_string(self.dir.join(".stats")).expect("every mount has it");
        let value = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no figure {name}:\n{stats}"))
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

    /// Waits up to `limit` for the process to be killed, and takes the dead mount away. Gives the mount back when it
    /// lives on.
    pub fn killed_within(mut self, limit: Duration) -> Result<(), Self> {
        match self.process.wait(limit) {
            Some(status) => {
                assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}\n{}", self.process.log_tail());
                detach(&self.dir);
                Ok(())
            }
            None => Err(self),
        }
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

/// A file system of a given size in memory. Unmounted when it goes.
pub struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `bytes` at a directory.
    pub fn mount(dir: &Path, bytes: u64) -> Self {
        let size = format!("size={bytes}");
        let mounted = mount(Some("small"), dir, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()));
        mounted.unwrap_or_else(|error| panic!("tmpfs at {}: {error}", dir.display()));
        Self { dir: dir.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Gives it another size; what it holds stays.
    pub fn resize(&self, bytes: u64) {
        let size = format!("size={bytes}");
        let flags = MsFlags::MS_REMOUNT;
        mount(Some("small"), &self.dir, Some("tmpfs"), flags, Some(size.as_str())).expect("a tmpfs takes another size");
    }

    /// Lets nothing be written any more, as the kernel does when a disk fails, or lets it again.
    pub fn set_read_only(&self, read_only: bool) {
        let flags = if read_only { MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY } else { MsFlags::MS_REMOUNT };
        // Not while somebody has a file open for writing.
        eventually("nothing is being written", Duration::from_secs(10), || {
            mount(None::<&str>, &self.dir, None::<&str>, flags, None::<&str>).ok()
        });
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        let mut file = File::create(self.dir.join("filler")).expect("made");
        let block = vec![1; 64 << 10];
        while file.write_all(&block).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        detach(&self.dir);
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
