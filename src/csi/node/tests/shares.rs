//! Workers that are shared by more, or by less, than a volume.

use nix::sys::signal::Signal;

use super::*;

impl TestNode {
    fn shared(&self, share: &str, volume: &str, target: &str, pod: &str) -> proto::NodePublishVolumeRequest {
        let mut request = self.request(volume, target);
        request.volume_context = HashMap::from([("share".to_owned(), share.to_owned())]);
        for (member, value) in [("name", pod), ("namespace", "team"), ("uid", pod)] {
            request.volume_context.insert(format!("csi.storage.k8s.io/pod.{member}"), value.to_owned());
        }
        request
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("state").join(directory)).expect("there");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("readable").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }

    fn listed(&self) -> Vec<NodeVolume> {
        volumes(&self.dir.path().join("state")).expect("readable")
    }
}

#[tokio::test]
async fn every_pod_has_a_worker_of_its_own() {
    let mut node = TestNode::new();
    node.publish(node.shared("pod", "v", "a", "one")).await.expect("published");
    node.publish(node.shared("pod", "v", "b", "two")).await.expect("published");
    node.publish(node.shared("pod", "v", "b", "two")).await.expect("a repeat is a success");
    let workers = [node.worker("v@one").expect("started"), node.worker("v@two").expect("started")];
    assert_ne!(workers[0], workers[1]);
    let listed: Vec<_> = node.listed().into_iter().map(|v| (v.volume, v.mount, v.targets.len())).collect();
    let row = |mount: &str| ("v".to_owned(), mount.to_owned(), 1);
    assert_eq!(listed, [row("v@one"), row("v@two")]);
    let page = node.metrics().await.join("\n");
    for sample in [
        "stead_volume_up{volume=\"v\",mount=\"v@one\"} 1",
        "stead_volume_up{volume=\"v\",mount=\"v@two\"} 1",
        "juicefs_uptime{volume=\"v\",mount=\"v@two\",mp=\"/m\"} 7",
        "stead_mounts 2",
    ] {
        assert!(page.contains(sample), "{sample} is not in\n{page}");
    }
    let exclusive = proto::NodePublishVolumeRequest {
        volume_capability: Some(mount_capability(Mode::SingleNodeSingleWriter)),
        ..node.shared("pod", "v", "c", "three")
    };
    let status = node.publish(exclusive).await.expect_err("others use it, though in mounts of their own");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");

    workers[0].signal(Signal::SIGKILL);
    node.next_worker("v@one", workers[0]).await;
    assert_eq!(node.worker("v@two"), Some(workers[1]), "another pod's worker is left alone");
    node.service = TestNode::open(node.dir.path());
    node.unpublish("v", "a").await.expect("taken back");
    assert!(node.worker("v@one").is_none() && workers[1].is_alive());
    node.unpublish("v", "b").await.expect("taken back");
    assert!(!workers[1].is_alive() && node.mounts().is_empty());
    assert!(node.names("volumes").is_empty() && node.names("mounts").is_empty() && node.names("workers").is_empty());
}

#[tokio::test]
async fn volumes_of_a_file_system_have_one_worker() {
    let mut node = TestNode::new();
    let requests = [("v", "a", "one"), ("w", "b", "one"), ("x", "c", "two")]
        .map(|(volume, target, pod)| node.shared("filesystem", volume, target, pod));
    let published = futures::future::join_all(requests.map(|request| node.publish(request))).await;
    assert!(published.iter().all(Result::is_ok), "at the same time: {published:?}");
    let names = node.names("workers");
    let [name] = &names[..] else { panic!("one worker: {names:?}") };
    let mount = name.strip_suffix(".json").expect("a record").to_owned();
    let worker = node.worker(&mount).expect("started");
    assert!(mount.starts_with("shared@") && node.mounts().len() == 4, "{mount}: {:?}", node.mounts());
    let listed: Vec<_> = node.listed().into_iter().map(|v| (v.volume, v.mount, v.worker)).collect();
    assert_eq!(listed, ["v", "w", "x"].map(|volume| (volume.to_owned(), mount.clone(), Some(worker.pid))));
    let page = node.metrics().await.join("\n");
    for sample in [
        format!("stead_volume_up{{volume=\"w\",mount=\"{mount}\"}} 1"),
        format!("juicefs_uptime{{volume=\"{mount}\",mp=\"/m\"}} 7"),
        "stead_mounts 1\n".to_owned(),
        "stead_publications 3\n".to_owned(),
    ] {
        assert!(page.contains(&sample), "{sample} is not in\n{page}");
    }
    let mut other = node.shared("filesystem", "v", "a", "one");
    other.volume_context.insert("path".to_owned(), "elsewhere".to_owned());
    let status = node.publish(other).await.expect_err("another directory at the same target");
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    node.publish(node.shared("volume", "y", "d", "one")).await.expect("one that does not share");
    assert!(node.worker("y").is_some_and(|own| own != worker));
    node.unpublish("y", "d").await.expect("taken back");

    node.service = TestNode::open(node.dir.path());
    node.unpublish("v", "a").await.expect("taken back");
    node.unpublish("x", "c").await.expect("taken back");
    assert!(worker.is_alive(), "one is left");
    node.unpublish("w", "b").await.expect("taken back");
    assert!(!worker.is_alive() && node.mounts().is_empty());
    assert!(node.names("volumes").is_empty() && node.names("mounts").is_empty() && node.names("workers").is_empty());
}

#[tokio::test]
async fn whoever_comes_while_the_last_one_leaves_gets_a_new_mount() {
    let node = TestNode::new();
    for _round in 0..3 {
        node.publish(node.shared("filesystem", "v", "a", "one")).await.expect("published");
        let (left, came) =
            tokio::join!(node.unpublish("v", "a"), node.publish(node.shared("filesystem", "w", "b", "two")));
        left.expect("taken back");
        came.expect("published");
        let mount = node.listed().remove(0);
        assert_eq!((&*mount.volume, mount.health, mount.targets.len()), ("w", VolumeHealth::Serving, 1));
        assert!(mount.targets[0].mounted && !node.target("a").exists());
        node.unpublish("w", "b").await.expect("taken back");
        assert!(node.mounts().is_empty() && node.names("volumes").is_empty());
    }
}

#[tokio::test]
async fn a_publication_stays_in_its_mount_when_it_would_get_another_one_now() {
    let node = TestNode::new();
    let moved = |address: &str| {
        let mut request = node.shared("filesystem", "v", "a", "one");
        request.secrets.insert("metaurl".to_owned(), address.to_owned());
        request
    };
    node.publish(moved("redis://:hunter2@db/1")).await.expect("published");
    let first = node.listed().remove(0);
    node.publish(moved("redis://:hunter2@other/1")).await.expect("there already");
    let same = node.listed().remove(0);
    assert_eq!((node.listed().len(), &same.mount), (1, &first.mount));
    assert_ne!(same.worker, first.worker, "one with the new address has followed");

    mount::umount(&node.target("a"), true).expect("mounted");
    node.publish(moved("redis://:hunter2@other/1")).await.expect("published again");
    let second = node.listed().remove(0);
    assert!(second.mount != first.mount && second.targets[0].mounted && node.listed().len() == 1);
    node.unpublish("v", "a").await.expect("taken back");
    assert!(node.mounts().is_empty() && node.names("volumes").is_empty());
}

#[tokio::test]
async fn a_mount_that_could_not_end_is_found_again() {
    let node = TestNode::new();
    node.publish(node.shared("pod", "v", "a", "one")).await.expect("published");
    let id = MountId::parse("v@one").expect("right");
    let publisher = &node.service.publisher;
    // As a node service leaves it that ended while it waited for the worker.
    let mut state = publisher.state.load(&id).expect("readable").expect("there");
    state.draining = true;
    publisher.state.save(&id, &state).expect("writable");
    mount::umount(&node.target("a"), true).expect("mounted");
    assert!(node.worker("v@one").is_some());
    node.unpublish("v", "a").await.expect("taken back");
    assert!(node.names("volumes").is_empty() && node.names("workers").is_empty() && node.mounts().is_empty());
}
