use tonic::Code;

use super::*;
use crate::controller::tests::{Place, map};

impl Place {
    async fn group(
        &self,
        name: &str,
        volumes: &[&str],
        with: &[(&str, &str)],
    ) -> Result<proto::VolumeGroupSnapshot, Status> {
        let request = proto::CreateVolumeGroupSnapshotRequest {
            name: name.to_owned(),
            source_volume_ids: volumes.iter().map(|id| (*id).to_owned()).collect(),
            secrets: self.secrets(),
            parameters: map(with),
        };
        let answer = self.service.create_volume_group_snapshot(Request::new(request)).await?;
        Ok(answer.into_inner().group_snapshot.expect("always there"))
    }

    async fn get_group(&self, id: &str, snapshots: &[&str]) -> Result<proto::VolumeGroupSnapshot, Status> {
        let request = proto::GetVolumeGroupSnapshotRequest {
            group_snapshot_id: id.to_owned(),
            snapshot_ids: snapshots.iter().map(|id| (*id).to_owned()).collect(),
            secrets: self.secrets(),
        };
        let answer = self.service.get_volume_group_snapshot(Request::new(request)).await?;
        Ok(answer.into_inner().group_snapshot.expect("always there"))
    }

    async fn delete_group(&self, id: &str, snapshots: &[&str]) -> Result<(), Status> {
        let request = proto::DeleteVolumeGroupSnapshotRequest {
            group_snapshot_id: id.to_owned(),
            snapshot_ids: snapshots.iter().map(|id| (*id).to_owned()).collect(),
            secrets: self.secrets(),
        };
        self.service.delete_volume_group_snapshot(Request::new(request)).await.map(|_| ())
    }

    async fn with_volumes(names: &[&str]) -> Self {
        let place = Self::configured(true);
        for name in names {
            place.create(place.request(name, 1 << 20)).await.expect("created");
        }
        place
    }
}

#[tokio::test]
async fn a_group_lives_from_create_to_delete_and_is_listed() {
    let place = Place::with_volumes(&["v", "w"]).await;
    let group = place.group("g", &["w", "v", "w"], &[]).await.expect("taken");
    assert!(group.ready_to_use && group.creation_time.is_some());
    assert_eq!(group.group_snapshot_id, "g");
    let members: Vec<_> = group.snapshots.iter().map(|one| one.snapshot_id.as_str()).collect();
    assert_eq!(members, ["g@0", "g@1"]);
    assert_eq!(place.group("g", &["v", "w"], &[]).await.expect("found"), group);
    assert_eq!(place.get_group("g", &members).await.expect("found"), group);

    place.configure("fs", &place.secrets());
    let alone = place.snapshot("alone", "v", &[]).await.expect("taken");
    assert_eq!(alone.group_snapshot_id, "");
    let all = place.service.clone().snapshots_listed(proto::ListSnapshotsRequest::default()).await.expect("listed");
    let groups = all.entries.into_iter().map(|entry| entry.snapshot.expect("always there").group_snapshot_id);
    assert_eq!(groups.collect::<Vec<_>>(), ["", "g", "g"]);
    let one = proto::GetSnapshotRequest { snapshot_id: "g@1".to_owned(), ..Default::default() };
    let one = place.service.clone().snapshot_found(one).await.expect("there").snapshot.expect("always there");
    assert_eq!((one.group_snapshot_id.as_str(), one.source_volume_id.as_str()), ("g", "w"));

    let status = place.delete_snapshot("g@0").await.expect_err("only with its group");
    assert!(status.code() == Code::InvalidArgument && status.message().contains("group snapshot g"), "{status}");
    for _repeat in 0..2 {
        place.delete_group("g", &members).await.expect("deleted");
    }
    place.delete_group("../../etc", &[]).await.expect("we never gave out such an id");
    assert_eq!(place.get_group("g", &[]).await.expect_err("gone").code(), Code::NotFound);
    place.delete_snapshot("g@0").await.expect("gone with its group");
}

#[tokio::test]
async fn wrong_requests_for_groups_name_what_is_wrong() {
    let place = Place::with_volumes(&["v", "w"]).await;
    place.group("taken", &["v"], &[]).await.expect("taken");
    let invalid = Code::InvalidArgument;
    for (name, volumes, parameters, code, named) in [
        ("", ["v"].as_slice(), [].as_slice(), invalid, "name"),
        ("g", &[], &[], invalid, "source_volume_ids"),
        ("a/b", &["v"], &[], invalid, "contains '/'"),
        ("g", &["v", "unknown"], &[], Code::NotFound, "volume unknown"),
        ("g", &["v", "../x"], &[], Code::NotFound, "does not exist"),
        ("g", &["v", "fs@file@own"], &[], Code::FailedPrecondition, "fs@file@own"),
        ("taken", &["v", "w"], &[], Code::AlreadyExists, "source volumes"),
        ("g", &["v"], &[("speed", "high")], invalid, "\"speed\""),
    ] {
        let status = place.group(name, volumes, parameters).await.expect_err(named);
        assert!(status.code() == code && status.message().contains(named), "{named}: {status}");
    }
    let kubernetes = [("csi.storage.k8s.io/volumegroupsnapshot/name", "g")];
    place.group("g", &["v"], &kubernetes).await.expect("not ours to refuse");
    for (id, snapshots, code) in [
        ("", [].as_slice(), invalid),
        ("g", &["g@1"], invalid),
        ("g", &["g@0", "g@1"], invalid),
        ("g", &["../x"], invalid),
        ("unknown", &[], Code::NotFound),
        ("../x", &[], Code::NotFound),
    ] {
        assert_eq!(place.get_group(id, snapshots).await.expect_err("wrong").code(), code, "{id}");
        let deleted = place.delete_group(id, snapshots).await;
        let expected = if code == invalid { Err(invalid) } else { Ok(()) };
        assert_eq!(deleted.map_err(|status| status.code()), expected, "{id}");
    }
}

#[tokio::test]
async fn the_one_capability_is_offered() {
    let request = Request::new(proto::GroupControllerGetCapabilitiesRequest {});
    let answer = Place::new().service.group_controller_get_capabilities(request).await.expect("always").into_inner();
    let [GroupControllerServiceCapability { r#type: Some(Type::Rpc(rpc)) }] = answer.capabilities.as_slice() else {
        panic!("one capability")
    };
    assert_eq!(rpc.r#type(), RpcType::CreateDeleteGetVolumeGroupSnapshot);
}
