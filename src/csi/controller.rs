//! The Controller service: requests into `stead_volume`'s types, its answers into responses.

mod groups;
mod lists;
mod snapshots;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use stead_k8s::Claims;
use stead_volume::{
    CapacityRange, FileSystems, MutableParams, Volume, VolumeId, VolumeParams, VolumeRequest, VolumeSecrets, Volumes,
};
use tonic::{Request, Response, Status};
use tracing::warn;

use crate::capability::Capability;
use crate::error::{Error, Result};
use crate::locks::{Guard, Locks};
use crate::proto::controller_server::Controller;
use crate::proto::controller_service_capability::rpc::Type as RpcType;
use crate::proto::controller_service_capability::{Rpc, Type};
use crate::proto::validate_volume_capabilities_response::Confirmed;
use crate::proto::{self, ControllerServiceCapability};
use crate::rpc::answer;

/// Longest time of a call that makes or finds; the work itself goes on.
const LIMIT: Duration = Duration::from_secs(60);
/// Of a deletion: the objects of a whole file system take their time.
const DELETE_LIMIT: Duration = Duration::from_secs(300);

const CAPABILITIES: [RpcType; 6] = [
    RpcType::CreateDeleteVolume,
    RpcType::CreateDeleteSnapshot,
    RpcType::CloneVolume,
    RpcType::ExpandVolume,
    RpcType::ModifyVolume,
    RpcType::SingleNodeMultiWriter,
];
/// What needs file systems that are configured, since the calls bring no Secret.
const LISTING: [RpcType; 4] =
    [RpcType::ListVolumes, RpcType::GetCapacity, RpcType::ListSnapshots, RpcType::GetSnapshot];

/// The Controller service.
#[derive(Clone, Debug)]
pub(crate) struct ControllerService {
    volumes: Volumes,
    locks: Locks,
    file_systems: Option<FileSystems>,
    claims: Option<Claims>,
}

impl ControllerService {
    pub(crate) fn new(volumes: Volumes, file_systems: Option<PathBuf>, claims: Option<Claims>) -> Self {
        Self { volumes, locks: Locks::default(), file_systems: file_systems.map(FileSystems::new), claims }
    }

    /// Goes on with what the controller before was told to delete and did not get done.
    pub(crate) fn resume(&self) {
        let me = self.clone();
        tokio::spawn(async move {
            match me.file_systems.as_ref().map(FileSystems::read) {
                Some(Ok(file_systems)) => me.volumes.resume_deletions(&file_systems).await,
                Some(Err(error)) => warn!(%error, "cannot look for unfinished deletions"),
                None => {}
            }
        });
    }

    async fn create(self, request: proto::CreateVolumeRequest) -> Result<proto::CreateVolumeResponse> {
        let wanted = self.parse_create(request).await?;
        let source = wanted.source.as_ref().map(snapshots::source_key);
        let _turns = self.turns([wanted.name.clone()], source).await;
        let volume = self.volumes.create(&wanted).await?;
        Ok(proto::CreateVolumeResponse { volume: Some(describe(volume)) })
    }

    async fn parse_create(&self, request: proto::CreateVolumeRequest) -> Result<VolumeRequest> {
        required("name", &request.name)?;
        Capability::parse_all(&request.volume_capabilities)?;
        let range = request.capacity_range.unwrap_or_default();
        Ok(VolumeRequest {
            name: request.name,
            capacity: CapacityRange::new(range.required_bytes, range.limit_bytes)?,
            mutable: MutableParams::parse(&request.mutable_parameters)?,
            source: request.volume_content_source.map(snapshots::parse_source).transpose()?,
            secrets: VolumeSecrets::parse(&request.secrets)?,
            params: self.params(&request.parameters).await?,
        })
    }

    /// Asks for the claim if parameters need it, and only then.
    async fn params(&self, parameters: &HashMap<String, String>) -> Result<VolumeParams> {
        let metadata = match (VolumeParams::needs_claim(parameters), &self.claims) {
            (Some(claim), Some(claims)) => Some(claims.read(&claim).await?),
            _ => None,
        };
        Ok(VolumeParams::parse(parameters, metadata.as_ref())?)
    }

    /// Holds some keys alone and shares others. In one order for everybody, since a source may be a volume that is to be
    /// made of this one.
    async fn turns(
        &self,
        alone: impl IntoIterator<Item = String>,
        shared: impl IntoIterator<Item = String>,
    ) -> Vec<Guard> {
        let shared = shared.into_iter().map(|key| (key, false));
        let mut keys: BTreeMap<String, bool> = shared.collect();
        keys.extend(alone.into_iter().map(|key| (key, true)));
        let mut turns = Vec::new();
        for (key, alone) in keys {
            turns.push(if alone { self.locks.lock(&key).await } else { self.locks.share(&key).await });
        }
        turns
    }

    async fn delete(self, request: proto::DeleteVolumeRequest) -> Result<proto::DeleteVolumeResponse> {
        required("volume_id", &request.volume_id)?;
        // An id that we could never have given out names nothing.
        let Ok(id) = VolumeId::parse(&request.volume_id) else { return Ok(proto::DeleteVolumeResponse {}) };
        let secrets = VolumeSecrets::parse(&request.secrets)?;
        let _turn = self.locks.lock(id.as_str()).await;
        self.volumes.delete(&id, &secrets).await?;
        Ok(proto::DeleteVolumeResponse {})
    }

    async fn validate(
        self,
        request: proto::ValidateVolumeCapabilitiesRequest,
    ) -> Result<proto::ValidateVolumeCapabilitiesResponse> {
        let id = parse_id(&request.volume_id)?;
        if request.volume_capabilities.is_empty() {
            return Err(Error::Missing { field: "volume_capabilities" });
        }
        let secrets = VolumeSecrets::parse(&request.secrets)?;
        let volume = self.volumes.find(&id, &secrets).await?;
        let refused = |message: String| proto::ValidateVolumeCapabilitiesResponse { confirmed: None, message };
        if let Err(error) = Capability::parse_all(&request.volume_capabilities) {
            return Ok(refused(error.to_string()));
        }
        if let Some(name) = differing(&volume.context, &request.volume_context) {
            return Ok(refused(format!("volume_context: {name} is not what the volume was made with")));
        }
        if !request.parameters.is_empty()
            && let Err(error) = self.params(&request.parameters).await
        {
            return if let Error::Volume(error) = error { Ok(refused(error.to_string())) } else { Err(error) };
        }
        if let Err(error) = MutableParams::parse(&request.mutable_parameters) {
            return Ok(refused(error.to_string()));
        }
        let confirmed = Confirmed {
            volume_context: request.volume_context,
            volume_capabilities: request.volume_capabilities,
            parameters: request.parameters,
            mutable_parameters: request.mutable_parameters,
        };
        Ok(proto::ValidateVolumeCapabilitiesResponse { confirmed: Some(confirmed), message: String::new() })
    }

    async fn expand(
        self,
        request: proto::ControllerExpandVolumeRequest,
    ) -> Result<proto::ControllerExpandVolumeResponse> {
        let id = parse_id(&request.volume_id)?;
        let range = request.capacity_range.ok_or(Error::Missing { field: "capacity_range" })?;
        let range = CapacityRange::new(range.required_bytes, range.limit_bytes)?;
        let secrets = VolumeSecrets::parse(&request.secrets)?;
        let _turn = self.locks.lock(id.as_str()).await;
        let capacity = self.volumes.expand(&id, &secrets, range).await?;
        Ok(proto::ControllerExpandVolumeResponse { capacity_bytes: signed(capacity), node_expansion_required: false })
    }

    async fn modify(
        self,
        request: proto::ControllerModifyVolumeRequest,
    ) -> Result<proto::ControllerModifyVolumeResponse> {
        let id = parse_id(&request.volume_id)?;
        let params = MutableParams::parse(&request.mutable_parameters)?;
        let secrets = VolumeSecrets::parse(&request.secrets)?;
        let _turn = self.locks.lock(id.as_str()).await;
        self.volumes.modify(&id, &secrets, params).await?;
        Ok(proto::ControllerModifyVolumeResponse {})
    }
}

#[tonic::async_trait]
impl Controller for ControllerService {
    async fn create_volume(
        &self,
        request: Request<proto::CreateVolumeRequest>,
    ) -> Result<Response<proto::CreateVolumeResponse>, Status> {
        let request = request.into_inner();
        let name = request.name.clone();
        answer("CreateVolume", &name, LIMIT, self.clone().create(request)).await
    }

    async fn delete_volume(
        &self,
        request: Request<proto::DeleteVolumeRequest>,
    ) -> Result<Response<proto::DeleteVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = request.volume_id.clone();
        answer("DeleteVolume", &id, DELETE_LIMIT, self.clone().delete(request)).await
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<proto::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<proto::ValidateVolumeCapabilitiesResponse>, Status> {
        let request = request.into_inner();
        let id = request.volume_id.clone();
        answer("ValidateVolumeCapabilities", &id, LIMIT, self.clone().validate(request)).await
    }

    async fn controller_expand_volume(
        &self,
        request: Request<proto::ControllerExpandVolumeRequest>,
    ) -> Result<Response<proto::ControllerExpandVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = request.volume_id.clone();
        answer("ControllerExpandVolume", &id, LIMIT, self.clone().expand(request)).await
    }

    async fn controller_modify_volume(
        &self,
        request: Request<proto::ControllerModifyVolumeRequest>,
    ) -> Result<Response<proto::ControllerModifyVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = request.volume_id.clone();
        answer("ControllerModifyVolume", &id, LIMIT, self.clone().modify(request)).await
    }

    async fn create_snapshot(
        &self,
        request: Request<proto::CreateSnapshotRequest>,
    ) -> Result<Response<proto::CreateSnapshotResponse>, Status> {
        let request = request.into_inner();
        let name = request.name.clone();
        answer("CreateSnapshot", &name, LIMIT, self.clone().take_snapshot(request)).await
    }

    async fn delete_snapshot(
        &self,
        request: Request<proto::DeleteSnapshotRequest>,
    ) -> Result<Response<proto::DeleteSnapshotResponse>, Status> {
        let request = request.into_inner();
        let id = request.snapshot_id.clone();
        answer("DeleteSnapshot", &id, LIMIT, self.clone().remove_snapshot(request)).await
    }

    async fn list_volumes(
        &self,
        request: Request<proto::ListVolumesRequest>,
    ) -> Result<Response<proto::ListVolumesResponse>, Status> {
        answer("ListVolumes", "", LIMIT, self.clone().volumes_listed(request.into_inner())).await
    }

    async fn get_capacity(
        &self,
        request: Request<proto::GetCapacityRequest>,
    ) -> Result<Response<proto::GetCapacityResponse>, Status> {
        answer("GetCapacity", "", LIMIT, self.clone().capacity(request.into_inner())).await
    }

    async fn list_snapshots(
        &self,
        request: Request<proto::ListSnapshotsRequest>,
    ) -> Result<Response<proto::ListSnapshotsResponse>, Status> {
        let request = request.into_inner();
        let about = request.snapshot_id.clone();
        answer("ListSnapshots", &about, LIMIT, self.clone().snapshots_listed(request)).await
    }

    async fn get_snapshot(
        &self,
        request: Request<proto::GetSnapshotRequest>,
    ) -> Result<Response<proto::GetSnapshotResponse>, Status> {
        let request = request.into_inner();
        let id = request.snapshot_id.clone();
        answer("GetSnapshot", &id, LIMIT, self.clone().snapshot_found(request)).await
    }

    async fn controller_get_capabilities(
        &self,
        _request: Request<proto::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<proto::ControllerGetCapabilitiesResponse>, Status> {
        let capability =
            |rpc: RpcType| ControllerServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: rpc.into() })) };
        let mut capabilities = CAPABILITIES.map(capability).to_vec();
        if self.file_systems.is_some() {
            capabilities.extend(LISTING.map(capability));
        }
        Ok(Response::new(proto::ControllerGetCapabilitiesResponse { capabilities }))
    }
}

fn describe(volume: Volume) -> proto::Volume {
    proto::Volume {
        capacity_bytes: signed(volume.capacity),
        volume_id: volume.id.to_string(),
        volume_context: volume.context,
        content_source: volume.source.map(snapshots::describe_source),
        accessible_topology: Vec::new(),
    }
}

/// An attribute that both sides name and that differs. External-provisioner adds its own to those that we handed out.
fn differing<'a>(ours: &HashMap<String, String>, given: &'a HashMap<String, String>) -> Option<&'a str> {
    let differs = |(name, value): &(&String, &String)| ours.get(*name).is_some_and(|own| own != *value);
    given.iter().find(differs).map(|(name, _)| name.as_str())
}

pub(crate) fn required(field: &'static str, value: &str) -> Result<()> {
    if value.is_empty() { Err(Error::Missing { field }) } else { Ok(()) }
}

pub(crate) fn parse_id(text: &str) -> Result<VolumeId> {
    required("volume_id", text)?;
    Ok(VolumeId::parse(text)?)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
