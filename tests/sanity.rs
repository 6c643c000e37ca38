//! The CSI conformance suite, whole, against real services on real servers.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use stead_tests::csi::Map;
use stead_tests::{Engine, Services, run, tools};

/// All RPCs that may carry a Secret.
const SECRETS: [&str; 13] = [
    "CreateVolumeSecret",
    "DeleteVolumeSecret",
    "ControllerPublishVolumeSecret",
    "ControllerUnpublishVolumeSecret",
    "ControllerValidateVolumeCapabilitiesSecret",
    "NodeStageVolumeSecret",
    "NodePublishVolumeSecret",
    "CreateSnapshotSecret",
    "DeleteSnapshotSecret",
    "ControllerExpandVolumeSecret",
    "ControllerModifyVolumeSecret",
    "ListSnapshotsSecret",
    "GetSnapshotSecret",
];

/// What has to have run, by the names of groups and specs: csi-sanity skips what a driver does not say that it can do.
const GROUPS: [&str; 19] = [
    "CreateVolume",
    "DeleteVolume",
    "ValidateVolumeCapabilities",
    "ExpandVolume",
    "ModifyVolume",
    "ListVolumes",
    "GetCapacity",
    "ListSnapshots",
    "GetSnapshot",
    "CreateSnapshot",
    "DeleteSnapshot",
    "should create volume from an existing source snapshot",
    "should create volume from an existing source volume",
    "GroupController Server",
    "GroupControllerGetCapabilities",
    "GroupController VolumeGroupSnapshots",
    "CreateVolumeGroupSnapshot",
    "GetVolumeGroupSnapshot",
    "DeleteVolumeGroupSnapshot",
];

/// No spec of these may be skipped at all.
const WHOLE: [&str; 1] = ["GroupController"];

#[test]
fn conforms_on_redis_and_minio() {
    conforms(Engine::Redis);
}

#[test]
fn conforms_on_sqlite_and_a_directory() {
    conforms(Engine::Sqlite);
}

fn conforms(engine: Engine) {
    let services = Services::start(engine);
    let (secrets, parameters) = (services.path("secrets.yaml"), services.path("parameters.yaml"));
    let mutable = services.path("mutable.yaml");
    fs::write(&mutable, "inodes: \"1000\"\n").expect("written");
    let each: String = SECRETS.iter().map(|rpc| format!("{rpc}:\n{}", yaml(&services.secrets, "  "))).collect();
    fs::write(&secrets, each).expect("written");
    fs::write(&parameters, yaml(&services.parameters(), "")).expect("written");
    let report = services.path("report.json");
    let mut sanity = Command::new(tools::csi_sanity());
    sanity.arg(format!("--csi.endpoint=unix://{}", services.node_socket().display()));
    sanity.arg(format!("--csi.controllerendpoint=unix://{}", services.controller_socket().display()));
    sanity.arg(format!("--csi.secrets={}", secrets.display()));
    sanity.arg(format!("--csi.testvolumeparameters={}", parameters.display()));
    sanity.arg(format!("--csi.testvolumemutableparameters={}", mutable.display()));
    sanity.arg(format!("--csi.mountdir={}", services.path("sanity-mount").display()));
    sanity.arg(format!("--csi.stagingdir={}", services.path("sanity-staging").display()));
    sanity.arg(format!("--ginkgo.json-report={}", report.display()));
    sanity.arg("--ginkgo.no-color");
    let output = run(&mut sanity, Duration::from_secs(900));
    let count = Count::read(&fs::read(&report).unwrap_or_else(|error| panic!("no report: {error}\n{}", output.text())));
    println!(
        "figure: csi-sanity on {engine:?}: {} ran, {} passed, {} failed, {} skipped",
        count.ran(),
        count.passed.len(),
        count.failed.len(),
        count.skipped.len()
    );
    assert!(
        output.code == Some(0) && count.failed.is_empty(),
        "failed:\n{}\n{}\n{}",
        count.failed.join("\n"),
        output.text(),
        services.logs()
    );
    let skipped: Vec<&str> =
        GROUPS.into_iter().filter(|group| !count.passed.iter().any(|spec| spec.contains(group))).collect();
    assert!(skipped.is_empty(), "nothing ran of {skipped:?}: are capabilities missing?");
    let skipped: Vec<&String> =
        count.skipped.iter().filter(|spec| WHOLE.iter().any(|group| spec.contains(group))).collect();
    assert!(skipped.is_empty(), "skipped: {skipped:?}");
    assert!(count.ran() >= 30, "only {} specs ran: are capabilities missing?", count.ran());
}

fn yaml(map: &Map, indent: &str) -> String {
    map.iter().map(|(name, value)| format!("{indent}{name}: {}\n", Value::from(value.as_str()))).collect()
}

/// What Ginkgo's report counts.
struct Count {
    passed: Vec<String>,
    skipped: Vec<String>,
    failed: Vec<String>,
}

impl Count {
    fn read(report: &[u8]) -> Self {
        let report: Value = serde_json::from_slice(report).expect("Ginkgo writes JSON");
        let mut count = Self { passed: Vec::new(), skipped: Vec::new(), failed: Vec::new() };
        let suites = report.as_array().expect("a list of suites");
        for spec in suites.iter().flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten()) {
            if spec["LeafNodeType"] != "It" {
                continue;
            }
            let (group, name) = (&spec["ContainerHierarchyTexts"], &spec["LeafNodeText"]);
            match spec["State"].as_str() {
                Some("passed") => count.passed.push(format!("{group} {name}")),
                Some("skipped" | "pending") => count.skipped.push(format!("{group} {name}")),
                state => {
                    count.failed.push(format!("{state:?} {group} {name}: {}", spec["Failure"]["Message"]));
                }
            }
        }
        count
    }

    fn ran(&self) -> usize {
        self.passed.len() + self.failed.len()
    }
}
