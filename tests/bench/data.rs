//! One large file: written in sequence, read from the store, from the disk cache, from the page cache, and at random.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use stead_tests::pattern::{self, mix};
use stead_tests::{Client, Mount, TempVolume};

use crate::metadata::drop_kernel_caches;
use crate::resident;
use crate::table::Table;

const MIB: usize = 1 << 20;
const RANDOM_READS: u64 = 5000;

/// Measures on a mount and on a second one with an empty cache.
pub(crate) fn sequential(volume: &TempVolume, mount: Mount, mib: u64, client: Client, table: &mut Table) {
    let block = pattern::bytes(1, MIB);
    let begun = Instant::now();
    let mut file = File::create(mount.path().join("large")).expect("made");
    (0..mib).for_each(|_| file.write_all(&block).expect("written"));
    file.sync_all().expect("synced");
    drop(file);
    table.add("sequential write 1 MiB + fsync", "MB/s", client, throughput(mib, begun));
    table.add("resident memory, after the work", "MiB", client, resident(&mount));
    mount.unmount();

    let mount = Mount::start(client, volume, "cold", &[]);
    let large = mount.path().join("large");
    for from in ["store", "disk cache"] {
        drop_kernel_caches();
        read(&format!("sequential read 1 MiB from {from}"), &large, mib, client, table);
    }
    read("sequential read 1 MiB from page cache", &large, mib, client, table);
    drop_kernel_caches();
    random(&large, mib, client, table);
    mount.unmount();
    // The blocks of this client must not weigh on the next one's disk.
    fs::remove_dir_all(volume.bucket()).expect("removed");
}

fn read(name: &str, large: &Path, mib: u64, client: Client, table: &mut Table) {
    let mut buffer = vec![0; MIB];
    let begun = Instant::now();
    let mut file = File::open(large).expect("opened");
    (0..mib).for_each(|_| file.read_exact(&mut buffer).expect("read"));
    table.add(name, "MB/s", client, throughput(mib, begun));
}

fn random(large: &Path, mib: u64, client: Client, table: &mut Table) {
    let file = File::open(large).expect("opened");
    let pages = mib * 256;
    let mut buffer = [0; 4096];
    let begun = Instant::now();
    for n in 0..RANDOM_READS {
        file.read_exact_at(&mut buffer, mix(n) % pages * 4096).expect("read");
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    table.add("random read 4K from disk cache", "1/s", client, RANDOM_READS as f64 / begun.elapsed().as_secs_f64());
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn throughput(mib: u64, begun: Instant) -> f64 {
    mib as f64 * 1.048_576 / begun.elapsed().as_secs_f64()
}
