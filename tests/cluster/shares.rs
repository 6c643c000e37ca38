//! Many volumes of one file system with one worker.

use stead_tests::cluster::PATIENCE;
use stead_tests::{Cluster, eventually};

use super::badinput::class;
use super::manifests::{all, claim, pod};

const CLASS: &str = "one-worker";
const NAMES: [&str; 3] = ["one", "two", "three"];

pub(crate) fn have_one_worker(cluster: &Cluster) {
    cluster.apply(&class(CLASS, "volumes", "share: filesystem"));
    let manifests: Vec<_> = NAMES.iter().flat_map(|name| [claim(name, CLASS, ""), pod(name, name)]).collect();
    cluster.apply(&all(&manifests));
    let pods = NAMES.map(|name| format!("pod/{name}"));
    cluster.wait("condition=Ready", &pods.each_ref().map(String::as_str));
    for name in NAMES {
        cluster.sh(name, &format!("echo {name} >/data/name; sync"));
    }
    for name in NAMES {
        assert_eq!(cluster.sh(name, "ls /data; cat /data/name"), format!("name\n{name}\n"), "its own directory alone");
        assert_eq!(cluster.sh(name, "df -k /data | tail -n 1 | awk '{ print $2 }'").trim(), "1048576", "its own size");
    }
    assert_eq!(cluster.processes(&["/usr/bin/stead", "worker"]).len(), 1, "{}", cluster.told());
    println!("figure: {} volumes of one file system have one worker", NAMES.len());
    cluster.kubectl(&[&["delete"][..], &pods.each_ref().map(String::as_str)].concat());
    cluster.kubectl(&[&["delete", "pvc"][..], &NAMES].concat());
    cluster.kubectl(&["delete", "storageclass", CLASS]);
    eventually("all volumes are deleted", PATIENCE, || {
        cluster.get(&["pv"])["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    assert_eq!(cluster.mounts(), [""; 0], "mounts");
}
