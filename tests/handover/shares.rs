//! A worker for each pod, and one for all volumes of a file system.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use stead_csi::proto::volume_content_source::{SnapshotSource, Type};
use stead_csi::proto::{CapacityRange, CreateVolumeRequest, Volume, VolumeContentSource};
use stead_tests::process::{eventually, signal_to};
use stead_tests::{Engine, Services, tools};
use tonic::Code;

const GIB: u64 = 1 << 30;

struct Volumes {
    services: Services,
    share: &'static str,
}

impl Volumes {
    fn start(share: &'static str) -> Self {
        Self { services: Services::start(Engine::Redis), share }
    }

    fn request(&self, name: &str, gib: u64) -> CreateVolumeRequest {
        let mut request = self.services.request(name);
        request.parameters.insert("share".to_owned(), self.share.to_owned());
        let required_bytes = i64::try_from(gib * GIB).expect("small");
        request.capacity_range = Some(CapacityRange { required_bytes, limit_bytes: 0 });
        request
    }

    fn create(&self, name: &str, gib: u64) -> Volume {
        self.services.client.create(self.request(name, gib)).expect("created")
    }

    fn publish(&self, volume: &Volume, pod: &str) -> PathBuf {
        let target = self.target(pod, volume);
        let mut request = self.services.publication(volume, &target);
        for (member, value) in [("name", pod), ("namespace", "team"), ("uid", pod)] {
            request.volume_context.insert(format!("csi.storage.k8s.io/pod.{member}"), value.to_owned());
        }
        let published = self.services.client.publish(request);
        published.unwrap_or_else(|status| panic!("{status:?}\n{}", self.services.logs()));
        target
    }

    fn target(&self, pod: &str, volume: &Volume) -> PathBuf {
        self.services.path("targets").join(format!("{pod}-{}", volume.volume_id))
    }

    /// Kills who serves a mount, and waits for the next one.
    fn kill(&self, mount: &str) {
        let worker = self.services.worker_of(mount).expect("it is served");
        signal_to(worker, Signal::SIGKILL);
        let next = || self.services.worker_of(mount).filter(|next| *next != worker);
        eventually("another worker", Duration::from_secs(10), next);
    }

    fn nothing_is_left(&self) {
        for place in ["state/volumes", "state/workers", "state/mounts", "targets"] {
            let left: Vec<_> = fs::read_dir(self.services.path(place)).expect("there").collect();
            assert!(left.is_empty(), "{place}: {left:?}");
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("readable");
        let ours = self.services.path("");
        let left: Vec<_> = mounts.lines().filter(|line| line.contains(&*ours.to_string_lossy())).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("readable");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("readable").file_name().into_string().expect("a text")).collect();
    names.sort();
    names
}

fn total(dir: &Path) -> u64 {
    let found = nix::sys::statvfs::statvfs(dir).expect("it answers");
    found.blocks() * found.fragment_size()
}

#[test]
fn pods_with_workers_of_their_own() {
    let mut volumes = Volumes::start("pod");
    let volume = volumes.create("pods", 1);
    let [one, two] = ["one", "two"].map(|pod| volumes.publish(&volume, pod));
    let mounts = volumes.services.mounts();
    assert_eq!(mounts, ["pods@one", "pods@two"]);
    fs::write(one.join("from-one"), "hello").expect("written");
    assert_eq!(fs::read(two.join("from-one")).expect("both see the volume"), b"hello");

    let other = volumes.services.worker_of("pods@two").expect("served");
    volumes.kill("pods@one");
    fs::write(one.join("after"), "again").expect("another worker goes on");
    assert_eq!(fs::read(two.join("after")).expect("both see the volume"), b"again");
    assert_eq!(volumes.services.worker_of("pods@two"), Some(other), "the other pod has not noticed");
    volumes.services.restart_node();
    assert_eq!(volumes.services.client.total_bytes(&volume.volume_id, &two).expect("published").unsigned_abs(), GIB);
    volumes.services.unpublish(&volume, &one);
    assert_eq!(fs::read(two.join("after")).expect("the other one stays"), b"again");
    volumes.services.unpublish(&volume, &two);
    volumes.nothing_is_left();
    volumes.services.delete(&volume.volume_id).expect("deleted");
}

#[test]
fn volumes_of_one_file_system_with_one_worker() {
    let mut volumes = Volumes::start("filesystem");
    let first = volumes.create("first", 1);
    let mut targets = vec![volumes.publish(&first, "a")];
    // While the worker runs: it learns of their quotas nonetheless.
    let (second, third) = (volumes.create("second", 2), volumes.create("third", 3));
    targets.extend([volumes.publish(&second, "a"), volumes.publish(&third, "b")]);
    let mounts = volumes.services.mounts();
    let [mount] = &mounts[..] else { panic!("one worker: {mounts:?}") };
    let all = [&first, &second, &third];
    for ((volume, target), gib) in all.into_iter().zip(&targets).zip(1..) {
        fs::write(target.join(&volume.volume_id), pattern(gib)).expect("written");
        assert_eq!(names(target), [&*volume.volume_id], "its own directory and nothing else");
        assert_eq!(total(target), gib * GIB, "its own quota");
        let told = volumes.services.client.total_bytes(&volume.volume_id, target).expect("published");
        assert_eq!(told.unsigned_abs(), gib * GIB);
    }
    limits_hold(&targets[0], &targets[1]);
    snapshot(&volumes, &second, &targets[1]);
    read_only(&volumes, &third);
    refused(&volumes, &first, &targets[0]);
    assert_eq!(volumes.services.mounts().len(), 1);

    volumes.kill(mount);
    for ((volume, target), gib) in all.into_iter().zip(&targets).zip(1..) {
        assert_eq!(fs::read(target.join(&volume.volume_id)).expect("another worker goes on"), pattern(gib));
        fs::write(target.join("after"), "again").expect("written");
        assert_eq!(total(target), gib * GIB);
    }
    volumes.services.restart_node();
    for (volume, target) in all.into_iter().zip(&targets) {
        assert!(volumes.services.worker_of(mount).is_some(), "until the last one");
        volumes.services.unpublish(volume, target);
    }
    volumes.nothing_is_left();
    for volume in all {
        volumes.services.delete(&volume.volume_id).expect("deleted");
    }
}

/// The name of a volume that was deleted leads to its successor, however long the kernel may remember names.
#[test]
fn a_directory_that_was_made_again() {
    let volumes = Volumes::start("filesystem");
    let remembering = |name: &str| {
        let mut request = volumes.request(name, 1);
        let options = request.parameters.get_mut("mountOptions").expect("every volume here has some");
        options.push_str(",dir-entry-cache=1h,entry-cache=1h,attr-cache=1h,negative-entry-cache=1h");
        volumes.services.client.create(request).expect("created")
    };
    let keeps_the_mount = remembering("stays");
    let other = volumes.publish(&keeps_the_mount, "a");
    for round in 0..3_u32 {
        let volume = remembering("again");
        let target = volumes.publish(&volume, "a");
        assert!(names(&target).is_empty(), "round {round}: what the one before held");
        fs::write(target.join("file"), round.to_string()).expect("the directory is there");
        volumes.services.unpublish(&volume, &target);
        volumes.services.delete(&volume.volume_id).expect("deleted");
        let gone = volumes.services.publication(&volume, &target);
        let status = volumes.services.client.publish(gone).expect_err("deleted");
        assert_eq!(status.code(), Code::NotFound, "{status}");
    }
    assert_eq!(volumes.services.mounts().len(), 1);
    volumes.services.unpublish(&keeps_the_mount, &other);
    volumes.services.delete(&keeps_the_mount.volume_id).expect("deleted");
    let gone = volumes.services.publication(&keeps_the_mount, &other);
    let status = volumes.services.client.publish(gone).expect_err("deleted");
    assert_eq!(status.code(), Code::NotFound, "{status}");
    volumes.nothing_is_left();
}

#[test]
fn many_volumes_cost_one_worker() {
    let volumes = Volumes::start("filesystem");
    let many = tools::number("STEAD_SHARED_VOLUMES", 60);
    let made: Vec<_> = (0..many).map(|number| volumes.create(&format!("small-{number}"), 1)).collect();
    let began = Instant::now();
    let targets: Vec<_> = made.iter().map(|volume| volumes.publish(volume, "a")).collect();
    let each = began.elapsed() / u32::try_from(many).expect("small");
    let mounts = volumes.services.mounts();
    let [mount] = &mounts[..] else { panic!("one worker: {mounts:?}") };
    let worker = volumes.services.worker_of(mount).expect("served");
    let status = fs::read_to_string(format!("/proc/{worker}/status")).expect("it runs");
    let memory = status.lines().find(|line| line.starts_with("VmRSS")).expect("known").to_owned();
    println!("figure: {many} volumes with one worker: {} ms for a publication, {memory}", each.as_millis());
    for (number, target) in targets.iter().enumerate() {
        fs::write(target.join("own"), number.to_string()).expect("written");
    }
    for ((number, target), volume) in targets.iter().enumerate().zip(&made) {
        assert_eq!(fs::read(target.join("own")).expect("there"), number.to_string().as_bytes());
        volumes.services.unpublish(volume, target);
    }
    volumes.nothing_is_left();
}

fn pattern(number: u64) -> Vec<u8> {
    stead_tests::pattern::bytes(number, 100_000)
}

/// What is too much for the smaller volume fits into the larger one.
fn limits_hold(smaller: &Path, larger: &Path) {
    let grow = |target: &Path| {
        let file = fs::File::create(target.join("large")).expect("new");
        let grown = file.set_len(GIB + GIB / 2).and_then(|()| file.write_all_at(b"x", GIB + GIB / 2 - 1));
        drop(file);
        fs::remove_file(target.join("large")).expect("there");
        grown.map_err(|error| error.raw_os_error())
    };
    assert_eq!(grow(smaller), Err(Some(nix::errno::Errno::EDQUOT as i32)));
    assert_eq!(grow(larger), Ok(()));
}

/// A snapshot has what nobody has flushed: the worker of all volumes is asked for that, too.
fn snapshot(volumes: &Volumes, volume: &Volume, target: &Path) {
    let file = fs::File::create(target.join("unflushed")).expect("new");
    file.write_all_at(b"acknowledged", 0).expect("written");
    let snapshot = volumes.services.client.snapshot("s", &volume.volume_id, &volumes.services.secrets).expect("taken");
    drop(file);
    fs::remove_file(target.join("unflushed")).expect("there");
    let source = Type::Snapshot(SnapshotSource { snapshot_id: snapshot.snapshot_id.clone() });
    let mut request = volumes.request("restored", 2);
    request.volume_content_source = Some(VolumeContentSource { r#type: Some(source) });
    let restored = volumes.services.client.create(request).expect("created");
    let at = volumes.publish(&restored, "c");
    assert_eq!(fs::read(at.join("unflushed")).expect("in the snapshot"), b"acknowledged");
    volumes.services.unpublish(&restored, &at);
    volumes.services.delete(&restored.volume_id).expect("deleted");
    volumes.services.client.delete_snapshot(&snapshot.snapshot_id, &volumes.services.secrets).expect("deleted");
}

/// One volume can be both: only the bind is read-only.
fn read_only(volumes: &Volumes, volume: &Volume) {
    let target = volumes.target("reader", volume);
    let mut request = volumes.services.publication(volume, &target);
    request.readonly = true;
    volumes.services.client.publish(request).expect("published");
    let refused = fs::write(target.join("new"), "x").expect_err("read-only");
    assert_eq!(refused.raw_os_error(), Some(nix::errno::Errno::EROFS as i32));
    assert_eq!(names(&target), [&*volume.volume_id]);
    volumes.services.unpublish(volume, &target);
}

/// A pod can put symbolic links where a path leads; a path can lead nowhere, or to a file.
fn refused(volumes: &Volumes, volume: &Volume, target: &Path) {
    symlink("../second", target.join("link")).expect("new");
    symlink("/", target.join("root")).expect("new");
    fs::create_dir(target.join("real")).expect("new");
    let below = |path: &str| {
        let at = volumes.services.path("targets").join("static");
        let mut request = volumes.services.publication(volume, &at);
        "static".clone_into(&mut request.volume_id);
        request.volume_context.insert("path".to_owned(), path.to_owned());
        let published = volumes.services.client.publish(request);
        if published.is_ok() {
            assert_eq!(
                fs::metadata(&at).expect("mounted").ino(),
                fs::metadata(target.join("real")).expect("there").ino()
            );
            volumes.services.client.unpublish("static", &at).expect("taken back");
        }
        assert!(!at.exists(), "nothing is left of {path}");
        published
    };
    for path in ["first/link", "first/link/real", "first/root", "first/root/etc", "first/first", "first/none", "none"] {
        let status = below(path).expect_err(path);
        assert_eq!(status.code(), Code::NotFound, "{path}: {status}");
        assert!(status.message().contains(path), "{status}");
    }
    below("first/real").expect("a directory");
    for name in ["link", "root"] {
        fs::remove_file(target.join(name)).expect("there");
    }
    fs::remove_dir(target.join("real")).expect("empty");
}
