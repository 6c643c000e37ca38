//! A connection that fails at the worst moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A proxy in front of a server.
pub(super) struct Proxy {
    pub(super) address: String,
    pub(super) faults: Arc<Faults>,
}

/// What is to go wrong with the next request, or with every n-th.
#[derive(Default)]
pub(super) struct Faults {
    /// The request reaches the server, its reply and the connection are lost. 0 is never, n is every n-th.
    pub(super) lose_reply: AtomicU32,
    /// The connection is lost, and only half a second later the request reaches the server. 1 is the next one.
    pub(super) deliver_late: AtomicU32,
    requests: AtomicU32,
    /// Requests that met a fault.
    pub(super) met: AtomicU32,
    /// When something came from the client.
    pub(super) arrivals: Mutex<Vec<Instant>>,
}

impl Proxy {
    pub(super) async fn start(server: &str) -> Self {
        let target = server.trim_start_matches("redis://").split('/').next().expect("host and port").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("redis://{}/1", listener.local_addr().expect("it is bound"));
        let faults = Arc::new(Faults::default());
        let shared = Arc::clone(&faults);
        tokio::spawn(async move {
            while let Ok((client, _peer)) = listener.accept().await {
                let server = TcpStream::connect(&target).await.expect("the server runs");
                tokio::spawn(serve(client, server, Arc::clone(&shared)));
            }
        });
        Self { address, faults }
    }
}

async fn serve(mut client: TcpStream, mut server: TcpStream, faults: Arc<Faults>) {
    let (mut request, mut reply) = (vec![0; 65536], vec![0; 65536]);
    loop {
        tokio::select! {
            read = client.read(&mut request) => {
                let Ok(read @ 1..) = read else { return };
                faults.arrivals.lock().push(Instant::now());
                let sent = &request[..read];
                // Only commits are disturbed: they alone must be done once.
                let commit = sent.windows(7).any(|word| word == b"\r\nSET\r\n");
                if commit && faults.deliver_late.swap(0, Ordering::Relaxed) == 1 {
                    faults.met.fetch_add(1, Ordering::Relaxed);
                    client.shutdown().await.expect("it is open");
                    drop(client);
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    server.write_all(sent).await.expect("the server runs");
                    let _ = server.read(&mut reply).await;
                    return;
                }
                server.write_all(sent).await.expect("the server runs");
                let every = faults.lose_reply.load(Ordering::Relaxed);
                if every > 0 && commit && faults.requests.fetch_add(1, Ordering::Relaxed) % every == every - 1 {
                    faults.met.fetch_add(1, Ordering::Relaxed);
                    // The server has done it when it answers.
                    let _ = server.read(&mut reply).await;
                    return;
                }
            }
            read = server.read(&mut reply) => {
                let Ok(read @ 1..) = read else { return };
                if client.write_all(&reply[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}
