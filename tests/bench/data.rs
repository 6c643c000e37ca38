//! One large file: written in sequence, read from the store, from the disk cache, from the page cache, and at random.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use stead_tests::pattern::{self, mix};
use stead_tests::process::files_below;
use stead_tests::{Client, Mount};

use crate::metadata::drop_kernel_caches;
use crate::table::Table;
use crate::{Side, resident, settle};

const MIB: usize = 1 << 20;
const RANDOM_READS: u64 = 5000;

/// What the disk itself gives to whoever writes and syncs, and reads back, a file of the same size, in MB/s: no client with
/// blocks in a directory there is faster, unless it does not sync or the page cache has the blocks.
pub(crate) fn disk(mib: u64) -> (f64, f64) {
    let dir = tempfile::tempdir().expect("a directory beside those of the volumes");
    let path = dir.path().join("large");
    settle();
    let written = write_and_sync(&path, mib);
    settle();
    drop_kernel_caches();
    (written, read_through(&path, mib))
}

/// Measures on the mounts, and on second ones with an empty cache.
pub(crate) fn sequential(sides: [Side; 2], mib: u64, table: &mut Table) {
    for side in &sides {
        settle();
        write(&side.mount.path().join("large"), mib, side.client, table);
        table.add("resident memory, after the large file", "MiB", side.client, resident(&side.mount));
    }
    let cold = sides.map(|side| {
        side.mount.unmount();
        Side { mount: Mount::start(side.client, &side.volume, "cold", &[]), ..side }
    });
    for from in ["store", "disk cache"] {
        for side in &cold {
            settle();
            drop_kernel_caches();
            read(&format!("sequential read 1 MiB from {from}"), side, mib, table);
        }
    }
    for side in &cold {
        settle();
        drop_kernel_caches();
        read_cache_files(side, table);
    }
    // From memory, right after it was filled.
    for side in &cold {
        fs::read(side.mount.path().join("large")).expect("read");
        read("sequential read 1 MiB from page cache", side, mib, table);
    }
    for side in &cold {
        settle();
        drop_kernel_caches();
        random(side, mib, table);
    }
    cold.into_iter().for_each(|side| side.mount.unmount());
}

fn write(large: &Path, mib: u64, client: Client, table: &mut Table) {
    table.add("sequential write 1 MiB + fsync", "MB/s", client, write_and_sync(large, mib));
}

fn write_and_sync(path: &Path, mib: u64) -> f64 {
    let block = pattern::bytes(1, MIB);
    let begun = Instant::now();
    let mut file = File::create(path).expect("made");
    (0..mib).for_each(|_| file.write_all(&block).expect("written"));
    file.sync_all().expect("synced");
    drop(file);
    throughput(mib, begun)
}

fn read(name: &str, side: &Side, mib: u64, table: &mut Table) {
    table.add(name, "MB/s", side.client, read_through(&side.mount.path().join("large"), mib));
}

/// What the disk gives to a program that reads the files of the cache one after the other, without any client: faster than
/// that no client reads them.
fn read_cache_files(side: &Side, table: &mut Table) {
    let files = files_below(&side.volume.scratch("cache-cold"));
    let mut buffer = vec![0; MIB];
    let begun = Instant::now();
    let mut bytes = 0;
    for file in files {
        let mut file = File::open(file).expect("opened");
        loop {
            match file.read(&mut buffer).expect("read") {
                0 => break,
                read => bytes += read,
            }
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = bytes as f64 / 1e6 / begun.elapsed().as_secs_f64();
    table.add("the disk itself, the same files of the cache", "MB/s", side.client, rate);
}

fn read_through(path: &Path, mib: u64) -> f64 {
    let mut buffer = vec![0; MIB];
    let begun = Instant::now();
    let mut file = File::open(path).expect("opened");
    (0..mib).for_each(|_| file.read_exact(&mut buffer).expect("read"));
    throughput(mib, begun)
}

fn random(side: &Side, mib: u64, table: &mut Table) {
    let file = File::open(side.mount.path().join("large")).expect("opened");
    let pages = mib * 256;
    let mut buffer = [0; 4096];
    let begun = Instant::now();
    for n in 0..RANDOM_READS {
        file.read_exact_at(&mut buffer, mix(n) % pages * 4096).expect("read");
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = RANDOM_READS as f64 / begun.elapsed().as_secs_f64();
    table.add("random read 4K from disk cache", "1/s", side.client, rate);
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn throughput(mib: u64, begun: Instant) -> f64 {
    mib as f64 * 1.048_576 / begun.elapsed().as_secs_f64()
}
