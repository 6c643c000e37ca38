//! Two clients of one volume, killed in turn while both write.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use stead_tests::crash::{Ledger, write_until};
use stead_tests::pattern::mix;
use stead_tests::process::must;
use stead_tests::{Client, Engine, Mount, TempVolume, eventually, pause, tools};

const WRITERS: u64 = 2;
/// Dead sessions are cleaned after five of them, so it happens here, too.
const HEARTBEAT: [&str; 2] = ["--heartbeat", "2"];

#[test]
fn killed_in_turn_on_redis() {
    killed_in_turn(Engine::Redis);
}

#[test]
fn killed_in_turn_on_sqlite() {
    killed_in_turn(Engine::Sqlite);
}

/// One minute with each engine, or as `STEAD_FAULT_SECONDS` says.
fn killed_in_turn(engine: Engine) {
    let volume = TempVolume::format(engine, Client::Stead, &["--block-size", "1M"]);
    let end = Instant::now() + Duration::from_secs(tools::number("STEAD_FAULT_SECONDS", 60));
    // While one is down, the other one serves: so at any time one of them lives, and each is killed about as often.
    let sides = thread::scope(|scope| {
        let sides = ["one", "other"].map(|label| {
            let volume = &volume;
            scope.spawn(move || one_side(volume, label, end))
        });
        sides.map(|side| side.join().expect("a client's life ends"))
    });
    let kills: usize = sides.iter().map(Vec::len).sum();
    let mount = Mount::start(Client::Stead, &volume, "third", &HEARTBEAT);
    let ledgers: Vec<Ledger> = sides.into_iter().flatten().flatten().collect();
    // Each was checked on the mount of its own client; a third one sees all of it.
    let at = |ledger: &Ledger| mount.path().join(ledger.root().file_name().expect("a name"));
    let faults: Vec<String> = ledgers.iter().flat_map(|ledger| ledger.moved(&at(ledger)).faults()).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    eventually("the dead clients' sessions are cleaned", Duration::from_secs(60), || {
        let status = must(Command::new(tools::stead()).args(["status", &volume.url]), Duration::from_secs(30));
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        (status["Sessions"].as_array().map(Vec::len) == Some(1)).then_some(())
    });
    mount.unmount();
    let files: usize = ledgers.iter().map(Ledger::files).sum();
    println!("figure: {engine:?}: two clients, {kills} kills, {files} acknowledged files, none lost");
    volume.assert_sound();
    volume.assert_clean_after_gc();
}

/// Lives of one client: each writes until it is killed, and checks what the one before was promised.
fn one_side(volume: &TempVolume, label: &str, end: Instant) -> Vec<Vec<Ledger>> {
    let mut lives: Vec<Vec<Ledger>> = Vec::new();
    while Instant::now() < end {
        let seed = mix(u64::from(label.as_bytes()[0])) % 1000 * 1000 + lives.len() as u64;
        let mount = Mount::start(Client::Stead, volume, label, &HEARTBEAT);
        let faults: Vec<String> = lives.last().into_iter().flatten().flat_map(Ledger::faults).collect();
        assert!(faults.is_empty(), "{label}, life {}: {} faults:\n{}", lives.len(), faults.len(), faults.join("\n"));
        let (stop, root) = (AtomicBool::new(false), mount.path().to_owned());
        lives.push(thread::scope(|scope| {
            let load = scope.spawn(|| write_until(&root, WRITERS, seed, &stop));
            pause(Duration::from_millis(1500 + mix(seed) % 2500));
            mount.crash();
            stop.store(true, Ordering::Relaxed);
            load.join().expect("the load ends")
        }));
    }
    lives
}
