//! The pod of a worker, built by a function of what goes in.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EphemeralVolumeSource, HostPathVolumeSource, LocalObjectReference,
    PersistentVolumeClaimSpec, PersistentVolumeClaimTemplate, PersistentVolumeClaimVolumeSource, Pod,
    PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile, SecurityContext, Toleration as PodToleration,
    Volume, VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stead_volume::WorkerSettings;

use crate::pods::Owner;
use crate::template::{Cache, Template, Toleration};

/// Where the runner of a pod listens, as the pod sees it.
pub const RUNNER_SOCKET: &str = "/run/stead/runner.sock";
/// Where the worker of a pod finds the node service, as the pod sees it.
pub const KEEPER_SOCKET: &str = "/run/stead-node/keeper.sock";

/// Names the volume of a pod: the label as far as a label can, the annotation in full.
pub(crate) const VOLUME: &str = "steadfast.io/volume";
/// The label that all worker pods have, and its value.
pub(crate) const OURS: [(&str, &str); 3] = [
    ("app.kubernetes.io/name", "steadfast"),
    ("app.kubernetes.io/component", "worker"),
    ("app.kubernetes.io/managed-by", "stead-node"),
];
const MAX_LABEL: usize = 63;

/// A worker that is to have a pod.
#[derive(Clone, Copy, Debug)]
pub struct Worker<'a> {
    /// The pod's name.
    pub name: &'a str,
    /// The node that it is for.
    pub node: &'a str,
    /// The volume that it serves.
    pub volume: &'a str,
    /// The user that it runs as.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// The node's directory for the socket of this pod alone.
    pub runner_dir: &'a Path,
    /// The node's directory with the socket of the node service.
    pub keeper_dir: &'a Path,
    /// With whom the pod is to go.
    pub owner: Option<&'a Owner>,
    /// What is set for this volume.
    pub settings: &'a WorkerSettings,
}

/// A name for the pod of a volume: `suffix` tells it from others.
pub fn pod_name(volume: &str, suffix: &str) -> String {
    let room = MAX_LABEL.saturating_sub("stead--".len() + suffix.len());
    let volume: String = volume.to_ascii_lowercase().chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
    let volume = &volume[..volume.len().min(room)];
    format!("stead-{}-{suffix}", volume.trim_matches('-'))
}

fn is_plain(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// The pod: on its node, with the least that a worker needs (Pod Security Standard "restricted" but for the two
/// directories of the node), ending when its worker does.
pub fn worker_pod(template: &Template, worker: &Worker<'_>) -> Pod {
    let template = template.clone().with(worker.settings);
    Pod { metadata: metadata(&template, worker), spec: Some(spec(&template, worker)), status: None }
}

fn metadata(template: &Template, worker: &Worker<'_>) -> ObjectMeta {
    let mut labels = template.labels.clone();
    labels.extend(OURS.map(|(name, value)| (name.to_owned(), value.to_owned())));
    labels.insert(VOLUME.to_owned(), label_value(worker.volume));
    let mut annotations = template.annotations.clone();
    annotations.insert(VOLUME.to_owned(), worker.volume.to_owned());
    ObjectMeta {
        name: Some(worker.name.to_owned()),
        labels: Some(labels),
        annotations: Some(annotations),
        owner_references: worker.owner.map(|owner| vec![owner.reference()]),
        ..ObjectMeta::default()
    }
}

fn label_value(text: &str) -> String {
    let value: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    value[..value.len().min(MAX_LABEL)].trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

fn spec(template: &Template, worker: &Worker<'_>) -> PodSpec {
    let (mut volumes, mut mounts) = (Vec::new(), Vec::new());
    let mut add = |volume: Volume, path: &str, read_only: bool| {
        mounts.push(VolumeMount {
            name: volume.name.clone(),
            mount_path: path.to_owned(),
            read_only: read_only.then_some(true),
            ..VolumeMount::default()
        });
        volumes.push(volume);
    };
    add(node_directory("runner", worker.runner_dir), directory_of(RUNNER_SOCKET), false);
    add(node_directory("node", worker.keeper_dir), directory_of(KEEPER_SOCKET), true);
    let scratch = EmptyDirVolumeSource::default();
    add(Volume { name: "tmp".to_owned(), empty_dir: Some(scratch), ..Volume::default() }, "/tmp", false);
    for (number, cache) in template.caches.iter().enumerate() {
        add(cache_volume(format!("cache-{number}"), cache), &cache.mount_path, false);
    }
    PodSpec {
        node_name: Some(worker.node.to_owned()),
        restart_policy: Some("Never".to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        service_account_name: template.service_account_name.clone(),
        priority_class_name: template.priority_class_name.clone(),
        termination_grace_period_seconds: Some(template.termination_grace_period_seconds.into()),
        tolerations: Some(template.tolerations.iter().map(toleration).collect()),
        image_pull_secrets: (!template.image_pull_secrets.is_empty()).then(|| {
            template.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect()
        }),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(worker.uid.into()),
            run_as_group: Some(worker.gid.into()),
            fs_group: Some(worker.gid.into()),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container(template, mounts)],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

fn container(template: &Template, mounts: Vec<VolumeMount>) -> Container {
    let args = ["runner", "--once", "--socket", RUNNER_SOCKET].map(str::to_owned);
    let nothing = Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) };
    Container {
        name: "worker".to_owned(),
        image: Some(template.image.clone()),
        image_pull_policy: template.image_pull_policy.clone(),
        args: Some(args.into_iter().chain(template.args.clone()).collect()),
        resources: Some(ResourceRequirements {
            requests: quantities(&template.resources.requests),
            limits: quantities(&template.resources.limits),
            claims: None,
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(nothing),
            ..SecurityContext::default()
        }),
        // What a container could not say for itself: why its program did not start.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn quantities(given: &BTreeMap<String, String>) -> Option<BTreeMap<String, Quantity>> {
    (!given.is_empty()).then(|| given.iter().map(|(name, value)| (name.clone(), Quantity(value.clone()))).collect())
}

fn toleration(given: &Toleration) -> PodToleration {
    let Toleration { key, operator, value, effect, toleration_seconds } = given.clone();
    PodToleration { key, operator, value, effect, toleration_seconds }
}

fn directory_of(socket: &'static str) -> &'static str {
    socket.rsplit_once('/').map_or(socket, |(directory, _)| directory)
}

fn node_directory(name: &str, path: &Path) -> Volume {
    Volume { name: name.to_owned(), host_path: Some(host_path(&path.display().to_string())), ..Volume::default() }
}

fn host_path(path: &str) -> HostPathVolumeSource {
    HostPathVolumeSource { path: path.to_owned(), type_: Some("Directory".to_owned()) }
}

fn cache_volume(name: String, cache: &Cache) -> Volume {
    Volume {
        name,
        empty_dir: cache.empty_dir.as_ref().map(|dir| EmptyDirVolumeSource {
            medium: dir.medium.clone(),
            size_limit: dir.size_limit.clone().map(Quantity),
        }),
        host_path: cache.host_path.as_ref().map(|dir| host_path(&dir.path)),
        persistent_volume_claim: cache
            .persistent_volume_claim
            .as_ref()
            .map(|claim| PersistentVolumeClaimVolumeSource { claim_name: claim.claim_name.clone(), read_only: None }),
        ephemeral: cache.ephemeral.as_ref().map(|claim| EphemeralVolumeSource {
            volume_claim_template: Some(PersistentVolumeClaimTemplate {
                metadata: None,
                spec: PersistentVolumeClaimSpec {
                    access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
                    storage_class_name: claim.storage_class_name.clone(),
                    resources: Some(VolumeResourceRequirements {
                        requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(claim.size.clone()))])),
                        limits: None,
                    }),
                    ..PersistentVolumeClaimSpec::default()
                },
            }),
        }),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template() -> Template {
        let text = "{image: 'stead:1', priorityClassName: system-node-critical, labels: {team: storage}, imagePullSecrets: [pull], resources: {requests: {cpu: 100m}}, caches: [{mountPath: /var/cache/stead, emptyDir: {sizeLimit: 1Gi}}]}";
        let dir = tempfile::tempdir().expect("a place");
        std::fs::write(dir.path().join("template"), text).expect("new");
        Template::read(&dir.path().join("template")).expect("right")
    }

    fn pod(template: &Template, volume: &str) -> serde_json::Value {
        let owner = Owner { name: "stead-node".to_owned(), uid: "7".to_owned() };
        let worker = Worker {
            name: "stead-v-1",
            node: "node-1",
            volume,
            uid: 65532,
            gid: 65533,
            runner_dir: Path::new("/var/lib/steadfast/pods/1"),
            keeper_dir: Path::new("/var/lib/steadfast/keeper"),
            owner: Some(&owner),
            settings: &WorkerSettings::default(),
        };
        serde_json::to_value(worker_pod(template, &worker)).expect("an object")
    }

    #[test]
    fn a_pod_has_the_least_that_a_worker_needs() {
        let expected = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "stead-v-1",
                "labels": {
                    "app.kubernetes.io/component": "worker",
                    "app.kubernetes.io/managed-by": "stead-node",
                    "app.kubernetes.io/name": "steadfast",
                    "steadfast.io/volume": "v",
                    "team": "storage",
                },
                "annotations": {"steadfast.io/volume": "v"},
                // Not its controller: that one would take the pod for one of its own.
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "stead-node", "uid": "7"}],
            },
            "spec": {
                "nodeName": "node-1",
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "priorityClassName": "system-node-critical",
                "terminationGracePeriodSeconds": 60,
                "imagePullSecrets": [{"name": "pull"}],
                "tolerations": [{"operator": "Exists"}],
                "securityContext": {
                    "runAsNonRoot": true,
                    "runAsUser": 65532,
                    "runAsGroup": 65533,
                    "fsGroup": 65533,
                    "fsGroupChangePolicy": "OnRootMismatch",
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": "worker",
                    "image": "stead:1",
                    "args": ["runner", "--once", "--socket", "/run/stead/runner.sock"],
                    "resources": {"requests": {"cpu": "100m"}},
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "privileged": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "volumeMounts": [
                        {"name": "runner", "mountPath": "/run/stead"},
                        {"name": "node", "mountPath": "/run/stead-node", "readOnly": true},
                        {"name": "tmp", "mountPath": "/tmp"},
                        {"name": "cache-0", "mountPath": "/var/cache/stead"},
                    ],
                }],
                "volumes": [
                    {"name": "runner", "hostPath": {"path": "/var/lib/steadfast/pods/1", "type": "Directory"}},
                    {"name": "node", "hostPath": {"path": "/var/lib/steadfast/keeper", "type": "Directory"}},
                    {"name": "tmp", "emptyDir": {}},
                    {"name": "cache-0", "emptyDir": {"sizeLimit": "1Gi"}},
                ],
            },
        });
        assert_eq!(pod(&template(), "v"), expected);
    }

    #[test]
    fn caches_of_all_kinds_become_volumes() {
        let mut template = template();
        let caches = json!([
            {"mountPath": "/a", "hostPath": {"path": "/cache"}},
            {"mountPath": "/b", "persistentVolumeClaim": {"claimName": "c"}},
            {"mountPath": "/c", "ephemeral": {"size": "1Gi", "storageClassName": "fast"}},
            {"mountPath": "/d", "emptyDir": {"medium": "Memory"}},
        ]);
        template.caches = serde_json::from_value(caches).expect("right");
        let claim = json!({
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "fast",
            "resources": {"requests": {"storage": "1Gi"}},
        });
        let volumes = &pod(&template, "v")["spec"]["volumes"];
        assert_eq!(volumes[3], json!({"name": "cache-0", "hostPath": {"path": "/cache", "type": "Directory"}}));
        assert_eq!(volumes[4], json!({"name": "cache-1", "persistentVolumeClaim": {"claimName": "c"}}));
        assert_eq!(volumes[5]["ephemeral"]["volumeClaimTemplate"]["spec"], claim);
        assert_eq!(volumes[6], json!({"name": "cache-3", "emptyDir": {"medium": "Memory"}}));
    }

    #[test]
    fn any_volume_can_be_a_name_and_a_label() {
        assert_eq!(pod_name("pvc-1", "abc"), "stead-pvc-1-abc");
        assert_eq!(pod_name("fs@3@PVC_1.", "abc"), "stead-fs-3-pvc-1-abc");
        let long = "x".repeat(128);
        assert_eq!(pod_name(&long, "abc").len(), 63);
        let made = pod(&template(), "fs@3@pvc-1");
        assert_eq!(made["metadata"]["labels"][VOLUME], "fs-3-pvc-1");
        assert_eq!(made["metadata"]["annotations"][VOLUME], "fs@3@pvc-1");
        assert_eq!(pod(&template(), &long)["metadata"]["labels"][VOLUME].as_str().map(str::len), Some(63));
    }
}
