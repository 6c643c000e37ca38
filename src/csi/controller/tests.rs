mod claims;

use std::sync::Arc;

use stead_base::SystemClock;
use tonic::Code;

use super::*;
use crate::capability::tests::mount_capability;
use crate::proto::volume_capability::access_mode::Mode;
use crate::proto::volume_capability::{AccessType, BlockVolume};
use crate::proto::volume_content_source::{SnapshotSource, VolumeSource};

pub(super) struct Place {
    pub(super) dir: tempfile::TempDir,
    pub(super) service: ControllerService,
}

impl Place {
    pub(super) fn new() -> Self {
        Self::configured(false)
    }

    /// With or without a directory of file systems, which is empty.
    pub(super) fn configured(configured: bool) -> Self {
        let dir = tempfile::tempdir().expect("a place");
        let file_systems = dir.path().join("file-systems");
        std::fs::create_dir(&file_systems).expect("new");
        let volumes = Volumes::new(Arc::new(SystemClock));
        Self { service: ControllerService::new(volumes, configured.then_some(file_systems), None), dir }
    }

    /// Puts the Secret where the controller finds it.
    pub(super) fn configure(&self, name: &str, secrets: &HashMap<String, String>) {
        let dir = self.dir.path().join("file-systems").join(name);
        std::fs::create_dir_all(&dir).expect("new");
        for (member, value) in secrets {
            std::fs::write(dir.join(member), value).expect("written");
        }
    }

    async fn page(&self, max_entries: i32, token: &str) -> Result<(Vec<String>, String), Status> {
        let request = proto::ListVolumesRequest { max_entries, starting_token: token.to_owned() };
        let response = self.service.list_volumes(Request::new(request)).await?.into_inner();
        let ids = response.entries.into_iter().map(|entry| entry.volume.expect("always there").volume_id);
        Ok((ids.collect(), response.next_token))
    }

    async fn snapshots(&self, mut request: proto::ListSnapshotsRequest, token: &str) -> (Vec<String>, String) {
        token.clone_into(&mut request.starting_token);
        let response = self.service.list_snapshots(Request::new(request)).await.expect("listed").into_inner();
        let ids = response.entries.into_iter().map(|entry| entry.snapshot.expect("always there").snapshot_id);
        (ids.collect(), response.next_token)
    }

    async fn room(&self, capability: proto::VolumeCapability) -> Result<i64, Status> {
        let request = proto::GetCapacityRequest { volume_capabilities: vec![capability], ..Default::default() };
        Ok(self.service.get_capacity(Request::new(request)).await?.into_inner().available_capacity)
    }

    pub(super) fn secrets(&self) -> HashMap<String, String> {
        let place = self.dir.path().display();
        map(&[
            ("name", "shared"),
            ("metaurl", &format!("sqlite3://{place}/meta.db")),
            ("storage", "file"),
            ("bucket", &format!("{place}/objects")),
        ])
    }

    pub(super) fn request(&self, name: &str, required_bytes: i64) -> proto::CreateVolumeRequest {
        proto::CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(proto::CapacityRange { required_bytes, limit_bytes: 0 }),
            volume_capabilities: vec![mount_capability(Mode::MultiNodeMultiWriter)],
            secrets: self.secrets(),
            ..Default::default()
        }
    }

    pub(super) async fn create(&self, request: proto::CreateVolumeRequest) -> Result<proto::Volume, Status> {
        let response = self.service.create_volume(Request::new(request)).await?;
        Ok(response.into_inner().volume.expect("always there"))
    }

    async fn modify(&self, id: &str, given: &[(&str, &str)]) -> Result<(), Status> {
        let request = proto::ControllerModifyVolumeRequest {
            volume_id: id.to_owned(),
            secrets: self.secrets(),
            mutable_parameters: map(given),
        };
        self.service.controller_modify_volume(Request::new(request)).await.map(|_| ())
    }

    fn restored(&self, name: &str, source: &proto::VolumeContentSource) -> proto::CreateVolumeRequest {
        proto::CreateVolumeRequest { volume_content_source: Some(source.clone()), ..self.request(name, 1 << 30) }
    }

    pub(super) async fn snapshot(
        &self,
        name: &str,
        volume: &str,
        with: &[(&str, &str)],
    ) -> Result<proto::Snapshot, Status> {
        let request = proto::CreateSnapshotRequest {
            source_volume_id: volume.to_owned(),
            name: name.to_owned(),
            secrets: self.secrets(),
            parameters: map(with),
        };
        let response = self.service.create_snapshot(Request::new(request)).await?;
        Ok(response.into_inner().snapshot.expect("always there"))
    }

    pub(super) async fn delete_snapshot(&self, id: &str) -> Result<(), Status> {
        let request = proto::DeleteSnapshotRequest { snapshot_id: id.to_owned(), secrets: self.secrets() };
        self.service.delete_snapshot(Request::new(request)).await.map(|_| ())
    }

    async fn delete(&self, id: &str) -> Result<(), Status> {
        let request = proto::DeleteVolumeRequest { volume_id: id.to_owned(), secrets: self.secrets() };
        self.service.delete_volume(Request::new(request)).await.map(|_| ())
    }

    async fn validate(
        &self,
        id: &str,
        capability: proto::VolumeCapability,
    ) -> Result<proto::ValidateVolumeCapabilitiesResponse, Status> {
        let request = proto::ValidateVolumeCapabilitiesRequest {
            volume_id: id.to_owned(),
            volume_capabilities: vec![capability],
            secrets: self.secrets(),
            ..Default::default()
        };
        Ok(self.service.validate_volume_capabilities(Request::new(request)).await?.into_inner())
    }
}

pub(super) fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn of_snapshot(id: &str) -> proto::VolumeContentSource {
    let r#type = Some(proto::volume_content_source::Type::Snapshot(SnapshotSource { snapshot_id: id.to_owned() }));
    proto::VolumeContentSource { r#type }
}

fn of_volume(id: &str) -> proto::VolumeContentSource {
    let r#type = Some(proto::volume_content_source::Type::Volume(VolumeSource { volume_id: id.to_owned() }));
    proto::VolumeContentSource { r#type }
}

fn block() -> proto::VolumeCapability {
    let access_type = Some(AccessType::Block(BlockVolume {}));
    proto::VolumeCapability { access_type, ..mount_capability(Mode::SingleNodeWriter) }
}

#[tokio::test]
async fn a_volume_names_its_claim() {
    let place = Place::configured(true);
    place.configure("fs", &place.secrets());
    let names = [("csi.storage.k8s.io/pvc/namespace", "team"), ("csi.storage.k8s.io/pvc/name", "data")];
    let parameters = map(&[names.as_slice(), &[("csi.storage.k8s.io/pv/name", "pvc-1")]].concat());
    let request = proto::CreateVolumeRequest { parameters, ..place.request("pvc-1", 1 << 20) };
    let volume = place.create(request).await.expect("created");
    assert_eq!(names.map(|(key, _)| volume.volume_context[key].as_str()), ["team", "data"]);
    assert_eq!(place.create(place.request("pvc-1", 1 << 20)).await.expect("a repeat may know less"), volume);
    let request = proto::ValidateVolumeCapabilitiesRequest {
        volume_id: "pvc-1".to_owned(),
        volume_context: volume.volume_context.clone(),
        volume_capabilities: vec![mount_capability(Mode::SingleNodeWriter)],
        secrets: place.secrets(),
        ..Default::default()
    };
    let answer = place.service.validate_volume_capabilities(Request::new(request)).await.expect("there").into_inner();
    assert!(answer.confirmed.is_some(), "{answer:?}");
    let nameless = place.create(place.request("pvc-2", 1 << 20)).await.expect("created");
    assert!(!nameless.volume_context.keys().any(|key| key.starts_with("csi.storage.k8s.io/")));
}

#[tokio::test]
async fn a_snapshot_lives_from_create_to_delete_and_becomes_a_volume() {
    let place = Place::new();
    place.create(place.request("pvc-1", 1 << 30)).await.expect("created");
    let snapshot = place.snapshot("snap-1", "pvc-1", &[]).await.expect("taken");
    assert_eq!((snapshot.snapshot_id.as_str(), snapshot.source_volume_id.as_str()), ("snap-1", "pvc-1"));
    assert!(snapshot.ready_to_use && snapshot.creation_time.is_some_and(|time| time.seconds > 0), "{snapshot:?}");
    assert_eq!(place.snapshot("snap-1", "pvc-1", &[]).await.expect("found"), snapshot);

    for (name, source) in [("pvc-2", of_snapshot("snap-1")), ("pvc-3", of_volume("pvc-1"))] {
        let volume = place.create(place.restored(name, &source)).await.expect("made of it");
        assert_eq!(volume.content_source, Some(source));
    }
    for (source, code) in [
        (of_snapshot("unknown"), Code::NotFound),
        (of_snapshot("../../etc"), Code::NotFound),
        (of_volume("unknown"), Code::NotFound),
        (of_volume("pvc-4"), Code::NotFound),
        (of_volume("a/../b"), Code::NotFound),
        (of_volume(""), Code::InvalidArgument),
    ] {
        let status = place.create(place.restored("pvc-4", &source)).await.expect_err("no such source");
        assert_eq!(status.code(), code, "{source:?}: {status}");
    }
    let status = place.create(place.restored("pvc-2", &of_volume("pvc-1"))).await.expect_err("another source");
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");

    place.delete_snapshot("snap-1").await.expect("deleted");
    place.delete_snapshot("snap-1").await.expect("a repeat is a success");
    place.delete_snapshot("../../etc").await.expect("we never gave out such an id");
    let status = place.create(place.restored("pvc-4", &of_snapshot("snap-1"))).await.expect_err("gone");
    assert_eq!(status.code(), Code::NotFound, "{status}");
}

#[tokio::test]
async fn wrong_requests_for_snapshots_name_what_is_wrong() {
    let place = Place::new();
    place.create(place.request("pvc-1", 1 << 30)).await.expect("created");
    place.create(place.request("pvc-2", 1 << 30)).await.expect("created");
    place.snapshot("taken", "pvc-2", &[]).await.expect("taken");
    let invalid = Code::InvalidArgument;
    for (name, volume, parameters, code, named) in [
        ("", "pvc-1", [].as_slice(), invalid, "name"),
        ("s", "", &[], invalid, "source_volume_id"),
        ("a/b", "pvc-1", &[], invalid, "contains '/'"),
        ("s", "unknown", &[], Code::NotFound, "volume unknown"),
        ("s", "../../etc", &[], Code::NotFound, "does not exist"),
        ("s", "fs@file@own", &[], invalid, "file system of its own"),
        ("taken", "pvc-1", &[], Code::AlreadyExists, "pvc-2"),
        ("s", "pvc-1", &[("speed", "high")], invalid, "\"speed\""),
    ] {
        let status = place.snapshot(name, volume, parameters).await.expect_err(named);
        assert!(status.code() == code && status.message().contains(named), "{named}: {status}");
    }
    let kubernetes = [("csi.storage.k8s.io/volumesnapshot/name", "s")];
    place.snapshot("s", "pvc-1", &kubernetes).await.expect("not ours to refuse");
    assert_eq!(place.delete_snapshot("").await.expect_err("no id").code(), invalid);
}

#[tokio::test]
async fn clones_of_each_other_do_not_wait_for_each_other() {
    let place = Place::new();
    place.create(place.request("other", 0)).await.expect("formats");
    let (one, two) = (place.restored("one", &of_volume("two")), place.restored("two", &of_volume("one")));
    let both = async { tokio::join!(place.create(one), place.create(two)) };
    let (one, two) = tokio::time::timeout(Duration::from_secs(20), both).await.expect("no deadlock");
    assert_eq!([one, two].map(|made| made.expect_err("neither is there").code()), [Code::NotFound; 2]);
}

#[tokio::test]
async fn a_volume_lives_from_create_to_delete() {
    let place = Place::new();
    let volume = place.create(place.request("pvc-1", 1 << 30)).await.expect("created");
    assert_eq!((volume.volume_id.as_str(), volume.capacity_bytes), ("pvc-1", 1 << 30));
    assert_eq!(place.create(place.request("pvc-1", 1 << 30)).await.expect("found"), volume);
    let differing = place.create(place.request("pvc-1", 2 << 30)).await.expect_err("another size");
    assert_eq!(differing.code(), Code::AlreadyExists, "{differing}");

    let confirmed = place.validate("pvc-1", mount_capability(Mode::SingleNodeSingleWriter)).await.expect("there");
    assert!(confirmed.confirmed.is_some());
    let refused = place.validate("pvc-1", block()).await.expect("there");
    assert!(refused.confirmed.is_none() && refused.message.contains("block"), "{refused:?}");

    let expand = proto::ControllerExpandVolumeRequest {
        volume_id: "pvc-1".to_owned(),
        capacity_range: Some(proto::CapacityRange { required_bytes: 3 << 30, limit_bytes: 0 }),
        secrets: place.secrets(),
        volume_capability: None,
    };
    let expanded = place.service.controller_expand_volume(Request::new(expand)).await.expect("grown").into_inner();
    assert_eq!((expanded.capacity_bytes, expanded.node_expansion_required), (3 << 30, false));

    place.delete("pvc-1").await.expect("deleted");
    place.delete("pvc-1").await.expect("a repeat is a success");
    let gone = place.validate("pvc-1", mount_capability(Mode::SingleNodeWriter)).await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
}

async fn capabilities(service: &ControllerService) -> Vec<RpcType> {
    let request = Request::new(proto::ControllerGetCapabilitiesRequest {});
    let answer = service.controller_get_capabilities(request).await.expect("always").into_inner().capabilities;
    let types = answer.into_iter().filter_map(|capability| capability.r#type);
    types.map(|Type::Rpc(rpc)| rpc.r#type()).collect()
}

#[tokio::test]
async fn lists_are_offered_when_file_systems_are_configured() {
    for configured in [false, true] {
        let offered = capabilities(&Place::configured(configured).service).await;
        assert!(offered.starts_with(&CAPABILITIES));
        assert_eq!(LISTING.iter().all(|listing| offered.contains(listing)), configured, "{offered:?}");
    }
}

#[tokio::test]
async fn volumes_are_listed_page_by_page() {
    let place = Place::configured(true);
    assert_eq!(place.page(0, "").await.expect("nothing"), (Vec::new(), String::new()));
    place.configure("b", &place.secrets());
    place.configure("c-is-the-same", &place.secrets());
    let other = HashMap::from_iter(place.secrets().into_iter().map(|(name, value)| match name.as_str() {
        "metaurl" => (name, value.replace("meta.db", "other.db")),
        "name" => (name, "other".to_owned()),
        _ => (name, value),
    }));
    place.configure("a", &other);
    assert_eq!(place.page(0, "").await.expect("nothing is formatted yet").0, Vec::<String>::new());
    for name in ["v3", "v1", "v2"] {
        place.create(place.request(name, 0)).await.expect("created");
    }
    place.create(proto::CreateVolumeRequest { secrets: other, ..place.request("z", 0) }).await.expect("created");
    let all = ["z", "v1", "v2", "v3"];
    assert_eq!(place.page(0, "").await.expect("all").0, all);
    assert_eq!(place.page(4, "").await.expect("just all"), (all.map(str::to_owned).to_vec(), String::new()));
    let (mut found, mut token) = (Vec::new(), String::new());
    for nth in 0..4 {
        let (page, next) = place.page(1, &token).await.expect("a page");
        assert_eq!((page.len(), next.is_empty()), (1, nth == 3));
        found.extend(page);
        token = next;
    }
    assert_eq!(found, all);
    let (_, token) = place.page(2, "").await.expect("a page");
    place.delete("v1").await.expect("deleted");
    assert_eq!(place.page(0, &token).await.expect("goes on after what is gone").0, ["v2", "v3"]);
    for token in ["nonsense", "after:", "after:a", "after:a/b/c", "after:a/.."] {
        assert_eq!(place.page(0, token).await.expect_err(token).code(), Code::Aborted);
    }
    assert_eq!(place.page(-1, "").await.expect_err("negative").code(), Code::InvalidArgument);
    place.configure("broken", &map(&[("name", "x")]));
    let status = place.page(0, "").await.expect_err("half a list would be a lie");
    assert!(status.code() == Code::FailedPrecondition && status.message().contains("\"broken\""), "{status}");
}

#[tokio::test]
async fn snapshots_are_listed_and_found() {
    let place = Place::configured(true);
    for volume in ["v", "w"] {
        place.create(place.request(volume, 0)).await.expect("created");
    }
    for (name, volume) in [("s1", "v"), ("s2", "w"), ("s3", "v")] {
        place.snapshot(name, volume, &[]).await.expect("taken");
    }
    let any = proto::ListSnapshotsRequest::default();
    let of = |volume: &str| proto::ListSnapshotsRequest { source_volume_id: volume.to_owned(), ..any.clone() };
    let called = |id: &str| proto::ListSnapshotsRequest { snapshot_id: id.to_owned(), ..any.clone() };
    assert_eq!(place.snapshots(any.clone(), "").await.0, Vec::<String>::new(), "nothing is configured");
    let with_secret = proto::ListSnapshotsRequest { secrets: place.secrets(), ..any.clone() };
    assert_eq!(place.snapshots(with_secret, "").await.0, ["s1", "s2", "s3"]);
    place.configure("fs", &place.secrets());
    assert_eq!(place.snapshots(any.clone(), "").await.0, ["s1", "s2", "s3"]);
    assert_eq!(place.snapshots(called("s2"), "").await.0, ["s2"]);
    for nothing in [called("unknown"), called("../x"), of("unknown")] {
        assert_eq!(place.snapshots(nothing, "").await, (Vec::new(), String::new()));
    }
    let one = proto::ListSnapshotsRequest { max_entries: 1, ..of("v") };
    let (first, token) = place.snapshots(one.clone(), "").await;
    assert_eq!((first, place.snapshots(one, &token).await), (vec!["s1".into()], (vec!["s3".into()], String::new())));

    let get = async |id: &str, secrets| {
        let request = proto::GetSnapshotRequest { snapshot_id: id.to_owned(), secrets };
        let found = place.service.get_snapshot(Request::new(request)).await?.into_inner();
        Ok::<_, Status>(found.snapshot.expect("always there"))
    };
    for secrets in [HashMap::new(), place.secrets()] {
        let found = get("s3", secrets.clone()).await.expect("there");
        assert_eq!((found.source_volume_id.as_str(), found.ready_to_use), ("v", true));
        for (id, code) in [("", Code::InvalidArgument), ("unknown", Code::NotFound), ("../x", Code::NotFound)] {
            assert_eq!(get(id, secrets.clone()).await.expect_err(id).code(), code);
        }
    }
}

#[tokio::test]
async fn the_room_is_that_of_the_roomiest_file_system() {
    let place = Place::configured(true);
    let any = || mount_capability(Mode::MultiNodeMultiWriter);
    assert_eq!(place.room(any()).await.expect("known"), 0, "nothing is configured");
    let limited = |name: &str, capacity: &str| {
        let mut secrets = place.secrets();
        secrets.extend(map(&[("name", name), ("capacity", capacity)]));
        secrets.insert("metaurl".into(), format!("sqlite3://{}/{name}.db", place.dir.path().display()));
        secrets
    };
    place.configure("one", &limited("one", "1G"));
    assert_eq!(place.room(any()).await.expect("known"), 1 << 30, "before it is formatted");
    let request = proto::CreateVolumeRequest { secrets: limited("one", "1G"), ..place.request("v", 0) };
    place.create(request).await.expect("created");
    let room = place.room(any()).await.expect("known");
    assert!((1 << 29..1 << 30).contains(&room), "{room}: something is in use");
    place.configure("two", &limited("two", "3G"));
    assert_eq!(place.room(any()).await.expect("known"), 3 << 30);
    assert_eq!(place.room(block()).await.expect("known"), 0, "there are no such volumes");
}

#[tokio::test]
async fn the_room_of_a_class_is_that_of_its_file_system() {
    let place = Place::configured(true);
    for (name, capacity) in [("one", "1G"), ("two", "3G")] {
        let mut secrets = place.secrets();
        secrets.extend(map(&[("name", name), ("capacity", capacity)]));
        secrets.insert("metaurl".into(), format!("sqlite3://{}/{name}.db", place.dir.path().display()));
        place.configure(name, &secrets);
    }
    let room = async |secret: &str| {
        let parameters = map(&[("csi.storage.k8s.io/provisioner-secret-name", secret)]);
        let request = proto::GetCapacityRequest { parameters, ..Default::default() };
        place.service.get_capacity(Request::new(request)).await.map(|answer| answer.into_inner().available_capacity)
    };
    assert_eq!(room("one").await.expect("known"), 1 << 30);
    assert_eq!(room("two").await.expect("known"), 3 << 30);
    assert_eq!(room("${pvc.name}").await.expect("known"), 3 << 30, "whichever it will be");
    let refused = room("three").await.expect_err("not configured");
    assert!(refused.message().contains("\"three\": is none of the Secrets"), "{refused}");
}

#[tokio::test]
async fn a_volume_is_modified_and_wrong_settings_are_named() {
    let place = Place::new();
    let with = |given: &[(&str, &str)]| proto::CreateVolumeRequest {
        mutable_parameters: map(given),
        ..place.request("pvc-1", 1 << 30)
    };
    let status = place.create(with(&[("nodes", "9")])).await.expect_err("unknown");
    assert!(status.code() == Code::InvalidArgument && status.message().contains("nodes"), "{status}");
    place.create(with(&[("inodes", "9")])).await.expect("created");
    place.modify("pvc-1", &[("inodes", "99")]).await.expect("changed");
    place.modify("pvc-1", &[("inodes", "99")]).await.expect("a repeat is a success");
    for (id, given, code, named) in [
        ("", ("inodes", "9"), Code::InvalidArgument, "volume_id"),
        ("unknown", ("inodes", "9"), Code::NotFound, "unknown"),
        ("pvc-1", ("inodes", "x"), Code::InvalidArgument, "inodes"),
        ("pvc-1", ("capacity", "9"), Code::InvalidArgument, "expand"),
        ("pvc-1", ("trashDays", "9"), Code::InvalidArgument, "trashDays"),
        ("pvc-1", ("speed", "9"), Code::InvalidArgument, "speed"),
    ] {
        let status = place.modify(id, &[given]).await.expect_err(named);
        assert!(status.code() == code && status.message().contains(named), "{named}: {status}");
    }
}

#[tokio::test]
async fn wrong_requests_name_what_is_wrong() {
    let place = Place::new();
    let base = place.request("v", 0);
    let with = |change: fn(&mut proto::CreateVolumeRequest)| {
        let mut request = base.clone();
        change(&mut request);
        request
    };
    let invalid = Code::InvalidArgument;
    for (request, code, named) in [
        (with(|r| r.name.clear()), invalid, "name"),
        (with(|r| "a/../b".clone_into(&mut r.name)), invalid, "contains '/'"),
        (with(|r| "..".clone_into(&mut r.name)), invalid, "relative path"),
        (with(|r| "a\0b".clone_into(&mut r.name)), invalid, "control character"),
        (with(|r| r.name = "x".repeat(300)), invalid, "longer than 128"),
        (with(|r| r.volume_capabilities.clear()), invalid, "volume_capabilities"),
        (with(|r| r.volume_capabilities = vec![block()]), invalid, "block"),
        (with(|r| r.parameters = map(&[("shard", "1")])), invalid, "\"shard\""),
        (with(|r| r.parameters = map(&[("mode", "rwx")])), invalid, "mode"),
        (with(|r| _ = r.secrets.remove("metaurl")), Code::FailedPrecondition, "metaurl"),
        (with(|r| _ = r.secrets.remove("bucket")), Code::FailedPrecondition, "bucket"),
        (with(|r| _ = r.secrets.insert("metaurl".into(), "mongo://x".into())), Code::FailedPrecondition, "mongo"),
        (with(|r| _ = r.secrets.insert("name".into(), "NO".into())), Code::FailedPrecondition, "name"),
        (
            with(|r| r.capacity_range = Some(proto::CapacityRange { required_bytes: 2, limit_bytes: 1 })),
            Code::OutOfRange,
            "limit",
        ),
        (
            with(|r| r.capacity_range = Some(proto::CapacityRange { required_bytes: -1, limit_bytes: 0 })),
            Code::OutOfRange,
            "negative",
        ),
        (
            with(|r| r.volume_content_source = Some(proto::VolumeContentSource::default())),
            invalid,
            "volume_content_source",
        ),
    ] {
        let status = place.create(request).await.expect_err(named);
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(named), "{named}: {status}");
    }
    let status = place.delete("").await.expect_err("no id");
    assert_eq!(status.code(), invalid);
    place.delete("../../etc").await.expect("we never gave out such an id");
    let unknown = place.validate("unknown", mount_capability(Mode::SingleNodeWriter)).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);
}
