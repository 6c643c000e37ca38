//! Against SQLite and a directory of objects: what a real controller does, without servers.

use std::path::PathBuf;

use stead_base::{Ino, SystemClock};
use stead_meta::ops::{Caller, NewNode};

use super::*;
use crate::error::Kind;
use crate::record::found;

mod compare;
mod groups;
mod removals;
mod snapshots;

struct Place {
    dir: tempfile::TempDir,
    volumes: Volumes,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a place");
        Self { dir, volumes: Volumes::new(Arc::new(SystemClock)) }
    }

    fn secrets(&self) -> VolumeSecrets {
        self.secrets_with(&[])
    }

    fn secrets_with(&self, more: &[(&str, String)]) -> VolumeSecrets {
        let meta = format!("sqlite3://{}", self.dir.path().join("meta.db").display());
        let bucket = self.dir.path().join("objects").display().to_string();
        let base = [("name", "shared"), ("metaurl", &meta), ("storage", "file"), ("bucket", &bucket)];
        let mut members: HashMap<String, String> =
            base.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        members.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        VolumeSecrets::parse(&members).expect("right")
    }

    fn request(&self, name: &str, required: i64, parameters: &[(&str, &str)]) -> VolumeRequest {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        VolumeRequest {
            name: name.to_owned(),
            capacity: CapacityRange::new(required, 0).expect("possible"),
            params: VolumeParams::parse(&parameters, None).expect("right"),
            source: None,
            mutable: MutableParams::default(),
            secrets: self.secrets(),
        }
    }

    async fn file_system(&self, id: &str) -> FileSystem {
        let id = VolumeId::parse(id).expect("right");
        self.volumes.existing(&id, &self.secrets()).await.expect("reachable").expect("there")
    }

    async fn delete(&self, id: &VolumeId) {
        self.volumes.delete(id, &self.secrets()).await.expect("deleted");
    }

    fn objects(&self, name: &str) -> PathBuf {
        self.dir.path().join("objects").join(name)
    }
}

async fn names(file_system: &FileSystem, path: &str) -> Vec<String> {
    let (dir, _) = file_system.meta.resolve_path(path).await.expect("there");
    let page = file_system.meta.list(dir, false, stead_meta::store::Cursor::default(), 1000).await.expect("readable");
    let mut names: Vec<String> = page.items.iter().map(|listed| listed.name.to_string()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_directory_volume_is_complete_when_create_answers() {
    let place = Place::new();
    let request = place.request("pvc-1", 1 << 30, &[("mode", "0750"), ("gid", "1000"), ("inodes", "50")]);
    let volume = place.volumes.create(&request).await.expect("created");
    assert_eq!((volume.id.as_str(), volume.capacity), ("pvc-1", 1 << 30));
    assert_eq!(volume.context["path"], "pvc-1");
    let file_system = place.file_system("pvc-1").await;
    let (directory, attr) = file_system.meta.resolve_path("/pvc-1").await.expect("there");
    assert_eq!((attr.mode, attr.uid, attr.gid), (0o750, 0, 1000));
    let quota = file_system.meta.get_quota(directory).await.expect("readable").expect("set");
    assert_eq!((quota.max_space, quota.max_inodes), (1 << 30, 50));
    let uuid = std::fs::read_to_string(place.objects("shared").join("juicefs_uuid")).expect("marked");
    assert_eq!(uuid, file_system.meta.format().uuid);
}

#[tokio::test]
async fn a_repeat_finds_the_volume_and_a_differing_one_is_refused() {
    let place = Place::new();
    let first = place.volumes.create(&place.request("v", 1000, &[])).await.expect("created");
    assert_eq!(place.volumes.create(&place.request("v", 1000, &[])).await.expect("found"), first);
    assert_eq!(place.volumes.create(&place.request("v", 0, &[])).await.expect("any size will do"), first);
    for (request, what) in [
        (place.request("v", 2000, &[]), "capacity"),
        (place.request("v", 1000, &[("mode", "0700")]), "mode"),
        (place.request("v", 1000, &[("pathPattern", "other")]), "path"),
    ] {
        let error = place.volumes.create(&request).await.expect_err(what);
        assert_eq!(error.kind(), Kind::Exists, "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[tokio::test]
async fn two_controllers_at_once_make_one_volume() {
    let place = Place::new();
    let other = Volumes::new(Arc::new(SystemClock));
    let request = place.request("v", 4096, &[]);
    let (one, two) = tokio::join!(place.volumes.create(&request), other.create(&request));
    assert_eq!(one.expect("created"), two.expect("found"));
}

#[tokio::test]
async fn a_crash_between_any_two_steps_is_finished_by_a_repeat() {
    let place = Place::new();
    place.volumes.create(&place.request("first", 0, &[])).await.expect("formats");
    let file_system = place.file_system("v").await;
    let records = Records::of(&file_system.meta);
    let request = place.request("v", 4096, &[]);
    let id = VolumeId::parse("v").expect("right");
    // The file without its record.
    let (dir, _) = file_system.meta.resolve_path("/.stead/volumes").await.expect("made by the first");
    file_system.meta.mknod(&Caller::root(), dir, b"v", NewNode::file(0o600, 0)).await.expect("new");
    place.volumes.create(&request).await.expect("finished");
    // The record without directory and quota.
    let mut record = records.find(&id).await.expect("readable").expect("there");
    assert_eq!(record.state, State::Ready);
    record.state = State::Creating;
    records.replace(&id, &record).await.expect("there");
    file_system.meta.rmdir(&Caller::root(), Ino::ROOT, b"v").await.expect("empty");
    place.volumes.create(&request).await.expect("finished");
    let (directory, _) = file_system.meta.resolve_path("/v").await.expect("there again");
    assert_eq!(file_system.meta.get_quota(directory).await.expect("readable").expect("set").max_space, 4096);
    // A deletion that stopped after it was announced, and one that stopped after the tree was put aside.
    record.state = State::Deleting;
    records.replace(&id, &record).await.expect("there");
    let error = place.volumes.create(&request).await.expect_err("half gone");
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    let deleting = file_system.meta.make_dirs("/.stead/deleting", 0o700, 0, 0).await.expect("made");
    file_system.meta.rename(&Caller::root(), Ino::ROOT, b"v", deleting, b"v", 0).await.expect("moved");
    place.delete(&id).await;
    assert_eq!(names(&file_system, "/.stead/volumes").await, ["first"]);
    place.volumes.create(&request).await.expect("as new");
}

#[tokio::test]
async fn a_deletion_removes_tree_quota_record_and_blocks() {
    let place = Place::new();
    let first = place.volumes.create(&place.request("first", 0, &[])).await.expect("formats").id;
    place.delete(&first).await;
    let used = place.file_system("v").await.meta.statfs(Ino::ROOT).await.expect("readable").iused;
    let volume = place.volumes.create(&place.request("v", 1 << 20, &[])).await.expect("created");
    let file_system = place.file_system("v").await;
    let meta = &file_system.meta;
    let (directory, _) = meta.resolve_path("/v").await.expect("there");
    let root = Caller::root();
    let (below, _) = meta.mkdir(&root, directory, b"d", 0o755, 0).await.expect("new");
    let (file, _) = meta.create(&root, below, b"f", 0o644, 0, true).await.expect("new");
    let id = meta.new_slice().await.expect("allocated");
    let key = format!("chunks/{}/{}/{id}_0_5", id.0 / 1_000_000, id.0 / 1000);
    file_system.objects.put(&key, bytes::Bytes::from_static(b"hello")).await.expect("written");
    let slice = stead_meta::records::Slice { pos: 0, id, size: 5, off: 0, len: 5 };
    meta.write_slice(file, 0, slice, stead_base::Timestamp::from_secs(1)).await.expect("committed");
    meta.close(file).await.expect("open");
    place.delete(&volume.id).await;
    assert!(found(meta.resolve_path("/v").await).expect("readable").is_none());
    assert!(meta.get_quota(directory).await.expect("readable").is_none());
    assert!(names(&file_system, "/.stead/volumes").await.is_empty());
    assert!(matches!(file_system.objects.head(&key).await, Err(stead_object::Error::NotFound { .. })));
    assert_eq!(meta.statfs(Ino::ROOT).await.expect("readable").iused, used, "nothing went to the trash");
    place.delete(&volume.id).await;
    let error = place.volumes.find(&volume.id, &place.secrets()).await.expect_err("gone");
    assert_eq!(error.kind(), Kind::NotFound);
}

#[tokio::test]
async fn what_never_existed_is_deleted_already() {
    let place = Place::new();
    for id in ["nothing", "fs@file@nothing"] {
        place.delete(&VolumeId::parse(id).expect("right")).await;
    }
    assert_eq!(std::fs::read_dir(place.dir.path()).expect("there").count(), 0, "nothing was created either");
}

#[tokio::test]
async fn an_expansion_raises_the_quota_and_never_shrinks() {
    let place = Place::new();
    let volume = place.volumes.create(&place.request("v", 1000, &[])).await.expect("created");
    let range = |bytes| CapacityRange::new(bytes, 0).expect("possible");
    let expand = async |bytes| place.volumes.expand(&volume.id, &place.secrets(), range(bytes)).await.expect("grown");
    assert_eq!(expand(5000).await, 5000);
    assert_eq!(expand(2000).await, 5000);
    let file_system = place.file_system("v").await;
    let (directory, _) = file_system.meta.resolve_path("/v").await.expect("there");
    assert_eq!(file_system.meta.get_quota(directory).await.expect("readable").expect("set").max_space, 5000);
    assert_eq!(place.volumes.find(&volume.id, &place.secrets()).await.expect("there").capacity, 5000);
    assert_eq!(place.volumes.create(&place.request("v", 1000, &[])).await.expect("a late repeat").capacity, 5000);
    let unknown = VolumeId::parse("unknown").expect("right");
    let error = place.volumes.expand(&unknown, &place.secrets(), range(1)).await.expect_err("unknown");
    assert_eq!(error.kind(), Kind::NotFound);
}

#[tokio::test]
async fn the_inodes_of_a_directory_volume_can_be_changed() {
    let place = Place::new();
    let inodes = |limit| MutableParams { inodes: Some(limit), ..MutableParams::default() };
    let begin = VolumeRequest { mutable: inodes(60), ..place.request("v", 1000, &[("inodes", "50")]) };
    let volume = place.volumes.create(&begin).await.expect("created");
    let file_system = place.file_system("v").await;
    let (directory, _) = file_system.meta.resolve_path("/v").await.expect("there");
    let limits = async || {
        let quota = file_system.meta.get_quota(directory).await.expect("readable").expect("set");
        (quota.max_space, quota.max_inodes)
    };
    assert_eq!(limits().await, (1000, 60), "what can be changed wins");
    for limit in [70, 0, 80] {
        place.volumes.modify(&volume.id, &place.secrets(), inodes(limit)).await.expect("changed");
        assert_eq!(limits().await, (1000, limit.cast_signed()));
    }
    place.volumes.modify(&volume.id, &place.secrets(), MutableParams::default()).await.expect("nothing to do");
    let range = CapacityRange::new(5000, 0).expect("possible");
    place.volumes.expand(&volume.id, &place.secrets(), range).await.expect("grown");
    assert_eq!(limits().await, (5000, 80), "an expansion changes nothing else");
    place.volumes.create(&place.request("v", 5000, &[("inodes", "50")])).await.expect("a late repeat");
    assert_eq!(limits().await, (5000, 80));

    let trash = MutableParams { trash_days: Some(3), ..MutableParams::default() };
    let error = place.volumes.modify(&volume.id, &place.secrets(), trash).await.expect_err("of a file system");
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("trashDays"), "{error}");
    let request = VolumeRequest { mutable: trash, ..place.request("w", 0, &[]) };
    assert_eq!(place.volumes.create(&request).await.expect_err("likewise").kind(), Kind::Invalid);
    let unknown = VolumeId::parse("unknown").expect("right");
    let error = place.volumes.modify(&unknown, &place.secrets(), inodes(1)).await.expect_err("unknown");
    assert_eq!(error.kind(), Kind::NotFound);
}

#[tokio::test]
async fn the_settings_of_a_file_system_of_its_own_can_be_changed() {
    let place = Place::new();
    let begin = MutableParams { trash_days: Some(3), ..MutableParams::default() };
    let request = VolumeRequest { mutable: begin, ..place.request("own", 1 << 30, &[("provisioning", "filesystem")]) };
    let id = place.volumes.create(&request).await.expect("created").id;
    let file_system = place.file_system("fs@file@own").await;
    assert_eq!(file_system.meta.format().trash_days, 3);
    let change = MutableParams {
        inodes: Some(9),
        upload_limit: Some(100),
        download_limit: Some(200),
        ..MutableParams::default()
    };
    place.volumes.modify(&id, &place.secrets(), change).await.expect("changed");
    let range = CapacityRange::new(2 << 30, 0).expect("possible");
    place.volumes.expand(&id, &place.secrets(), range).await.expect("grown");
    let format = file_system.meta.reload().await.expect("there");
    assert_eq!((format.trash_days, format.inodes, format.capacity), (3, 9, 2 << 30));
    assert_eq!((format.upload_limit, format.download_limit), (100, 200));
    place.volumes.create(&request).await.expect("a late repeat");
    assert_eq!(*file_system.meta.reload().await.expect("there"), *format, "changes nothing");
}

#[tokio::test]
async fn a_shared_directory_goes_with_its_last_volume() {
    let place = Place::new();
    let shared = [("pathPattern", "team/data")];
    let one = place.volumes.create(&place.request("one", 1000, &shared)).await.expect("created");
    let two = place.volumes.create(&place.request("two", 500, &shared)).await.expect("shares");
    let inside = place.request("three", 0, &[("pathPattern", "team/data/below")]);
    let error = place.volumes.create(&inside).await.expect_err("would go with the others");
    assert_eq!(error.kind(), Kind::Precondition, "{error}");
    let file_system = place.file_system("one").await;
    place.delete(&one.id).await;
    assert_eq!(names(&file_system, "/team").await, ["data"]);
    place.delete(&two.id).await;
    assert!(names(&file_system, "/team").await.is_empty());
}

#[tokio::test]
async fn a_volume_can_have_a_file_system_of_its_own() {
    let place = Place::new();
    let parameters = [("provisioning", "filesystem"), ("mode", "0700"), ("uid", "7"), ("inodes", "99")];
    let request = place.request("own", 1 << 30, &parameters);
    let volume = place.volumes.create(&request).await.expect("created");
    assert_eq!(volume.id.as_str(), "fs@file@own");
    assert_eq!(place.volumes.create(&request).await.expect("found"), volume);
    let file_system = place.file_system("fs@file@own").await;
    let format = file_system.meta.format();
    assert_eq!((format.name.as_str(), format.capacity, format.inodes), ("own", 1 << 30, 99));
    let attr = file_system.meta.getattr(Ino::ROOT).await.expect("there");
    assert_eq!((attr.mode, attr.uid), (0o700, 7));
    assert!(names(&file_system, "/").await.is_empty(), "a workload finds an empty directory");
    let range = CapacityRange::new(2 << 30, 0).expect("possible");
    assert_eq!(place.volumes.expand(&volume.id, &place.secrets(), range).await.expect("grown"), 2 << 30);
    assert_eq!(file_system.meta.reload().await.expect("there").capacity, 2 << 30);
    drop(file_system);
    place.delete(&volume.id).await;
    assert!(!place.dir.path().join("own.db").exists());
    assert!(!place.objects("own").join("juicefs_uuid").exists());
    place.delete(&volume.id).await;
}

#[tokio::test]
async fn a_prefix_that_holds_another_file_system_is_refused() {
    let place = Place::new();
    std::fs::create_dir_all(place.objects("shared")).expect("new");
    std::fs::write(place.objects("shared").join("juicefs_uuid"), "somebody").expect("new");
    let error = place.volumes.create(&place.request("v", 0, &[])).await.expect_err("not ours");
    assert_eq!(error.kind(), Kind::Precondition, "{error}");
    assert!(error.to_string().contains("juicefs_uuid"), "{error}");
    let id = VolumeId::parse("v").expect("right");
    assert!(place.volumes.existing(&id, &place.secrets()).await.expect("reachable").is_none(), "nothing was formatted");
}

#[tokio::test]
async fn wrong_places_fail_with_a_reason() {
    let place = Place::new();
    let mut request = place.request("v", 0, &[]);
    request.secrets = place.secrets_with(&[("metaurl", "redis://127.0.0.1:1/0".to_owned())]);
    let error = place.volumes.create(&request).await.expect_err("nobody listens");
    assert!(matches!(error.kind(), Kind::Unavailable | Kind::Deadline), "{error}");
    request.secrets = place.secrets_with(&[("storage", "nosuch".to_owned())]);
    let error = place.volumes.create(&request).await.expect_err("no such storage");
    assert!(error.to_string().contains("nosuch"), "{error}");
    place.volumes.create(&place.request("v", 0, &[])).await.expect("formats");
    request.secrets = place.secrets_with(&[("name", "other".to_owned())]);
    let error = place.volumes.create(&request).await.expect_err("another file system");
    assert_eq!(error.kind(), Kind::Precondition, "{error}");
}

/// A Redis on a free port of this machine, without persistence.
struct Redis {
    process: tokio::process::Child,
    port: u16,
}

impl Redis {
    async fn start() -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let process = tokio::process::Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()])
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("these tests need redis-server in PATH");
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        Self { process, port }
    }
}

#[tokio::test]
async fn file_systems_of_their_own_take_free_databases_of_the_range() {
    let (place, mut redis) = (Place::new(), Redis::start().await);
    let secrets = place.secrets_with(&[("metaurl", format!("redis://127.0.0.1:{}/0", redis.port))]);
    let request = |name: &str| VolumeRequest {
        secrets: secrets.clone(),
        ..place.request(name, 4096, &[("provisioning", "filesystem"), ("databases", "3-4")])
    };
    let (one, two) = (request("one"), request("two"));
    let (one, two) = tokio::join!(place.volumes.create(&one), place.volumes.create(&two));
    let mut ids = [one.expect("room").id, two.expect("room").id];
    ids.sort();
    let numbers: Vec<&str> = ids.iter().map(|id| id.as_str().split('@').nth(1).expect("a number")).collect();
    assert_eq!(numbers, ["3", "4"], "{ids:?}");
    let again = place.volumes.create(&request("one")).await.expect("found").id;
    assert!(ids.contains(&again));
    let error = place.volumes.create(&request("three")).await.expect_err("no room");
    assert_eq!(error.kind(), Kind::Exhausted, "{error}");
    place.volumes.delete(&ids[0], &secrets).await.expect("deleted");
    let third = place.volumes.create(&request("three")).await.expect("room again").id;
    assert!(third.as_str().starts_with("fs@3@"), "{third}");
    place.volumes.delete(&ids[0], &secrets).await.expect("gone already");
    place.volumes.find(&third, &secrets).await.expect("the new one is not touched");
    redis.process.kill().await.expect("ours");
}
