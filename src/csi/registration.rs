//! Registration with the kubelet, without a registrar beside us (`pluginregistration` v1): the kubelet watches a directory,
//! asks at each socket in it who is there, and tells what came of it.

mod authority;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tracing::{error, info};

use crate::config::NodeConfig;
use crate::proto::registration::registration_server::{Registration, RegistrationServer};
use crate::proto::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use crate::server::{self, ServeError};

/// The kubelet's name for plugins of our kind.
const KIND: &str = "CSIPlugin";
/// Versions of CSI as the kubelet compares them.
const VERSIONS: [&str; 1] = ["1.0.0"];
/// How often to look whether our own socket answers.
const LOOK: Duration = Duration::from_millis(20);

/// Registers the node service of `config` once its endpoint answers, again whenever the kubelet asks, until `stop` is
/// cancelled. Only a failure ends it.
///
/// # Errors
/// An endpoint that is no path of a socket.
pub(crate) fn run(
    config: &NodeConfig,
    stop: CancellationToken,
) -> Result<impl Future<Output = ServeError> + use<>, ServeError> {
    let wrong = |why: &str| ServeError::Endpoint { endpoint: config.endpoint.clone(), why: why.to_owned() };
    let endpoint = server::socket_path(&config.endpoint).map_err(wrong)?;
    let kubelet = Kubelet { driver_name: config.driver_name.clone(), endpoint };
    let socket = config.registrations.as_deref().map(|directory| socket_in(directory, &config.driver_name));
    Ok(async move {
        if let Some(socket) = socket
            && let Err(error) = kubelet.serve(&socket, stop).await
        {
            return error;
        }
        std::future::pending().await
    })
}

/// The name that a registrar would take, so that a change between the two replaces the socket.
fn socket_in(directory: &Path, driver_name: &str) -> PathBuf {
    directory.join(format!("{driver_name}-reg.sock"))
}

/// What the kubelet gets to know.
#[derive(Clone, Debug)]
struct Kubelet {
    driver_name: String,
    endpoint: PathBuf,
}

impl Kubelet {
    async fn serve(self, socket: &Path, stop: CancellationToken) -> Result<(), ServeError> {
        while UnixStream::connect(&self.endpoint).await.is_err() {
            sleep(LOOK).await;
        }
        let routes = Routes::new(RegistrationServer::new(self));
        server::serve_through(&socket.to_string_lossy(), routes, stop, authority::tolerate).await
    }
}

#[tonic::async_trait]
impl Registration for Kubelet {
    async fn get_info(&self, _request: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: KIND.to_owned(),
            name: self.driver_name.clone(),
            endpoint: self.endpoint.to_string_lossy().into_owned(),
            supported_versions: VERSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            info!(driver = self.driver_name, "registered with the kubelet");
        } else {
            // The kubelet asks again by itself.
            error!(driver = self.driver_name, error = status.error, "the kubelet has refused the registration");
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tokio::net::UnixListener;
    use tonic::transport::{Channel, Endpoint};

    use super::*;
    use crate::config::{WorkerLaunch, WorkerMode};
    use crate::proto::registration::registration_client::RegistrationClient;

    async fn connect(socket: PathBuf) -> RegistrationClient<Channel> {
        while !socket.exists() {
            sleep(LOOK).await;
        }
        let connector = tower::service_fn(move |_address| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://kubelet");
        RegistrationClient::new(endpoint.connect_with_connector(connector).await.expect("it listens"))
    }

    fn config(dir: &Path) -> NodeConfig {
        NodeConfig {
            endpoint: format!("unix://{}/csi.sock", dir.display()),
            driver_name: "csi.example.org".to_owned(),
            node_id: "n".to_owned(),
            topology: Default::default(),
            state_dir: dir.to_owned(),
            registrations: Some(dir.to_owned()),
            metrics: None,
            worker: WorkerLaunch::default(),
            mode: WorkerMode::Process,
            events: None,
        }
    }

    #[tokio::test]
    async fn the_kubelet_finds_the_service_once_that_answers() {
        let dir = tempfile::tempdir().expect("a place");
        let stop = CancellationToken::new();
        let registering = tokio::spawn(run(&config(dir.path()), stop.clone()).expect("a path"));
        let socket = dir.path().join("csi.example.org-reg.sock");
        sleep(LOOK * 3).await;
        assert!(!socket.exists(), "nobody serves yet what would be registered");

        let _serving = UnixListener::bind(dir.path().join("csi.sock")).expect("free");
        let mut kubelet = connect(socket.clone()).await;
        let plugin = kubelet.get_info(InfoRequest {}).await.expect("answered").into_inner();
        assert_eq!((&*plugin.r#type, &*plugin.name), ("CSIPlugin", "csi.example.org"));
        assert_eq!(plugin.endpoint, dir.path().join("csi.sock").to_str().expect("a text"));
        assert_eq!(plugin.supported_versions, ["1.0.0"]);
        for status in
            [RegistrationStatus { plugin_registered: true, error: String::new() }, RegistrationStatus::default()]
        {
            kubelet.notify_registration_status(status).await.expect("taken");
        }

        drop(kubelet);
        stop.cancel();
        while socket.exists() {
            sleep(LOOK).await;
        }
        assert!(!registering.is_finished(), "an orderly end is no failure");
        registering.abort();
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_a_failure() {
        let dir = tempfile::tempdir().expect("a place");
        let _serving = UnixListener::bind(dir.path().join("csi.sock")).expect("free");
        let config = NodeConfig { registrations: Some(dir.path().join("gone")), ..config(dir.path()) };
        let error = run(&config, CancellationToken::new()).expect("a path").await;
        assert!(error.to_string().contains("gone/csi.example.org-reg.sock"), "{error}");
    }
}
