//! Kubernetes' own suite for storage drivers, with everything declared that the driver has.

#[path = "cluster/manifests.rs"]
#[expect(dead_code, reason = "another suite uses the rest")]
mod manifests;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::Value;
use stead_tests::cluster::NAMESPACE;
use stead_tests::{Cluster, run, tools};

/// <https://github.com/kubernetes/kubernetes/tree/v1.35.4/test/e2e/storage/external>
const DRIVER: &str = r#"
StorageClass: {FromExistingClassName: steadfast}
SnapshotClass: {FromExistingClassName: steadfast}
VolumeAttributesClass: {FromFile: ATTRIBUTES}
DriverInfo:
  Name: csi.steadfast.io
  SupportedSizeRange: {Min: 1Mi, Max: 100Gi}
  SupportedFsType: {"": {}}
  SupportedMountOption: {}
  RequiredAccessModes: [ReadWriteMany]
  Capabilities:
    persistence: true
    exec: true
    multipods: true
    RWX: true
    capReadOnlyMany: true
    fsGroup: true
    snapshotDataSource: true
    pvcDataSource: true
    controllerExpansion: true
    nodeExpansion: false
    onlineExpansion: true
    offlineExpansion: true
    readWriteOncePod: true
    multiplePVsSameID: true
    capacity: true
    singleNodeVolume: false
    topology: false
    block: false
    volumeLimits: false
InlineVolumes: []
"#;
/// What is not selected: what disturbs a cluster or takes long.
const SKIP: &str = r"\[Disruptive\]|\[Serial\]|\[Slow\]|Windows|ntfs";
const LIMIT: Duration = Duration::from_secs(6 * 3600);

#[test]
fn upstreams_suite_for_external_storage() {
    let cluster = Cluster::start_for_upstream();
    cluster.apply(&manifests::secret("volumes", &[]));
    // The Secrets that the controller is configured with lie where it runs.
    cluster.kubectl(&["create", "namespace", NAMESPACE]);
    cluster.apply(
        &manifests::secret("volumes", &[])
            .replace("name: volumes}", &format!("name: volumes, namespace: {NAMESPACE}}}")),
    );
    let values = manifests::Mode::Runner.values();
    cluster.helm(&values.replace("replicas: 1", "replicas: 1, fileSystems: [volumes], storageCapacity: true"));
    let (driver, attributes, report) =
        (cluster.file("driver.yaml"), cluster.file("vac.yaml"), cluster.file("report.json"));
    fs::write(&attributes, manifests::attributes("e2e", r#"inodes: "100000""#)).expect("written");
    fs::write(&driver, DRIVER.replace("ATTRIBUTES", &attributes.display().to_string())).expect("written");
    let mut suite = cluster.inside(&tools::upstream().join("e2e.test"));
    suite.arg(format!("--kubeconfig={}", cluster.run_dir().join("admin.kubeconfig").display()));
    suite.args(["--provider=skeleton", "--ginkgo.no-color", "--ginkgo.silence-skips"]);
    suite.arg(format!("--storage.testdriver={}", driver.display()));
    let focus = tools::text("STEAD_E2E_FOCUS").unwrap_or_default();
    suite.arg(format!("--ginkgo.focus=External.Storage.*{focus}")).arg(format!("--ginkgo.skip={SKIP}"));
    suite.arg(format!("--ginkgo.json-report={}", report.display()));
    let output = run(&mut suite, LIMIT);
    let report = fs::read(&report).unwrap_or_else(|error| panic!("no report: {error}\n{}", output.text()));
    told(&serde_json::from_slice(&report).expect("JSON"), &cluster, &output.text());
}

/// Prints what ran and why others did not, and fails if any failed.
fn told(report: &Value, cluster: &Cluster, text: &str) {
    let specs = report[0]["SpecReports"].as_array().expect("specs");
    let of = |state: &str| {
        specs.iter().filter(|spec| spec["LeafNodeType"] == "It" && spec["State"] == state).collect::<Vec<_>>()
    };
    let (passed, failed, skipped) =
        (of("passed"), [of("failed"), of("timedout"), of("panicked")].concat(), of("skipped"));
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for spec in &skipped {
        // Without a reason: not selected.
        if let Some(reason) = spec["Failure"]["Message"].as_str().filter(|reason| !reason.is_empty()) {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    for (reason, count) in &reasons {
        println!("figure: {count} skipped: {reason}");
    }
    println!("figure: upstream's external-storage suite: {} passed, {} failed", passed.len(), failed.len());
    for spec in &failed {
        println!("FAILED {}: {}", spec["LeafNodeText"], spec["Failure"]["Message"]);
    }
    let few = passed.len() <= 50 && tools::text("STEAD_E2E_FOCUS").is_none();
    assert!(failed.is_empty() && !few, "{}\n{}", &text[text.len().saturating_sub(20_000)..], cluster.told());
}
