//! The chart in a real Kubernetes, from an empty cluster to an empty cluster.

mod cluster {
    pub(crate) mod badinput;
    pub(crate) mod deploy;
    pub(crate) mod figures;
    pub(crate) mod handover;
    pub(crate) mod manifests;
    pub(crate) mod walk;
}

use stead_tests::Cluster;

use cluster::manifests::VALUES;

#[test]
fn from_helm_install_to_nothing_left() {
    let cluster = Cluster::start();
    deploy::is_what_the_api_server_takes(&cluster);
    let took = cluster.helm(VALUES);
    println!("figure: helm install until everything is ready: {:.1} s", took.as_secs_f64());
    cluster.apply(&cluster::manifests::secret("volumes", &[]));
    walk::everything_that_a_claim_can_do(&cluster);
    badinput::says_what_is_wrong_and_mends_itself(&cluster);
    figures::measure(&cluster);
    handover::outlives_its_workers(&cluster);
    cluster.uninstall();
    assert_eq!(cluster.mounts(), [""; 0], "no mount is left");
}

use cluster::{badinput, deploy, figures, handover, walk};
