//! `kill -9` at every named fail point: what was acknowledged is there on the next mount.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use stead_tests::crash::{Ledger, write_until};
use stead_tests::process::files_below;
use stead_tests::{Client, Engine, Mount, TempVolume, eventually, tools};

/// How long a load may take to come to a point.
const REACHED: Duration = Duration::from_secs(30);
/// At which of the times that a load comes by: early, and in the middle of everything.
const HITS: [u64; 2] = [1, 9];

#[test]
fn killed_at_every_point_on_redis() {
    killed_at_every_point(Engine::Redis);
}

#[test]
fn killed_at_every_point_on_sqlite() {
    killed_at_every_point(Engine::Sqlite);
}

fn killed_at_every_point(engine: Engine) {
    let points: Vec<String> = points().into_iter().filter(|point| exists_on(point, engine)).collect();
    assert!(points.len() > 10, "only these fail points were found in the sources: {points:?}");
    let only = tools::text("STEAD_FAULT_POINTS").unwrap_or_default();
    let points: Vec<String> = points.into_iter().filter(|point| point.starts_with(&only)).collect();
    let volume = TempVolume::format(engine, Client::Stead, &["--block-size", "1M"]);
    let (mut files, mut not_reached) = (0, Vec::new());
    for (number, point) in (0..).zip(&points) {
        let mut reached = false;
        for (round, hit) in (0..).zip(HITS) {
            let ledgers = killed_at(&volume, point, hit, number * 10 + round);
            reached |= ledgers.is_empty() || ledgers.iter().any(|ledger| ledger.ended.is_some());
            files += ledgers.iter().map(Ledger::files).sum::<usize>();
            check(&volume, &ledgers, &format!("{point}@{hit}"));
        }
        if !reached {
            not_reached.push(point);
        }
        volume.assert_sound();
    }
    println!("figure: {engine:?}: killed at {} points, {files} acknowledged files, none lost", points.len());
    assert!(not_reached.is_empty(), "no load came to these points: {not_reached:?}");
    volume.assert_clean_after_gc();
}

fn exists_on(point: &str, engine: Engine) -> bool {
    match engine {
        Engine::Redis => !point.starts_with("meta.sqlite."),
        Engine::Sqlite => !point.starts_with("meta.redis."),
    }
}

/// Options without which no load comes to a point.
fn options_for(point: &str) -> &'static [&'static str] {
    if point.starts_with("chunk.stage") { &["--writeback"] } else { &[] }
}

/// Ledgers of a load under which a mount was killed at a point: none when that was before it served, and when it was not
/// killed, all of them ended as they were asked to.
fn killed_at(volume: &TempVolume, point: &str, hit: u64, seed: u64) -> Vec<Ledger> {
    let plan = format!("{point}=kill@{hit}");
    let Some(mount) = Mount::start_or_killed(volume, "points", options_for(point), &plan) else {
        return Vec::new();
    };
    let (stop, root) = (AtomicBool::new(false), mount.path().to_owned());
    thread::scope(|scope| {
        let load = scope.spawn(|| write_until(&root, 3, seed, &stop));
        let alive = mount.killed_within(REACHED);
        stop.store(true, Ordering::Relaxed);
        let ledgers = load.join().expect("the load ends");
        if let Err(alive) = alive {
            let errors: Vec<_> = ledgers.iter().filter_map(|ledger| ledger.ended.as_ref()).collect();
            assert!(errors.is_empty(), "{plan}: the mount lives, and an application saw {errors:?}");
            alive.unmount();
        }
        ledgers
    })
}

fn check(volume: &TempVolume, ledgers: &[Ledger], what: &str) {
    let mount = Mount::start(Client::Stead, volume, "points", &[]);
    eventually("what was staged is in the store", Duration::from_secs(30), || {
        let staged = files_below(&volume.scratch("cache-points"));
        // What was never staged to its end was never acknowledged, and stays until it is old.
        let mut blocks = staged.iter().filter(|path| path.extension().is_none_or(|extension| extension != "tmp"));
        (!blocks.any(|path| path.iter().any(|part| part == "rawstaging"))).then_some(())
    });
    let faults: Vec<String> = ledgers.iter().flat_map(Ledger::faults).collect();
    assert!(faults.is_empty(), "killed at {what}: {} faults:\n{}", faults.len(), faults.join("\n"));
    // A death in the very first step may have left nothing to remove.
    for ledger in ledgers.iter().filter(|ledger| ledger.root().exists()) {
        fs::remove_dir_all(ledger.root())
            .unwrap_or_else(|error| panic!("{what}: {}: {error}", ledger.root().display()));
    }
    mount.unmount();
}

/// Every name that the sources hit.
fn points() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut todo = vec![tools::sources()];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(fs::read_dir(&path).expect("a source directory").map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path) {
            names_in(&fs::read_to_string(&path).expect("a source file"), &mut found);
        }
    }
    found
}

fn is_test(path: &Path) -> bool {
    path.ends_with("base/failpoint.rs") || path.iter().any(|part| part == "tests" || part == "tests.rs")
}

fn names_in(source: &str, found: &mut BTreeSet<String>) {
    for call in ["failpoint::hit(\"", "failpoint::fails(\""] {
        let names = source.split(call).skip(1).filter_map(|rest| rest.split_once('"'));
        found.extend(names.map(|(name, _rest)| name.to_owned()));
    }
}
