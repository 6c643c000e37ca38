//! The calls of an orchestrator, over the two sockets.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use stead_csi::proto::controller_client::ControllerClient;
use stead_csi::proto::node_client::NodeClient;
use stead_csi::proto::volume_capability::access_mode::Mode;
use stead_csi::proto::volume_capability::{AccessMode, AccessType, MountVolume};
use stead_csi::proto::{
    CapacityRange, CreateVolumeRequest, DeleteVolumeRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest,
    Volume, VolumeCapability,
};
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::exit::Failure;

/// Both services.
pub(super) struct Csi {
    controller: ControllerClient<Channel>,
    node: NodeClient<Channel>,
}

fn failed(what: &'static str) -> impl Fn(Status) -> Failure {
    move |status| Failure::general(format!("{what}: {:?}: {}", status.code(), status.message()))
}

/// Connects to a socket, waiting a little for its service to come up.
async fn connect(path: PathBuf) -> Result<Channel, Failure> {
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let path = path.clone();
        let shown = path.display().to_string();
        let endpoint = Endpoint::from_static("http://unix");
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        match endpoint.connect_with_connector(connector).await {
            Ok(channel) => return Ok(channel),
            Err(_not_yet) if tokio::time::Instant::now() < until => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => return Err(Failure::general(format!("{shown}: {error}; see the logs beside it"))),
        }
    }
}

fn capability() -> VolumeCapability {
    VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume::default())),
        access_mode: Some(AccessMode { mode: Mode::MultiNodeMultiWriter.into() }),
    }
}

impl Csi {
    pub(super) async fn connect(sockets: &Path) -> Result<Self, Failure> {
        Ok(Self {
            controller: ControllerClient::new(connect(sockets.join("controller.sock")).await?),
            node: NodeClient::new(connect(sockets.join("node.sock")).await?),
        })
    }

    pub(super) async fn create(
        &mut self,
        name: &str,
        bytes: i64,
        secrets: HashMap<String, String>,
    ) -> Result<Volume, Failure> {
        let request = CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            volume_capabilities: vec![capability()],
            secrets,
            ..CreateVolumeRequest::default()
        };
        let answer = self.controller.create_volume(request).await.map_err(failed("CreateVolume"))?;
        answer.into_inner().volume.ok_or_else(|| Failure::general("CreateVolume: the answer has no volume"))
    }

    pub(super) async fn publish(
        &mut self,
        volume: &Volume,
        target: &Path,
        secrets: HashMap<String, String>,
    ) -> Result<(), Failure> {
        let request = NodePublishVolumeRequest {
            volume_id: volume.volume_id.clone(),
            target_path: target.display().to_string(),
            volume_capability: Some(capability()),
            volume_context: volume.volume_context.clone(),
            secrets,
            ..NodePublishVolumeRequest::default()
        };
        self.node.node_publish_volume(request).await.map(drop).map_err(failed("NodePublishVolume"))
    }

    pub(super) async fn unpublish(&mut self, volume_id: &str, target: &Path) -> Result<(), Failure> {
        let (volume_id, target_path) = (volume_id.to_owned(), target.display().to_string());
        let request = NodeUnpublishVolumeRequest { volume_id, target_path };
        self.node.node_unpublish_volume(request).await.map(drop).map_err(failed("NodeUnpublishVolume"))
    }

    pub(super) async fn delete(&mut self, volume_id: &str, secrets: HashMap<String, String>) -> Result<(), Failure> {
        let request = DeleteVolumeRequest { volume_id: volume_id.to_owned(), secrets };
        self.controller.delete_volume(request).await.map(drop).map_err(failed("DeleteVolume"))
    }
}
