//! Programs that load and verify a file system: stress-ng, dbench, fio.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use stead_tests::process::must;
use stead_tests::{Client, Engine, Mount, TempVolume, run};

/// File-system stressors of stress-ng that succeed on ext4. Left out: those that need a block device or a mount of their
/// own, ask for what ext4 alone has (verity, inode flags), or do not touch files.
const STRESSORS: [&str; 31] = [
    "access",
    "chdir",
    "chmod",
    "chown",
    "copy-file",
    "dentry",
    "dir",
    "dirdeep",
    "dirmany",
    "fallocate",
    "fcntl",
    "filename",
    "flock",
    "fstat",
    "getdent",
    "hdd",
    "io",
    "iomix",
    "link",
    "locka",
    "lockf",
    "lockofd",
    "open",
    "rename",
    "symlink",
    "touch",
    "utime",
    "mknod",
    "seek",
    "sync-file",
    "xattr",
];

#[test]
fn stress_ng_on_redis() {
    stress_ng(Engine::Redis);
}

#[test]
fn stress_ng_on_sqlite() {
    stress_ng(Engine::Sqlite);
}

/// All of them before any is judged, so that one run tells of every failure.
fn stress_ng(engine: Engine) {
    let volume = TempVolume::format(engine, Client::Stead, &[]);
    let mount = Mount::start(Client::Stead, &volume, "stress", &[]);
    let failures: Vec<String> = STRESSORS.iter().filter_map(|stressor| stress(mount.path(), stressor)).collect();
    assert!(failures.is_empty(), "{} stressors failed on {engine:?}:\n{}", failures.len(), failures.join("\n"));
    mount.unmount();
    volume.assert_sound();
    println!("figure: {} stressors of stress-ng on {engine:?}", STRESSORS.len());
}

fn stress(dir: &Path, stressor: &str) -> Option<String> {
    let mut command = Command::new("stress-ng");
    command.args(["--verify", "--timeout", "2", &format!("--{stressor}"), "2", "--temp-path"]).arg(dir);
    let output = run(command.current_dir(dir), Duration::from_secs(120));
    (output.code != Some(0)).then(|| format!("{stressor}: exit code {:?}\n{}", output.code, output.text()))
}

#[test]
fn dbench() {
    for engine in Engine::ALL {
        let volume = TempVolume::format(engine, Client::Stead, &[]);
        let mount = Mount::start(Client::Stead, &volume, "dbench", &[]);
        let mut command = Command::new("dbench");
        command
            .args(["--timelimit", "10", "--loadfile", "/usr/share/dbench/client.txt", "-D"])
            .arg(mount.path())
            .arg("4");
        let output = must(&mut command, Duration::from_secs(120));
        let throughput = output.lines().find(|line| line.starts_with("Throughput")).expect("a result");
        println!("figure: dbench on {engine:?}: {throughput}");
        mount.unmount();
        volume.assert_sound();
    }
}

/// Name, and how fio is to write and verify.
const JOBS: [(&str, &[&str]); 6] = [
    ("sequential", &["--rw=write", "--bs=128k", "--size=64m"]),
    ("random", &["--rw=randwrite", "--bs=4k", "--size=16m"]),
    ("mixed sizes", &["--rw=randrw", "--bsrange=512-64k", "--size=16m", "--fsync=32"]),
    (
        "direct, asynchronous",
        &["--rw=randwrite", "--bs=8k", "--size=16m", "--direct=1", "--ioengine=libaio", "--iodepth=16"],
    ),
    ("mapped", &["--rw=randwrite", "--bs=4k", "--size=16m", "--ioengine=mmap"]),
    ("several files", &["--rw=randwrite", "--bs=16k", "--size=16m", "--nrfiles=8", "--numjobs=2", "--fallocate=none"]),
];

#[test]
fn fio_verify() {
    for engine in Engine::ALL {
        let volume = TempVolume::format(engine, Client::Stead, &[]);
        let mount = Mount::start(Client::Stead, &volume, "fio", &[]);
        for (number, (name, options)) in (0..).zip(JOBS) {
            let mut command = Command::new("fio");
            command.args([&format!("--name=job-{number}"), "--verify=crc32c", "--verify_fatal=1", "--end_fsync=1"]);
            command.args(["--randrepeat=1", "--output-format=terse", "--minimal"]).args(options);
            command.arg(format!("--directory={}", mount.path().display()));
            let output = run(command.current_dir(volume.path()), Duration::from_secs(180));
            assert!(output.code == Some(0), "fio, {name}, {engine:?}: {:?}\n{}", output.code, output.text());
        }
        mount.unmount();
        volume.assert_sound();
    }
    println!("figure: {} patterns of fio verified on each engine", JOBS.len());
}
