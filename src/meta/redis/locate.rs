//! Where the server is that has the volume: a fixed address, the master that Sentinel names, or the master of the slot in
//! which all keys of the volume lie.
//!
//! So whatever the set-up, all operations go through one connection to one server, in one order. When it is lost or the
//! server says that it is no longer the one (READONLY, MOVED), the place is asked for again. A server that is found is
//! asked for its role before it is believed.

use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, FromRedisValue, IntoConnectionInfo,
    ProtocolVersion, RedisConnectionInfo, RedisError, TlsCertificates, Value,
};
use tracing::debug;

use super::fault::Fault;
use crate::error::{Error, Result};
use crate::url::{RedisServers, RedisTls, RedisUrl};

/// How long a sentinel, or a node that is only asked for another, may take for everything.
const ASKING: Duration = Duration::from_secs(2);
/// Slots of a cluster.
const SLOTS: u16 = 16_384;

/// Host and port.
type Node = (String, u16);

/// Finds and reaches the server.
#[derive(Debug)]
pub(super) struct Locator {
    servers: RedisServers,
    engine: String,
    db: u32,
    login: RedisConnectionInfo,
    sentinel_login: RedisConnectionInfo,
    tls: Option<Tls>,
    /// Sentinels or nodes of the cluster, the one that knew best last time first.
    known: Mutex<Vec<Node>>,
}

/// What certificates are checked against.
struct Tls {
    insecure: bool,
    certificates: Option<TlsCertificates>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("insecure", &self.insecure).finish_non_exhaustive()
    }
}

impl Locator {
    /// # Errors
    /// [`Error::Address`] for certificates that cannot be read, [`Error::NotSupported`] for `tls-server-name`.
    pub(super) async fn new(url: &RedisUrl) -> Result<Self> {
        let mut login = RedisConnectionInfo::default();
        let mut sentinel_login = RedisConnectionInfo::default();
        if let Some(user) = &url.user {
            login = login.set_username(user);
        }
        if let Some(password) = &url.password {
            login = login.set_password(password);
        }
        if let Some(password) = &url.sentinel_password {
            sentinel_login = sentinel_login.set_password(password);
        }
        let tls = match &url.tls {
            Some(tls) => Some(Tls::read(url, tls).await?),
            None => None,
        };
        let known = match &url.servers {
            RedisServers::Sentinel { sentinels, .. } => sentinels.clone(),
            RedisServers::Cluster { nodes } => nodes.clone(),
            RedisServers::Single { host, port } => vec![(host.clone(), *port)],
            RedisServers::Socket { .. } => Vec::new(),
        };
        let (servers, engine) = (url.servers.clone(), url.to_string());
        Ok(Self { servers, engine, db: url.db, login, sentinel_login, tls, known: Mutex::new(known) })
    }

    /// What every key of the volume begins with: in a cluster, what makes them lie in one slot (format.md §2.1).
    pub(super) fn prefix(&self) -> String {
        if self.is_cluster() { format!("{{{}}}", self.db) } else { String::new() }
    }

    fn is_cluster(&self) -> bool {
        matches!(self.servers, RedisServers::Cluster { .. })
    }

    /// A single server that belongs to a cluster is one of its nodes (format.md §8).
    ///
    /// # Errors
    /// Those of the connection.
    pub(super) async fn recognise_cluster(&mut self, config: &AsyncConnectionConfig) -> Result<(), Fault> {
        let RedisServers::Single { host, port } = &self.servers else { return Ok(()) };
        let node = (host.clone(), *port);
        let mut connection = self.reach(&node, self.login.clone(), config).await?;
        let info: String = self.ask(&mut connection, redis::cmd("INFO").arg("server")).await.unwrap_or_default();
        if info.lines().any(|line| line.trim_end() == "redis_mode:cluster") {
            self.servers = RedisServers::Cluster { nodes: vec![node] };
        }
        Ok(())
    }

    /// The number of the volume's database.
    pub(super) fn db(&self) -> u32 {
        self.db
    }

    /// A connection to the server that has the volume now.
    pub(super) async fn connect(&self, config: &AsyncConnectionConfig) -> Result<MultiplexedConnection, Fault> {
        self.connect_as(&self.login, config).await
    }

    /// The same for what the server says by itself, between the answers, which needs version 6.
    pub(super) async fn connect_to_listen(
        &self,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, Fault> {
        self.connect_as(&self.login.clone().set_protocol(ProtocolVersion::RESP3), config).await
    }

    async fn connect_as(
        &self,
        login: &RedisConnectionInfo,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, Fault> {
        match &self.servers {
            RedisServers::Socket { path } => {
                let login = login.clone().set_db(self.db.into());
                self.open(ConnectionAddr::Unix(path.clone()), login, config).await
            }
            RedisServers::Single { host, port } => {
                let login = login.clone().set_db(self.db.into());
                self.reach(&(host.clone(), *port), login, config).await
            }
            RedisServers::Sentinel { master, .. } => {
                let node = self.first_answer(|sentinel| self.ask_sentinel(master, sentinel)).await?;
                let login = login.clone().set_db(self.db.into());
                self.master(&node, login, config).await
            }
            RedisServers::Cluster { .. } => {
                let node = self.first_answer(|node| self.ask_node(node)).await?;
                self.master(&node, login.clone(), config).await
            }
        }
    }

    /// Asks one after the other, the best first, until somebody knows.
    async fn first_answer<F>(&self, ask: impl Fn(Node) -> F) -> Result<Node, Fault>
    where
        F: Future<Output = Result<Node, Fault>>,
    {
        let nodes = self.known.lock().clone();
        let mut last = None;
        for node in nodes {
            let asked = tokio::time::timeout(ASKING, ask(node.clone())).await;
            let why = match asked {
                Ok(Ok(found)) => {
                    let mut known = self.known.lock();
                    known.retain(|other| *other != node);
                    known.insert(0, node);
                    return Ok(found);
                }
                Ok(Err(fault)) => fault,
                Err(_elapsed) => self.not_now(format!("{}:{} does not answer", node.0, node.1)),
            };
            debug!(engine = self.engine, node = ?node, ?why, "does not know the master");
            // A refusal tells more than a silence.
            if !matches!(last, Some(Fault::Final(_))) {
                last = Some(why);
            }
        }
        Err(last.unwrap_or_else(|| self.not_now("no server is named".to_owned())))
    }

    async fn ask_sentinel(&self, master: &str, sentinel: Node) -> Result<Node, Fault> {
        let config = AsyncConnectionConfig::new();
        let mut connection = self.reach(&sentinel, self.sentinel_login.clone(), &config).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        let found: Option<(String, u16)> = self.ask(&mut connection, &question).await?;
        found.ok_or_else(|| {
            let why = format!("sentinel {}:{} knows no master {master:?}", sentinel.0, sentinel.1);
            Fault::Final(Error::Address { address: self.engine.clone(), why })
        })
    }

    /// The master of the volume's slot as a node knows it; learns of the other nodes.
    async fn ask_node(&self, node: Node) -> Result<Node, Fault> {
        let mut connection = self.reach(&node, self.login.clone(), &AsyncConnectionConfig::new()).await?;
        let ranges: Vec<Value> = self.ask(&mut connection, redis::cmd("CLUSTER").arg("SLOTS")).await?;
        let slot = slot_of(self.db);
        let (mut found, mut others) = (None, Vec::new());
        for range in ranges.iter().filter_map(|range| SlotRange::read(range, &node)) {
            if (range.first..=range.last).contains(&slot) {
                found = range.nodes.first().cloned();
            }
            others.extend(range.nodes);
        }
        let mut known = self.known.lock();
        for other in others {
            if !known.contains(&other) {
                known.push(other);
            }
        }
        found.ok_or_else(|| self.not_now(format!("no node of the cluster serves slot {slot}")))
    }

    /// A connection to a server that still is a master.
    async fn master(
        &self,
        node: &Node,
        login: RedisConnectionInfo,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, Fault> {
        let mut connection = self.reach(node, login, config).await?;
        let role: Vec<Value> = self.ask(&mut connection, &redis::cmd("ROLE")).await?;
        match role.into_iter().next().map(String::from_redis_value) {
            Some(Ok(role)) if role == "master" => Ok(connection),
            role => Err(self.not_now(format!("{}:{} is not the master but {role:?}", node.0, node.1))),
        }
    }

    async fn reach(
        &self,
        (host, port): &Node,
        login: RedisConnectionInfo,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, Fault> {
        let address = match &self.tls {
            None => ConnectionAddr::Tcp(host.clone(), *port),
            Some(tls) => {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: tls.insecure, tls_params: None }
            }
        };
        self.open(address, login, config).await
    }

    async fn open(
        &self,
        address: ConnectionAddr,
        login: RedisConnectionInfo,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, Fault> {
        let explain = |error: RedisError| self.explain(&error);
        // Requests are small and many are under way: none is to wait for the acknowledgement of the one before.
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = address.into_connection_info().map_err(explain)?.set_redis_settings(login).set_tcp_settings(tcp);
        let certificates = self.tls.as_ref().and_then(|tls| tls.certificates.clone());
        let client = match certificates {
            None => Client::open(info),
            Some(certificates) => Client::build_with_tls(info, certificates),
        };
        let connecting = async { client?.get_multiplexed_async_connection_with_config(config).await };
        connecting.await.map_err(explain)
    }

    async fn ask<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        question: &redis::Cmd,
    ) -> Result<T, Fault> {
        let answer = question.query_async(connection).await;
        answer.map_err(|error| self.explain(&error))
    }

    pub(super) fn explain(&self, error: &RedisError) -> Fault {
        Fault::of_connecting(&self.engine, &self.engine, error)
    }

    fn not_now(&self, why: String) -> Fault {
        Fault::NotDone(Error::Unavailable { engine: self.engine.clone(), why })
    }
}

impl Tls {
    async fn read(url: &RedisUrl, tls: &RedisTls) -> Result<Self> {
        if tls.server_name.is_some() {
            return Err(Error::NotSupported {
                what: "tls-server-name: a certificate for another name than the host's",
            });
        }
        // An error only says that the process has a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let read = async |path: &std::path::PathBuf| {
            let content = tokio::fs::read(path).await;
            content.map_err(|error| Error::Address {
                address: url.to_string(),
                why: format!("{}: {error}", path.display()),
            })
        };
        let root_cert = match &tls.ca_file {
            Some(path) => Some(read(path).await?),
            None => None,
        };
        let client_tls = match (&tls.cert_file, &tls.key_file) {
            (Some(cert), Some(key)) => {
                Some(ClientTlsConfig { client_cert: read(cert).await?, client_key: read(key).await? })
            }
            _ => None,
        };
        let any = root_cert.is_some() || client_tls.is_some();
        Ok(Self { insecure: tls.insecure, certificates: any.then_some(TlsCertificates { client_tls, root_cert }) })
    }
}

/// An item of the reply to CLUSTER SLOTS.
struct SlotRange {
    first: u16,
    last: u16,
    /// The master first.
    nodes: Vec<Node>,
}

impl SlotRange {
    /// `asked` stands for a node that does not know its own name.
    fn read(item: &Value, asked: &Node) -> Option<Self> {
        let Value::Array(items) = item else { return None };
        let [first, last, nodes @ ..] = items.as_slice() else { return None };
        let nodes = nodes.iter().filter_map(|node| {
            let Value::Array(parts) = node else { return None };
            let host = String::from_redis_value_ref(parts.first()?).unwrap_or_default();
            let port = u16::from_redis_value_ref(parts.get(1)?).ok()?;
            let unknown = host.is_empty() || host == "?";
            Some((if unknown { asked.0.clone() } else { host }, port))
        });
        Some(Self {
            first: u16::from_redis_value_ref(first).ok()?,
            last: u16::from_redis_value_ref(last).ok()?,
            nodes: nodes.collect(),
        })
    }
}

/// The slot of all keys that begin with `{db}`: CRC-16/XMODEM of the tag.
fn slot_of(db: u32) -> u16 {
    let mut crc = 0u16;
    for byte in db.to_string().bytes() {
        crc ^= u16::from(byte) << 8;
        for _bit in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_is_that_of_the_tag() {
        // CLUSTER KEYSLOT {0}i1, {1}i1, {15}x of a server.
        assert_eq!([slot_of(0), slot_of(1), slot_of(15)], [13_907, 9_842, 4_178]);
    }
}
