//! Wrong classes and Secrets: a claim stays pending and says why, and binds by itself when that is mended.

use std::time::Duration;

use stead_tests::cluster::PATIENCE;
use stead_tests::{Cluster, eventually};

use super::manifests::{claim, pod, secret};

/// A class for one Secret, with more parameters.
pub(crate) fn class(name: &str, secret: &str, parameters: &str) -> String {
    let mut text = format!(
        "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: {name}}}\nprovisioner: csi.steadfast.io\n\
         parameters:\n  {parameters}\n"
    );
    for rpc in ["provisioner", "node-publish"] {
        text += &format!("  csi.storage.k8s.io/{rpc}-secret-name: {secret}\n");
        text += &format!("  csi.storage.k8s.io/{rpc}-secret-namespace: default\n");
    }
    text
}

pub(crate) fn says_what_is_wrong_and_mends_itself(cluster: &Cluster) {
    let parameters = [("colour: red", "colour"), ("inodes: many", "many"), ("databases: 1-3", "databases")];
    for (number, (parameter, named)) in parameters.into_iter().enumerate() {
        wrong_class(cluster, &format!("class-{number}"), parameter, named);
    }
    let members = [
        ("metaurl", "", "metaurl"),
        ("metaurl", "redis://:wrong@10.244.0.1:6379/1", "refused access"),
        ("metaurl", "redis://10.244.0.1:1/1", "10.244.0.1:1"),
        ("metaurl", "rediss//10.244.0.1", "metadata address rediss//10.244.0.1"),
        ("secret-key", "wrong", "10.244.0.1:9000/volumes"),
    ];
    for (number, (member, value, named)) in members.into_iter().enumerate() {
        wrong_secret(cluster, &format!("secret-{number}"), member, value, named);
    }
    a_pod_says_why_it_waits(cluster);
}

fn wrong_class(cluster: &Cluster, name: &str, parameter: &str, named: &str) {
    cluster.apply(&class("wrong", "volumes", parameter));
    cluster.apply(&claim(name, "wrong", ""));
    says(cluster, &format!("PersistentVolumeClaim/{name}"), named);
    // Parameters cannot be changed: another class of the same name is what an operator makes.
    cluster.kubectl(&["delete", "storageclass", "wrong"]);
    cluster.apply(&class("wrong", "volumes", "mode: \"0755\""));
    mended(cluster, name);
    cluster.kubectl(&["delete", "storageclass", "wrong"]);
}

fn wrong_secret(cluster: &Cluster, name: &str, member: &str, value: &str, named: &str) {
    let right = [("name", "volumes"), ("bucket", "http://10.244.0.1:9000/volumes")];
    cluster.apply(&class("wrong", "wrong", "mode: \"0755\""));
    cluster.apply(&secret("wrong", &[&right[..], &[(member, value)]].concat()));
    cluster.apply(&claim(name, "wrong", ""));
    says(cluster, &format!("PersistentVolumeClaim/{name}"), named);
    cluster.apply(&secret("wrong", &right));
    mended(cluster, name);
    cluster.kubectl(&["delete", "storageclass/wrong", "secret/wrong"]);
}

pub(crate) fn says(cluster: &Cluster, object: &str, named: &str) {
    let mut heard = Vec::new();
    let begun = std::time::Instant::now();
    loop {
        heard = [heard, cluster.events(object)].concat();
        if let Some(said) = heard.iter().find(|message| message.contains(named)) {
            assert!(!said.contains("minio-Secret") && !said.contains("red1s-Secret"), "a secret is told: {said}");
            println!("{object}: {said}");
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{object} does not say {named}: {heard:?}\n{}", cluster.told());
        stead_tests::pause(Duration::from_millis(200));
    }
}

fn mended(cluster: &Cluster, name: &str) {
    cluster.wait("jsonpath={.status.phase}=Bound", &[&format!("pvc/{name}")]);
    cluster.kubectl(&["delete", "pvc", name]);
    eventually("the volume is deleted", PATIENCE, || {
        cluster.get(&["pv"])["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
}

/// The volume is there, and its mount finds a closed door.
fn a_pod_says_why_it_waits(cluster: &Cluster) {
    cluster.apply(&claim("waits", "steadfast", ""));
    cluster.wait("jsonpath={.status.phase}=Bound", &["pvc/waits"]);
    let wrong = secret("volumes", &[("metaurl", "redis://:wrong@10.244.0.1:6379/1")]);
    cluster.apply(&wrong);
    cluster.apply(&pod("waits", "waits"));
    says(cluster, "Pod/waits", "refused access");
    cluster.apply(&secret("volumes", &[]));
    cluster.wait("condition=Ready", &["pod/waits"]);
    cluster.kubectl(&["delete", "pod/waits", "pvc/waits"]);
}
