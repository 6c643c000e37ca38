//! A mounted session: the tasks that read requests, from INIT to unmount.
//!
//! They run where the answers of the metadata engine arrive: a request then goes to the engine and its answer to the
//! kernel without another thread to wake. They take turns: one reads and serves, until a request comes that moves data
//! while others wait behind it; then the next one goes on reading.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use stead_vfs::Vfs;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc};
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use zerocopy::IntoBytes as _;

use crate::abi::{self, notify};
use crate::device::{Device, Received};
use crate::init::{Negotiated, wanted_for};
use crate::notify::Notifier;
use crate::request::{Operation, Request, moves_data};
use crate::server::{Served, Server};

/// A request other than WRITE fits into this many bytes: the longest carries an extended attribute of 64 KiB.
const OTHER_REQUESTS: usize = 128 << 10;
/// Room for the header and struct of a WRITE, in front of its data.
const HEADERS: usize = 4096;

/// How the kernel is to talk to us.
#[derive(Clone, Debug)]
pub struct FuseConfig {
    /// Largest write request in bytes, 4 KiB ..= 1 MiB (the kernel's `max_pages_limit`).
    pub max_write: u32,
    /// Bytes that the kernel reads ahead by itself; at most what it offers.
    pub max_readahead: u32,
    /// Requests in the background (read-ahead, writes of pages) before the kernel holds back.
    pub max_background: u16,
    /// Direct reads and writes are sent in parts at the same time, and cannot be interrupted.
    pub async_dio: bool,
    /// Tasks that read requests.
    pub readers: usize,
}

impl FuseConfig {
    /// The upper bound of `max_write`.
    pub const LARGEST_WRITE: u32 = 1 << 20;
}

impl Default for FuseConfig {
    fn default() -> Self {
        Self {
            max_write: Self::LARGEST_WRITE,
            max_readahead: 1 << 20,
            max_background: 128,
            async_dio: false,
            readers: 2,
        }
    }
}

/// A session that is being served.
pub struct Session {
    negotiated: Negotiated,
    server: Arc<Server>,
    requests: Arc<Mutex<AsyncFd<Arc<Device>>>>,
    readers: Readers,
}

/// The tasks that read requests.
struct Readers {
    /// How many there are to be.
    wanted: usize,
    running: usize,
    stop: CancellationToken,
    end: mpsc::UnboundedSender<io::Result<()>>,
    ends: mpsc::UnboundedReceiver<io::Result<()>>,
}

/// What a session that nobody reads from any more has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Nothing, or what another process can be asked as well.
    Repeatable,
    /// Changes that may or may not have taken effect.
    Changes,
}

/// How long an answer is waited for that another process could give as well.
const REPEATABLE: Duration = Duration::from_secs(1);
/// How often to look whether everything is answered.
const LOOK: Duration = Duration::from_millis(2);

impl Session {
    /// Serves the FUSE connection `fd`, which whoever opened it has mounted, and returns when the kernel has agreed on the
    /// protocol (INIT): from then on requests are answered. Waits for INIT on the calling thread, which the mount sends at
    /// once. `runtime` runs what cannot be answered without waiting.
    ///
    /// # Errors
    /// The connection is gone, was initialised before, or speaks a version that is too old.
    pub fn serve(vfs: Arc<Vfs>, fd: OwnedFd, config: FuseConfig, runtime: Handle) -> io::Result<Self> {
        let device = Device::new(fd)?;
        let negotiated = handshake(&device, wanted_for(&vfs, &config), &config)?;
        Self::start(vfs, device, negotiated, config.readers, runtime)
    }

    /// Goes on with a connection on which another process has agreed with the kernel, and which nobody reads from any more:
    /// that process is dead. The kernel sends again what it was asked and has not answered, and looks up all names anew.
    ///
    /// # Errors
    /// The connection cannot be waited for, a thread could not be started, or the kernel cannot send requests again (it is
    /// older than Linux 6.9).
    pub fn adopt(
        vfs: Arc<Vfs>,
        fd: OwnedFd,
        negotiated: Negotiated,
        config: &FuseConfig,
        runtime: Handle,
    ) -> io::Result<Self> {
        let device = Device::new(fd)?;
        match device.send(0, notify::INC_EPOCH, &[]) {
            Ok(()) => {}
            // Before Linux 6.16: names are looked up again when their time is over.
            Err(error) => debug!(%error, "the kernel keeps the names that it has"),
        }
        // Before anything is read: the kernel would send that again as well, and it would be done twice.
        device.send(0, notify::RESEND, &[])?;
        Self::start(vfs, device, negotiated, config.readers, runtime)
    }

    fn start(
        vfs: Arc<Vfs>,
        device: Device,
        negotiated: Negotiated,
        readers: usize,
        runtime: Handle,
    ) -> io::Result<Self> {
        let device = Arc::new(device);
        vfs.set_kernel_cache(Arc::new(Notifier::start(&device)?));
        let requests = {
            let _inside = runtime.enter();
            Arc::new(Mutex::new(events(&device)?))
        };
        let server = Arc::new(Server::new(device, vfs, runtime));
        let (end, ends) = mpsc::unbounded_channel();
        let (wanted, stop) = (readers.max(1), CancellationToken::new());
        let readers = Readers { wanted, running: 0, stop, end, ends };
        let mut session = Self { negotiated, server, requests, readers };
        session.read();
        Ok(session)
    }

    /// Starts the readers.
    fn read(&mut self) {
        let size = (self.negotiated.max_write as usize).max(OTHER_REQUESTS) + HEADERS;
        let readers = &mut self.readers;
        for _reader in 0..readers.wanted {
            let (server, requests) = (Arc::clone(&self.server), Arc::clone(&self.requests));
            let (stop, end) = (readers.stop.clone(), readers.end.clone());
            self.server.runtime.spawn(async move {
                // Nobody may be waiting any more.
                let _unheard = end.send(read_requests(&server, &requests, &stop, size).await);
            });
            readers.running += 1;
        }
    }

    /// What was agreed on with the kernel: whoever is to [`Session::adopt`] the connection needs it.
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// Waits until the file system is unmounted. To be given up and waited for again at any time.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn wait(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        while self.readers.running > 0 {
            let Some(end) = self.readers.ends.recv().await else { break };
            self.readers.running -= 1;
            result = result.and(end);
        }
        result
    }

    /// Stops reading requests, and waits for `limit` until changes that were asked for are answered. The kernel keeps new
    /// requests until [`Session::resume`] or for another process.
    pub async fn suspend(&mut self, limit: Duration) -> Unanswered {
        self.readers.stop.cancel();
        // What a reader met that has ended otherwise, the next one meets too.
        let _ended = self.wait().await;
        let pending = &self.server.pending;
        let all = async {
            while !pending.is_empty(false) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let changes = async {
            while !pending.is_empty(true) {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(REPEATABLE.min(limit), all).await.is_err()
            && tokio::time::timeout(limit, changes).await.is_err()
        {
            return Unanswered::Changes;
        }
        Unanswered::Repeatable
    }

    /// Reads on after [`Session::suspend`].
    pub fn resume(&mut self) {
        self.readers.stop = CancellationToken::new();
        self.read();
    }

    /// Answers nothing any more: what was asked and is not answered yet is for the process that adopts the connection.
    pub fn silence(&self) {
        self.server.device.silence();
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("negotiated", &self.negotiated).finish_non_exhaustive()
    }
}

/// An unmount is no request: it shows as an error.
const EVENTS: Interest = Interest::READABLE.add(Interest::ERROR);

/// Tells when there is something to read. To be called inside the runtime.
#[expect(unsafe_code, reason = "only the caller knows that the descriptor stays open as long as it is waited for")]
fn events(device: &Arc<Device>) -> io::Result<AsyncFd<Arc<Device>>> {
    // SAFETY: a device has one descriptor, which is closed with it, and what is returned keeps the device.
    unsafe { AsyncFd::register_with_interest(Arc::clone(device), EVENTS) }.map_err(io::Error::from)
}

/// Waits for INIT and answers it.
fn handshake(device: &Device, more_wanted: u64, config: &FuseConfig) -> io::Result<Negotiated> {
    let mut buffer = request_buffer(OTHER_REQUESTS);
    let Some(size) = device.receive(&mut buffer)? else {
        return Err(io::Error::new(io::ErrorKind::NotConnected, "it was unmounted before it was served"));
    };
    let request = Request::parse(&buffer[..size]).map_err(io::Error::other)?;
    let Operation::Init(offer, more) = request.operation().map_err(io::Error::other)? else {
        let why = format!("the first request has opcode {}, not INIT: it is served already", request.header.opcode);
        return Err(io::Error::other(why));
    };
    let negotiated = Negotiated::new(&offer, &more, more_wanted, config).inspect_err(|_too_old| {
        // The mount ends by that; the reason is in our error.
        let _gone = device.send(request.header.unique, -libc::EPROTO, &[]);
    })?;
    device.send(request.header.unique, 0, &[negotiated.reply().as_bytes()])?;
    debug!(?negotiated, kernel = offer.minor, ours = abi::KERNEL_MINOR_VERSION, "session begun");
    Ok(negotiated)
}

async fn read_requests(
    server: &Server,
    requests: &Mutex<AsyncFd<Arc<Device>>>,
    stop: &CancellationToken,
    size: usize,
) -> io::Result<()> {
    let mut buffer = request_buffer(size);
    loop {
        let Some(turn) = stop.run_until_cancelled(requests.lock()).await else { return Ok(()) };
        let Some(size) = serve_turn(server, &turn, stop, &mut buffer).await? else { return Ok(()) };
        drop(turn);
        server.serve(&buffer[..size]);
    }
}

/// Serves requests until one comes that is better served when the next reader has its turn: its length. `None`: the file
/// system was unmounted, or `stop` is cancelled.
async fn serve_turn(
    server: &Server,
    requests: &AsyncFd<Arc<Device>>,
    stop: &CancellationToken,
    buffer: &mut [u8],
) -> io::Result<Option<usize>> {
    let (vigil, mut others_wait) = (&server.device.vigil, false);
    while !stop.is_cancelled() {
        let Some(ready) = stop.run_until_cancelled(vigil.wait_for(requests.ready(EVENTS))).await else { break };
        let mut ready = ready?;
        match server.device.try_receive(buffer)? {
            Received::Unmounted => return Ok(None),
            Received::Nothing => {
                ready.clear_ready();
                others_wait = false;
            }
            Received::Request(size) if others_wait && moves_data(&buffer[..size]) => return Ok(Some(size)),
            Received::Request(size) => {
                if server.serve(&buffer[..size]) == Served::Later {
                    // To whoever sends it to the engine.
                    yield_now().await;
                }
                // If not, there is nothing to read next.
                others_wait = true;
            }
        }
    }
    Ok(None)
}

/// Memory for requests, with every page present: if a process is killed while the kernel copies a request into a page
/// that is not, the request is lost and its caller gets an error (instead of the request being sent again).
fn request_buffer(size: usize) -> Vec<u8> {
    // Zeroed memory would be mapped on first use only.
    let mut buffer = vec![1; size];
    buffer.fill(0);
    buffer
}
