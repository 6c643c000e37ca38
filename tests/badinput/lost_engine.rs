//! Redis goes away in the middle of work and comes back: operations wait, and go on.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use stead_tests::servers::RedisOptions;
use stead_tests::{Client, Engine, Mount, Process, TempVolume, pattern, pause};

/// The size that the load gives its files.
const SIZE: u64 = 30_000;
const AWAY: Duration = Duration::from_secs(4);
const BACK: Duration = Duration::from_secs(3);

#[test]
fn operations_wait_for_the_engine() {
    let server = RedisOptions { durable: true, ..RedisOptions::default() };
    let mut volume = TempVolume::format_on(Engine::Redis, server, Client::Stead, &[]);
    let mount = Mount::start(Client::Stead, &volume, "lost", &[]);
    let log = volume.path().join("load.log");
    let mut load = Command::new(env!("CARGO_BIN_EXE_stead-test-load"));
    let mut load = Process::start("load", load.arg(mount.path()), &log);
    pause(BACK);
    for _outage in 0..2 {
        let redis = volume.redis.as_mut().expect("on Redis");
        redis.halt();
        pause(AWAY);
        redis.resume();
        pause(BACK);
        load.expect_alive();
    }
    File::create(mount.path().join("stop")).expect("the load is told to stop");
    let ended = load.wait(Duration::from_secs(20));
    assert!(ended.is_some_and(|status| status.success()), "an operation failed: {ended:?}, {}", load.log_tail());
    let (count, longest) = result(&log);
    println!("figure: {count} files through two outages of {AWAY:?}; the longest took {longest:?}");
    assert!(longest >= AWAY / 2, "the outage was not felt: {longest:?}");
    check(mount.path(), count);
    mount.unmount();
    let mount = Mount::start(Client::Stead, &volume, "again", &[]);
    check(mount.path(), count);
    mount.unmount();
    volume.assert_sound();
}

/// What the load printed: how many files, and the longest time of one.
fn result(log: &Path) -> (u64, Duration) {
    let text = fs::read_to_string(log).expect("the load's output");
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [count, longest] = numbers[..] else { panic!("the load said {text:?}") };
    (count, Duration::from_millis(longest))
}

fn check(root: &Path, count: u64) {
    let faults: Vec<_> = (0..count).filter_map(|n| pattern::check(&root.join(format!("kept-{n}")), n, SIZE)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
