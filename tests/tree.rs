//! A real tree of sources, copied through a mount, compares equal: warm, after a remount, with an empty cache. And one
//! directory with a great many entries.

mod tree {
    mod large;
}

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use stead_tests::tree::{Tree, assert_same, copy, scan, volume_of, without_symlink_times};
use stead_tests::{Client, Engine, Mount, TempVolume, tools};

/// What the copied tree has at least.
const FILES: usize = 20_000;
const BYTES: u64 = 500_000_000;
const READERS: usize = 3;

#[test]
#[ignore = "like the other two: tests/run.sh --full"]
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
#[ignore = "like the other two: tests/run.sh --full"]
fn four_writers_on_sqlite() {
    survives(Engine::Sqlite, 4);
}

fn survives(engine: Engine, writers: usize) {
    let parts = parts();
    let volume = TempVolume::format(engine, Client::Stead, &[]);
    let mount = Mount::start(Client::Stead, &volume, "warm", &[]);
    let begun = Instant::now();
    let pairs: Vec<_> = parts.iter().map(|part| (part.source.clone(), mount.path().join(&part.target))).collect();
    copy(&pairs, writers).expect("copied");
    report(&format!("{engine:?}, {writers} writer(s): copied"), &parts, begun);
    compare("compared warm", mount, &parts);
    compare("compared after a remount", Mount::start(Client::Stead, &volume, "warm", &[]), &parts);
    compare("compared with an empty cache", Mount::start(Client::Stead, &volume, "cold", &[]), &parts);
    volume.assert_sound();
}

/// A package of sources, and where it goes.
struct Part {
    source: PathBuf,
    target: PathBuf,
    tree: Tree,
}

/// Packages that Cargo has unpacked until they are enough, some of them twice if all are too few.
fn parts() -> Vec<Part> {
    let registries = entries(&tools::real_tree());
    let packages: Vec<_> =
        registries.iter().flat_map(|registry| entries(registry)).filter(|path| path.is_dir()).collect();
    let (mut parts, mut files, mut bytes) = (Vec::new(), 0, 0);
    for round in 0.. {
        for source in &packages {
            if files >= FILES && bytes >= BYTES {
                return parts;
            }
            let tree = comparable(source);
            let volume = volume_of(&tree);
            (files, bytes) = (files + volume.0, bytes + volume.1);
            let target = Path::new(&format!("round-{round}")).join(source.file_name().expect("a package has a name"));
            parts.push(Part { source: source.clone(), target, tree });
        }
        assert!(files > 0 && round < 50, "Cargo has unpacked no sources worth a test: {files} files, {bytes} bytes");
    }
    parts
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

/// Without what a copy does not keep: owners, and times of symbolic links.
fn comparable(root: &Path) -> Tree {
    let tree = without_symlink_times(scan(root));
    tree.into_iter().map(|(path, node)| (path, node.without_owner())).collect()
}

fn compare(what: &str, mount: Mount, parts: &[Part]) {
    let begun = Instant::now();
    let (next, root) = (AtomicUsize::new(0), mount.path());
    thread::scope(|scope| {
        let reader = || {
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                assert_same(what, &part.tree, &comparable(&root.join(&part.target)));
            }
        };
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(reader)).collect();
        readers.into_iter().for_each(|reader| reader.join().expect("everything compares equal"));
    });
    report(what, parts, begun);
    mount.unmount();
}

fn report(what: &str, parts: &[Part], begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    let (files, bytes) =
        parts.iter().map(|part| volume_of(&part.tree)).fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    println!("figure: {what}: {files} files, {} MB, {seconds:.1} s", bytes / 1_000_000);
}
