//! The page of a service: `/metrics`, and `/healthz`, which asks what a kubelet would ask, on the same socket.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use stead_telemetry::{Exposition, Kind, Page};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tracing::info;

use crate::node::NodeService;
use crate::proto::ProbeRequest;
use crate::proto::identity_client::IdentityClient;
use crate::rpc;
use crate::server::{ServeError, socket_path};

/// How long our own socket may take to answer.
const PATIENCE: Duration = Duration::from_secs(8);

struct ServicePage {
    socket: PathBuf,
    node: Option<NodeService>,
}

/// Serves the page at `address`, if there is one, until `stop` is cancelled.
///
/// # Errors
/// An address that is taken or none.
pub(crate) async fn serve(
    address: Option<&str>,
    endpoint: &str,
    node: Option<NodeService>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let Some(address) = address else { return Ok(()) };
    let wrong = |why: &str| ServeError::Endpoint { endpoint: endpoint.to_owned(), why: why.to_owned() };
    let page = Arc::new(ServicePage { socket: socket_path(endpoint).map_err(wrong)?, node });
    let (local, server) = stead_telemetry::serve(address, page, stop.cancelled_owned()).await?;
    info!(%local, "metrics are served");
    tokio::spawn(server);
    Ok(())
}

#[async_trait]
impl Page for ServicePage {
    async fn metrics(&self) -> String {
        let mut page = Exposition::default();
        page.metric("stead_build_info", Kind::Gauge, "The program that runs here.");
        page.sample("stead_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        rpc::show(&mut page);
        match &self.node {
            Some(node) => node.show(page).await,
            None => page.into_text(),
        }
    }

    async fn health(&self) -> Result<(), String> {
        match tokio::time::timeout(PATIENCE, probe(&self.socket)).await {
            Ok(probed) => probed,
            Err(_elapsed) => Err(format!("{} has not answered within {PATIENCE:?}", self.socket.display())),
        }
    }
}

async fn probe(socket: &Path) -> Result<(), String> {
    let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", socket.display());
    let stream = UnixStream::connect(socket).await.map_err(|error| failed(&error))?;
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_address| {
        let taken = stream.take().ok_or_else(|| std::io::Error::other("the connection was lost"));
        std::future::ready(taken)
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
    let channel = channel.map_err(|error| failed(&error))?;
    let probed = IdentityClient::new(channel).probe(ProbeRequest {}).await;
    probed.map(|_ready| ()).map_err(|status| failed(&status.message()))
}
