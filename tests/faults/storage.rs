//! An object store that answers errors, late, partly, wrongly or not at all; a disk cache with wrong bytes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::libc::EIO;
use stead_tests::crash::{Ledger, write_until};
use stead_tests::pattern;
use stead_tests::process::files_below;
use stead_tests::proxy::{BadLink, Fault};
use stead_tests::volume::Storage;
use stead_tests::{Client, Engine, Minio, Mount, Setup, TempVolume, pause};

const WRITES: [(Fault, u64); 5] = [
    (Fault::Status(500), 3),
    (Fault::Status(503), 2),
    (Fault::Slow(Duration::from_millis(700)), 4),
    (Fault::Reset, 3),
    (Fault::LostReply, 3),
];
const READS: [(Fault, u64); 5] = [
    (Fault::Status(500), 3),
    (Fault::Slow(Duration::from_millis(700)), 5),
    (Fault::Truncated, 3),
    (Fault::Reset, 3),
    (Fault::LostReply, 3),
];

#[test]
fn a_bad_link_to_the_store_costs_time_only() {
    let minio = Minio::start();
    let link = BadLink::start(minio.port());
    let storage = Storage::S3(format!("http://127.0.0.1:{}/tested", link.port()));
    let setup = Setup { storage, ..Setup::default() };
    let volume = TempVolume::format_with(Engine::Redis, setup, Client::Stead, &["--block-size", "256K"]);
    let mut ledgers = Vec::new();
    for (round, (fault, every)) in (0..).zip(WRITES) {
        let mount = Mount::start(Client::Stead, &volume, &format!("writer-{round}"), &[]);
        link.fail(fault, every, "PUT");
        let written = write_for(mount.path(), round, Duration::from_secs(3));
        let met = link.mend();
        let errors: Vec<_> = written.iter().filter_map(|ledger| ledger.ended.as_ref()).collect();
        assert!(errors.is_empty(), "{fault:?}: an application saw {errors:?}");
        assert!(met > 2, "{fault:?}: only {met} requests met it");
        println!("figure: {met} uploads met {fault:?}");
        mount.unmount();
        ledgers.extend(written);
    }
    for (round, (fault, every)) in (0..).zip(READS) {
        let mount = Mount::start(Client::Stead, &volume, &format!("reader-{round}"), &["--io-retries", "10"]);
        link.fail(fault, every, "GET");
        let at = |ledger: &Ledger| mount.path().join(ledger.root().file_name().expect("a name"));
        let faults: Vec<String> = ledgers.iter().flat_map(|ledger| ledger.moved(&at(ledger)).faults()).collect();
        let met = link.mend();
        assert!(faults.is_empty(), "{fault:?}: {} faults:\n{}", faults.len(), faults.join("\n"));
        assert!(met > 2, "{fault:?}: only {met} requests met it");
        println!("figure: {met} downloads met {fault:?}");
        mount.unmount();
    }
    volume.assert_sound();
}

fn write_for(root: &Path, seed: u64, time: Duration) -> Vec<Ledger> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| write_until(root, 2, seed, &stop));
        pause(time);
        stop.store(true, Ordering::Relaxed);
        load.join().expect("the load ends")
    })
}

/// What becomes of a file's content.
type Damage = fn(&mut Vec<u8>);

/// With a key that itself is encrypted.
const ENCRYPTED: [&str; 2] =
    ["--encrypt-rsa-key", concat!(env!("CARGO_MANIFEST_DIR"), "/../src/object/encryption/testdata/p1-aes.pem")];
const BLOCK: u64 = 1 << 20;

fn flip_a_bit(content: &mut [u8]) {
    let middle = content.len() / 2;
    content[middle] ^= 4;
}

fn cut_in_half(content: &mut Vec<u8>) {
    content.truncate(content.len() / 2);
}

/// One object of a file is not what was put there: reads of its bytes fail, all others are right, and so are these once
/// the object is right again.
#[test]
fn a_damaged_object_is_an_error_and_never_a_wrong_byte() {
    let cases: [(&str, &[&str], Damage); 3] = [
        ("a wrong bit in an encrypted object", &ENCRYPTED, |content| flip_a_bit(content)),
        ("half of an LZ4 block", &["--compress", "lz4"], cut_in_half),
        ("half of a Zstandard frame", &["--compress", "zstd"], cut_in_half),
    ];
    for (what, options, damage) in cases {
        let options = [&["--block-size", "1M"], options].concat();
        let volume = TempVolume::format(Engine::Sqlite, Client::Stead, &options);
        let mount = Mount::start(Client::Stead, &volume, "writer", &[]);
        let mut file = File::create(mount.path().join("file")).expect("made");
        pattern::write(&mut file, 5, 3 * BLOCK, 64 << 10).expect("written");
        drop(file);
        mount.unmount();
        let objects = files_below(&volume.bucket());
        let second = |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains("_1_"));
        let [object] = objects.iter().filter(second).collect::<Vec<_>>()[..] else { panic!("{what}: {objects:?}") };
        let good = fs::read(object).expect("an object");
        let mut bad = good.clone();
        damage(&mut bad);
        fs::write(object, bad).expect("written");
        let mount = Mount::start(Client::Stead, &volume, "reader", &[]);
        let file = File::open(mount.path().join("file")).expect("opened");
        assert_eq!(broken(&file, 3 * BLOCK), [(BLOCK, 2 * BLOCK)], "{what}");
        fs::write(object, good).expect("written");
        assert_eq!(broken(&file, 3 * BLOCK), [], "{what}, mended");
        drop(file);
        mount.unmount();
        println!("figure: {what} is EIO");
    }
}

/// Whatever the store answers has a wrong bit: nothing can be read, and nothing wrong is.
#[test]
fn wrong_bits_from_an_encrypted_store_are_errors() {
    let minio = Minio::start();
    let link = BadLink::start(minio.port());
    let storage = Storage::S3(format!("http://127.0.0.1:{}/tested", link.port()));
    let options = [&["--block-size", "1M"][..], &ENCRYPTED].concat();
    let volume =
        TempVolume::format_with(Engine::Sqlite, Setup { storage, ..Setup::default() }, Client::Stead, &options);
    let mount = Mount::start(Client::Stead, &volume, "writer", &[]);
    let mut file = File::create(mount.path().join("file")).expect("made");
    pattern::write(&mut file, 5, 3 * BLOCK, 64 << 10).expect("written");
    drop(file);
    mount.unmount();
    let mount = Mount::start(Client::Stead, &volume, "reader", &["--io-retries", "1"]);
    let file = File::open(mount.path().join("file")).expect("opened");
    link.fail(Fault::WrongBit, 1, "GET");
    assert_eq!(broken(&file, 3 * BLOCK), [(0, 3 * BLOCK)]);
    let met = link.mend();
    assert_eq!(broken(&file, 3 * BLOCK), []);
    assert!(met >= 3, "only {met} requests met it");
    println!("figure: {met} downloads with a wrong bit, none believed");
    drop(file);
    mount.unmount();
}

/// Reads a file of the content of seed 5 piece by piece: from where to where that gives EIO. Anything else must be right.
fn broken(file: &File, size: u64) -> Vec<(u64, u64)> {
    const PIECE: usize = 128 << 10;
    let content = pattern::bytes(5, usize::try_from(size).expect("small"));
    let mut broken: Vec<(u64, u64)> = Vec::new();
    for (offset, right) in (0..).step_by(PIECE).zip(content.chunks(PIECE)) {
        let mut found = vec![0; PIECE];
        let end = offset + PIECE as u64;
        match file.read_exact_at(&mut found, offset) {
            Ok(()) => assert!(found == right, "wrong bytes at {offset} .. {end}"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(EIO), "at {offset}");
                match broken.last_mut() {
                    Some((_, last)) if *last == offset => *last = end,
                    _ => broken.push((offset, end)),
                }
            }
        }
    }
    broken
}

/// Every file of the cache gets a wrong bit, or is cut: the bytes come from the store again.
#[test]
fn a_damaged_disk_cache_is_never_believed() {
    const SIZE: u64 = 3 << 20;
    let damages: [(&str, Damage); 3] = [
        ("a wrong bit", |content| flip_a_bit(content)),
        ("a wrong checksum", |content| {
            let last = content.len() - 1;
            content[last] ^= 1;
        }),
        ("half of it", cut_in_half),
    ];
    let volume = TempVolume::format(Engine::Sqlite, Client::Stead, &["--block-size", "1M"]);
    let mount = Mount::start(Client::Stead, &volume, "writer", &[]);
    for seed in 0..6 {
        let mut file = File::create(mount.path().join(format!("file-{seed}"))).expect("made");
        pattern::write(&mut file, seed, SIZE, 64 << 10).expect("written");
    }
    mount.unmount();
    for (what, damage) in damages {
        let read = |label: &str| {
            let mount = Mount::start(Client::Stead, &volume, "cached", &[]);
            let faults: Vec<String> = (0..6)
                .filter_map(|seed| pattern::check(&mount.path().join(format!("file-{seed}")), seed, SIZE))
                .collect();
            assert!(faults.is_empty(), "{what}, {label}:\n{}", faults.join("\n"));
            mount.unmount();
        };
        read("filling the cache");
        let cached = files_below(&volume.scratch("cache-cached"));
        let blocks: Vec<&PathBuf> = cached.iter().filter(|path| path.iter().any(|part| part == "raw")).collect();
        assert!(blocks.len() >= 18, "{what}: the cache holds only {} blocks", blocks.len());
        for path in &blocks {
            let mut content = fs::read(path).expect("a cached block");
            damage(&mut content);
            fs::write(path, content).expect("written");
        }
        read("damaged");
        read("mended");
    }
}
