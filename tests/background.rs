//! `stead mount -d`: returns when the mount serves, or says why not; SIGTERM loses nothing.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use stead_tests::mount::{detach, is_mounted, serves};
use stead_tests::process::{Output, must, signal_to};
use stead_tests::{Client, Engine, Mount, TempVolume, eventually, pattern, run, tools};

const LIMIT: Duration = Duration::from_secs(30);

/// A mount point that is detached when the test is over, whatever became of it.
struct Point(PathBuf);

impl Drop for Point {
    fn drop(&mut self) {
        detach(&self.0);
    }
}

fn mount_in_background(volume: &TempVolume, point: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(tools::stead());
    command.args(["--log"]).arg(volume.path().join("background.log"));
    command.args(["mount", "-d", &volume.url]).arg(point).args(options);
    if !options.contains(&"--cache-dir") {
        command.arg("--cache-dir").arg(volume.scratch("cache"));
    }
    run(&mut command, LIMIT)
}

/// The worker's process id, which the command prints: `... process 123; ...`.
fn process_id(output: &Output) -> u32 {
    let number = output.stdout.split_once("process ").map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next());
    let number = number.flatten().and_then(|digits| digits.parse().ok());
    number.unwrap_or_else(|| panic!("no process id in {:?}", output.stdout))
}

#[test]
fn returns_when_it_serves() {
    for engine in Engine::ALL {
        let volume = TempVolume::format(engine, Client::Stead, &[]);
        let point = Point(volume.scratch("mnt"));
        let output = mount_in_background(&volume, &point.0, &[]);
        assert_eq!(output.code, Some(0), "{}", output.text());
        assert!(serves(&point.0), "the command returned before the mount served");
        let log = volume.path().join("background.log");
        assert!(output.stdout.contains(&log.display().to_string()), "{}", output.stdout);
        assert!(fs::read_to_string(&log).is_ok_and(|log| log.contains("serving")), "the mount's log is not there");
        println!("figure: {engine:?}: stead mount -d serves after {} ms", output.took.as_millis());
        fs::write(point.0.join("file"), "content").expect("written");
        let umount = run(Command::new(tools::stead()).arg("umount").arg(&point.0), LIMIT);
        assert_eq!(umount.code, Some(0), "{}", umount.text());
        assert!(!is_mounted(&point.0));
        let pid = process_id(&output);
        eventually("the worker ends after umount", LIMIT, || gone(pid).then_some(()));
        let again = Mount::start(Client::Stead, &volume, "again", &[]);
        assert_eq!(fs::read_to_string(again.path().join("file")).expect("read"), "content");
    }
}

#[test]
fn mount_options_of_the_kernel_are_applied() {
    let volume = TempVolume::format(Engine::Sqlite, Client::Stead, &[]);
    let point = Point(volume.scratch("mnt"));
    let output = mount_in_background(&volume, &point.0, &["-o", "noexec,noatime"]);
    assert_eq!(output.code, Some(0), "{}", output.text());
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read");
    let ours = mounts.lines().find(|line| line.contains(&point.0.display().to_string())).expect("mounted");
    assert!(ours.contains("noexec") && ours.contains("noatime"), "{ours}");
}

/// The Go client's exit code, which a supervisor may know.
#[test]
fn a_mount_whose_volume_is_destroyed_says_so() {
    let volume = TempVolume::format(Engine::Redis, Client::Stead, &[]);
    let mut mount = Mount::start(Client::Stead, &volume, "mount", &["--heartbeat", "1"]);
    let status = must(Command::new(tools::stead()).args(["status", &volume.url]), LIMIT);
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let uuid = status["Setting"]["UUID"].as_str().expect("a UUID");
    let destroyed = run(Command::new(tools::stead()).args(["destroy", &volume.url, uuid, "--force", "--yes"]), LIMIT);
    assert_eq!(destroyed.code, Some(0), "{}", destroyed.text());
    let ended = mount.process().wait(LIMIT).expect("it ends by itself");
    assert_eq!(ended.code(), Some(11));
}

#[test]
fn umount_tells_of_staged_blocks() {
    let volume = TempVolume::format(Engine::Sqlite, Client::Stead, &[]);
    let point = Point(volume.scratch("mnt"));
    let output = mount_in_background(&volume, &point.0, &["--writeback", "--upload-delay", "1h"]);
    assert_eq!(output.code, Some(0), "{}", output.text());
    fs::write(point.0.join("file"), "content").expect("written");
    let umount = run(Command::new(tools::stead()).arg("umount").arg(&point.0), LIMIT);
    assert_eq!(umount.code, Some(0), "{}", umount.text());
    assert!(umount.stderr.contains("not uploaded: 1;") && umount.stderr.contains("--flush"), "{}", umount.stderr);
}

#[test]
fn umount_flush_leaves_nothing_staged() {
    let volume = TempVolume::format(Engine::Redis, Client::Stead, &[]);
    let point = Point(volume.scratch("mnt"));
    let output = mount_in_background(&volume, &point.0, &["--writeback", "--upload-delay", "2s"]);
    assert_eq!(output.code, Some(0), "{}", output.text());
    fs::write(point.0.join("file"), pattern::bytes(1, 10 << 20)).expect("written");
    let blocks = volume.bucket().join(&volume.name).join("chunks");
    assert!(!blocks.exists(), "staged blocks wait");
    let umount = run(Command::new(tools::stead()).args(["umount", "--flush"]).arg(&point.0), LIMIT);
    assert_eq!(umount.code, Some(0), "{}", umount.text());
    assert!(!is_mounted(&point.0) && blocks.exists());
    let elsewhere = Mount::start(Client::Stead, &volume, "elsewhere", &[]);
    assert!(fs::read(elsewhere.path().join("file")).expect("read") == pattern::bytes(1, 10 << 20), "the bytes differ");
}

fn gone(pid: u32) -> bool {
    // A worker whose parent has ended is reaped by init; where nobody reaps, it stays a zombie.
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn says_why_not() {
    let volume = TempVolume::format(Engine::Sqlite, Client::Stead, &[]);
    let point = Point(volume.scratch("mnt"));
    let missing = volume.path().join("missing.db");
    let wrong = TempVolume::existing("tested", &format!("sqlite3://{}", missing.display()));
    let output = mount_in_background(&wrong, &point.0, &[]);
    assert_ne!(output.code, Some(0));
    assert!(output.stderr.contains("missing.db"), "{}", output.text());
    assert!(!is_mounted(&point.0) && !missing.exists());

    for (option, value) in [("--subdir", "not/there"), ("--cache-dir", "/proc/nowhere"), ("--bucket", "/proc/nowhere")]
    {
        let output = mount_in_background(&volume, &point.0, &[option, value]);
        assert_ne!(output.code, Some(0), "{option} {value}: mounted");
        assert!(output.stderr.contains(value), "{}", output.text());
        assert!(!is_mounted(&point.0));
    }
}

#[test]
fn sigterm_in_the_background_loses_nothing() {
    let volume = TempVolume::format(Engine::Redis, Client::Stead, &[]);
    let point = Point(volume.scratch("mnt"));
    let output = mount_in_background(&volume, &point.0, &[]);
    assert_eq!(output.code, Some(0), "{}", output.text());
    let files = write_without_sync(&point.0);
    let pid = process_id(&output);
    signal_to(pid, Signal::SIGTERM);
    eventually("the worker ends after SIGTERM", LIMIT, || gone(pid).then_some(()));
    drop(files);
    detach(&point.0);
    check_files(&volume);
}

#[test]
fn sigterm_in_the_foreground_loses_nothing() {
    let volume = TempVolume::format(Engine::Sqlite, Client::Stead, &[]);
    let mut mount = Mount::start(Client::Stead, &volume, "foreground", &[]);
    let files = write_without_sync(mount.path());
    mount.process().signal(Signal::SIGTERM);
    let ended = mount.process().wait(LIMIT);
    assert!(ended.is_some_and(|status| status.success()), "after SIGTERM: {ended:?}\n{}", mount.process().log_tail());
    assert!(!is_mounted(mount.path()), "the mount is left");
    drop(files);
    check_files(&volume);
}

const SIZES: [u64; 4] = [1, 4096, 300_000, 5_000_001];

/// `write(2)` has returned for all of it, and nothing was fsynced or closed.
fn write_without_sync(dir: &Path) -> Vec<File> {
    let open = |seed: u64| {
        OpenOptions::new().create(true).append(true).open(dir.join(format!("open-{seed}"))).expect("opened")
    };
    let mut files: Vec<File> = (0..SIZES.len() as u64).map(open).collect();
    for ((seed, size), file) in (0..).zip(SIZES).zip(&mut files) {
        pattern::write(file, seed, size, 64 << 10).expect("written");
        file.flush().expect("a file has no buffer of its own");
    }
    files
}

fn check_files(volume: &TempVolume) {
    let mount = Mount::start(Client::Stead, volume, "check", &[]);
    let checked = (0..)
        .zip(SIZES)
        .filter_map(|(seed, size)| pattern::check(&mount.path().join(format!("open-{seed}")), seed, size));
    let faults: Vec<String> = checked.collect();
    assert!(faults.is_empty(), "written before SIGTERM, and lost:\n{}", faults.join("\n"));
    mount.unmount();
    volume.assert_sound();
}
