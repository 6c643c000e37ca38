//! Against real mounts, with a stand-in for the worker that serves nothing: whatever asked the file system something
//! would wait for ever, so these tests also hold the node service to not doing that. They need root and /dev/fuse.

mod pods;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use stead_keeper::launch::WorkerLaunch;
use stead_keeper::mountinfo;
use tonic::Code;

use super::*;
use crate::capability::tests::mount_capability;
use crate::config::WorkerMode;
use crate::proto::volume_capability::access_mode::Mode;

/// Takes the mount, says that it serves, ends when it is asked to; the end of the socket means nothing to it.
const WORKER: &str = r#"#!/bin/sh
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
printf '{"type":"serving","pid":%d}' $$ >&3
while receive; do
    case "$message" in
        *ping*) printf '{"type":"alive"}' >&3 ;;
        *) break ;;
    esac
done
"#;

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
        Self::open_with(dir, WorkerMode::Process, None)
    }

    fn open_with(dir: &Path, mode: WorkerMode, events: Option<stead_k8s::Cluster>) -> NodeService {
        let worker = WorkerLaunch { exe: dir.join("worker"), uid: 65534, gid: 65534 };
        let config = NodeConfig {
            endpoint: String::new(),
            driver_name: "test".to_owned(),
            registrations: None,
            node_id: "node-1".to_owned(),
            state_dir: dir.join("state"),
            worker,
            mode,
            events,
        };
        NodeService::open(config).expect("writable")
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
        let id = VolumeId::parse(volume).expect("right");
        self.service.publisher.state.load_worker(&id).expect("readable")
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
        for volume in ["v", "w"] {
            if let Some(worker) = self.worker(volume) {
                worker.signal(nix::sys::signal::Signal::SIGKILL);
            }
        }
        for path in self.mounts().iter().rev() {
            let _gone = mount::umount(path, true);
        }
        for target in ["a", "b"] {
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
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
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
