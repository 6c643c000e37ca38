//! The GroupController service: snapshots of several volumes at one moment.

use std::collections::BTreeSet;

use stead_volume::{Group, GroupId, GroupRequest, SnapshotId, VolumeId, VolumeSecrets, check_snapshot_parameters};
use tonic::{Request, Response, Status};

use super::snapshots::{self, key, never_given_out, time};
use super::{ControllerService, LIMIT, required};
use crate::error::{Error, Result};
use crate::proto::group_controller_server::GroupController;
use crate::proto::group_controller_service_capability::rpc::Type as RpcType;
use crate::proto::group_controller_service_capability::{Rpc, Type};
use crate::proto::{self, GroupControllerServiceCapability};
use crate::rpc::answer;

impl ControllerService {
    async fn take_group(
        self,
        request: proto::CreateVolumeGroupSnapshotRequest,
    ) -> Result<proto::CreateVolumeGroupSnapshotResponse> {
        required("name", &request.name)?;
        check_snapshot_parameters(&request.parameters)?;
        let id = GroupId::parse(&request.name)?;
        let volumes = parse_volumes(&request.source_volume_ids)?;
        let secrets = VolumeSecrets::parse(&request.secrets)?;
        let members = (0..volumes.len()).map(|nth| key(id.member(nth).as_str()));
        let shared: Vec<String> = volumes.iter().map(ToString::to_string).collect();
        let _turns = self.turns(members.chain([group_key(&id)]), shared).await;
        let wanted = GroupRequest { name: request.name, volumes, secrets };
        let group = self.volumes.create_group(&wanted).await?;
        Ok(proto::CreateVolumeGroupSnapshotResponse { group_snapshot: Some(describe(group)) })
    }

    async fn remove_group(
        self,
        request: proto::DeleteVolumeGroupSnapshotRequest,
    ) -> Result<proto::DeleteVolumeGroupSnapshotResponse> {
        required("group_snapshot_id", &request.group_snapshot_id)?;
        let done = proto::DeleteVolumeGroupSnapshotResponse {};
        // An id that we could never have given out names nothing.
        let Ok(id) = GroupId::parse(&request.group_snapshot_id) else { return Ok(done) };
        let named = parse_named(&request.snapshot_ids)?;
        let secrets = VolumeSecrets::parse(&request.secrets)?;
        let members: Vec<String> = named.iter().map(|member| key(member.as_str())).collect();
        let _turns = self.turns(members.into_iter().chain([group_key(&id)]), []).await;
        self.volumes.delete_group(&id, &named, &secrets).await?;
        Ok(done)
    }

    async fn group_found(
        self,
        request: proto::GetVolumeGroupSnapshotRequest,
    ) -> Result<proto::GetVolumeGroupSnapshotResponse> {
        required("group_snapshot_id", &request.group_snapshot_id)?;
        let id = GroupId::parse(&request.group_snapshot_id)
            .map_err(|_| never_given_out("group snapshot", &request.group_snapshot_id))?;
        let named = parse_named(&request.snapshot_ids)?;
        let group = self.volumes.find_group(&id, &named, &self.asked(&request.secrets)?).await?;
        Ok(proto::GetVolumeGroupSnapshotResponse { group_snapshot: Some(describe(group)) })
    }
}

#[tonic::async_trait]
impl GroupController for ControllerService {
    async fn group_controller_get_capabilities(
        &self,
        _request: Request<proto::GroupControllerGetCapabilitiesRequest>,
    ) -> Result<Response<proto::GroupControllerGetCapabilitiesResponse>, Status> {
        let rpc = Rpc { r#type: RpcType::CreateDeleteGetVolumeGroupSnapshot.into() };
        let capabilities = vec![GroupControllerServiceCapability { r#type: Some(Type::Rpc(rpc)) }];
        Ok(Response::new(proto::GroupControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn create_volume_group_snapshot(
        &self,
        request: Request<proto::CreateVolumeGroupSnapshotRequest>,
    ) -> Result<Response<proto::CreateVolumeGroupSnapshotResponse>, Status> {
        let request = request.into_inner();
        let name = request.name.clone();
        answer("CreateVolumeGroupSnapshot", &name, LIMIT, self.clone().take_group(request)).await
    }

    async fn delete_volume_group_snapshot(
        &self,
        request: Request<proto::DeleteVolumeGroupSnapshotRequest>,
    ) -> Result<Response<proto::DeleteVolumeGroupSnapshotResponse>, Status> {
        let request = request.into_inner();
        let id = request.group_snapshot_id.clone();
        answer("DeleteVolumeGroupSnapshot", &id, LIMIT, self.clone().remove_group(request)).await
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<proto::GetVolumeGroupSnapshotRequest>,
    ) -> Result<Response<proto::GetVolumeGroupSnapshotResponse>, Status> {
        let request = request.into_inner();
        let id = request.group_snapshot_id.clone();
        answer("GetVolumeGroupSnapshot", &id, LIMIT, self.clone().group_found(request)).await
    }
}

fn group_key(id: &GroupId) -> String {
    format!("group/{id}")
}

fn parse_volumes(ids: &[String]) -> Result<BTreeSet<VolumeId>> {
    if ids.is_empty() {
        return Err(Error::Missing { field: "source_volume_ids" });
    }
    ids.iter().map(|id| VolumeId::parse(id).map_err(|_| never_given_out("volume", id))).collect()
}

fn parse_named(ids: &[String]) -> Result<Vec<SnapshotId>> {
    ids.iter().map(|id| Ok(SnapshotId::parse(id)?)).collect()
}

fn describe(group: Group) -> proto::VolumeGroupSnapshot {
    proto::VolumeGroupSnapshot {
        group_snapshot_id: group.id.to_string(),
        ready_to_use: group.snapshots.iter().all(|snapshot| snapshot.ready),
        snapshots: group.snapshots.into_iter().map(snapshots::describe).collect(),
        creation_time: Some(time(group.created)),
    }
}

#[cfg(test)]
mod tests;
