//! Calls that ask what there is. They bring no Secret, or need not: then the configured file systems are asked.

use std::collections::HashMap;

use stead_volume::{FileSystems, Named, Page, Position, SnapshotFilter, SnapshotId, VolumeId, VolumeSecrets};

use super::{ControllerService, describe, required, signed, snapshots};
use crate::capability::Capability;
use crate::error::{Error, Result};
use crate::proto;

/// The Secret of a StorageClass, which external-provisioner leaves in the parameters when it asks for capacity.
const SECRET_NAME: &str = "csi.storage.k8s.io/provisioner-secret-name";

impl ControllerService {
    /// The file system of the Secret that a call brings, else those that are configured.
    pub(super) fn asked(&self, secrets: &HashMap<String, String>) -> Result<Vec<Named>> {
        if !secrets.is_empty() {
            return Ok(vec![Named { name: String::new(), secrets: VolumeSecrets::parse(secrets)? }]);
        }
        Ok(self.file_systems.as_ref().map(FileSystems::read).transpose()?.unwrap_or_default())
    }

    pub(super) async fn volumes_listed(self, request: proto::ListVolumesRequest) -> Result<proto::ListVolumesResponse> {
        let page = parse_page(request.max_entries, &request.starting_token)?;
        let listing = self.volumes.list(&self.asked(&HashMap::new())?, &page).await?;
        let entry = |volume| proto::list_volumes_response::Entry { volume: Some(describe(volume)), status: None };
        let entries = listing.items.into_iter().map(entry).collect();
        Ok(proto::ListVolumesResponse { entries, next_token: token(listing.next) })
    }

    pub(super) async fn snapshots_listed(
        self,
        request: proto::ListSnapshotsRequest,
    ) -> Result<proto::ListSnapshotsResponse> {
        let page = parse_page(request.max_entries, &request.starting_token)?;
        let nothing = proto::ListSnapshotsResponse { entries: Vec::new(), next_token: String::new() };
        // An id that we could never have given out names nothing.
        let Some(filter) = parse_filter(&request) else { return Ok(nothing) };
        let listing = self.volumes.list_snapshots(&self.asked(&request.secrets)?, &filter, &page).await?;
        let entry = |snapshot| proto::list_snapshots_response::Entry { snapshot: Some(snapshots::describe(snapshot)) };
        let entries = listing.items.into_iter().map(entry).collect();
        Ok(proto::ListSnapshotsResponse { entries, next_token: token(listing.next) })
    }

    pub(super) async fn snapshot_found(self, request: proto::GetSnapshotRequest) -> Result<proto::GetSnapshotResponse> {
        required("snapshot_id", &request.snapshot_id)?;
        let not_found = || snapshots::never_given_out("snapshot", &request.snapshot_id);
        let id = SnapshotId::parse(&request.snapshot_id).map_err(|_| not_found())?;
        let filter = SnapshotFilter { id: Some(id), volume: None };
        let listing = self.volumes.list_snapshots(&self.asked(&request.secrets)?, &filter, &Page::default()).await?;
        let found = listing.items.into_iter().next().ok_or_else(not_found)?;
        Ok(proto::GetSnapshotResponse { snapshot: Some(snapshots::describe(found)) })
    }

    pub(super) async fn capacity(self, request: proto::GetCapacityRequest) -> Result<proto::GetCapacityResponse> {
        let usable =
            request.volume_capabilities.is_empty() || Capability::parse_all(&request.volume_capabilities).is_ok();
        let asked = of_class(self.asked(&HashMap::new())?, &request.parameters)?;
        let room = if usable { self.volumes.room(&asked).await? } else { 0 };
        Ok(proto::GetCapacityResponse {
            available_capacity: signed(room),
            maximum_volume_size: None,
            minimum_volume_size: None,
        })
    }
}

/// The file system whose Secret a StorageClass names, else all of them: as a Secret's name is a template it may be any.
fn of_class(mut file_systems: Vec<Named>, parameters: &HashMap<String, String>) -> Result<Vec<Named>> {
    let Some(secret) = parameters.get(SECRET_NAME).filter(|name| !name.contains("${")) else { return Ok(file_systems) };
    file_systems.retain(|file_system| file_system.name == *secret);
    if file_systems.is_empty() {
        let why =
            "is none of the Secrets that this controller is configured with (controller.fileSystems of the chart)";
        return Err(Error::Field { field: SECRET_NAME, value: secret.clone(), why });
    }
    Ok(file_systems)
}

fn parse_page(max_entries: i32, starting_token: &str) -> Result<Page> {
    let limit = usize::try_from(max_entries).map_err(|_negative| Error::Field {
        field: "max_entries",
        value: max_entries.to_string(),
        why: "must not be negative",
    })?;
    let after = match starting_token {
        "" => None,
        token => Some(Position::parse(token).ok_or_else(|| Error::Token { value: token.to_owned() })?),
    };
    Ok(Page { after, limit: (limit > 0).then_some(limit) })
}

fn parse_filter(request: &proto::ListSnapshotsRequest) -> Option<SnapshotFilter> {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let id = given(&request.snapshot_id).map(|id| SnapshotId::parse(&id)).transpose().ok()?;
    let volume = given(&request.source_volume_id).map(|id| VolumeId::parse(&id)).transpose().ok()?;
    Some(SnapshotFilter { id, volume })
}

fn token(next: Option<Position>) -> String {
    next.map(|position| position.to_string()).unwrap_or_default()
}
