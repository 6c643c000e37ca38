//! A gRPC server on a Unix socket.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tracing::{info, warn};

/// How long calls in progress may go on after the server was asked to stop.
const GRACE: Duration = Duration::from_secs(20);
/// `sockaddr_un.sun_path` with its terminating NUL.
const MAX_PATH: usize = 107;

/// Why a server could not start or went down.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address that is no absolute path to a socket.
    #[error("endpoint {endpoint:?}: {why}")]
    Endpoint {
        /// As it was given.
        endpoint: String,
        /// What is wrong.
        why: String,
    },
    /// The state directory cannot be used.
    #[error("state directory: {0}")]
    State(String),
    /// The page with metrics cannot be served.
    #[error("{0}")]
    Page(#[from] std::io::Error),
    /// The server went down.
    #[error("server: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves `routes` on `endpoint` until `stop` is cancelled, then lets calls in progress end. Makes the socket's directory,
/// since the kubelet makes none for a plugin.
pub(crate) async fn serve(endpoint: &str, routes: Routes, stop: CancellationToken) -> Result<(), ServeError> {
    if let Some(directory) = socket_path(endpoint).ok().as_deref().and_then(Path::parent) {
        // Where that cannot be done, listening there says why.
        let _unmade = std::fs::create_dir_all(directory);
    }
    serve_through(endpoint, routes, stop, |connection| connection).await
}

/// As [`serve`]; each connection passes through `adapt`.
pub(crate) async fn serve_through<C>(
    endpoint: &str,
    routes: Routes,
    stop: CancellationToken,
    adapt: impl Fn(UnixStream) -> C,
) -> Result<(), ServeError>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let wrong = |why: String| ServeError::Endpoint { endpoint: endpoint.to_owned(), why };
    let path = socket_path(endpoint).map_err(|why| wrong(why.to_owned()))?;
    let listener = listen(&path).await.map_err(wrong)?;
    let own = identity(&path);
    info!(socket = %path.display(), "serving");
    let connections = UnixListenerStream::new(listener).map(|accepted| accepted.map(&adapt));
    let server =
        Server::builder().add_routes(routes).serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = server => result?,
        () = late => warn!("calls in progress are left behind"),
    }
    // Another server may have put its own socket there.
    if own.is_some() && identity(&path) == own {
        let _gone_already = std::fs::remove_file(&path);
    }
    Ok(())
}

/// Tells files of the same name apart.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// The path in `unix:///path`, `unix:/path` or `/path`.
pub(crate) fn socket_path(endpoint: &str) -> Result<PathBuf, &'static str> {
    let path = endpoint.strip_prefix("unix:").unwrap_or(endpoint);
    let path = path.strip_prefix("//").unwrap_or(path);
    if !path.starts_with('/') {
        return Err("expected unix:///absolute/path");
    }
    if path.len() > MAX_PATH {
        return Err("a socket's path has 107 bytes at most");
    }
    Ok(PathBuf::from(path))
}

/// Listens on `path`; a socket that nobody serves any more is replaced.
async fn listen(path: &Path) -> Result<UnixListener, String> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err("the file exists and is no socket".to_owned()),
        Ok(_) if UnixStream::connect(path).await.is_ok() => return Err("another process serves it".to_owned()),
        Ok(_) => std::fs::remove_file(path).map_err(|error| format!("stale socket: {error}"))?,
        Err(_absent) => {}
    }
    UnixListener::bind(path).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_paths_with_or_without_a_scheme() {
        for endpoint in ["unix:///run/csi.sock", "unix:/run/csi.sock", "/run/csi.sock"] {
            assert_eq!(socket_path(endpoint), Ok(PathBuf::from("/run/csi.sock")), "{endpoint}");
        }
        for endpoint in ["", "csi.sock", "tcp://127.0.0.1:1", "unix://csi.sock", &format!("/{}", "x".repeat(107))] {
            assert!(socket_path(endpoint).is_err(), "{endpoint}");
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a place");
        let path = dir.path().join("csi.sock");
        drop(listen(&path).await.expect("new"));
        assert!(path.exists(), "a dead server leaves its socket");
        let live = listen(&path).await.expect("replaced");
        assert_eq!(listen(&path).await.expect_err("in use"), "another process serves it");
        drop(live);
        let file = dir.path().join("file");
        std::fs::write(&file, "precious").expect("new");
        assert!(listen(&file).await.is_err());
        assert_eq!(std::fs::read(&file).expect("still there"), b"precious");
    }
}
