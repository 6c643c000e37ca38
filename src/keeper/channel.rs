//! Messages with file descriptors over a Unix socket that keeps message borders (SOCK_SEQPACKET): how the node service
//! and a worker talk.
//!
//! The node service sends [`Message::Mount`] with the FUSE descriptor; the worker answers [`Message::Serving`] or
//! [`Message::Failed`]. [`Message::Drain`] asks it to end, [`Message::HandOver`] to leave the mount to another worker, which
//! gets [`Message::Adopt`]. The end of the socket means that the node service died, and the worker goes on serving: mounts
//! outlive the node service. To the next one the worker says [`Message::Resume`].

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno as NixErrno;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, getsockopt, listen, recvmsg, sendmsg, socket, socketpair, sockopt,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};

/// The largest message in bytes; a larger one is refused on both sides.
pub const MAX_MESSAGE: usize = 128 << 10;
/// The most descriptors in one message.
pub const MAX_FDS: usize = 8;

/// What the node service and a worker say to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Message {
    /// To the worker, with the FUSE descriptor: serve it. The configuration is the worker's business.
    Mount {
        /// A `MountConfig`.
        config: serde_json::Value,
        /// Where a node service listens for workers that it did not start.
        #[serde(default)]
        keeper: Option<PathBuf>,
    },
    /// To a worker, with the FUSE descriptor and what a worker before it has sent with [`Message::Serving`]: go on where
    /// that one ended. It is dead, and has been asked what nobody has answered.
    Adopt {
        /// A `MountConfig`.
        config: serde_json::Value,
        /// As that worker told it.
        session: serde_json::Value,
        /// As in [`Message::Mount`].
        #[serde(default)]
        keeper: Option<PathBuf>,
    },
    /// From the worker: the file system answers. With it comes the memory that outlives the worker, if there is any.
    Serving {
        /// The worker's process id, in its own pid namespace.
        pid: u32,
        /// What a worker after it must know: the workers' business.
        #[serde(default)]
        session: serde_json::Value,
        /// The stages of its start, and how many microseconds each took.
        #[serde(default)]
        stages: Vec<(String, u64)>,
    },
    /// From a worker to a node service that did not start it, with the FUSE descriptor and the memory.
    Resume {
        /// The directory that is mounted.
        mount_point: PathBuf,
        /// As in [`Message::Mount`].
        config: serde_json::Value,
        /// As in [`Message::Serving`].
        session: serde_json::Value,
    },
    /// To the worker: answer with [`Message::Alive`].
    Ping,
    /// From the worker, to [`Message::Ping`].
    Alive,
    /// To the worker: answer with [`Message::Measured`].
    Measure,
    /// From the worker: how its mount does.
    Measured {
        /// The labels that every sample of it has: `name="value",…`.
        labels: String,
        /// Metrics without these labels, in the text format of Prometheus.
        page: String,
    },
    /// To the worker: use these credentials from now on. Answered by [`Message::Reconfigured`] or [`Message::Failed`].
    Reconfigure {
        /// A `MountConfig` that differs in credentials alone.
        config: serde_json::Value,
    },
    /// To the worker: directories may have got limits since it looked; it is to look now.
    LearnLimits,
    /// From the worker, once for each [`Message::LearnLimits`].
    LimitsLearned {
        /// Why they could not be learned, for people.
        #[serde(default)]
        error: Option<String>,
    },
    /// From the worker: the credentials are in use.
    Reconfigured,
    /// To the worker: write back everything, answer what was asked, and end, so that another one goes on. Answered by
    /// [`Message::HandedOver`], or by [`Message::Failed`] when it serves on.
    HandOver,
    /// From the worker: nothing is lost without it; it ends now.
    HandedOver,
    /// To a runner, with a descriptor for the log: start a worker that is at the other end of this socket from now on.
    Start,
    /// From a runner, with a descriptor of the worker's process (pidfd_open(2)).
    Started,
    /// From the worker, just before it ends: it cannot serve.
    Failed {
        /// The start-up stage: `config`, `meta`, `object`, `cache`, `fuse`, …
        stage: String,
        /// For people.
        error: String,
        /// What it will exit with.
        exit_code: i32,
    },
    /// To the worker: flush everything and end.
    Drain,
    /// From the worker: everything is flushed; it ends now.
    Drained,
}

impl Message {
    /// The message's kind, for logs: the content may hold secrets.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Mount { .. } => "mount",
            Self::Adopt { .. } => "adopt",
            Self::Serving { .. } => "serving",
            Self::Resume { .. } => "resume",
            Self::Ping => "ping",
            Self::Alive => "alive",
            Self::Measure => "measure",
            Self::Measured { .. } => "measured",
            Self::Reconfigure { .. } => "reconfigure",
            Self::LearnLimits => "learn_limits",
            Self::LimitsLearned { .. } => "limits_learned",
            Self::Reconfigured => "reconfigured",
            Self::HandOver => "hand_over",
            Self::HandedOver => "handed_over",
            Self::Start => "start",
            Self::Started => "started",
            Self::Failed { .. } => "failed",
            Self::Drain => "drain",
            Self::Drained => "drained",
        }
    }
}

/// One end of a control socket. Both directions may be used at the same time by different tasks.
#[derive(Debug)]
pub struct Channel {
    socket: AsyncFd<OwnedFd>,
}

/// Whoever connects to the socket at a path.
#[derive(Debug)]
pub struct Listener {
    socket: AsyncFd<OwnedFd>,
}

impl Listener {
    /// Listens at `path`, in place of a listener that is gone. Who may connect is for [`Listener::accept`] to say.
    pub fn bind(path: &Path) -> Result<Self> {
        let failed = |errno| Error::call("listen at", path, errno);
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("replace", path, &error));
            }
            _ => {}
        }
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SOCKET_FLAGS, None).map_err(failed)?;
        bind(socket.as_raw_fd(), &UnixAddr::new(path).map_err(failed)?).map_err(failed)?;
        let open = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(path, open).map_err(|error| Error::io("open to all", path, &error))?;
        listen(&socket, Backlog::MAXCONN).map_err(failed)?;
        Ok(Self { socket: registered(socket)? })
    }

    /// Waits for the next one who connects, and tells its user and its process (0 = in a pid namespace that is not seen).
    pub async fn accept(&self) -> Result<(Channel, Peer)> {
        let accept =
            |socket: &OwnedFd| accept4(socket.as_raw_fd(), SOCKET_FLAGS).map(own).map_err(std::io::Error::from);
        let accepted = self.socket.async_io(Interest::READABLE, accept).await;
        let accepted = accepted.map_err(|error| Error::socket(&error))?;
        let who = getsockopt(&accepted, sockopt::PeerCredentials).map_err(socket_error)?;
        Ok((Channel::new(accepted)?, Peer { uid: who.uid(), pid: who.pid() }))
    }
}

/// Who is at the other end, as the kernel says (SO_PEERCRED, unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Effective user.
    pub uid: u32,
    /// Process.
    pub pid: i32,
}

const SOCKET_FLAGS: SockFlag = SockFlag::SOCK_CLOEXEC.union(SockFlag::SOCK_NONBLOCK);

#[expect(unsafe_code, reason = "registering a descriptor has no safe form")]
fn registered(socket: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays open, and the same one, until the registration is dropped.
    unsafe { AsyncFd::register(socket) }.map_err(|error| Error::socket(&error.into()))
}

/// Two connected ends, close-on-exec and non-blocking.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SOCKET_FLAGS).map_err(socket_error)
}

impl Channel {
    /// Uses an end of [`pair`]; must be called within a runtime.
    pub fn new(socket: OwnedFd) -> Result<Self> {
        Ok(Self { socket: registered(socket)? })
    }

    /// Connects to the [`Listener`] at `path`.
    pub fn connect(path: &Path) -> Result<Self> {
        let failed = |errno| Error::call("connect to", path, errno);
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SOCKET_FLAGS, None).map_err(failed)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path).map_err(failed)?).map_err(failed)?;
        Self::new(socket)
    }

    /// Takes over a descriptor that the parent process left open under the number `fd`. To be called once.
    pub fn inherited(fd: RawFd) -> Result<Self> {
        Self::new(inherit(fd)?)
    }

    /// Sends a message together with copies of `fds`.
    pub async fn send(&self, message: &Message, fds: &[RawFd]) -> Result<()> {
        let bytes = serde_json::to_vec(message).map_err(|error| protocol(error.to_string()))?;
        if bytes.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
            let (size, count) = (bytes.len(), fds.len());
            let why = format!("a message of {size} bytes and {count} descriptors: {MAX_MESSAGE} and {MAX_FDS} at most");
            return Err(protocol(why));
        }
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                let parts = [IoSlice::new(&bytes)];
                let sent = sendmsg::<()>(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None);
                sent.map_err(std::io::Error::from)
            })
            .await
            .map(|_whole| ())
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EPIPE | libc::ECONNRESET) => Error::Closed,
                _ => Error::socket(&error),
            })
    }

    /// Waits for the next message and its descriptors (close-on-exec). [`Error::Closed`] when the other side is gone.
    pub async fn recv(&self) -> Result<(Message, Vec<OwnedFd>)> {
        let mut bytes = vec![0; MAX_MESSAGE + 1];
        let (length, fds) = self
            .socket
            .async_io(Interest::READABLE, |socket| {
                receive(socket.as_raw_fd(), &mut bytes).map_err(std::io::Error::from)
            })
            .await
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ECONNRESET) => Error::Closed,
                _ => Error::socket(&error),
            })?;
        if length == 0 {
            return Err(Error::Closed);
        }
        if length > MAX_MESSAGE {
            return Err(protocol(format!("a message above {MAX_MESSAGE} bytes")));
        }
        // The error of the parser could quote a secret.
        let message = serde_json::from_slice(&bytes[..length]).map_err(|error| {
            protocol(format!("malformed message: {:?} at column {}", error.classify(), error.column()))
        })?;
        Ok((message, fds))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

fn receive(socket: RawFd, bytes: &mut [u8]) -> nix::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut parts = [IoSliceMut::new(bytes)];
    let received = recvmsg::<()>(socket, &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for control in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            fds.extend(received.into_iter().map(own));
        }
    }
    Ok((received.bytes, fds))
}

#[expect(unsafe_code, reason = "the kernel gives received descriptors as numbers")]
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: recvmsg has just made this descriptor for us; nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[expect(unsafe_code, reason = "an inherited descriptor is only a number")]
fn inherit(fd: RawFd) -> Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
    use std::os::fd::{BorrowedFd, FromRawFd};
    if fd < 3 {
        return Err(protocol(format!("descriptor {fd} cannot be a control socket: 3 or above is expected")));
    }
    // SAFETY: only borrowed to ask whether it is open; fcntl answers EBADF when it is not.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(socket_error)?;
    fcntl(borrowed, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(socket_error)?;
    let kind = nix::sys::socket::getsockopt(&borrowed, nix::sys::socket::sockopt::SockType).map_err(socket_error)?;
    if kind != SockType::SeqPacket {
        return Err(protocol(format!("descriptor {fd} is a socket of type {kind:?}: SeqPacket is expected")));
    }
    // SAFETY: it is open, and the caller's parent left it for this purpose alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn socket_error(errno: NixErrno) -> Error {
    Error::Socket { errno: stead_base::Errno(errno as i32) }
}

fn protocol(why: String) -> Error {
    Error::Protocol { why }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::os::fd::IntoRawFd;

    use super::*;

    fn channels() -> (Channel, Channel) {
        let (a, b) = pair().expect("a pair");
        (Channel::new(a).expect("in a runtime"), Channel::new(b).expect("in a runtime"))
    }

    #[tokio::test]
    async fn a_descriptor_travels_both_ways() {
        let (node, worker) = channels();
        let mut file = tempfile::tempfile().expect("a file");
        let config = serde_json::json!({"meta_url": "redis://x"});
        node.send(&Message::Mount { config: config.clone(), keeper: None }, &[file.as_raw_fd()]).await.expect("sent");
        let (message, mut fds) = worker.recv().await.expect("received");
        assert_eq!(message, Message::Mount { config, keeper: None });
        let mut copy = std::fs::File::from(fds.pop().expect("one descriptor"));
        let serving =
            Message::Serving { pid: 7, session: serde_json::Value::Null, stages: vec![("meta".to_owned(), 7)] };
        copy.write_all(b"through the copy").expect("writable");
        worker.send(&serving, &[copy.as_raw_fd()]).await.expect("sent");
        let (message, fds) = node.recv().await.expect("received");
        assert_eq!((message, fds.len()), (serving, 1));
        let mut text = String::new();
        file.rewind().expect("seekable");
        file.read_to_string(&mut text).expect("readable");
        assert_eq!(text, "through the copy");
    }

    #[tokio::test]
    async fn the_end_of_the_other_side_is_told() {
        let (node, worker) = channels();
        node.send(&Message::Drain, &[]).await.expect("sent");
        drop(node);
        assert_eq!(worker.recv().await.expect("sent before the end").0, Message::Drain);
        assert!(matches!(worker.recv().await, Err(Error::Closed)));
        assert!(matches!(worker.send(&Message::Drained, &[]).await, Err(Error::Closed)));
    }

    #[tokio::test]
    async fn too_large_and_malformed_messages_are_refused() {
        let (node, worker) = channels();
        let mount = |size| Message::Mount { config: serde_json::Value::String("x".repeat(size)), keeper: None };
        let large = mount(MAX_MESSAGE);
        assert!(matches!(node.send(&large, &[]).await, Err(Error::Protocol { .. })));
        let full = mount(MAX_MESSAGE - 64);
        node.send(&full, &[]).await.expect("fits");
        assert_eq!(worker.recv().await.expect("received").0, full);
        nix::unistd::write(node.socket.get_ref(), b"{\"type\":\"hunter2\"}").expect("written");
        let error = worker.recv().await.expect_err("unknown type").to_string();
        assert!(error.contains("malformed") && !error.contains("hunter2"), "{error}");
    }

    #[tokio::test]
    async fn an_inherited_descriptor_must_be_a_control_socket() {
        let (a, b) = pair().expect("a pair");
        let worker = Channel::inherited(b.into_raw_fd()).expect("right kind");
        let node = Channel::new(a).expect("in a runtime");
        node.send(&Message::Drain, &[]).await.expect("sent");
        assert_eq!(worker.recv().await.expect("received").0, Message::Drain);
        assert!(Channel::inherited(0).is_err());
        assert!(Channel::inherited(9999).is_err());
    }
}
