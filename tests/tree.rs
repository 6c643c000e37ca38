//! A real tree of sources, copied through a mount, compares equal: warm, after a remount, with an empty cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use stead_tests::tree::{Tree, assert_same, copy, scan, volume_of, without_symlink_times};
use stead_tests::{Client, Engine, Mount, TempVolume, tools};

/// What the copied tree has at least.
const FILES: usize = 20_000;
const BYTES: u64 = 500 << 20;

#[test]
fn one_writer_on_redis() {
    survives(Engine::Redis, 1);
}

#[test]
fn four_writers_on_redis() {
    survives(Engine::Redis, 4);
}

#[test]
fn one_writer_on_sqlite() {
    survives(Engine::Sqlite, 1);
}

#[test]
fn four_writers_on_sqlite() {
    survives(Engine::Sqlite, 4);
}

fn survives(engine: Engine, writers: usize) {
    let source = tools::real_tree();
    let original = without_symlink_times(scan(&source));
    let (files, bytes) = volume_of(&original);
    let copies = copies_of(files, bytes);
    let volume = TempVolume::format(engine, Client::Stead, &[]);
    let mount = Mount::start(Client::Stead, &volume, "warm", &[]);
    let begun = Instant::now();
    for n in 0..copies {
        copy(&source, &mount.path().join(format!("copy-{n}")), writers).expect("copied");
    }
    report(&format!("{engine:?}, {writers} writers: copied"), files * copies, bytes * copies as u64, begun);
    compare("warm", &mount, &original, copies);
    mount.unmount();

    let mount = Mount::start(Client::Stead, &volume, "warm", &[]);
    compare("after a remount", &mount, &original, copies);
    mount.unmount();

    let mount = Mount::start(Client::Stead, &volume, "cold", &[]);
    compare("with an empty cache", &mount, &original, copies);
    mount.unmount();
    volume.assert_sound();
}

/// How many copies make the tree large enough.
fn copies_of(files: usize, bytes: u64) -> usize {
    (1..20).find(|&n| files * n >= FILES && bytes * n as u64 >= BYTES).expect("Cargo has unpacked some sources")
}

fn compare(when: &str, mount: &Mount, original: &Tree, copies: usize) {
    let begun = Instant::now();
    let (files, bytes) = volume_of(original);
    for n in 0..copies {
        let found = without_symlink_times(scan(&mount.path().join(format!("copy-{n}"))));
        assert_same(when, &ignoring_root(original), &ignoring_root(&found));
    }
    report(&format!("compared {when}"), files * copies, bytes * copies as u64, begun);
    let listed = fs::read_dir(mount.path()).expect("listed").count();
    assert!(listed >= copies, "{listed} entries in the root");
}

/// Owners differ when the sources are not root's; everything else counts.
fn ignoring_root(tree: &Tree) -> Tree {
    tree.iter()
        .filter(|(path, _)| *path != Path::new(""))
        .map(|(path, node)| (PathBuf::from(path), node.without_owner()))
        .collect()
}

fn report(what: &str, files: usize, bytes: u64, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    println!("figure: {what}: {files} files, {} MB, {seconds:.1} s", bytes >> 20);
}
