//! The chart in a real Kubernetes, from an empty cluster to an empty cluster.

mod cluster {
    pub(crate) mod badinput;
    pub(crate) mod claims;
    pub(crate) mod deploy;
    pub(crate) mod figures;
    pub(crate) mod handover;
    pub(crate) mod manifests;
    pub(crate) mod shares;
    pub(crate) mod walk;
}

use stead_tests::{Cluster, tools};

use cluster::manifests::Mode;

#[test]
fn from_helm_install_to_nothing_left() {
    let cluster = Cluster::start();
    deploy::is_what_the_api_server_takes(&cluster);
    let took = cluster.helm(&Mode::Runner.values());
    println!("figure: helm install until everything is ready: {:.1} s", took.as_secs_f64());
    cluster.apply(&cluster::manifests::secret("volumes", &[]));
    if wanted("walk") {
        walk::everything_that_a_claim_can_do(&cluster);
    }
    if wanted("badinput") {
        badinput::says_what_is_wrong_and_mends_itself(&cluster);
    }
    if wanted("claims") {
        claims::say_what_their_volumes_are_like(&cluster);
    }
    if wanted("shares") {
        shares::have_one_worker(&cluster);
    }
    for mode in [Mode::Process, Mode::Runner, Mode::Pod] {
        if wanted(mode.name()) {
            cluster.helm(&mode.values());
            figures::measure(&cluster, mode);
            // Workers beside the node service end with its pod; tests/handover.rs has what they outlive.
            if mode != Mode::Process {
                handover::outlives_its_workers(&cluster, mode);
            }
        }
    }
    cluster.uninstall();
    assert_eq!(cluster.mounts(), [""; 0], "no mount is left");
}

/// `STEAD_CLUSTER_PARTS` names the parts that are to run; all of them without it.
fn wanted(part: &str) -> bool {
    tools::text("STEAD_CLUSTER_PARTS").is_none_or(|parts| parts.split(',').any(|named| named == part))
}

use cluster::{badinput, claims, deploy, figures, handover, shares, walk};
