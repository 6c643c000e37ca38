//! How long things take, and what they cost.

use std::time::{Duration, Instant};

use serde_json::Value;
use stead_tests::cluster::{NAMESPACE, PATIENCE};
use stead_tests::{Cluster, eventually, tools};

use super::manifests::{Mode, all, claim, pod};

pub(crate) fn measure(cluster: &Cluster, mode: Mode) {
    privilege(cluster);
    // A sidecar that was stopped with the API server takes its lease up again only after a while.
    cluster.apply(&claim("ready", "steadfast", ""));
    cluster.wait("jsonpath={.status.phase}=Bound", &["pvc/ready"]);
    cluster.kubectl(&["delete", "pvc/ready"]);
    for _round in 0..if mode == Mode::Runner { 3 } else { 1 } {
        claims_and_pods(cluster, mode, 10);
    }
    if mode == Mode::Runner {
        let many = tools::number("STEAD_CLUSTER_PODS", 100);
        claims_and_pods(cluster, mode, usize::try_from(many).expect("fits"));
    }
    publications(cluster, mode);
    if mode == Mode::Runner {
        requests(cluster);
    }
}

/// Containers that may do what root may, on a node; and what service accounts of the node may ask for.
fn privilege(cluster: &Cluster) {
    let pods = cluster.get(&["pods", "-n", NAMESPACE]);
    let containers = pods["items"]
        .as_array()
        .expect("pods")
        .iter()
        .flat_map(|pod| pod["spec"]["containers"].as_array().expect("containers").iter());
    let privileged: Vec<&Value> = containers.filter(|one| one["securityContext"]["privileged"] == true).collect();
    assert_eq!(privileged.len(), 1, "one privileged container on the node");
    println!("figure: privileged containers per node: {}", privileged.len());
    for (account, verb, what) in
        [("node", "get", "secrets"), ("node", "create", "pods/exec"), ("runner", "get", "secrets")]
    {
        let user = format!("--as=system:serviceaccount:{NAMESPACE}:steadfast-{account}");
        let answer = cluster.try_kubectl(&["auth", "can-i", verb, what, "-A", &user]);
        assert_eq!(answer.stdout.trim(), "no", "{account} {verb} {what}");
    }
}

/// Claims and their pods at once, until the last pod is ready; then everything away again.
fn claims_and_pods(cluster: &Cluster, mode: Mode, count: usize) {
    let names: Vec<_> = (0..count).map(|n| format!("many-{n}")).collect();
    let manifests: Vec<_> = names.iter().flat_map(|name| [claim(name, "steadfast", ""), pod(name, name)]).collect();
    let began = Instant::now();
    cluster.apply(&all(&manifests));
    cluster.wait("condition=Ready", &["pods", "-l", "app=test"]);
    println!(
        "figure: mode {}: {count} claims and {count} pods at once, until the last is ready: {:.1} s",
        mode.name(),
        began.elapsed().as_secs_f64()
    );
    let sum = |what: &str| memory(cluster, what).iter().sum::<u64>();
    let mut workers = memory(cluster, "worker");
    workers.sort_unstable();
    let median = workers.get(workers.len() / 2).copied().unwrap_or(0);
    println!(
        "figure: mode {}: memory with {count} mounts: a worker {:.1} MiB (PSS, median), node service {:.1} MiB, runner {:.1} MiB, controller {:.1} MiB",
        mode.name(),
        mib(median),
        mib(sum("node")),
        mib(sum("runner")),
        mib(sum("controller")),
    );
    let began = Instant::now();
    cluster.kubectl(&["delete", "pods", "-l", "app=test"]);
    cluster.kubectl(&[&["delete", "pvc"][..], &names.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    eventually("all volumes are deleted", PATIENCE, || {
        cluster.get(&["pv"])["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    println!("figure: {count} pods and claims deleted: {:.1} s", began.elapsed().as_secs_f64());
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Proportional set sizes of the processes `stead WHAT`, in bytes.
fn memory(cluster: &Cluster, what: &str) -> Vec<u64> {
    let read = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    let pss = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let processes = cluster.processes(&["/usr/bin/stead", what]).into_iter();
    processes.filter_map(|pid| pss(read(pid)?)).map(|kib| kib << 10).collect()
}

/// Milliseconds that publications took, by the node service's log: first ones, and ones of a volume that is served already.
fn publications(cluster: &Cluster, mode: Mode) {
    cluster.apply(&claim("often", "steadfast", ""));
    cluster.wait("jsonpath={.status.phase}=Bound", &["pvc/often"]);
    let since = log_lines(cluster);
    let rounds = tools::number("STEAD_CLUSTER_PUBLICATIONS", 10);
    for _round in 0..rounds {
        cluster.apply(&pod("often", "often"));
        cluster.wait("condition=Ready", &["pod/often"]);
        cluster.apply(&pod("again", "often"));
        cluster.wait("condition=Ready", &["pod/again"]);
        cluster.kubectl(&["delete", "pod/often", "pod/again"]);
    }
    let log = cluster.kubectl(&["-n", NAMESPACE, "logs", "ds/steadfast-node"]);
    let (mut first, mut shared, mut starting) = (Vec::new(), Vec::new(), false);
    for line in log.lines().skip(since) {
        if line.contains("worker serves") {
            starting = true;
        } else if line.contains("NodePublishVolume") && line.contains("code=Ok") {
            let ms = line.split("ms=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
            let list = if std::mem::take(&mut starting) { &mut first } else { &mut shared };
            list.extend(ms);
        }
    }
    for (what, mut list) in [("first", first), ("shared or again", shared)] {
        list.sort_unstable();
        assert!(!list.is_empty(), "{what}: nothing was published\n{log}");
        let at = |percent: usize| list[(list.len() - 1) * percent / 100];
        println!(
            "figure: mode {}: publication of a volume, {what}: p50 {} ms, p99 {} ms of {}",
            mode.name(),
            at(50),
            at(99),
            list.len()
        );
    }
    cluster.kubectl(&["delete", "pvc/often"]);
}

fn log_lines(cluster: &Cluster) -> usize {
    cluster.kubectl(&["-n", NAMESPACE, "logs", "ds/steadfast-node"]).lines().count()
}

/// What the node service and the runner have asked the API server for.
fn requests(cluster: &Cluster) {
    // The audit log is written with a delay.
    stead_tests::pause(Duration::from_secs(2));
    assert!(!cluster.requests_of("system:node:node-1").is_empty(), "requests are counted");
    for account in ["node", "runner"] {
        let requests = cluster.requests_of(&format!("system:serviceaccount:{NAMESPACE}:steadfast-{account}"));
        assert_eq!(requests, [""; 0], "{account}: nothing is asked of the API server");
    }
    println!("figure: requests to the API server per publication in mode runner: 0");
}
