//! Redis goes away in the middle of work and comes back: operations wait, and go on.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use stead_tests::servers::RedisOptions;
use stead_tests::{Client, Engine, Mount, TempVolume, pattern, pause};

const SIZE: u64 = 30_000;
const AWAY: Duration = Duration::from_secs(4);

#[test]
fn operations_wait_for_the_engine() {
    let server = RedisOptions { durable: true, ..RedisOptions::default() };
    let mut volume = TempVolume::format_on(Engine::Redis, server, Client::Stead, &[]);
    let mount = Mount::start(Client::Stead, &volume, "lost", &[]);
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let root = mount.path().to_owned();
    let (count, longest) = thread::scope(|scope| {
        let load = scope.spawn(|| write_files(&root, &stop, &written));
        pause(Duration::from_secs(1));
        let redis = volume.redis.as_mut().expect("on Redis");
        for _outage in 0..2 {
            redis.halt();
            pause(AWAY);
            redis.resume();
            pause(Duration::from_secs(3));
        }
        let before = written.load(Ordering::Relaxed);
        pause(Duration::from_secs(1));
        assert!(written.load(Ordering::Relaxed) > before, "no work after the engine is back");
        stop.store(true, Ordering::Relaxed);
        load.join().expect("no operation fails")
    });
    println!("figure: {count} files through two outages of {AWAY:?}; the longest operation took {longest:?}");
    assert!(longest >= AWAY / 2, "the outage was not felt: {longest:?}");
    check(&root, count);
    mount.unmount();
    let mount = Mount::start(Client::Stead, &volume, "again", &[]);
    check(mount.path(), count);
    mount.unmount();
    volume.assert_sound();
}

fn write_files(root: &Path, stop: &AtomicBool, written: &AtomicU64) -> (u64, Duration) {
    let (mut count, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let path = root.join(format!("file-{count}"));
        let mut file = File::create_new(&path).unwrap_or_else(|error| panic!("create {count}: {error}"));
        pattern::write(&mut file, count, SIZE, 8 << 10).unwrap_or_else(|error| panic!("write {count}: {error}"));
        file.sync_all().unwrap_or_else(|error| panic!("fsync {count}: {error}"));
        fs::rename(&path, root.join(format!("kept-{count}"))).unwrap_or_else(|error| panic!("rename {count}: {error}"));
        longest = longest.max(begun.elapsed());
        count += 1;
        written.store(count, Ordering::Relaxed);
    }
    (count, longest)
}

fn check(root: &Path, count: u64) {
    let faults: Vec<_> = (0..count).filter_map(|n| pattern::check(&root.join(format!("kept-{n}")), n, SIZE)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
