//! Events, and workers in pods: with an API server for tests, whose pods are runners in this process.

use std::sync::Arc;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use stead_k8s::Cluster;
use stead_k8s::fake::ApiServer;
use stead_keeper::runner;
use tokio::time::{sleep, timeout};

use super::*;
use crate::config::PodMode;

async fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            match check() {
                Some(found) => return found,
                None => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_elapsed| panic!("{what}"))
}

fn reasons(server: &ApiServer) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found: Vec<_> =
        server.events().iter().map(|event| (text(&event["regarding"]["kind"]), text(&event["reason"]))).collect();
    found.sort();
    found
}

/// For the pod `app` in `team`, which uses the claim `data`.
fn for_app(mut request: proto::NodePublishVolumeRequest) -> proto::NodePublishVolumeRequest {
    for (name, value) in
        [("pod.name", "app"), ("pod.namespace", "team"), ("pod.uid", "uid-of-app"), ("pvc/name", "data")]
    {
        request.volume_context.insert(format!("csi.storage.k8s.io/{name}"), value.to_owned());
    }
    request
}

#[tokio::test]
async fn users_of_a_mount_are_told_by_events() {
    let server = ApiServer::start().await;
    let cluster = server.cluster().await;
    let mut node = TestNode::new();
    node.service = TestNode::open_with(node.dir.path(), WorkerMode::Process, Some(cluster));
    node.publish(for_app(node.request("v", "a"))).await.expect("published");
    let first = node.worker("v").expect("started");
    first.signal(Signal::SIGKILL);
    let second = node.next_worker("v", first).await;
    let told = until("two events", || Some(reasons(&server)).filter(|told| told.len() == 2)).await;
    let expected = [("PersistentVolumeClaim", "WorkerRestarted"), ("Pod", "WorkerRestarted")];
    assert_eq!(told, expected.map(|(kind, reason)| (kind.to_owned(), reason.to_owned())));
    let note = server.events()[0]["note"].as_str().expect("a text").to_owned();
    assert!(note.contains("volume v") && note.contains("is lost") && !note.contains("hunter2"), "{note}");

    server.stop();
    second.signal(Signal::SIGKILL);
    node.next_worker("v", second).await;
    node.publish(for_app(node.request("v", "b"))).await.expect("nobody waits for the API server");
    node.unpublish("v", "a").await.expect("taken back");
    node.unpublish("v", "b").await.expect("taken back");
}

/// A node whose workers are in pods.
struct PodNode {
    node: TestNode,
    server: Arc<ApiServer>,
}

impl PodNode {
    async fn new() -> Self {
        let server = Arc::new(ApiServer::start().await);
        let mut node = TestNode::new();
        std::fs::write(node.dir.path().join("template"), "image: stead:1").expect("new");
        run_pods(&server, node.dir.path().join("worker"));
        server.add("/api/v1/namespaces/storage/pods", own_pod());
        node.service = Self::open(&node, server.cluster().await);
        Self { node, server }
    }

    fn open(node: &TestNode, cluster: Cluster) -> NodeService {
        let (template, own_pod) = (node.dir.path().join("template"), Some("stead-node-x".to_owned()));
        let mode = WorkerMode::Pod(PodMode { cluster: cluster.clone(), template, own_pod });
        TestNode::open_with(node.dir.path(), mode, Some(cluster))
    }

    /// The pods of workers.
    fn pods(&self) -> Vec<Value> {
        let pods = self.server.pods().into_iter();
        pods.filter(|pod| pod["metadata"]["labels"]["app.kubernetes.io/component"] == "worker").collect()
    }

    /// Ends the node service and starts another one, which looks for pods at once.
    async fn restart(&mut self) {
        self.node.service = Self::open(&self.node, self.server.cluster().await);
    }

    fn directories(&self) -> usize {
        std::fs::read_dir(self.node.dir.path().join("state/pods")).expect("there").count()
    }
}

fn own_pod() -> Value {
    let owner = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "stead-node", "uid": "d"});
    json!({"metadata": {"name": "stead-node-x", "ownerReferences": [owner]}, "spec": {"nodeName": "node-1", "containers": []}})
}

/// What a kubelet would do: a runner for each pod, whose end is the pod's.
fn run_pods(server: &Arc<ApiServer>, exe: PathBuf) {
    let kubelet = Arc::downgrade(server);
    server.on_new_pod(move |pod| {
        let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
        let dir = pod["spec"]["volumes"][0]["hostPath"]["path"].as_str().expect("a path").to_owned();
        let (launch, kubelet) = (WorkerLaunch { exe: exe.clone(), uid: 65534, gid: 65534, ..WorkerLaunch::default() }, kubelet.clone());
        tokio::spawn(async move {
            let ran = runner::run_once(&Path::new(&dir).join("runner.sock"), launch, std::future::pending()).await;
            let ended = json!({"exitCode": 137, "reason": "OOMKilled"});
            let container = json!({"name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": ended}});
            let phase = if ran.is_ok_and(|status| status.is_some_and(|s| s.success())) { "Succeeded" } else { "Failed" };
            if let Some(server) = kubelet.upgrade() {
                server.set_status(&name, json!({"phase": phase, "containerStatuses": [container]}));
            }
        });
    });
}

#[tokio::test]
async fn a_worker_has_a_pod_for_as_long_as_it_lives() {
    let mut test = PodNode::new().await;
    let mut request = for_app(test.node.request("v", "a"));
    request.volume_context.insert("workerCpuLimit".to_owned(), "2".to_owned());
    test.node.publish(request).await.expect("published");
    let [pod] = &test.pods()[..] else { panic!("one pod: {:?}", test.pods()) };
    assert_eq!(pod["spec"]["nodeName"], "node-1");
    assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"]["cpu"], "2");
    assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "DaemonSet");
    assert_eq!(test.directories(), 2, "a socket's and a record");
    let first = test.node.worker("v").expect("recorded as it is seen from here");
    assert!(first.is_alive());

    first.signal(Signal::SIGKILL);
    let second = test.node.next_worker("v", first).await;
    assert_eq!(test.pods().len(), 2, "another pod; the first is there for whoever asks how it ended");
    let note = until("an event", || test.server.events().first().map(|event| event["note"].clone())).await;
    assert!(note.as_str().is_some_and(|note| note.contains("(OOMKilled (exit code 137))")), "{note}");
    test.restart().await;
    until("the pod that has ended is removed", || (test.pods().len() == 1).then_some(())).await;
    assert!(second.is_alive() && test.directories() == 2, "the other one is needed");
    test.node.unpublish("v", "a").await.expect("taken back");
    assert!(!second.is_alive());
    test.restart().await;
    until("no pod is needed any more", || (test.pods().is_empty() && test.directories() == 0).then_some(())).await;
}

#[tokio::test]
async fn an_api_server_that_is_away_hinders_new_pods_alone() {
    let test = PodNode::new().await;
    test.node.publish(for_app(test.node.request("v", "a"))).await.expect("published");
    test.server.forbid("pods");
    let status = test.node.publish(test.node.request("w", "w")).await.expect_err("no pod");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("refuses to create pod stead-w-"), "{status}");
    test.node.publish(test.node.request("v", "b")).await.expect("it is served already");
    let first = test.node.worker("v").expect("started");
    first.signal(Signal::SIGKILL);
    let tried = || reasons(&test.server).contains(&("Pod".to_owned(), "WorkerBackOff".to_owned())).then_some(());
    until("it is tried again", tried).await;
    test.server.allow();
    let second = test.node.next_worker("v", first).await;
    assert!(second.is_alive());
    test.server.stop();
    let status = test.node.publish(test.node.request("w", "w")).await.expect_err("nobody there");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("the API server is away and cannot create pod"), "{status}");
    test.node.publish(test.node.request("v", "c")).await.expect("it is served already");
    for target in ["a", "b", "c"] {
        test.node.unpublish("v", target).await.expect("taken back");
    }
    assert!(!second.is_alive());
}

#[tokio::test]
async fn a_pod_that_cannot_run_is_told_and_removed() {
    let mut test = PodNode::new().await;
    let kubelet = Arc::downgrade(&test.server);
    test.server.on_new_pod(move |pod| {
        let (name, server) = (pod["metadata"]["name"].as_str().expect("a name").to_owned(), kubelet.upgrade());
        let waiting = json!({"reason": "ImagePullBackOff", "message": "no image stead:1"});
        let container = json!({"name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": waiting}});
        tokio::spawn(async move {
            server.expect("it runs").set_status(&name, json!({"phase": "Pending", "containerStatuses": [container]}));
        });
    });
    let status = test.node.publish(test.node.request("v", "a")).await.expect_err("no image");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("cannot run: ImagePullBackOff: no image stead:1"), "{status}");
    until("the pod is removed", || test.pods().is_empty().then_some(())).await;
    assert!(test.node.mounts().is_empty());

    std::fs::write(test.node.dir.path().join("template"), "image: x\ncolour: red").expect("writable");
    let status = test.node.publish(test.node.request("v", "a")).await.expect_err("a wrong template");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("colour") && status.message().contains("template"), "{status}");
    test.restart().await;
}

#[tokio::test]
async fn workers_are_replaced_by_pods_of_the_template_of_now() {
    let test = PodNode::new().await;
    std::fs::write(test.node.dir.path().join("worker"), HANDS_OVER).expect("writable");
    test.node.publish(test.node.request("v", "a")).await.expect("published");
    let first = test.node.worker("v").expect("started");
    std::fs::write(test.node.dir.path().join("template"), "image: [").expect("writable");
    test.node.service.replace_workers().await;
    assert_eq!(test.node.worker("v"), Some(first), "as long as there can be no other");
    std::fs::write(test.node.dir.path().join("template"), "image: stead:2").expect("writable");
    test.node.service.replace_workers().await;
    assert!(test.node.worker("v").is_some_and(|next| next != first && next.is_alive()) && !first.is_alive());
    let mut images: Vec<_> =
        test.pods().iter().map(|pod| pod["spec"]["containers"][0]["image"].as_str().map(str::to_owned)).collect();
    images.sort();
    assert_eq!(images, [Some("stead:1".to_owned()), Some("stead:2".to_owned())]);
    test.node.unpublish("v", "a").await.expect("taken back");
}

#[tokio::test]
async fn workers_follow_a_template_that_changes_unless_it_says_otherwise() {
    let test = PodNode::new().await;
    std::fs::write(test.node.dir.path().join("worker"), HANDS_OVER).expect("writable");
    test.node.publish(test.node.request("v", "a")).await.expect("published");
    let first = test.node.worker("v").expect("started");
    let template = test.node.dir.path().join("template");
    std::fs::write(&template, "image: stead:2\nupdateStrategy: OnDelete").expect("writable");
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert_eq!(test.node.worker("v"), Some(first), "only when its pod is deleted");
    std::fs::write(&template, "image: stead:2").expect("writable");
    let next = until("another worker", || test.node.worker("v").filter(|next| *next != first)).await;
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert_eq!(test.node.worker("v"), Some(next), "once");
    test.node.unpublish("v", "a").await.expect("taken back");
}

#[tokio::test]
async fn what_is_staged_needs_a_cache_that_outlives_the_pod() {
    let test = PodNode::new().await;
    let template = test.node.dir.path().join("template");
    let mut request = test.node.request("v", "a");
    request.volume_context.insert("mountOptions".to_owned(), "writeback,cache-dir=/cache/x".to_owned());
    std::fs::write(&template, "image: x\ncaches: [{mountPath: /cache, emptyDir: {}}]").expect("writable");
    let status = test.node.publish(request.clone()).await.expect_err("it would go with the pod");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("writeback: /cache/x is in none of the caches that outlive"), "{status}");
    std::fs::write(&template, "image: x\ncaches: [{mountPath: /cache, hostPath: {path: /c}}]").expect("writable");
    test.node.publish(request).await.expect("published");
    test.node.unpublish("v", "a").await.expect("taken back");
}
