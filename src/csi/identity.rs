//! Who the plugin is, and whether it is ready.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::{Request, Response, Status};

use crate::error::{Error, Result};
use crate::proto::identity_server::Identity;
use crate::proto::plugin_capability::service::Type as ServiceType;
use crate::proto::plugin_capability::volume_expansion::Type as ExpansionType;
use crate::proto::plugin_capability::{Service, Type, VolumeExpansion};
use crate::proto::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    PluginCapability, ProbeRequest, ProbeResponse,
};
use crate::rpc::answer;

const LIMIT: Duration = Duration::from_secs(10);

/// The Identity service of a controller or of a node.
#[derive(Clone, Debug)]
pub(crate) struct IdentityService {
    driver_name: String,
    /// A node's directory for state; a controller has none and reaches nothing without the secrets of a call.
    state_dir: Option<PathBuf>,
}

impl IdentityService {
    pub(crate) fn controller(driver_name: &str) -> Self {
        Self { driver_name: driver_name.to_owned(), state_dir: None }
    }

    pub(crate) fn node(driver_name: &str, state_dir: &Path) -> Self {
        Self { driver_name: driver_name.to_owned(), state_dir: Some(state_dir.to_owned()) }
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _request: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.driver_name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: std::collections::HashMap::new(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _request: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let types = [
            Type::Service(Service { r#type: ServiceType::ControllerService.into() }),
            Type::Service(Service { r#type: ServiceType::GroupControllerService.into() }),
            Type::VolumeExpansion(VolumeExpansion { r#type: ExpansionType::Online.into() }),
        ];
        let capabilities = types.map(|capability| PluginCapability { r#type: Some(capability) }).to_vec();
        Ok(Response::new(GetPluginCapabilitiesResponse { capabilities }))
    }

    async fn probe(&self, _request: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        let state_dir = self.state_dir.clone();
        let work = async move {
            match state_dir {
                Some(dir) => stead_keeper::within("probe", LIMIT / 2, move || Ok(probe_node(&dir))).await??,
                // That this runs on a task of its own shows that the runtime works.
                None => tokio::task::yield_now().await,
            }
            Ok(ProbeResponse { ready: Some(true) })
        };
        answer("Probe", "", LIMIT, work).await
    }
}

/// What every publication needs: the FUSE device, and a place to write.
fn probe_node(state_dir: &Path) -> Result<()> {
    drop(stead_keeper::mount::open_device()?);
    let probe = state_dir.join(".probe");
    let failed = |error: std::io::Error| Error::State { path: probe.clone(), why: error.to_string() };
    std::fs::write(&probe, b"ready").map_err(failed)?;
    match std::fs::remove_file(&probe) {
        // Somebody else has asked at the same time.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_probe_tells_a_node_that_cannot_work() {
        let dir = tempfile::tempdir().expect("a place");
        let ready = IdentityService::node("d", dir.path()).probe(Request::new(ProbeRequest {})).await;
        assert_eq!(ready.expect("device and directory are there").into_inner().ready, Some(true));
        let missing = IdentityService::node("d", &dir.path().join("gone"));
        let status = missing.probe(Request::new(ProbeRequest {})).await.expect_err("no directory");
        assert!(status.message().contains("gone/.probe"), "{status}");
    }
}
