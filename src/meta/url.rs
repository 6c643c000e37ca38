//! The address of a metadata engine (format.md §8), parsed once, and [`connect`].
//!
//! Invariant: neither `Display`, `Debug` nor an error shows a password.

mod tuning;

use tuning::flag;
pub use tuning::{ClientCache, RedisTuning};

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use stead_base::Clock;

use crate::error::{Error, Result};
use crate::redis::RedisStore;
use crate::sqlite::SqliteStore;
use crate::store::Store;

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
const SUPPORTED: &str = "redis://, rediss://, unix:// or sqlite3://";
const NO_SCHEME: &str = "scheme missing; one of redis://, rediss://, unix://, sqlite3://";

/// Where the metadata of a volume lives.
#[expect(clippy::large_enum_variant, reason = "there are a few addresses in a process")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaUrl {
    /// `redis[s]://[user][:password]@host[:6379]/[db]`, `unix://[user:password@]/path?db=1`.
    Redis(RedisUrl),
    /// `sqlite3://path`, relative or absolute.
    Sqlite {
        /// The database file.
        path: PathBuf,
    },
}

/// How a Redis is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// The servers.
    pub servers: RedisServers,
    /// The database, 0 when the address names none. In cluster mode it becomes the key prefix `{db}`.
    pub db: u32,
    /// The ACL user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The password of the sentinels, who know neither the user nor the password. Not part of an address.
    pub sentinel_password: Option<String>,
    /// Set for `rediss://`.
    pub tls: Option<RedisTls>,
    /// Everything else.
    pub tuning: RedisTuning,
}

/// The servers behind a Redis address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisServers {
    /// One server.
    Single {
        /// Name or IP address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// One server on this machine.
    Socket {
        /// Its Unix socket.
        path: PathBuf,
    },
    /// Sentinels that know the master: `MASTER,s1[:port],s2[:port]`.
    Sentinel {
        /// The master's name.
        master: String,
        /// (host, port) of each sentinel.
        sentinels: Vec<(String, u16)>,
    },
    /// Some nodes of a cluster: `host:port,host:port`.
    Cluster {
        /// (host, port) of each.
        nodes: Vec<(String, u16)>,
    },
}

/// What `rediss://` takes from the parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// `insecure-skip-verify`: accept any certificate.
    pub insecure: bool,
    /// `tls-ca-cert-file`: PEM of the authority; the built-in roots otherwise.
    pub ca_file: Option<PathBuf>,
    /// `tls-cert-file`: PEM of our certificate.
    pub cert_file: Option<PathBuf>,
    /// `tls-key-file`: PEM of its key.
    pub key_file: Option<PathBuf>,
    /// `tls-server-name`: the name that the certificate must show, if not the host.
    pub server_name: Option<String>,
}

impl MetaUrl {
    /// Uses `password` if the address has none: for passwords that come from elsewhere (format.md §8).
    pub fn or_password(mut self, password: Option<String>) -> Self {
        if let Self::Redis(redis) = &mut self
            && redis.password.is_none()
        {
            redis.password = password.filter(|password| !password.is_empty());
        }
        self
    }

    /// The same with the password of the sentinels, which an address cannot hold (format.md §8).
    pub fn with_sentinel_password(mut self, password: Option<String>) -> Self {
        if let Self::Redis(redis) = &mut self {
            redis.sentinel_password = password.filter(|password| !password.is_empty());
        }
        self
    }
}

impl FromStr for MetaUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: String| Error::Address { address: masked(text), why };
        let Some((scheme, rest)) = text.split_once("://") else {
            // A Redis may be named without one, as for the Go client: what is no such name lacks its scheme.
            let redis = RedisUrl::parse_tcp(text, false).map(Self::Redis);
            return redis.map_err(|why| wrong(format!("{NO_SCHEME} (redis:// is tried: {why})")));
        };
        match scheme {
            "redis" => RedisUrl::parse_tcp(rest, false).map(Self::Redis).map_err(wrong),
            "rediss" => RedisUrl::parse_tcp(rest, true).map(Self::Redis).map_err(wrong),
            "unix" => RedisUrl::parse_socket(rest).map(Self::Redis).map_err(wrong),
            "sqlite3" => parse_sqlite(rest).map_err(wrong),
            other => Err(wrong(format!("engine {other:?} is not supported, expected {SUPPORTED}"))),
        }
    }
}

/// Everything between the scheme and the last `@` is taken for a secret, also in an address that does not parse.
fn masked(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + 3);
    match text.rfind('@') {
        Some(at) if at >= start => format!("{}****{}", &text[..start], &text[at..]),
        _ => text.to_owned(),
    }
}

type Parsed<T> = Result<T, String>;

fn parse_sqlite(rest: &str) -> Parsed<MetaUrl> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if path.is_empty() || path.ends_with('/') {
        return Err("no file is named, expected sqlite3://path".to_owned());
    }
    if params(query).iter().any(|(name, _)| name == "table_prefix") {
        return Err("parameter table_prefix is not supported, the tables must be named jfs_…".to_owned());
    }
    Ok(MetaUrl::Sqlite { path: path.into() })
}

impl RedisUrl {
    fn parse_tcp(rest: &str, tls: bool) -> Parsed<Self> {
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        if !authority.contains('@') && rest.contains('@') {
            return Err("a '/', '?' or '@' in user name or password must be percent-encoded".to_owned());
        }
        let (user, password, hosts) = parse_user(authority)?;
        let mut params = params(query);
        // Without TLS they mean nothing, as for the Go client.
        let security = RedisTls::take(&mut params)?;
        let tuning = RedisTuning::take(&mut params)?;
        refuse_rest(&params)?;
        let tls = tls.then_some(security);
        Ok(Self {
            servers: parse_servers(hosts)?,
            db: parse_db(path)?,
            user,
            password,
            sentinel_password: None,
            tls,
            tuning,
        })
    }

    fn parse_socket(rest: &str) -> Parsed<Self> {
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, password, path) = if place.starts_with('/') { (None, None, place) } else { parse_user(place)? };
        if !path.starts_with('/') {
            return Err(format!("socket path {path:?}, expected an absolute path: unix:///run/redis.sock?db=1"));
        }
        let mut params = params(query);
        let db = parse_db(&take(&mut params, "db").unwrap_or_default())?;
        let tuning = RedisTuning::take(&mut params)?;
        refuse_rest(&params)?;
        let servers = RedisServers::Socket { path: path.into() };
        Ok(Self { servers, db, user, password, sentinel_password: None, tls: None, tuning })
    }
}

impl RedisTls {
    fn take(params: &mut Vec<(String, String)>) -> Parsed<Self> {
        let tls = Self {
            insecure: flag(params, "insecure-skip-verify")?,
            ca_file: take(params, "tls-ca-cert-file").map(PathBuf::from),
            cert_file: take(params, "tls-cert-file").map(PathBuf::from),
            key_file: take(params, "tls-key-file").map(PathBuf::from),
            server_name: take(params, "tls-server-name"),
        };
        if tls.cert_file.is_some() != tls.key_file.is_some() {
            return Err("tls-cert-file and tls-key-file go together".to_owned());
        }
        Ok(tls)
    }
}

/// User, password and what follows the last `@`.
fn parse_user(authority: &str) -> Parsed<(Option<String>, Option<String>, &str)> {
    let Some((user, place)) = authority.rsplit_once('@') else {
        return Ok((None, None, authority));
    };
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let decoded = |text: &str| {
        let text = percent_decode_str(text)
            .decode_utf8()
            .map_err(|_not_utf8| "user name and password must be UTF-8".to_owned())?;
        Ok::<_, String>(Some(text.into_owned()).filter(|text| !text.is_empty()))
    };
    Ok((decoded(user)?, decoded(password)?, place))
}

fn parse_servers(hosts: &str) -> Parsed<RedisServers> {
    let Some(comma) = hosts.find(',') else {
        let (host, port) = parse_host(hosts, REDIS_PORT)?;
        return Ok(RedisServers::Single { host, port });
    };
    let (first, others) = (&hosts[..comma], &hosts[comma + 1..]);
    if first.contains(':') {
        let nodes = hosts.split(',').map(|node| parse_host(node, REDIS_PORT)).collect::<Parsed<_>>()?;
        return Ok(RedisServers::Cluster { nodes });
    }
    // The port of the last sentinel stands for those that name none.
    let (_, last_port) = parse_host(others.rsplit(',').next().unwrap_or(others), SENTINEL_PORT)?;
    let sentinels = others.split(',').map(|node| parse_host(node, last_port)).collect::<Parsed<_>>()?;
    let master = first.to_owned();
    Ok(RedisServers::Sentinel { master, sentinels })
}

fn parse_host(text: &str, default_port: u16) -> Parsed<(String, u16)> {
    let (host, port) = match text.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err(format!("host {text:?} is empty, expected host or host:port"));
    }
    let port = match port {
        None => default_port,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("port {port:?}, expected a number from 1 to 65535"))?,
    };
    Ok((host.to_owned(), port))
}

fn parse_db(text: &str) -> Parsed<u32> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_not_a_number| format!("database {text:?}, expected a number such as 1"))
}

fn params(query: &str) -> Vec<(String, String)> {
    url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

fn take(params: &mut Vec<(String, String)>, name: &str) -> Option<String> {
    let at = params.iter().position(|(param, _)| param.replace('_', "-") == name)?;
    Some(params.remove(at).1)
}

/// Refuses parameters that nobody has taken.
fn refuse_rest(params: &[(String, String)]) -> Parsed<()> {
    match params.first() {
        None => Ok(()),
        Some((name, _value)) => Err(format!("parameter {name:?} is not known")),
    }
}

impl fmt::Display for MetaUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis(redis) => redis.fmt(f),
            Self::Sqlite { path } => write!(f, "sqlite3://{}", path.display()),
        }
    }
}

impl fmt::Display for RedisUrl {
    /// Scheme, servers and database; neither user, password nor parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        let join = |nodes: &[(String, u16)]| {
            let nodes: Vec<_> = nodes.iter().map(|(host, port)| host_and_port(host, *port)).collect();
            nodes.join(",")
        };
        let db = self.db;
        match &self.servers {
            RedisServers::Single { host, port } => write!(f, "{scheme}://{}/{db}", host_and_port(host, *port)),
            RedisServers::Socket { path } => write!(f, "unix://{}?db={db}", path.display()),
            RedisServers::Sentinel { master, sentinels } => {
                write!(f, "{scheme}://{master},{}/{db}", join(sentinels))
            }
            RedisServers::Cluster { nodes } => write!(f, "{scheme}://{}/{db}", join(nodes)),
        }
    }
}

fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "****");
        write!(f, "RedisUrl({self}, user: {:?}, password: {password:?})", self.user)
    }
}

/// How to connect, and for how long to wait.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// How long an operation waits for an engine that is away or busy. Default 60 s.
    pub retry_for: Duration,
    /// How long the first connection may take. Default 5 s.
    pub connect_timeout: Duration,
    /// Where "now" comes from.
    pub clock: Arc<dyn Clock>,
    /// Whether a missing SQLite file may be created.
    pub create: bool,
}

impl ConnectOptions {
    /// The defaults, with the given clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { retry_for: Duration::from_secs(60), connect_timeout: Duration::from_secs(5), clock, create: false }
    }
}

/// Connects to a metadata engine; the volume need not be formatted yet.
///
/// # Errors
/// [`Error::Denied`] for a wrong password, [`Error::Unavailable`] when nobody answers within the connect timeout.
pub async fn connect(url: &MetaUrl, options: &ConnectOptions) -> Result<Arc<dyn Store>> {
    match url {
        MetaUrl::Redis(url) => Ok(Arc::new(RedisStore::connect(url, options).await?)),
        MetaUrl::Sqlite { path } => Ok(Arc::new(SqliteStore::open(path, options).await?)),
    }
}

#[cfg(test)]
mod tests;
