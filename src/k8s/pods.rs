//! The pods of this node's workers.

use k8s_openapi::api::core::v1::{ContainerState, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};

use crate::cluster::{Cluster, ask};
use crate::error::{Error, Result};
use crate::pod::OURS;

/// What a container waits for that will not come by itself, or not soon.
const HOPELESS: [&str; 6] = [
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

/// The `DaemonSet` that the node service belongs to: worker pods go when it is removed, and not when one of its pods is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl Owner {
    pub(crate) fn reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: "apps/v1".to_owned(),
            kind: "DaemonSet".to_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            ..OwnerReference::default()
        }
    }
}

/// How far a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It does not run yet; why, if anybody says.
    Starting(String),
    /// It runs.
    Running,
    /// It will not run.
    Stuck(String),
    /// It has ended; how.
    Ended(String),
    /// There is none.
    Gone,
}

/// Worker pods of one node.
#[derive(Clone, Debug)]
pub struct Pods {
    api: Api<Pod>,
    node: String,
}

impl Pods {
    /// Those of `node`, in the namespace that this process is in.
    pub fn new(cluster: &Cluster, node: &str) -> Self {
        Self { api: cluster.api(cluster.namespace()), node: node.to_owned() }
    }

    /// Has a pod made.
    ///
    /// # Errors
    /// [`Error::Away`], [`Error::Refused`].
    pub async fn create(&self, pod: &Pod) -> Result<()> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        ask(&format!("create pod {name}"), self.api.create(&PostParams::default(), pod)).await.map(|_made| ())
    }

    /// Has a pod ended and removed. One that is gone is a success.
    ///
    /// # Errors
    /// [`Error::Away`], [`Error::Refused`].
    pub async fn delete(&self, name: &str) -> Result<()> {
        let delete = async {
            match self.api.delete(name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                other => other.map(|_deleted| ()),
            }
        };
        ask(&format!("delete pod {name}"), delete).await
    }

    /// How far a pod is.
    ///
    /// # Errors
    /// [`Error::Away`], [`Error::Refused`].
    pub async fn progress(&self, name: &str) -> Result<Progress> {
        let pod = ask(&format!("show pod {name}"), self.api.get_opt(name)).await?;
        Ok(pod.map_or(Progress::Gone, |pod| progress(&pod)))
    }

    /// The names of this node's worker pods that belong to `owner`, whatever became of them. Others may have pods of the same
    /// kind in this namespace.
    ///
    /// # Errors
    /// [`Error::Away`], [`Error::Refused`].
    pub async fn names(&self, owner: Option<&Owner>) -> Result<Vec<String>> {
        let of_node = format!("spec.nodeName={}", self.node);
        let labels = OURS.map(|(name, value)| format!("{name}={value}")).join(",");
        let params = ListParams::default().labels(&labels).fields(&of_node);
        let list = ask("list the pods of workers", self.api.list(&params)).await?;
        let is_theirs = |pod: &Pod| {
            let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
            owners.iter().map(|one| &one.uid).eq(owner.iter().map(|owner| &owner.uid))
        };
        Ok(list.items.into_iter().filter(is_theirs).filter_map(|pod| pod.metadata.name).collect())
    }

    /// The `DaemonSet` that a pod belongs to, if it does.
    ///
    /// # Errors
    /// [`Error::Away`], [`Error::Refused`].
    pub async fn owner_of(&self, name: &str) -> Result<Option<Owner>> {
        let pod = ask(&format!("show pod {name}"), self.api.get_opt(name)).await?;
        let owners = pod.and_then(|pod| pod.metadata.owner_references).unwrap_or_default();
        let owner = owners.into_iter().find(|owner| owner.kind == "DaemonSet");
        Ok(owner.map(|OwnerReference { name, uid, .. }| Owner { name, uid }))
    }
}

fn progress(pod: &Pod) -> Progress {
    let status = pod.status.clone().unwrap_or_default();
    let own = join(status.reason.as_deref(), status.message.as_deref());
    let container = status.container_statuses.unwrap_or_default().into_iter().next();
    let state = container.and_then(|container| container.state).unwrap_or_default();
    let (waits, ended) = (waits_for(&state), has_ended(&state));
    match status.phase.as_deref() {
        Some("Failed" | "Succeeded") => Progress::Ended(ended.or(own).unwrap_or_default()),
        _ if pod.metadata.deletion_timestamp.is_some() => Progress::Ended("it is being deleted".to_owned()),
        Some("Running") if ended.is_none() => Progress::Running,
        _ => match (ended, waits) {
            (Some(how), _) => Progress::Ended(how),
            (None, Some((true, why))) => Progress::Stuck(why),
            (None, waits) => Progress::Starting(waits.map(|(_, why)| why).or(own).unwrap_or_default()),
        },
    }
}

/// What a container waits for, and whether that is in vain.
fn waits_for(state: &ContainerState) -> Option<(bool, String)> {
    let waiting = state.waiting.as_ref()?;
    let reason = waiting.reason.as_deref();
    Some((reason.is_some_and(|reason| HOPELESS.contains(&reason)), join(reason, waiting.message.as_deref())?))
}

fn has_ended(state: &ContainerState) -> Option<String> {
    let ended = state.terminated.as_ref()?;
    let how = format!("{} (exit code {})", ended.reason.as_deref().unwrap_or("ended"), ended.exit_code);
    join(Some(&how), ended.message.as_deref().map(str::trim))
}

fn join(first: Option<&str>, second: Option<&str>) -> Option<String> {
    let parts: Vec<&str> = [first, second].into_iter().flatten().filter(|part| !part.is_empty()).collect();
    (!parts.is_empty()).then(|| parts.join(": "))
}

impl Progress {
    /// The error of whoever needs the pod `name` to run; `None` while it may still.
    pub fn error(self, name: &str) -> Option<Error> {
        let name = name.to_owned();
        match self {
            Self::Starting(_) | Self::Running => None,
            Self::Stuck(why) => Some(Error::Pod { name, why }),
            Self::Ended(how) => Some(Error::Pod { name, why: format!("it has ended: {how}") }),
            Self::Gone => Some(Error::Pod { name, why: "it was deleted".to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fake::ApiServer;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn state(status: Value) -> Progress {
        progress(&serde_json::from_value(json!({"metadata": {}, "status": status})).expect("a pod"))
    }

    #[test]
    fn what_becomes_of_a_pod_is_told_from_its_status() {
        let container = |state: Value| json!([{"name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]);
        let waiting =
            |reason: &str, message: &str| container(json!({"waiting": {"reason": reason, "message": message}}));
        let ended = container(json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}));
        for (status, expected) in [
            (json!({"phase": "Pending"}), Progress::Starting(String::new())),
            (
                json!({"phase": "Pending", "containerStatuses": waiting("ContainerCreating", "")}),
                Progress::Starting("ContainerCreating".into()),
            ),
            (
                json!({"phase": "Pending", "containerStatuses": waiting("ImagePullBackOff", "no such image")}),
                Progress::Stuck("ImagePullBackOff: no such image".into()),
            ),
            (json!({"phase": "Running", "containerStatuses": container(json!({"running": {}}))}), Progress::Running),
            (
                json!({"phase": "Running", "containerStatuses": ended}),
                Progress::Ended("OOMKilled (exit code 137)".into()),
            ),
            (
                json!({"phase": "Failed", "reason": "OutOfcpu", "message": "no room"}),
                Progress::Ended("OutOfcpu: no room".into()),
            ),
        ] {
            assert_eq!(state(status), expected);
        }
        let error = Progress::Stuck("ErrImage".into()).error("p").expect("an error").to_string();
        assert_eq!(error, "pod p cannot run: ErrImage");
        assert!(Progress::Running.error("p").is_none());
    }

    fn named(name: &str, node: &str, (label, value): (&str, &str)) -> Pod {
        let mut labels: serde_json::Map<_, _> =
            OURS.map(|(name, value)| (name.to_owned(), json!(value))).into_iter().collect();
        labels.insert(label.to_owned(), json!(value));
        let pod = json!({"metadata": {"name": name, "labels": labels}, "spec": {"nodeName": node, "containers": []}});
        serde_json::from_value(pod).expect("a pod")
    }

    fn owned(pod: Pod, uid: &str) -> Pod {
        let owner = OwnerReference { uid: uid.to_owned(), ..OwnerReference::default() };
        let metadata = ObjectMeta { owner_references: Some(vec![owner]), ..pod.metadata };
        Pod { metadata, ..pod }
    }

    #[tokio::test]
    async fn pods_are_made_shown_and_removed() {
        let server = ApiServer::start().await;
        let pods = Pods::new(&server.cluster().await, "node-1");
        let ours = OURS[0];
        for pod in [
            named("a", "node-1", ours),
            named("b", "node-2", ours),
            named("c", "node-1", ("app.kubernetes.io/component", "node")),
            named("d", "node-1", ("app.kubernetes.io/name", "another-program")),
            owned(named("e", "node-1", ours), "mine"),
            owned(named("f", "node-1", ours), "another-release"),
        ] {
            pods.create(&pod).await.expect("made");
        }
        assert_eq!(pods.names(None).await.expect("listed"), ["a"]);
        let owner = Owner { name: "node".to_owned(), uid: "mine".to_owned() };
        assert_eq!(pods.names(Some(&owner)).await.expect("listed"), ["e"]);
        let again = pods.create(&named("a", "node-1", ours)).await.expect_err("there is one").to_string();
        assert!(again.contains("refuses to create pod a: ") && again.contains("exists"), "{again}");
        assert_eq!(pods.progress("a").await.expect("shown"), Progress::Starting(String::new()));
        server.set_status("a", json!({"phase": "Running"}));
        assert_eq!(pods.progress("a").await.expect("shown"), Progress::Running);
        pods.delete("a").await.expect("removed");
        pods.delete("a").await.expect("a repeat is fine");
        assert_eq!(pods.progress("a").await.expect("answered"), Progress::Gone);
    }

    #[tokio::test]
    async fn a_pod_knows_the_daemon_set_that_it_belongs_to() {
        let server = ApiServer::start().await;
        let pods = Pods::new(&server.cluster().await, "node-1");
        let owners =
            json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u", "controller": true}]);
        let own = json!({"metadata": {"name": "own", "ownerReferences": owners}});
        pods.create(&serde_json::from_value(own).expect("a pod")).await.expect("made");
        let owner = Owner { name: "d".into(), uid: "u".into() };
        assert_eq!(pods.owner_of("own").await.expect("shown"), Some(owner));
        assert_eq!(pods.owner_of("other").await.expect("answered"), None);
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_told_apart_from_one_that_refuses() {
        let server = ApiServer::start().await;
        let pods = Pods::new(&server.cluster().await, "node-1");
        server.forbid("pods");
        let error = pods.names(None).await.expect_err("forbidden");
        assert!(matches!(error, Error::Refused { .. }) && error.to_string().contains("forbidden"), "{error}");
        server.stop();
        let error = pods.names(None).await.expect_err("away");
        assert!(matches!(error, Error::Away { .. }), "{error}");
        assert!(error.to_string().contains("away and cannot list the pods of workers: "), "{error}");
    }
}
