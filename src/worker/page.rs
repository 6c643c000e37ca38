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

/// The labels of all metrics of a mount, as the Go client has them.
pub(crate) fn labels(config: &MountConfig, process: &Process, meta: &Meta) -> String {
    stead_telemetry::labels(&[
        ("mp", &config.mount_point.display().to_string()),
        ("vol_name", &meta.format().name),
        ("instance", &process.host_name),
        ("juicefs_version", concat!("stead-", env!("CARGO_PKG_VERSION"))),
    ])
}

/// Serves `/metrics` and `/healthz` if the mount asks for it.
pub(crate) async fn start_page(config: &MountConfig, labels: &str, vfs: &Arc<Vfs>, tasks: &Tasks) -> Result<(), Error> {
    let Some(address) = &config.options.metrics else { return Ok(()) };
    let page = Arc::new(MountPage { vfs: Arc::clone(vfs), labels: labels.to_owned() });
    let stop = tasks.stopping().cancelled_owned();
    let (local, server) = stead_telemetry::serve(address, page, stop)
        .await
        .map_err(|error| Error::Io { what: "metrics".to_owned(), error })?;
    info!(%local, "metrics are served");
    vfs.publish("Port", json!({ "PrometheusAgent": local.to_string() }));
    tasks.spawn("metrics", server);
    Ok(())
}
