//! Something between a client and its server that makes the way long or bad.

use std::io::{BufRead, BufReader, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

use crate::process::pause;

/// Accepts connections until it is dropped, and gives each to a thread of its own.
struct Listener {
    address: SocketAddr,
}

impl Listener {
    fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let serve = Arc::new(serve);
        // Ends with the test's process; connections of a dropped proxy are of no harm to anybody.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(stream));
            }
        });
        Self { address }
    }
}

/// A way to a server that takes its time in each direction, without limiting what is under way.
pub struct SlowLink {
    listener: Listener,
}

impl SlowLink {
    /// Adds `delay` to each direction of every connection to `server`.
    pub fn start(server: SocketAddr, delay: Duration) -> Self {
        let serve = move |client: TcpStream| {
            let Ok(server) = TcpStream::connect(server) else { return };
            let (Ok(from_server), Ok(to_client)) = (server.try_clone(), client.try_clone()) else { return };
            thread::spawn(move || carry(from_server, to_client, delay));
            carry(client, server, delay);
        };
        Self { listener: Listener::start(serve) }
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.listener.address
    }
}

/// Passes bytes on, each piece `delay` after it came.
fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, pieces) = mpsc::channel::<(Instant, Vec<u8>)>();
    let _set = (from.set_nodelay(true), to.set_nodelay(true));
    let writer = thread::spawn(move || {
        for (due, piece) in pieces {
            pause(due.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        let _gone = to.shutdown(Shutdown::Write);
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if sender.send((Instant::now() + delay, buffer[..read].to_vec())).is_err() {
            break;
        }
    }
    drop(sender);
    let _ended = writer.join();
}

/// What becomes of a request to an object store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server never hears of it; the client gets this status.
    Status(u16),
    /// It is answered late.
    Slow(Duration),
    /// Half of the answer arrives, then the connection ends.
    Truncated,
    /// One bit in the middle of the answer's body is another one.
    WrongBit,
    /// The connection is reset before the server hears of it.
    Reset,
    /// The server does it, and the answer is lost.
    LostReply,
}

/// A bad way to an HTTP server.
pub struct BadLink {
    listener: Listener,
    plan: Arc<Plan>,
}

#[derive(Default)]
struct Plan {
    /// The fault, how often (1 is each request), and the method that it is for.
    fault: Mutex<Option<(Fault, u64, &'static str)>>,
    requests: AtomicU64,
    met: AtomicU64,
}

impl BadLink {
    /// A link to a server on 127.0.0.1 that is good until told otherwise.
    pub fn start(port: u16) -> Self {
        let plan = Arc::new(Plan::default());
        let shared = Arc::clone(&plan);
        let listener = Listener::start(move |client| {
            // The end of a connection, by either side or by plan, is no event here.
            let _ended = serve_http(client, port, &shared);
        });
        Self { listener, plan }
    }

    /// Where to connect to.
    pub fn port(&self) -> u16 {
        self.listener.address.port()
    }

    /// From now on every `every`-th request of a method meets a fault.
    pub fn fail(&self, fault: Fault, every: u64, method: &'static str) {
        *self.plan.fault.lock().expect("no holder panics") = Some((fault, every, method));
    }

    /// From now on all is well. Gives how many requests met a fault since the last time.
    pub fn mend(&self) -> u64 {
        *self.plan.fault.lock().expect("no holder panics") = None;
        self.plan.met.swap(0, Ordering::Relaxed)
    }
}

impl Plan {
    fn next(&self, method: &str) -> Option<Fault> {
        let (fault, every, wanted) = (*self.fault.lock().expect("no holder panics"))?;
        if method != wanted || !(self.requests.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(every) {
            return None;
        }
        self.met.fetch_add(1, Ordering::Relaxed);
        Some(fault)
    }
}

struct Request {
    head: String,
    body: Vec<u8>,
}

/// One request after another; each goes to the server on a connection of its own, so that its end is the answer's end.
fn serve_http(client: TcpStream, port: u16, plan: &Plan) -> Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut client = client;
    let request = read_request(&mut reader, &mut client)?;
    let method = request.head.split(' ').next().unwrap_or_default();
    let fault = plan.next(method);
    match fault {
        Some(Fault::Reset) => return reset(&client),
        Some(Fault::Status(status)) => {
            let head = format!("HTTP/1.1 {status} Planned\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return client.write_all(head.as_bytes());
        }
        Some(Fault::Slow(time)) => pause(time),
        _ => {}
    }
    let mut answer = ask(port, &request)?;
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    match fault {
        Some(Fault::LostReply) => return reset(&client),
        Some(Fault::Truncated) => answer.truncate(body + (answer.len() - body) / 2),
        Some(Fault::WrongBit) if body < answer.len() => {
            let middle = body + (answer.len() - body) / 2;
            answer[middle] ^= 1;
        }
        _ => {}
    }
    client.write_all(&answer)?;
    client.shutdown(Shutdown::Both)
}

fn read_request(reader: &mut impl BufRead, client: &mut TcpStream) -> Result<Request> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(|_no_number| ErrorKind::InvalidData)?;
        }
        if lower.starts_with("expect:") {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        } else if lower == "\r\n" {
            head.push_str("Connection: close\r\n\r\n");
            break;
        } else if !lower.starts_with("connection:") {
            head.push_str(&line);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request { head, body })
}

fn ask(port: u16, request: &Request) -> Result<Vec<u8>> {
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    server.write_all(request.head.as_bytes())?;
    server.write_all(&request.body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Ends a connection with RST: closing it throws away what is under way.
fn reset(stream: &TcpStream) -> Result<()> {
    Ok(setsockopt(stream, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })?)
}
