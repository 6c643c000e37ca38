//! The mount of a pod outlives whoever serves it: its worker is replaced and killed, and the node service restarted, under a
//! load that checks every answer. Also where pods or volumes share a worker.

mod handover {
    mod shares;
}

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use stead_csi::proto::Volume;
use stead_tests::csi::{Services, Workers};
use stead_tests::pattern;
use stead_tests::process::{eventually, freeze, signal_to};
use stead_tests::verify::{Load, Report};
use stead_tests::{Engine, pause, tools};
use tonic::Code;

const BLOCK: usize = 64 << 10;
const EIO: i32 = nix::errno::Errno::EIO as i32;

#[test]
fn workers_of_the_node_service() {
    outlives_everybody(Workers::OfNode);
}

#[test]
fn workers_of_a_runner() {
    outlives_everybody(Workers::OfRunner);
}

#[test]
fn workers_in_pods() {
    outlives_everybody(Workers::InPods);
}

fn outlives_everybody(workers: Workers) {
    let rounds = tools::number("STEAD_HANDOVER_ROUNDS", 6);
    let mut services = Services::start_with(Engine::Redis, workers);
    let volume = services.create("handover");
    let target = services.publish(&volume);

    new_credentials(&services, &volume, &target);
    let load = Load::start(&target, "replaced");
    for _round in 0..rounds {
        pause(Duration::from_millis(200));
        services.replace_worker(&volume);
    }
    told(workers, "workers replaced", rounds, &load.stop(), false, &services);

    let load = Load::start(&target, "restarted");
    for _round in 0..rounds {
        pause(Duration::from_millis(200));
        services.restart_node();
    }
    told(workers, "restarts of the node service", rounds, &load.stop(), false, &services);
    let load = Load::start(&target, "upgraded");
    for _round in 0..rounds {
        upgrade_both(&mut services, &volume);
    }
    told(workers, "workers told to end while there was no node service", rounds, &load.stop(), false, &services);
    // It has its descriptors back: what dies now is replaced.
    let load = Load::start(&target, "killed");
    for round in 0..rounds {
        // A worker that dies sooner is replaced later.
        pause(Duration::from_millis(1200));
        kill_with_open_files(&services, &volume, &target, round);
    }
    told(workers, "workers killed", rounds, &load.stop(), true, &services);

    if workers == Workers::OfRunner {
        hangs(&services, &volume, &target);
    }
    services.unpublish(&volume, &target);
    assert_eq!(services.worker(&volume), None);
    eventually("no pod is left", Duration::from_secs(30), || services.pods().is_empty().then_some(()));
    services.delete(&volume.volume_id).expect("deleted");
}

/// What an upgrade of a cluster does at once: workers are told to end, and nobody is there who could start the next ones.
fn upgrade_both(services: &mut Services, volume: &Volume) {
    pause(Duration::from_millis(200));
    let worker = services.worker(volume).expect("it is served");
    services.restart_node_after(|| {
        signal_to(worker, Signal::SIGTERM);
        pause(Duration::from_millis(100));
    });
    eventually("another worker", Duration::from_secs(10), || services.worker(volume).filter(|next| *next != worker));
}

/// Published again with other credentials, the mount uses them; wrong ones are refused, and nothing changes.
fn new_credentials(services: &Services, volume: &Volume, target: &Path) {
    let first = services.worker(volume);
    let publish = |member: &str, value: String| {
        let mut request = services.publication(volume, target);
        request.secrets.insert(member.to_owned(), value);
        services.client.publish(request)
    };
    let refused = publish("secret-key", "wrong".to_owned()).expect_err("a key that opens nothing");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    std::fs::write(target.join("still"), "served").expect("the old key is in use");
    services.client.publish(services.publication(volume, target)).expect("the same again");
    assert_eq!(services.worker(volume), first, "for the storage no other worker is needed");
    let elsewhere = services.secrets["metaurl"].replace("127.0.0.1", "localhost");
    publish("metaurl", elsewhere).expect("the same engine by another name");
    assert_ne!(services.worker(volume), first, "for the engine another worker goes on");
    assert_eq!(std::fs::read(target.join("still")).expect("there"), b"served");
    let refused = publish("metaurl", services.secrets["metaurl"].replace("redis://", "redis://:wrong@"));
    refused.expect_err("a password that opens nothing");
    std::fs::write(target.join("still"), "with what worked").expect("the next worker has the password of the last one");
}

fn told(workers: Workers, what: &str, rounds: u64, report: &Report, may_lose: bool, services: &Services) {
    println!(
        "figure: {workers:?}: {rounds} {what}: {} operations, {} errors, longest stall {} ms, {} told of lost writes",
        report.operations,
        report.faults.len(),
        report.longest.as_millis(),
        report.lost,
    );
    assert!(report.faults.is_empty(), "{what}:\n{}\n{}", report.faults.join("\n"), services.logs());
    assert!(may_lose || report.lost == 0, "nothing may be lost by {what}");
    assert!(report.operations > rounds * 20, "the load did next to nothing");
}

/// Kills the worker while one file has been written to and not flushed, one has been flushed, and one is only read.
fn kill_with_open_files(services: &Services, volume: &Volume, target: &Path, round: u64) {
    let worker = services.worker(volume).expect("it is served");
    let name = |what: &str| target.join(format!("{what}-{round}"));
    let open = |what| File::options().read(true).write(true).create_new(true).open(name(what)).expect("a new file");
    let (dirty, clean) = (open("dirty"), open("clean"));
    let content = pattern::bytes(round, BLOCK);
    clean.write_all_at(&content, 0).expect("written");
    clean.sync_all().expect("durable");
    dirty.write_all_at(&content, 0).expect("written");
    dirty.sync_all().expect("durable");
    let read_only = File::open(name("clean")).expect("there");
    dirty.write_all_at(&pattern::bytes(round + 1, BLOCK), BLOCK as u64).expect("into the buffers");
    signal_to(worker, Signal::SIGKILL);
    let mut found = vec![0; BLOCK];
    for file in [&clean, &read_only, &dirty] {
        file.read_exact_at(&mut found, 0).expect("reads go on");
        assert!(found == content, "what was fsynced is there");
    }
    assert_eq!(errno(dirty.write_all_at(&content, 0)), Some(EIO), "a lost write is told before more is taken");
    assert_eq!(errno(dirty.sync_all()), Some(EIO), "and by fsync\n{}", services.logs());
    dirty.write_all_at(&content, BLOCK as u64).expect("who was told may go on");
    dirty.sync_all().expect("durable");
    clean.write_all_at(&content, BLOCK as u64).expect("written");
    clean.sync_all().expect("nothing of it was lost");
    eventually("another worker", Duration::from_secs(10), || services.worker(volume).filter(|next| *next != worker));
}

/// A worker that answers nothing is killed, and its callers get their answers from the next one; who closes a file with bytes
/// that only the first one had is told.
fn hangs(services: &Services, volume: &Volume, target: &Path) {
    let worker = services.worker(volume).expect("it is served");
    let mut promised = File::create(target.join("promised")).expect("a new file");
    promised.write_all(b"nothing yet").expect("into the buffers");
    freeze(worker);
    let began = Instant::now();
    let closing = std::thread::spawn(move || nix::unistd::close(promised));
    std::fs::write(target.join("patience"), "rewarded").expect("another one answers");
    assert_eq!(closing.join().expect("no panic"), Err(nix::errno::Errno::EIO), "a lost write is told by close");
    assert_ne!(services.worker(volume), Some(worker));
    assert_eq!(std::fs::read(target.join("patience")).expect("there"), b"rewarded");
    println!("figure: a worker that hangs is replaced after {} s", began.elapsed().as_secs());
}

fn errno(result: io::Result<()>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}
