//! The engine dies under a load: operations wait, nobody sees an error, nothing acknowledged is lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use stead_tests::crash::{Ledger, write_until};
use stead_tests::servers::{RedisOptions, Watched};
use stead_tests::{Client, Engine, Mount, TempVolume, pause};

const DEATHS: usize = 5;
const FAIL_OVERS: usize = 2;

#[test]
fn redis_is_killed_under_load() {
    let server = RedisOptions { durable: true, comes_back: true, ..RedisOptions::default() };
    let mut volume = TempVolume::format_on(Engine::Redis, server, Client::Stead, &["--block-size", "1M"]);
    let mut redis = volume.redis.take().expect("the engine is Redis");
    let (files, took) = dies_under_load(&volume, DEATHS, || redis.kill_and_wait());
    println!("figure: {DEATHS} deaths of Redis in {:.0} s, {files} acknowledged files, no error", took.as_secs_f64());
}

#[test]
fn a_watched_redis_fails_over_under_load() {
    let mut group = Watched::start();
    let volume = TempVolume::format_at(&group.url(1), Client::Stead, &["--block-size", "1M"]);
    let (files, took) = dies_under_load(&volume, FAIL_OVERS, || group.fail_over());
    println!("figure: {FAIL_OVERS} fail-overs in {:.0} s, {files} acknowledged files, no error", took.as_secs_f64());
}

/// Has the engine die in the middle of a load, several times. Gives the number of files and the time that it took.
fn dies_under_load(volume: &TempVolume, deaths: usize, mut die: impl FnMut()) -> (usize, Duration) {
    let mount = Mount::start(Client::Stead, volume, "engine", &[]);
    let (stop, root, begun) = (AtomicBool::new(false), mount.path().to_owned(), Instant::now());
    let ledgers = thread::scope(|scope| {
        let load = scope.spawn(|| write_until(&root, 3, 1, &stop));
        for _death in 0..deaths {
            pause(Duration::from_secs(2));
            die();
        }
        pause(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
        load.join().expect("the load ends")
    });
    let took = begun.elapsed();
    let errors: Vec<_> = ledgers.iter().filter_map(|ledger| ledger.ended.as_ref()).collect();
    assert!(errors.is_empty(), "an application saw the engine's death: {errors:?}");
    let check = || ledgers.iter().flat_map(Ledger::faults).collect::<Vec<_>>();
    assert_eq!(check(), Vec::<String>::new(), "on the mount that lived through it");
    mount.unmount();
    let mount = Mount::start(Client::Stead, volume, "engine", &[]);
    assert_eq!(check(), Vec::<String>::new(), "on the next mount");
    mount.unmount();
    volume.assert_sound();
    volume.assert_clean_after_gc();
    (ledgers.iter().map(Ledger::files).sum(), took)
}
