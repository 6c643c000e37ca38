//! Against real mounts, with a stand-in for the worker that serves nothing: whatever asked the file system something
//! would wait for ever, so these tests also hold the node service to not doing that. They need root and /dev/fuse.

mod pods;
mod shares;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use stead_keeper::launch::WorkerLaunch;
use stead_keeper::mountinfo;
use stead_volume::Share;
use tonic::Code;

use super::*;
use crate::capability::tests::mount_capability;
use crate::config::WorkerMode;
use crate::proto::volume_capability::access_mode::Mode;

/// Takes the mount, says that it serves, ends when it is asked to; the end of the socket means nothing to it.
const WORKER: &str = r##"#!/bin/sh
receive() {
    message=
    while [ -z "$message" ]; do
        message=$(dd bs=131072 count=1 <&3 2>/dev/null)
        [ -n "$message" ] || sleep 0.02
    done
}
receive
case "$message" in
    *fail-please*) printf '{"type":"failed","stage":"load Format","error":"no volume there","exit_code":5}' >&3; exit 5 ;;
    *die-please*) echo "cannot go on" >&2; exit 1 ;;
esac
printf '{"type":"serving","pid":%d,"stages":[["load Format",2000]]}' $$ >&3
while receive; do
    case "$message" in
        *ping*) printf '{"type":"alive"}' >&3 ;;
        *learn_limits*) printf '{"type":"limits_learned"}' >&3 ;;
        *measure*)
            page='# TYPE juicefs_uptime gauge\njuicefs_uptime 7\n'
            printf '{"type":"measured","labels":"mp=\\"/m\\"","page":"%s"}' "$page" >&3 ;;
        *drain*) printf '{"type":"drained"}' >&3; break ;;
        *) break ;;
    esac
done
"##;

/// The same, and hands over when it is asked to.
const HANDS_OVER: &str = r#"#!/bin/sh
receive() {
    message=
    while [ -z "$message" ]; do
        message=$(dd bs=131072 count=1 <&3 2>/dev/null)
        [ -n "$message" ] || sleep 0.02
    done
}
receive
printf '{"type":"serving","pid":%d}' $$ >&3
while receive; do
    case "$message" in
        *ping*) printf '{"type":"alive"}' >&3 ;;
        *hand_over*) printf '{"type":"handed_over"}' >&3; exit ;;
        *) exit ;;
    esac
done
"#;

struct TestNode {
    dir: tempfile::TempDir,
    service: NodeService,
}

impl TestNode {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/tmp").expect("a place");
        let readable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), readable.clone()).expect("ours");
        std::fs::write(dir.path().join("worker"), WORKER).expect("new");
        std::fs::set_permissions(dir.path().join("worker"), readable).expect("ours");
        let service = Self::open(dir.path());
        Self { dir, service }
    }

    fn open(dir: &Path) -> NodeService {
        NodeService::open(Self::config(dir)).expect("writable")
    }

    fn open_with(dir: &Path, mode: WorkerMode, events: Option<stead_k8s::Cluster>) -> NodeService {
        NodeService::open(NodeConfig { mode, events, ..Self::config(dir) }).expect("writable")
    }

    fn config(dir: &Path) -> NodeConfig {
        let worker = WorkerLaunch { exe: dir.join("worker"), uid: 65534, gid: 65534, ..WorkerLaunch::default() };
        NodeConfig {
            endpoint: format!("unix://{}/csi.sock", dir.display()),
            driver_name: "test".to_owned(),
            registrations: None,
            metrics: None,
            node_id: "node-1".to_owned(),
            topology: Default::default(),
            state_dir: dir.join("state"),
            worker,
            mode: WorkerMode::Process,
            events: None,
        }
    }

    /// The lines of the metrics page.
    async fn metrics(&self) -> Vec<String> {
        self.service.show(Exposition::default()).await.lines().map(str::to_owned).collect()
    }

    fn target(&self, name: &str) -> PathBuf {
        self.dir.path().join("pods").join(name)
    }

    fn request(&self, volume: &str, target: &str) -> proto::NodePublishVolumeRequest {
        std::fs::create_dir_all(self.dir.path().join("pods")).expect("writable");
        proto::NodePublishVolumeRequest {
            volume_id: volume.to_owned(),
            target_path: self.target(target).display().to_string(),
            volume_capability: Some(mount_capability(Mode::MultiNodeMultiWriter)),
            secrets: HashMap::from([
                ("name".to_owned(), "shared".to_owned()),
                ("metaurl".to_owned(), "redis://:hunter2@db/1".to_owned()),
            ]),
            volume_context: HashMap::from([("path".to_owned(), volume.to_owned())]),
            ..Default::default()
        }
    }

    async fn publish(&self, request: proto::NodePublishVolumeRequest) -> Result<(), Status> {
        self.service.node_publish_volume(Request::new(request)).await.map(|_| ())
    }

    async fn unpublish(&self, volume: &str, target: &str) -> Result<(), Status> {
        let target_path = self.target(target).display().to_string();
        let request = proto::NodeUnpublishVolumeRequest { volume_id: volume.to_owned(), target_path };
        self.service.node_unpublish_volume(Request::new(request)).await.map(|_| ())
    }

    fn mounts(&self) -> Vec<PathBuf> {
        let mounts = mountinfo::read().expect("readable").into_iter().map(|entry| entry.mount_point);
        mounts.filter(|path| path.starts_with(self.dir.path())).collect()
    }

    fn worker(&self, volume: &str) -> Option<process::ProcessId> {
        let id = MountId::parse(volume).expect("right");
        self.service.publisher.state.worker(&id).expect("readable")
    }

    /// The one that follows: a publication needs the mount, which is there also between two workers.
    async fn next_worker(&self, volume: &str, previous: process::ProcessId) -> process::ProcessId {
        let next = async {
            loop {
                match self.worker(volume) {
                    Some(worker) if worker != previous => return worker,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), next).await.expect("another worker is started")
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        let state = &self.service.publisher.state;
        for mount in state.list().expect("readable") {
            if let Some(worker) = state.worker(&mount).expect("readable") {
                worker.signal(nix::sys::signal::Signal::SIGKILL);
            }
        }
        for path in self.mounts().iter().rev() {
            let _gone = mount::umount(path, true);
        }
        for target in ["a", "b", "c", "d"] {
            let _absent = mount::set_immutable(&self.target(target), false);
        }
    }
}

#[tokio::test]
async fn a_volume_is_served_by_one_worker_for_all_targets() {
    let node = TestNode::new();
    node.publish(node.request("v", "a")).await.expect("published");
    let worker = node.worker("v").expect("started");
    node.publish(node.request("v", "a")).await.expect("a repeat is a success");
    node.publish(node.request("v", "b")).await.expect("published");
    assert_eq!(node.worker("v"), Some(worker));
    assert_eq!(node.mounts().len(), 3, "{:?}", node.mounts());
    let entry = mountinfo::at(&node.target("a")).expect("readable").expect("mounted");
    assert_eq!((&*entry.source, &*entry.fs_type), ("JuiceFS:shared", "fuse.juicefs"));

    node.unpublish("v", "a").await.expect("taken back");
    assert!(!node.target("a").exists() && worker.is_alive());
    node.unpublish("v", "a").await.expect("a repeat is a success");
    node.unpublish("v", "b").await.expect("taken back");
    assert!(!worker.is_alive(), "the last one ends the worker");
    assert!(node.mounts().is_empty() && !node.target("b").exists());
    assert_eq!(std::fs::read_dir(node.dir.path().join("state/volumes")).expect("there").count(), 0);
    assert_eq!(std::fs::read_dir(node.dir.path().join("state/mounts")).expect("there").count(), 0);
}

#[tokio::test]
async fn a_failed_publication_leaves_nothing_behind_and_tells_why() {
    let node = TestNode::new();
    for (please, code, said) in [
        ("fail-please", Code::FailedPrecondition, "load Format: no volume there"),
        ("die-please", Code::Internal, "cannot go on"),
    ] {
        let mut request = node.request("v", "a");
        request.volume_context.insert("path".to_owned(), please.to_owned());
        let status = node.publish(request).await.expect_err("the worker cannot serve");
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(said) && status.message().contains("logs/v.log"), "{status}");
        assert!(node.mounts().is_empty() && !node.target("a").exists());
        assert_eq!(std::fs::read_dir(node.dir.path().join("state/volumes")).expect("there").count(), 0);
    }
}

#[tokio::test]
async fn a_volume_for_one_pod_has_one_target() {
    let node = TestNode::new();
    let exclusive = |target: &str| proto::NodePublishVolumeRequest {
        volume_capability: Some(mount_capability(Mode::SingleNodeSingleWriter)),
        ..node.request("v", target)
    };
    node.publish(exclusive("a")).await.expect("published");
    node.publish(exclusive("a")).await.expect("a repeat is a success");
    for request in [exclusive("b"), node.request("v", "b")] {
        let status = node.publish(request).await.expect_err("occupied");
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    }
    assert!(!node.target("b").exists());
    node.unpublish("v", "a").await.expect("taken back");
    node.publish(exclusive("b")).await.expect("free again");
    node.unpublish("v", "b").await.expect("taken back");
}

#[tokio::test]
async fn a_read_only_publication_is_bound_read_only_and_cannot_change() {
    let node = TestNode::new();
    let read_only = proto::NodePublishVolumeRequest { readonly: true, ..node.request("v", "a") };
    node.publish(read_only).await.expect("published");
    node.publish(node.request("v", "b")).await.expect("published");
    let is_read_only = |name| mountinfo::at(&node.target(name)).expect("readable").expect("mounted").read_only();
    assert!(is_read_only("a") && !is_read_only("b"));
    let status = node.publish(node.request("v", "a")).await.expect_err("writable now");
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    node.unpublish("v", "a").await.expect("taken back");
    node.unpublish("v", "b").await.expect("taken back");
}

#[tokio::test]
async fn state_survives_a_restart_and_holds_no_secret() {
    let mut node = TestNode::new();
    node.publish(node.request("v", "a")).await.expect("published");
    let worker = node.worker("v").expect("started");
    let state = std::fs::read_to_string(node.dir.path().join("state/volumes/v.json")).expect("there");
    assert!(!state.contains("hunter2"), "{state}");
    node.service = TestNode::open(node.dir.path());
    node.publish(node.request("v", "b")).await.expect("the worker serves on");
    assert_eq!(node.worker("v"), Some(worker));
    node.unpublish("v", "a").await.expect("taken back");
    node.unpublish("v", "b").await.expect("taken back");
    assert!(!worker.is_alive(), "ended by a signal");
    assert!(node.mounts().is_empty());
}

#[tokio::test]
async fn after_the_death_of_a_worker_another_one_goes_on_with_the_mount() {
    let node = TestNode::new();
    node.publish(node.request("v", "a")).await.expect("published");
    let device = |name| mountinfo::at(&node.target(name)).expect("readable").expect("mounted").device;
    let (first, before) = (node.worker("v").expect("started"), device("a"));
    first.signal(nix::sys::signal::Signal::SIGKILL);
    assert!(first.ended_within(Duration::from_secs(5)).await);
    node.publish(node.request("v", "b")).await.expect("published");
    let second = node.next_worker("v", first).await;
    assert!(second.is_alive());
    assert_eq!((device("a"), device("b")), (before, before), "it is the same mount");
    node.unpublish("v", "a").await.expect("taken back");
    node.unpublish("v", "b").await.expect("taken back");
    assert!(!second.is_alive() && node.mounts().is_empty());
}

#[tokio::test]
async fn a_target_that_holds_something_is_refused() {
    let node = TestNode::new();
    let precious = node.target("a").join("precious");
    std::fs::create_dir_all(node.target("a")).expect("writable");
    std::fs::write(&precious, "x").expect("new");
    let status = node.publish(node.request("v", "a")).await.expect_err("not empty");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("precious") && precious.exists(), "{status}");
}

#[tokio::test]
async fn wrong_requests_are_refused_before_anything_happens() {
    let node = TestNode::new();
    std::fs::create_dir_all(node.dir.path().join("pods")).expect("writable");
    std::fs::write(node.target("file"), "precious").expect("new");
    let base = node.request("v", "a");
    let with = |change: fn(&mut proto::NodePublishVolumeRequest)| {
        let mut request = base.clone();
        change(&mut request);
        request
    };
    for (request, named) in [
        (with(|r| r.volume_id.clear()), "volume_id"),
        (with(|r| "../v".clone_into(&mut r.volume_id)), "volume id"),
        (with(|r| r.target_path.clear()), "target_path"),
        (with(|r| "relative".clone_into(&mut r.target_path)), "target_path"),
        (with(|r| r.volume_capability = None), "volume_capability"),
        (with(|r| r.secrets.clear()), "metaurl"),
        (with(|r| _ = r.volume_context.insert("path".into(), "../x".into())), "path"),
        (with(|r| _ = r.volume_context.insert("nonsense".into(), "x".into())), "nonsense"),
        (node.request("v", "file"), "no directory"),
    ] {
        let status = node.publish(request).await.expect_err(named);
        let code = if named == "metaurl" { Code::FailedPrecondition } else { Code::InvalidArgument };
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(named) && !status.message().contains("hunter2"), "{named}: {status}");
    }
    assert!(node.mounts().is_empty());
    assert_eq!(std::fs::read(node.target("file")).expect("still there"), b"precious");
}

#[tokio::test]
async fn stats_are_for_published_volumes_only() {
    let node = TestNode::new();
    let ask = async |volume: &str, path: &str| {
        let (volume_id, volume_path) = (volume.to_owned(), path.to_owned());
        let request = proto::NodeGetVolumeStatsRequest { volume_id, volume_path, ..Default::default() };
        node.service.node_get_volume_stats(Request::new(request)).await.expect_err("not published").code()
    };
    assert_eq!(ask("", "/tmp").await, Code::InvalidArgument);
    assert_eq!(ask("v", "").await, Code::InvalidArgument);
    assert_eq!(ask("v", "/tmp").await, Code::NotFound);
    assert_eq!(ask("v", "some/path").await, Code::NotFound);
    node.publish(node.request("v", "a")).await.expect("published");
    assert_eq!(ask("v", "/tmp").await, Code::NotFound);
    assert_eq!(ask("w", &node.target("a").display().to_string()).await, Code::NotFound);
    node.unpublish("v", "a").await.expect("taken back");
}

#[tokio::test]
async fn a_node_tells_of_its_volumes_and_workers() {
    let node = TestNode::new();
    let shows = async |expected: &[&str]| {
        let lines = node.metrics().await;
        for line in expected {
            assert!(lines.iter().any(|found| found == line), "{line} is not in\n{}", lines.join("\n"));
        }
    };
    shows(&["stead_mounts 0", "stead_publications 0", "stead_workers_started_total 0"]).await;
    node.publish(node.request("v", "a")).await.expect("published");
    node.publish(node.request("v", "b")).await.expect("published");
    let up = "stead_volume_up{volume=\"v\"} 1";
    shows(&[
        "stead_mounts 1",
        "stead_publications 2",
        "stead_workers_started_total 1",
        "stead_publish_stage_seconds_count{stage=\"parse\"} 2",
        "stead_publish_stage_seconds_count{stage=\"queue\"} 2",
        "stead_publish_stage_seconds_count{stage=\"mount\"} 1",
        "stead_publish_stage_seconds_count{stage=\"start\"} 1",
        "stead_publish_stage_seconds_count{stage=\"bind\"} 2",
        "stead_worker_start_stage_seconds_sum{stage=\"load Format\"} 0.002",
        up,
        "# TYPE juicefs_uptime gauge",
        "juicefs_uptime{volume=\"v\",mp=\"/m\"} 7",
    ])
    .await;

    let first = node.worker("v").expect("started");
    first.signal(nix::sys::signal::Signal::SIGKILL);
    let second = node.next_worker("v", first).await;
    shows(&["stead_worker_deaths_total 1", "stead_workers_started_total 2", "stead_mounts 1", up]).await;

    second.signal(nix::sys::signal::Signal::SIGSTOP);
    let began = std::time::Instant::now();
    shows(&["stead_mounts 1", "stead_volume_up{volume=\"v\"} 0"]).await;
    assert!(began.elapsed() < MEASURE * 2, "a worker that hangs does not hang the page");
    second.signal(nix::sys::signal::Signal::SIGCONT);

    let mut request = node.request("w", "c");
    request.volume_context.insert("path".to_owned(), "fail-please".to_owned());
    node.publish(request).await.expect_err("the worker cannot serve");
    shows(&["stead_worker_start_failures_total 1", up]).await;
    node.unpublish("v", "a").await.expect("taken back");
    node.unpublish("v", "b").await.expect("taken back");
    shows(&["stead_mounts 0", "stead_publications 0", "stead_worker_deaths_total 1"]).await;
}

/// What a page answers: its status and its text.
async fn get(address: &str, path: &str) -> Option<(String, String)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, text) = answer.split_once("\r\n\r\n")?;
    Some((head.lines().next()?.to_owned(), text.to_owned()))
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

#[tokio::test]
async fn a_service_is_healthy_while_its_socket_answers_and_its_directory_can_be_written() {
    let dir = tempfile::tempdir_in("/tmp").expect("a place");
    let (address, stop) = (free_address(), tokio_util::sync::CancellationToken::new());
    let config = NodeConfig { metrics: Some(address.clone()), ..TestNode::config(dir.path()) };
    let serving = tokio::spawn(crate::run_node(config, stop.clone(), std::sync::Arc::default()));
    let health = async || loop {
        if let Some(answer) = get(&address, "/healthz").await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let healthy = async {
        while health().await != ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), healthy).await.expect("healthy once it serves");
    let (_, metrics) = get(&address, "/metrics").await.expect("served");
    for name in ["stead_build_info{version=", "stead_csi_request_seconds_count{method=\"Probe\",code=\"OK\"} "] {
        assert!(metrics.lines().any(|line| line.starts_with(name)), "{name} is not in\n{metrics}");
    }
    std::fs::rename(dir.path().join("state"), dir.path().join("elsewhere")).expect("ours");
    let (status, why) = health().await;
    assert!(status.contains("503") && why.contains("state/.probe"), "{status}: {why}");
    std::fs::rename(dir.path().join("elsewhere"), dir.path().join("state")).expect("ours");
    assert_eq!(health().await.1, "ok\n");
    std::fs::remove_file(dir.path().join("csi.sock")).expect("there");
    let (status, why) = health().await;
    assert!(status.contains("503") && why.contains("csi.sock"), "{status}: {why}");
    stop.cancel();
    serving.await.expect("ended").expect("well");
}

#[tokio::test]
async fn a_controller_has_a_page_and_an_address_that_is_taken_is_told() {
    let dir = tempfile::tempdir_in("/tmp").expect("a place");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let config = |address: String| crate::ControllerConfig {
        endpoint: format!("unix://{}/csi.sock", dir.path().display()),
        driver_name: "test".to_owned(),
        file_systems: None,
        claims: None,
        metrics: Some(address),
    };
    let stop = tokio_util::sync::CancellationToken::new();
    let address = taken.local_addr().expect("bound").to_string();
    let error = crate::run_controller(config(address.clone()), stop.clone()).await.expect_err("taken");
    assert!(error.to_string().contains(&address), "{error}");
    let address = free_address();
    let serving = tokio::spawn(crate::run_controller(config(address.clone()), stop.clone()));
    let healthy = async {
        while get(&address, "/healthz").await.is_none_or(|(_, text)| text != "ok\n") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), healthy).await.expect("healthy once it serves");
    assert!(get(&address, "/metrics").await.expect("served").1.contains("stead_csi_requests_in_progress"));
    stop.cancel();
    serving.await.expect("ended").expect("well");
}

#[tokio::test]
async fn volumes_are_listed_with_their_pods_and_how_they_are() {
    let node = TestNode::new();
    let mut request = node.request("v", "a");
    for (member, value) in [("name", "web-0"), ("namespace", "default"), ("uid", "1")] {
        request.volume_context.insert(format!("csi.storage.k8s.io/pod.{member}"), value.to_owned());
    }
    node.publish(request).await.expect("published");
    node.publish(proto::NodePublishVolumeRequest { readonly: true, ..node.request("v", "b") })
        .await
        .expect("published");
    let listed = || volumes(&node.dir.path().join("state")).expect("readable").remove(0);
    let first = node.worker("v").expect("started");
    let volume = listed();
    assert_eq!((&*volume.volume, &*volume.identity), ("v", "shared:/v"));
    assert_eq!((volume.health, volume.worker, volume.restarts), (VolumeHealth::Serving, Some(first.pid), 0));
    assert!(volume.mounted_seconds.is_some_and(|seconds| seconds < 60));
    let targets: Vec<_> = volume.targets.iter().map(|t| (t.pod.as_deref(), t.read_only, t.mounted)).collect();
    assert_eq!(targets, [(Some("default/web-0"), false, true), (None, true, true)]);
    assert_eq!(volume.targets[0].mode, "MULTI_NODE_MULTI_WRITER");

    first.signal(nix::sys::signal::Signal::SIGKILL);
    let second = node.next_worker("v", first).await;
    let volume = listed();
    assert_eq!((volume.health, volume.worker, volume.restarts), (VolumeHealth::Serving, Some(second.pid), 1));

    second.signal(nix::sys::signal::Signal::SIGSTOP);
    let becomes = async |health| {
        while listed().health != health {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, becomes(VolumeHealth::Hung)).await.expect("it answers nothing");
    second.signal(nix::sys::signal::Signal::SIGCONT);
    tokio::time::timeout(limit, becomes(VolumeHealth::Serving)).await.expect("it answers again");

    std::fs::write(node.dir.path().join("worker"), "#!/bin/sh\nexit 1\n").expect("ours");
    second.signal(nix::sys::signal::Signal::SIGKILL);
    tokio::time::timeout(limit, becomes(VolumeHealth::BetweenWorkers)).await.expect("none follows");
    assert_eq!(listed().worker, None);
    std::fs::write(node.dir.path().join("worker"), WORKER).expect("ours");
    tokio::time::timeout(limit, becomes(VolumeHealth::Serving)).await.expect("one follows");

    mount::umount(&node.target("b"), true).expect("mounted");
    assert!(!listed().targets[1].mounted);
    node.unpublish("v", "a").await.expect("taken back");
    node.unpublish("v", "b").await.expect("taken back");
    assert!(volumes(&node.dir.path().join("state")).expect("readable").is_empty());
    let error = volumes(&node.dir.path().join("gone")).expect_err("no directory").to_string();
    assert!(error.contains("gone"), "{error}");
}

#[test]
fn health_is_told_from_mount_process_and_record() {
    let alive = process::ProcessId::of(std::process::id().cast_signed());
    let state_dir = tempfile::tempdir_in("/tmp").expect("a place");
    let state = StateDir::open(state_dir.path()).expect("writable");
    let id = MountId::parse("v").expect("right");
    let health = |draining: bool, process| {
        state
            .save(&id, &state::MountState { draining, ..state::MountState::new("v", Share::Volume, String::new()) })
            .expect("saved");
        state.save_worker(&id, &state::WorkerRecord { process, ..Default::default() }).expect("saved");
        volumes(state_dir.path()).expect("readable").remove(0).health
    };
    assert_eq!(health(false, alive), VolumeHealth::NotMounted);
    assert_eq!(health(true, alive), VolumeHealth::Draining);
    assert_eq!(health(true, None), VolumeHealth::NotMounted);
}

#[tokio::test]
async fn a_worker_whose_program_is_missing_is_counted() {
    let node = TestNode::new();
    std::fs::remove_file(node.dir.path().join("worker")).expect("it was there");
    node.publish(node.request("v", "a")).await.expect_err("nothing can be started");
    let page = node.metrics().await;
    assert!(page.iter().any(|line| line == "stead_worker_start_failures_total 1"), "{page:#?}");
    assert!(node.mounts().is_empty(), "nothing is left");
}

#[tokio::test]
async fn a_topology_is_told_if_there_is_one() {
    let dir = tempfile::tempdir().expect("a place");
    let told = async |topology: HashMap<String, String>| {
        let node = NodeService::open(NodeConfig { topology, ..TestNode::config(dir.path()) }).expect("writable");
        let info = node.node_get_info(Request::new(proto::NodeGetInfoRequest {})).await.expect("known").into_inner();
        info.accessible_topology.map(|topology| topology.segments)
    };
    assert_eq!(told(HashMap::new()).await, None);
    let reachable = HashMap::from([("topology.steadfast/reachable".to_owned(), "true".to_owned())]);
    assert_eq!(told(reachable.clone()).await, Some(reachable));
}

#[tokio::test]
async fn a_mount_without_a_worker_goes_on_with_the_credentials_of_a_publication() {
    let node = TestNode::new();
    node.publish(node.request("v", "a")).await.expect("published");
    let first = node.worker("v").expect("started");
    std::fs::write(node.dir.path().join("worker"), WORKER.replace("fail-please", "hunter2")).expect("ours");
    first.signal(nix::sys::signal::Signal::SIGKILL);
    while volumes(&node.dir.path().join("state")).expect("readable")[0].health != VolumeHealth::BetweenWorkers {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut rotated = node.request("v", "a");
    rotated.secrets.insert("metaurl".to_owned(), "redis://:rotated@db/1".to_owned());
    tokio::time::timeout(Duration::from_secs(20), node.publish(rotated)).await.expect("soon").expect("served again");
    assert!(node.worker("v").is_some_and(|next| next != first && next.is_alive()));
    assert!(mount::root_of(&node.target("a")).expect("readable").is_some(), "the mount has stayed");
    node.unpublish("v", "a").await.expect("taken back");
}
