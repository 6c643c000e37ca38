//! The metrics page of a mount.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use stead_base::Tasks;
use stead_meta::ops::Meta;
use stead_telemetry::Page;
use stead_vfs::Vfs;
use stead_volume::MountConfig;
use tracing::info;

use crate::error::Error;
use crate::stages::Process;

struct MountPage {
    vfs: Arc<Vfs>,
    /// The labels of every series, as the Go client has them.
    labels: String,
}

#[async_trait]
impl Page for MountPage {
    async fn metrics(&self) -> String {
        self.vfs.metrics(&self.labels)
    }

    async fn health(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Serves `/metrics` and `/healthz` if the mount asks for it.
pub(crate) async fn start_page(
    config: &MountConfig,
    process: &Process,
    meta: &Meta,
    vfs: &Arc<Vfs>,
    tasks: &Tasks,
) -> Result<(), Error> {
    let Some(address) = &config.options.metrics else { return Ok(()) };
    let labels = format!(
        "mp={:?},vol_name={:?},instance={:?},juicefs_version={:?}",
        config.mount_point.display().to_string(),
        meta.format().name,
        process.host_name,
        concat!("stead-", env!("CARGO_PKG_VERSION")),
    );
    let page = Arc::new(MountPage { vfs: Arc::clone(vfs), labels });
    let stop = tasks.stopping().cancelled_owned();
    let (local, server) = stead_telemetry::serve(address, page, stop)
        .await
        .map_err(|error| Error::Io { what: "metrics".to_owned(), error })?;
    info!(%local, "metrics are served");
    vfs.publish("Port", json!({ "PrometheusAgent": local.to_string() }));
    tasks.spawn("metrics", server);
    Ok(())
}
