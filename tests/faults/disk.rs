//! Full and failing disks: the cache's costs nothing, the volume's own is reported, and all works again when there is room.

use std::fs::{self, File};
use std::io::Write;
use std::ops::{Range, RangeFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use stead_tests::mount::SmallDisk;
use stead_tests::{Client, Engine, Mount, Setup, TempVolume, eventually, pattern, pause};

const MIB: u64 = 1 << 20;
const OUT_OF_USE: &str = "juicefs_blockcache_dirs_out_of_use";

/// The cache's disk is too small for what is read and written, and somebody else fills the rest of it.
#[test]
fn a_full_cache_disk_costs_nothing() {
    let volume = TempVolume::format(Engine::Sqlite, Client::Stead, &["--block-size", "1M"]);
    let disk = SmallDisk::mount(&volume.scratch("small"), 12 * MIB);
    let cache = disk.path().join("cache").display().to_string();
    let options = ["--cache-dir", &cache, "--free-space-ratio", "0.01", "--cache-large-write"];
    let mount = Mount::start(Client::Stead, &volume, "full", &options);
    let write = |seed: u64| {
        let mut file = File::create(mount.path().join(format!("file-{seed}")))?;
        pattern::write(&mut file, seed, 3 * MIB, 64 << 10)?;
        file.sync_all()
    };
    (0..4).for_each(|seed| write(seed).unwrap_or_else(|error| panic!("file {seed}: {error}")));
    disk.fill();
    (4..8)
        .for_each(|seed| write(seed).unwrap_or_else(|error| panic!("file {seed}, the cache's disk is full: {error}")));
    for round in 0..2 {
        fs::write("/proc/sys/vm/drop_caches", "3").expect("only root can drop the kernel's caches");
        let wrong: Vec<String> = (0..8)
            .filter_map(|seed| pattern::check(&mount.path().join(format!("file-{seed}")), seed, 3 * MIB))
            .collect();
        assert!(wrong.is_empty(), "round {round}:\n{}", wrong.join("\n"));
    }
    mount.unmount();
    volume.assert_sound();
}

/// The kernel makes the cache's disk read-only, as it does with one that fails, while blocks are staged on it.
#[test]
fn a_cache_disk_that_fails_is_left_alone_and_loses_nothing() {
    let volume = TempVolume::format(Engine::Sqlite, Client::Stead, &["--block-size", "1M"]);
    let disk = SmallDisk::mount(&volume.scratch("small"), 64 * MIB);
    let cache = disk.path().join("cache").display().to_string();
    let options = ["--cache-dir", &cache, "--writeback", "--upload-delay", "1h", "--free-space-ratio", "0.01"];
    let mount = Mount::start(Client::Stead, &volume, "failing", &options);
    let write = |seed| write_file(mount.path(), seed).unwrap_or_else(|error| panic!("file {seed}: {error}"));
    (0..4).for_each(write);
    assert_eq!(mount.figure("juicefs_staging_blocks"), 4.0);
    disk.set_read_only(true);
    (4..10).for_each(write);
    assert_eq!(mount.figure(OUT_OF_USE), 1.0);
    check(mount.path(), 0..10, "while the disk fails");
    // What was staged before is uploaded all the same.
    eventually("the upload", Duration::from_secs(20), || (mount.figure("juicefs_staging_blocks") == 0.0).then_some(()));
    disk.set_read_only(false);
    let more = write_until(100.., Duration::from_secs(120), write, || mount.figure(OUT_OF_USE) == 0.0);
    check(mount.path(), (0..10).chain(more), "after it was taken back");
    mount.unmount();
    let log = fs::read_to_string(volume.path().join("failing.log")).expect("the log of the mount");
    assert_eq!((log.matches("is out of use").count(), log.matches("in use again").count()), (1, 1), "{log}");
    let mount = Mount::start(Client::Stead, &volume, "failing", &["--cache-dir", &cache]);
    check(mount.path(), 0..10, "on the next mount");
    eventually("the upload", Duration::from_secs(20), || (mount.figure("juicefs_staging_blocks") == 0.0).then_some(()));
    mount.unmount();
    volume.assert_sound();
}

/// The first write to the cache hangs for a minute.
#[test]
fn a_cache_disk_that_hangs_holds_nobody_up() {
    let volume = TempVolume::format(Engine::Sqlite, Client::Stead, &["--block-size", "1M"]);
    let plan = [("STEAD_FAILPOINTS", "chunk.cache.write=stall:60000@1")];
    let options = ["--cache-large-write", "--free-space-ratio", "0.01"];
    let mount = Mount::start_with(Client::Stead, &volume, "hanging", &options, &plan);
    let began = Instant::now();
    let write = |seed| write_file(mount.path(), seed).unwrap_or_else(|error| panic!("file {seed}: {error}"));
    let files = write_until(0.., Duration::from_secs(30), write, || mount.figure(OUT_OF_USE) == 1.0);
    check(mount.path(), files, "while the disk hangs");
    mount.unmount();
    assert!(began.elapsed() < Duration::from_secs(50), "the disk was waited for: {:?}", began.elapsed());
    volume.assert_sound();
}

/// Writes a file now and then until something is so; gives the numbers of all.
fn write_until(from: RangeFrom<u64>, limit: Duration, write: impl Fn(u64), is_so: impl Fn() -> bool) -> Range<u64> {
    let mut last = from.start;
    eventually("what is written for", limit, || {
        write(last);
        last += 1;
        pause(Duration::from_millis(500));
        is_so().then_some(())
    });
    from.start..last
}

/// Files of [`write_file`] as they are without the kernel's caches.
fn check(root: &Path, seeds: impl IntoIterator<Item = u64>, what: &str) {
    fs::write("/proc/sys/vm/drop_caches", "3").expect("only root can drop the kernel's caches");
    let seeds = seeds.into_iter();
    let wrong: Vec<_> =
        seeds.filter_map(|seed| pattern::check(&root.join(format!("file-{seed}")), seed, MIB)).collect();
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

/// Engine and blocks lie on the disk that fills up.
#[test]
fn a_full_disk_under_the_volume_is_reported_and_loses_nothing() {
    let home = tempfile::Builder::new().prefix("small-").tempdir().expect("a temporary directory");
    let disk = SmallDisk::mount(home.path(), 48 * MIB);
    let setup = Setup { home: Some(disk.path().to_owned()), ..Setup::default() };
    let volume = TempVolume::format_with(Engine::Sqlite, setup, Client::Stead, &["--block-size", "1M"]);
    let mount = Mount::start(Client::Stead, &volume, "full", &["--io-retries", "2", "--io-timeout", "5"]);
    let mut kept = Vec::new();
    let refused = loop {
        let seed = kept.len() as u64;
        match write_file(mount.path(), seed) {
            Ok(()) => kept.push(seed),
            Err(error) => break error,
        }
        assert!(kept.len() < 48, "48 MiB were written to a disk of 48 MiB that has other things on it");
    };
    let errno = refused.raw_os_error().map(Errno::from_raw);
    assert!(
        matches!(errno, Some(Errno::ENOSPC | Errno::EIO)),
        "a full disk is reported as {refused}, expected ENOSPC (or EIO from the engine)"
    );
    println!("figure: {} files fit, then: {refused}", kept.len());
    assert!(kept.len() >= 20, "only {} MiB fitted", kept.len());
    let check = |root: &Path, what: &str| {
        let wrong: Vec<String> =
            kept.iter().filter_map(|&seed| pattern::check(&root.join(format!("file-{seed}")), seed, MIB)).collect();
        assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
    };
    check(mount.path(), "while the disk is full");
    disk.resize(96 * MIB);
    let more = 1000..1010;
    for seed in more.clone() {
        write_file(mount.path(), seed).unwrap_or_else(|error| panic!("there is room again, and still: {error}"));
    }
    check(mount.path(), "with room again");
    mount.unmount();
    let mount = Mount::start(Client::Stead, &volume, "full", &[]);
    check(mount.path(), "on the next mount");
    for seed in more {
        assert_eq!(pattern::check(&mount.path().join(format!("file-{seed}")), seed, MIB), None);
    }
    mount.unmount();
    volume.assert_sound();
}

fn write_file(dir: &Path, seed: u64) -> std::io::Result<()> {
    let mut file = File::create(dir.join(format!("file-{seed}")))?;
    pattern::write(&mut file, seed, MIB, 64 << 10)?;
    file.flush()?;
    file.sync_all()
}
