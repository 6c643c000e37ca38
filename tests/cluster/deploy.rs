//! What an operator applies: the chart's values, the rendered manifest, the examples.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use stead_tests::process::must;
use stead_tests::{Cluster, run, tools};

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn is_what_the_api_server_takes(cluster: &Cluster) {
    rendered_from_the_chart();
    wrong_values_are_named();
    cluster.kubectl(&["create", "namespace", "steadfast"]);
    let mut manifests = vec![deploy("kubernetes.yaml")];
    manifests.extend(std::fs::read_dir(deploy("examples")).expect("examples").flatten().map(|entry| entry.path()));
    for manifest in manifests {
        cluster.kubectl(&["apply", "--dry-run=server", "-f", &manifest.display().to_string()]);
    }
    // Others have admitted what helm makes next; the chart makes no namespace.
    cluster.kubectl(&["label", "namespace", "steadfast", "pod-security.kubernetes.io/enforce=privileged"]);
}

fn deploy(name: &str) -> PathBuf {
    tools::data("../deploy").join(name).canonicalize().expect("part of the repository")
}

fn helm(arguments: &[&str]) -> Command {
    let mut helm = Command::new(tools::cluster().join("helm"));
    helm.args(["template", "steadfast"]).arg(chart()).args(arguments);
    helm
}

fn chart() -> PathBuf {
    tools::data("../charts/steadfast")
}

fn rendered_from_the_chart() {
    let rendered = must(Command::new(deploy("render.sh")).env("HELM", tools::cluster().join("helm")), LIMIT);
    let kept = std::fs::read_to_string(deploy("kubernetes.yaml")).expect("a text");
    assert!(
        rendered == kept,
        "deploy/kubernetes.yaml is not what the chart gives: deploy/render.sh >deploy/kubernetes.yaml"
    );
}

fn wrong_values_are_named() {
    let wrong = [
        ("node.mode=magic", "node/mode"),
        ("driverName=-x", "driverName"),
        ("controller.replicas=0", "controller/replicas"),
        ("node.stateDirectory=relative", "node/stateDirectory"),
        ("colour=red", "colour"),
    ];
    for (value, named) in wrong {
        let refused = run(&mut helm(&["--set", value]), LIMIT);
        let text = refused.text();
        assert!(refused.code != Some(0) && text.contains(named), "{value}: {text}");
    }
    for mode in ["runner", "process", "pod"] {
        must(&mut helm(&["--set", &format!("node.mode={mode}"), "--set", "controller.fileSystems={volumes}"]), LIMIT);
    }
}
