use std::sync::Arc;

use stead_base::SystemClock;
use tonic::Code;

use super::*;
use crate::capability::tests::mount_capability;
use crate::proto::volume_capability::access_mode::Mode;
use crate::proto::volume_capability::{AccessType, BlockVolume};
use crate::proto::volume_content_source::{SnapshotSource, VolumeSource};

struct Place {
    dir: tempfile::TempDir,
    service: ControllerService,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a place");
        Self { dir, service: ControllerService::new(Volumes::new(Arc::new(SystemClock))) }
    }

    fn secrets(&self) -> HashMap<String, String> {
        let place = self.dir.path().display();
        map(&[
            ("name", "shared"),
            ("metaurl", &format!("sqlite3://{place}/meta.db")),
            ("storage", "file"),
            ("bucket", &format!("{place}/objects")),
        ])
    }

    fn request(&self, name: &str, required_bytes: i64) -> proto::CreateVolumeRequest {
        proto::CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(proto::CapacityRange { required_bytes, limit_bytes: 0 }),
            volume_capabilities: vec![mount_capability(Mode::MultiNodeMultiWriter)],
            secrets: self.secrets(),
            ..Default::default()
        }
    }

    async fn create(&self, request: proto::CreateVolumeRequest) -> Result<proto::Volume, Status> {
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

    async fn snapshot(&self, name: &str, volume: &str, with: &[(&str, &str)]) -> Result<proto::Snapshot, Status> {
        let request = proto::CreateSnapshotRequest {
            source_volume_id: volume.to_owned(),
            name: name.to_owned(),
            secrets: self.secrets(),
            parameters: map(with),
        };
        let response = self.service.create_snapshot(Request::new(request)).await?;
        Ok(response.into_inner().snapshot.expect("always there"))
    }

    async fn delete_snapshot(&self, id: &str) -> Result<(), Status> {
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

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
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
        (with(|r| _ = r.secrets.remove("metaurl")), invalid, "metaurl"),
        (with(|r| _ = r.secrets.remove("bucket")), invalid, "bucket"),
        (with(|r| _ = r.secrets.insert("metaurl".into(), "mongo://x".into())), invalid, "mongo"),
        (with(|r| _ = r.secrets.insert("name".into(), "NO".into())), invalid, "name"),
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
