//! The worker is killed in the middle of a load: what was acknowledged is there on the next mount.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use stead_tests::crash::{Ledger, write_until};
use stead_tests::pattern::mix;
use stead_tests::{Client, Engine, Mount, TempVolume, pause, tools};

const WRITERS: u64 = 4;

#[test]
fn killed_on_redis() {
    killed(Engine::Redis);
}

#[test]
fn killed_on_sqlite() {
    killed(Engine::Sqlite);
}

fn killed(engine: Engine) {
    let rounds = tools::number("STEAD_CRASH_ROUNDS", 15);
    let volume = TempVolume::format(engine, Client::Stead, &["--block-size", "1M"]);
    let mut files = 0;
    for round in 1..=rounds {
        let mount = Mount::start(Client::Stead, &volume, "crash", &[]);
        let ledgers = crash_under_load(mount, round);
        let mount = Mount::start(Client::Stead, &volume, "crash", &[]);
        let faults: Vec<String> = ledgers.iter().flat_map(Ledger::faults).collect();
        assert!(
            faults.is_empty(),
            "round {round}: {} acknowledged things are wrong:\n{}",
            faults.len(),
            faults.join("\n")
        );
        files += ledgers.iter().map(Ledger::files).sum::<usize>();
        mount.unmount();
    }
    println!("figure: {engine:?}: {rounds} kills, {files} acknowledged files, none lost");
    assert!(files as u64 > rounds * WRITERS, "the load did next to nothing: {files} files");
    volume.assert_sound();
}

fn crash_under_load(mount: Mount, round: u64) -> Vec<Ledger> {
    let stop = AtomicBool::new(false);
    let root = mount.path().to_owned();
    thread::scope(|scope| {
        let load = scope.spawn(|| write_until(&root, WRITERS, round, &stop));
        pause(Duration::from_millis(300 + mix(round) % 1500));
        mount.crash();
        stop.store(true, Ordering::Relaxed);
        load.join().expect("the load ends")
    })
}
