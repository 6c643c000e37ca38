//! What a user does with a claim, until nothing of it is left anywhere.

use std::path::Path;
use std::time::Instant;

use stead_tests::cluster::PATIENCE;
use stead_tests::process::files_below;
use stead_tests::{Cluster, eventually};

use super::manifests::{all, attributes, claim, claim_from, pod, secret, snapshot, static_volume};

pub(crate) fn everything_that_a_claim_can_do(cluster: &Cluster) {
    let before = what_a_file_system_costs(cluster);
    share(cluster);
    by_hand(cluster);
    grow(cluster);
    change(cluster);
    copy(cluster);
    cluster.kubectl(&["delete", "pods", "a", "b", "restored", "cloned"]);
    let began = Instant::now();
    cluster.kubectl(&["delete", "pvc", "data", "restored", "cloned"]);
    cluster.kubectl(&["delete", "volumesnapshot", "snapshot"]);
    cluster.kubectl(&["delete", "volumeattributesclass", "few-inodes"]);
    nothing_is_left(cluster, &before);
    println!(
        "figure: three claims and a snapshot deleted until their data is gone: {:.1} s",
        began.elapsed().as_secs_f64()
    );
    a_file_system_of_its_own(cluster);
}

/// Keys in the engine and objects in the bucket of a file system without volumes.
#[derive(Debug, PartialEq, Eq)]
struct Stored {
    keys: Vec<String>,
    objects: Vec<String>,
}

fn stored(cluster: &Cluster) -> Stored {
    let redis = |command: &[&str]| cluster.redis(&[&["-n", "1", "--raw"], command].concat());
    let keys = redis(&["KEYS", "*"]);
    // What tells clients whether a commit took effect goes by itself, an hour after the last one; `last` begins times. The
    // driver's own directories stay.
    let lasting = |key: &&str| !key.is_empty() && !["stead", "last"].iter().any(|start| key.starts_with(start));
    let attributes = |key: &&str| key.strip_prefix('i').is_some_and(|rest| rest.parse::<u64>().is_ok());
    let (inodes, others): (Vec<_>, Vec<_>) = keys.lines().filter(lasting).partition(attributes);
    // The root, /.stead, and what is in it.
    let own = 2 + redis(&["HLEN", "d2"]).trim().parse::<usize>().expect("a number");
    let mut keys: Vec<_> = others.into_iter().map(str::to_owned).collect();
    keys.push(format!("inodes of volumes: {}", inodes.len().saturating_sub(own)));
    keys.sort();
    Stored { keys, objects: cluster.objects("volumes") }
}

/// The first volume brings the file system along.
fn what_a_file_system_costs(cluster: &Cluster) -> Stored {
    cluster.apply(&all(&[claim("first", "steadfast", ""), pod("first", "first")]));
    cluster.wait("condition=Ready", &["pod/first"]);
    cluster.sh("first", "echo first >/data/first; sync");
    cluster.apply(&snapshot("first", "first"));
    cluster.wait("jsonpath={.status.readyToUse}=true", &["volumesnapshot/first"]);
    cluster.kubectl(&["delete", "volumesnapshot", "first"]);
    cluster.kubectl(&["delete", "pod/first", "pvc/first"]);
    no_volume_is_left(cluster);
    stored(cluster)
}

fn share(cluster: &Cluster) {
    cluster.apply(&all(&[claim("data", "steadfast", ""), pod("a", "data"), pod("b", "data")]));
    cluster.wait("condition=Ready", &["pod/a", "pod/b"]);
    cluster.sh("a", "dd if=/dev/urandom of=/data/large bs=1M count=20 2>/dev/null; echo from a >/data/a");
    assert_eq!(cluster.sh("b", "cat /data/a; echo from b >>/data/a; sync"), "from a\n");
    assert_eq!(cluster.sh("a", "cat /data/a"), "from a\nfrom b\n");
    assert_eq!(cluster.sh("a", "md5sum </data/large"), cluster.sh("b", "md5sum </data/large"));
}

/// A directory that another volume has, as a volume of its own.
fn by_hand(cluster: &Cluster) {
    let claimed = cluster.get(&["pvc", "data"])["spec"]["volumeName"].as_str().expect("bound").to_owned();
    let attributes = cluster.get(&["pv", &claimed])["spec"]["csi"]["volumeAttributes"].clone();
    let path = attributes["path"].as_str().unwrap_or(&claimed);
    cluster.apply(&all(&[static_volume("by-hand", path), pod("by-hand", "by-hand")]));
    cluster.wait("condition=Ready", &["pod/by-hand"]);
    assert_eq!(cluster.sh("by-hand", "cat /data/a"), "from a\nfrom b\n");
    cluster.sh("by-hand", "echo by hand >/data/by-hand; sync");
    assert_eq!(cluster.sh("a", "cat /data/by-hand"), "by hand\n");
    cluster.kubectl(&["delete", "pod/by-hand", "pvc/by-hand", "pv/by-hand"]);
    assert_eq!(cluster.sh("a", "rm /data/by-hand; cat /data/a"), "from a\nfrom b\n", "what is static stays");
}

fn grow(cluster: &Cluster) {
    let blocks =
        || cluster.sh("a", "df -k /data | tail -n 1 | awk '{ print $2 }'").trim().parse::<u64>().expect("a number");
    assert_eq!(blocks(), 1 << 20, "the size that was claimed");
    let began = Instant::now();
    cluster.kubectl(&["patch", "pvc", "data", "-p", r#"{"spec":{"resources":{"requests":{"storage":"3Gi"}}}}"#]);
    cluster.wait("jsonpath={.status.capacity.storage}=3Gi", &["pvc/data"]);
    eventually("the pod sees it", PATIENCE, || (blocks() == 3 << 20).then_some(()));
    println!("figure: a volume has grown, as its pod sees it, after {:.1} s", began.elapsed().as_secs_f64());
}

fn change(cluster: &Cluster) {
    cluster.apply(&attributes("few-inodes", r#"inodes: "4000""#));
    cluster.kubectl(&["patch", "pvc", "data", "-p", r#"{"spec":{"volumeAttributesClassName":"few-inodes"}}"#]);
    cluster.wait("jsonpath={.status.currentVolumeAttributesClassName}=few-inodes", &["pvc/data"]);
    let inodes = || cluster.sh("a", "df -i /data | tail -n 1 | awk '{ print $2 }'");
    eventually("the pod has the new quota", PATIENCE, || (inodes().trim() == "4000").then_some(()));
}

fn copy(cluster: &Cluster) {
    cluster.sh("a", "echo before >/data/when; sync");
    let began = Instant::now();
    cluster.apply(&snapshot("snapshot", "data"));
    cluster.wait("jsonpath={.status.readyToUse}=true", &["volumesnapshot/snapshot"]);
    println!("figure: a snapshot is ready to use after {:.1} s", began.elapsed().as_secs_f64());
    cluster.sh("a", "echo after >/data/when; rm /data/a; sync");
    let bigger = |claim: String| claim.replace("storage: 1Gi", "storage: 3Gi");
    let restored = bigger(claim_from("restored", "steadfast", "VolumeSnapshot", "snapshot"));
    let cloned = bigger(claim_from("cloned", "steadfast", "PersistentVolumeClaim", "data"));
    cluster.apply(&all(&[restored, cloned, pod("restored", "restored"), pod("cloned", "cloned")]));
    cluster.wait("condition=Ready", &["pod/restored", "pod/cloned"]);
    let sum = cluster.sh("a", "md5sum </data/large");
    for (pod, when, has_a) in [("restored", "before\n", true), ("cloned", "after\n", false)] {
        assert_eq!(cluster.sh(pod, "cat /data/when"), when, "{pod}");
        assert_eq!(cluster.sh(pod, "test -e /data/a && echo there || echo gone").trim() == "there", has_a, "{pod}");
        assert_eq!(cluster.sh(pod, "md5sum </data/large"), sum, "{pod}");
        cluster.sh(pod, "echo own >/data/when; sync");
    }
    assert_eq!(cluster.sh("a", "cat /data/when"), "after\n", "copies are independent");
}

fn no_volume_is_left(cluster: &Cluster) {
    eventually("all volumes are deleted", PATIENCE, || {
        cluster.get(&["pv"])["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
}

fn nothing_is_left(cluster: &Cluster, before: &Stored) {
    no_volume_is_left(cluster);
    let left = || stored(cluster);
    let begun = Instant::now();
    while left() != *before {
        assert!(begun.elapsed() < PATIENCE, "left: {:?}\nbefore: {before:?}\n{}", left(), cluster.told());
        stead_tests::pause(std::time::Duration::from_millis(100));
    }
    nothing_is_left_on_the_node(cluster);
}

fn nothing_is_left_on_the_node(cluster: &Cluster) {
    assert_eq!(cluster.mounts(), [""; 0], "mounts");
    for directory in ["mounts", "volumes", "workers"] {
        let left: Vec<_> = std::fs::read_dir(cluster.node_state(directory)).expect("a state directory").collect();
        assert!(left.is_empty(), "{directory}: {left:?}");
    }
    let pods = files_below(&cluster.run_dir().join("private/var/lib/kubelet/pods"));
    let volumes: Vec<_> = pods
        .iter()
        .filter(|file| file.components().any(|part| part.as_os_str() == Path::new("kubernetes.io~csi")))
        .collect();
    assert!(volumes.is_empty(), "{volumes:?}");
}

fn a_file_system_of_its_own(cluster: &Cluster) {
    cluster.apply(&all(&[secret("own", &[]), claim("own", "own-file-system", ""), pod("own", "own")]));
    cluster.wait("condition=Ready", &["pod/own"]);
    cluster.sh("own", "dd if=/dev/urandom of=/data/large bs=1M count=9 2>/dev/null; sync");
    assert_ne!(cluster.redis(&["-n", "5", "DBSIZE"]).trim(), "0");
    assert!(!cluster.objects("own").is_empty());
    cluster.kubectl(&["delete", "pod/own", "pvc/own"]);
    no_volume_is_left(cluster);
    assert_eq!(cluster.redis(&["-n", "5", "DBSIZE"]).trim(), "0", "nothing is left in the engine");
    assert_eq!(cluster.objects("own"), [""; 0], "nothing is left in the bucket");
    cluster.kubectl(&["delete", "secret", "own"]);
    nothing_is_left_on_the_node(cluster);
}
