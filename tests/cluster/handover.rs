//! A pod's mount outlives workers, runner and node service, and needs no API server.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use stead_csi::proto::NodePublishVolumeRequest;
use stead_tests::cluster::{NAMESPACE, PATIENCE};
use stead_tests::csi::{CsiClient, mounted};
use stead_tests::process::{must, signal_to};
use stead_tests::{Cluster, eventually, pattern, pause, tools};

use super::manifests::{Mode, claim, pod, pod_of};

const BLOCK: usize = 64 << 10;

pub(crate) fn outlives_its_workers(cluster: &Cluster, mode: Mode) {
    let rounds = tools::number("STEAD_HANDOVER_ROUNDS", 20);
    let under_load = |what: &str, may_lose: bool, work: &dyn Fn()| under_load(cluster, mode, what, may_lose, work);
    cluster.load_image(&load_program());
    cluster.apply(&claim("load", "steadfast", ""));
    under_load(&format!("{rounds} workers upgraded"), false, &|| {
        for _round in 0..rounds {
            pause(Duration::from_millis(200));
            replace_worker(cluster);
        }
    });
    under_load("3 upgrades of the chart to other images", false, &|| {
        for round in 0..3 {
            let tag = format!("upgrade-{round}");
            cluster.image(&tools::stead(), &tag);
            let before = worker(cluster);
            cluster.helm(&mode.values().replace("tag: test", &format!("tag: {tag}")));
            another_worker(cluster, before);
        }
    });
    if mode == Mode::Pod {
        under_load("the template of workers changed", false, &|| {
            let before = (worker(cluster), node_service(cluster));
            let values = mode.values().replace("tag: test", "tag: upgrade-2");
            cluster.helm(&(values + "worker: {labels: {test/round: changed}}\n"));
            another_worker(cluster, before.0);
            assert_eq!(node_service(cluster), before.1, "it reads its template anew");
            let labelled = cluster.get(&["pods", "-n", NAMESPACE, "-l", "test/round=changed"]);
            assert_eq!(labelled["items"].as_array().map(Vec::len), Some(1), "{labelled}");
        });
    }
    under_load(&format!("{rounds} restarts of the node service"), false, &|| {
        for _round in 0..rounds {
            restart_node_service(cluster);
        }
    });
    under_load(&format!("{rounds} workers killed"), true, &|| {
        for round in 0..rounds {
            pause(Duration::from_millis(1200));
            kill_with_open_files(cluster, round);
        }
    });
    under_load("a runner killed with its workers", true, &|| {
        let before = worker(cluster);
        cluster.processes(&["/usr/bin/stead", "runner"]).iter().for_each(|pid| signal_to(*pid, Signal::SIGKILL));
        another_worker(cluster, before);
    });
    if mode == Mode::Runner {
        without_an_api_server(cluster);
    }
    cluster.kubectl(&["delete", "pvc/load"]);
}

/// The program that makes the load, built by this package.
fn load_program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_stead-test-load"))
}

/// Does something while a pod writes, reads and checks; tells what the pod saw.
fn under_load(cluster: &Cluster, mode: Mode, what: &str, may_lose: bool, work: &dyn Fn()) {
    let command = r#"[stead-test-load, verify, /data, /tmp/stop]"#;
    cluster.apply(&pod_of("load", "load", "docker.io/test/load:1", command));
    cluster.wait("condition=Ready", &["pod/load"]);
    work();
    cluster.sh("load", "touch /tmp/stop");
    cluster.wait("jsonpath={.status.containerStatuses[0].state.terminated.reason}", &["pod/load"]);
    let said = cluster.kubectl(&["logs", "load"]);
    let report = said.lines().find_map(|line| line.strip_prefix("report: "));
    let numbers: Vec<u64> = report.unwrap_or_default().split(' ').filter_map(|number| number.parse().ok()).collect();
    let [operations, faults, lost, longest] = numbers[..] else { panic!("{what}: {said}\n{}", cluster.told()) };
    println!(
        "figure: mode {}, load in a pod: {what}: {operations} operations, {faults} errors, longest stall {longest} ms, \
         {lost} told of lost writes",
        mode.name(),
    );
    assert!(faults == 0, "{what}: {said}\n{}", cluster.told());
    assert!(may_lose || lost == 0, "nothing may be lost by {what}");
    assert!(operations > 200, "the load did next to nothing");
    cluster.kubectl(&["delete", "pod/load"]);
    cluster.apply(&pod("clean", "load"));
    cluster.wait("condition=Ready", &["pod/clean"]);
    cluster.sh("clean", "rm -rf /data/*");
    cluster.kubectl(&["delete", "pod/clean"]);
}

/// The only worker of the node.
fn worker(cluster: &Cluster) -> Option<u32> {
    let file = std::fs::read_dir(cluster.node_state("workers")).ok()?.flatten().next()?;
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
    cluster.process(json["pid"].as_u64()?)
}

fn another_worker(cluster: &Cluster, before: Option<u32>) {
    assert!(before.is_some(), "the volume is served\n{}", cluster.told());
    eventually("another worker", PATIENCE, || {
        worker(cluster).filter(|now| Some(*now) != before && Path::new(&format!("/proc/{now}")).exists())
    });
}

fn node_service(cluster: &Cluster) -> u32 {
    eventually("a node service", PATIENCE, || match cluster.processes(&["/usr/bin/stead", "node"])[..] {
        [one] => Some(one),
        _ => None,
    })
}

fn replace_worker(cluster: &Cluster) {
    let before = worker(cluster);
    signal_to(node_service(cluster), Signal::SIGHUP);
    another_worker(cluster, before);
}

fn restart_node_service(cluster: &Cluster) {
    let before = worker(cluster);
    cluster.kubectl(&["-n", NAMESPACE, "delete", "pod", "-l", "app.kubernetes.io/component=node"]);
    let restarted = cluster.try_kubectl(&["-n", NAMESPACE, "rollout", "status", "ds/steadfast-node", "--timeout=120s"]);
    assert!(restarted.code == Some(0), "{}\n{}", restarted.text(), cluster.told());
    node_service(cluster);
    assert_eq!(worker(cluster), before, "the worker serves on\n{}", cluster.told());
}

/// Where the load's pod sees its volume.
fn inside_the_pod(cluster: &Cluster) -> PathBuf {
    let pids = cluster.processes(&["stead-test-load", "verify"]);
    Path::new("/proc").join(pids[0].to_string()).join("root/data")
}

/// Kills the worker while one file has been written to and not flushed, and one has been flushed.
fn kill_with_open_files(cluster: &Cluster, round: u64) {
    let (target, before) = (inside_the_pod(cluster), worker(cluster));
    let name = |what: &str| target.join(format!("{what}-{round}"));
    let open = |what| File::options().read(true).write(true).create_new(true).open(name(what)).expect("a new file");
    let (dirty, clean) = (open("dirty"), open("clean"));
    let content = pattern::bytes(round, BLOCK);
    for file in [&dirty, &clean] {
        file.write_all_at(&content, 0).expect("written");
        file.sync_all().expect("durable");
    }
    dirty.write_all_at(&pattern::bytes(round + 1, BLOCK), BLOCK as u64).expect("into the buffers");
    signal_to(before.expect("it is served"), Signal::SIGKILL);
    let mut found = vec![0; BLOCK];
    for file in [&clean, &dirty] {
        file.read_exact_at(&mut found, 0).expect("reads go on");
        assert!(found == content, "what was fsynced is there");
    }
    let errno = dirty.sync_all().err().and_then(|error| error.raw_os_error());
    assert_eq!(errno, Some(Errno::EIO as i32), "fsync tells what was lost\n{}", cluster.told());
    clean.write_all_at(&content, BLOCK as u64).expect("written");
    clean.sync_all().expect("nothing of it was lost");
    another_worker(cluster, before);
}

/// The node service publishes and takes back while nobody answers at the API server's address.
fn without_an_api_server(cluster: &Cluster) {
    let volume = cluster.get(&["pvc", "load"])["spec"]["volumeName"].as_str().expect("bound").to_owned();
    let attributes = cluster.get(&["pv", &volume])["spec"]["csi"]["volumeAttributes"].clone();
    let secret = cluster.get(&["secret", "volumes"])["data"].clone();
    let decoded = |(name, value): (&String, &serde_json::Value)| {
        let encoded = cluster.file("encoded");
        std::fs::write(&encoded, value.as_str().expect("a text")).expect("written");
        (name.clone(), must(Command::new("base64").arg("-d").arg(&encoded), Duration::from_secs(5)))
    };
    let target = format!("/var/lib/kubelet/pods/nobody/volumes/kubernetes.io~csi/{volume}/mount");
    let request = NodePublishVolumeRequest {
        volume_id: volume.clone(),
        volume_context: serde_json::from_value(attributes).expect("texts"),
        target_path: target.clone(),
        volume_capability: Some(mounted()),
        secrets: secret.as_object().expect("members").iter().map(decoded).collect(),
        ..NodePublishVolumeRequest::default()
    };
    cluster.stop_api_server();
    assert_ne!(cluster.try_kubectl(&["get", "nodes"]).code, Some(0), "nobody answers");
    let client = CsiClient::connect(&cluster.node_socket(), &cluster.node_socket());
    let began = Instant::now();
    client.publish(request).unwrap_or_else(|status| panic!("{status:?}"));
    assert_eq!(cluster.mounts().len(), 2, "the mount and its bind");
    client.unpublish(&volume, Path::new(&target)).unwrap_or_else(|status| panic!("{status:?}"));
    assert_eq!(cluster.mounts().len(), 0);
    println!(
        "figure: without an API server a volume is published and taken back in {} ms",
        began.elapsed().as_millis()
    );
    cluster.start_api_server();
    // The kubelet may have taken the directory for one of a pod that is gone.
    let _gone = std::fs::remove_dir_all(cluster.run_dir().join("private/var/lib/kubelet/pods/nobody"));
}
