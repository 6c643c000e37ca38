//! Snapshots: requests into `stead_volume`'s types, its answers into responses.

use prost_types::Timestamp;
use stead_volume::{Snapshot, SnapshotId, SnapshotRequest, Source, VolumeId, VolumeSecrets, check_snapshot_parameters};

use super::{ControllerService, required, signed};
use crate::error::{Error, Result};
use crate::proto;
use crate::proto::volume_content_source::{SnapshotSource, Type, VolumeSource};

impl ControllerService {
    pub(super) async fn take_snapshot(
        self,
        request: proto::CreateSnapshotRequest,
    ) -> Result<proto::CreateSnapshotResponse> {
        required("name", &request.name)?;
        required("source_volume_id", &request.source_volume_id)?;
        check_snapshot_parameters(&request.parameters)?;
        let secrets = VolumeSecrets::parse(&request.secrets)?;
        let volume = VolumeId::parse(&request.source_volume_id)
            .map_err(|_| never_given_out("volume", &request.source_volume_id))?;
        let wanted = SnapshotRequest { name: request.name, volume, secrets };
        let _turns = self.turns([key(&wanted.name)], [wanted.volume.to_string()]).await;
        let snapshot = self.volumes.create_snapshot(&wanted).await?;
        Ok(proto::CreateSnapshotResponse { snapshot: Some(describe(snapshot)) })
    }

    pub(super) async fn remove_snapshot(
        self,
        request: proto::DeleteSnapshotRequest,
    ) -> Result<proto::DeleteSnapshotResponse> {
        required("snapshot_id", &request.snapshot_id)?;
        // An id that we could never have given out names nothing.
        let Ok(id) = SnapshotId::parse(&request.snapshot_id) else { return Ok(proto::DeleteSnapshotResponse {}) };
        let secrets = VolumeSecrets::parse(&request.secrets)?;
        let _turn = self.locks.lock(&key(id.as_str())).await;
        self.volumes.delete_snapshot(&id, &secrets).await?;
        Ok(proto::DeleteSnapshotResponse {})
    }
}

/// The lock of a snapshot: apart from that of a volume with the same name. No id contains a slash.
pub(super) fn key(snapshot: &str) -> String {
    format!("snapshot/{snapshot}")
}

pub(super) fn source_key(source: &Source) -> String {
    match source {
        Source::Snapshot(id) => key(id.as_str()),
        Source::Volume(id) => id.to_string(),
    }
}

pub(super) fn never_given_out(thing: &'static str, id: &str) -> Error {
    stead_volume::Error::NotFound { thing, id: id.to_owned() }.into()
}

pub(super) fn describe(snapshot: Snapshot) -> proto::Snapshot {
    proto::Snapshot {
        size_bytes: signed(snapshot.size),
        snapshot_id: snapshot.id.to_string(),
        source_volume_id: snapshot.volume.to_string(),
        creation_time: Some(time(snapshot.created)),
        ready_to_use: snapshot.ready,
        group_snapshot_id: snapshot.group.map(String::from).unwrap_or_default(),
    }
}

pub(super) fn time(time: stead_base::Timestamp) -> Timestamp {
    Timestamp { seconds: time.secs, nanos: time.nanos.cast_signed() }
}

pub(super) fn parse_source(source: proto::VolumeContentSource) -> Result<Source> {
    match source.r#type.ok_or(Error::Missing { field: "volume_content_source.type" })? {
        Type::Snapshot(SnapshotSource { snapshot_id }) => {
            required("volume_content_source.snapshot.snapshot_id", &snapshot_id)?;
            let id = SnapshotId::parse(&snapshot_id);
            Ok(Source::Snapshot(id.map_err(|_| never_given_out("snapshot", &snapshot_id))?))
        }
        Type::Volume(VolumeSource { volume_id }) => {
            required("volume_content_source.volume.volume_id", &volume_id)?;
            Ok(Source::Volume(VolumeId::parse(&volume_id).map_err(|_| never_given_out("volume", &volume_id))?))
        }
    }
}

pub(super) fn describe_source(source: Source) -> proto::VolumeContentSource {
    let r#type = match source {
        Source::Snapshot(id) => Type::Snapshot(SnapshotSource { snapshot_id: id.to_string() }),
        Source::Volume(id) => Type::Volume(VolumeSource { volume_id: id.to_string() }),
    };
    proto::VolumeContentSource { r#type: Some(r#type) }
}
