//! Objects that the tests make.

use stead_tests::cluster::{ACCESS_KEY, MINIO, REDIS, REDIS_PASSWORD, SECRET_KEY};

/// Values of the chart: the image that was made here, and the classes that the tests use.
const VALUES: &str = r#"
image: {tag: test}
controller: {replicas: 1}
sidecars: {snapshotter: {groups: true}}
storageClasses:
  - {name: steadfast, secret: {name: volumes, namespace: default}}
  - name: own-file-system
    secret: {name: own, namespace: default}
    parameters: {provisioning: filesystem, databases: 5-9}
volumeSnapshotClasses:
  - {name: steadfast, secret: {name: volumes, namespace: default}}
"#;

/// Where workers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// All below one runner.
    Runner,
    /// Each in a pod of its own.
    Pod,
    /// All beside the node service.
    Process,
}

impl Mode {
    /// Its name in the chart's values.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Runner => "runner",
            Self::Pod => "pod",
            Self::Process => "process",
        }
    }

    /// The chart's values.
    pub(crate) fn values(self) -> String {
        format!("{VALUES}node: {{mode: {}, maxUnavailable: 1}}\n", self.name())
    }
}

/// A Secret for a file system on Redis and `MinIO`, with other members than the right ones; an empty one is left out.
pub(crate) fn secret(name: &str, wrong: &[(&str, &str)]) -> String {
    let mut members = vec![
        ("name", name.to_owned()),
        ("metaurl", format!("redis://:{REDIS_PASSWORD}@{REDIS}/1")),
        ("storage", "s3".to_owned()),
        ("bucket", format!("{MINIO}/{name}")),
        ("access-key", ACCESS_KEY.to_owned()),
        ("secret-key", SECRET_KEY.to_owned()),
        // Otherwise the data of files that a pod removes outlives the claim by a day.
        ("trash-days", "0".to_owned()),
    ];
    for (member, value) in wrong {
        members.retain(|(name, _)| name != member);
        members.push((member, (*value).to_owned()));
    }
    let filled = members.iter().filter(|(_, value)| !value.is_empty());
    let data: String = filled.map(|(member, value)| format!("  {member}: {value:?}\n")).collect();
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData:\n{data}")
}

/// A claim of 1 GiB for many writers; `more` goes into its spec.
pub(crate) fn claim(name: &str, class: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec:\n  \
         accessModes: [ReadWriteMany]\n  storageClassName: {class}\n  resources: {{requests: {{storage: 1Gi}}}}\n  {more}\n"
    )
}

/// A claim that begins as something else.
pub(crate) fn claim_from(name: &str, class: &str, kind: &str, source: &str) -> String {
    let group = if kind == "VolumeSnapshot" { "apiGroup: snapshot.storage.k8s.io, " } else { "" };
    claim(name, class, &format!("dataSource: {{{group}kind: {kind}, name: {source}}}"))
}

/// A pod with a claim at /data that waits.
pub(crate) fn pod(name: &str, claim: &str) -> String {
    pod_of(name, claim, "docker.io/library/busybox:1.35", r#"[sleep, "36000"]"#)
}

/// A pod of any image.
pub(crate) fn pod_of(name: &str, claim: &str, image: &str, command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: test}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  restartPolicy: Never\n  \
         containers: [{{name: main, image: {image:?}, command: {command}, \
         volumeMounts: [{{name: data, mountPath: /data}}]}}]\n  \
         volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}}}}}]\n"
    )
}

/// A snapshot of a claim.
pub(crate) fn snapshot(name: &str, claim: &str) -> String {
    format!(
        "apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshot\nmetadata: {{name: {name}}}\nspec: \
         {{volumeSnapshotClassName: steadfast, source: {{persistentVolumeClaimName: {claim}}}}}\n"
    )
}

/// What can be changed of a volume in use.
pub(crate) fn attributes(name: &str, parameters: &str) -> String {
    format!(
        "apiVersion: storage.k8s.io/v1\nkind: VolumeAttributesClass\nmetadata: {{name: {name}}}\n\
         driverName: csi.steadfast.io\nparameters: {{{parameters}}}\n"
    )
}

/// A volume that was not provisioned, with its claim.
pub(crate) fn static_volume(name: &str, path: &str) -> String {
    let volume = format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {name}}}\nspec:\n  capacity: {{storage: 1Gi}}\n  \
         accessModes: [ReadWriteMany]\n  storageClassName: \"\"\n  persistentVolumeReclaimPolicy: Retain\n  \
         csi: {{driver: csi.steadfast.io, volumeHandle: {name}, volumeAttributes: {{path: {path}}}, \
         nodePublishSecretRef: {{name: volumes, namespace: default}}}}\n"
    );
    all(&[volume, claim(name, "\"\"", &format!("volumeName: {name}"))])
}

/// Several of them.
pub(crate) fn all(manifests: &[String]) -> String {
    manifests.join("---\n")
}
