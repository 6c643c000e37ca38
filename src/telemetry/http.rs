//! The page: `/metrics` in the Prometheus text format and `/healthz`.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tracing::debug;

/// What the page shows. Whoever has to ask somebody for it does not wait long.
#[async_trait]
pub trait Page: Send + Sync + 'static {
    /// All metrics, in the Prometheus text format.
    async fn metrics(&self) -> String;

    /// `Err` says in a sentence why the process is not healthy.
    async fn health(&self) -> Result<(), String>;
}

/// Listens on `address` (`host:port`; port 0 takes a free one) and answers until `stop` is done.
/// Returns the address it listens on, and the server to be spawned.
///
/// # Errors
/// The address does not resolve or is taken; the message names it.
pub async fn serve(
    address: &str,
    page: Arc<dyn Page>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<(SocketAddr, impl Future<Output = ()> + Send + 'static)> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("metrics address {address}: {error}"));
    let listener = TcpListener::bind(address).await.map_err(named)?;
    let local = listener.local_addr().map_err(named)?;
    Ok((local, async move {
        tokio::select! {
            () = accept(listener, page) => {}
            () = stop => {}
        }
    }))
}

async fn accept(listener: TcpListener, page: Arc<dyn Page>) {
    loop {
        let Ok((stream, _peer)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let page = Arc::clone(&page);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let page = Arc::clone(&page);
                async move { Ok::<_, Infallible>(answer(&request, &*page).await) }
            });
            let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                debug!(%error, "metrics connection");
            }
        });
    }
}

async fn answer<B>(request: &Request<B>, page: &dyn Page) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        "/metrics" => (StatusCode::OK, page.metrics().await),
        "/healthz" => match page.health().await {
            Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        other => (StatusCode::NOT_FOUND, format!("no page {other}: try /metrics or /healthz\n")),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let content_type = header::HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Sick;

    #[async_trait]
    impl Page for Sick {
        async fn metrics(&self) -> String {
            "answers 42\n".to_owned()
        }

        async fn health(&self) -> Result<(), String> {
            Err("the engine is away".to_owned())
        }
    }

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_and_health_are_served() {
        let (address, server) = serve("127.0.0.1:0", Arc::new(Sick), std::future::pending()).await.unwrap();
        tokio::spawn(server);
        assert!(ask(address, "/metrics").await.ends_with("answers 42\n"));
        let health = ask(address, "/healthz").await;
        assert!(health.starts_with("HTTP/1.1 503") && health.ends_with("the engine is away\n"), "{health}");
        assert!(ask(address, "/").await.starts_with("HTTP/1.1 404"));
    }
}
