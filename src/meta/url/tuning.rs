//! The parameters of a Redis address that say how to talk to the server (format.md §8).

use std::time::Duration;

use stead_base::parse_duration;

use super::{Parsed, take};

/// How to talk to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisTuning {
    /// `dial-timeout`: how long a connection may take to be made; the options' otherwise.
    pub dial_timeout: Option<Duration>,
    /// `read-timeout`: how long the server may take to answer before the connection counts as lost. Default 5 s.
    pub read_timeout: Duration,
    /// `min-retry-backoff`: the first pause before another try. Default 20 ms.
    pub min_backoff: Duration,
    /// `max-retry-backoff`: the longest one. Default 1 s; the Go client's is 10 s.
    pub max_backoff: Duration,
    /// `client-cache`: the server tells what changes, so that remembered records need not be asked for.
    pub client_cache: ClientCache,
    /// `client-cache-size`: records that are remembered.
    pub client_cache_size: Option<usize>,
    /// `client-cache-expire`: how long they are believed. Default 1 min.
    pub client_cache_expire: Duration,
}

/// What the server is to tell of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCache {
    /// `client-cache=false`: nothing.
    Off,
    /// Nothing said: of what this client has asked for, if the server can. What the kernel was told is good for as long as
    /// the mount's options say, whatever changes.
    #[default]
    Asked,
    /// `client-cache=true`: of everything, also to take back what the kernel was told.
    All,
}

impl Default for RedisTuning {
    fn default() -> Self {
        Self {
            dial_timeout: None,
            read_timeout: Duration::from_secs(5),
            min_backoff: Duration::from_millis(20),
            max_backoff: Duration::from_secs(1),
            client_cache: ClientCache::Asked,
            client_cache_size: None,
            client_cache_expire: Duration::from_secs(60),
        }
    }
}

/// Parameters of the Go client that mean nothing here: there is one connection, and it always asks the master.
const IGNORED: [&str; 17] = [
    "client-cache-preload",
    "client-name",
    "conn-max-idle-time",
    "conn-max-lifetime",
    "idle-check-frequency",
    "idle-timeout",
    "max-active-conns",
    "max-conn-age",
    "max-idle-conns",
    "max-retries",
    "min-idle-conns",
    "pool-fifo",
    "pool-size",
    "pool-timeout",
    "protocol",
    "route-read",
    "write-timeout",
];

impl RedisTuning {
    /// Takes what it knows.
    pub(super) fn take(params: &mut Vec<(String, String)>) -> Parsed<Self> {
        let default = Self::default();
        for name in IGNORED {
            take(params, name);
        }
        Ok(Self {
            dial_timeout: duration(params, "dial-timeout")?,
            read_timeout: duration(params, "read-timeout")?.unwrap_or(default.read_timeout),
            min_backoff: duration(params, "min-retry-backoff")?.unwrap_or(default.min_backoff),
            max_backoff: duration(params, "max-retry-backoff")?.unwrap_or(default.max_backoff),
            client_cache: client_cache(params)?,
            client_cache_size: size(params, "client-cache-size")?,
            client_cache_expire: duration(params, "client-cache-expire")?.unwrap_or(default.client_cache_expire),
        })
    }
}

/// Seconds, or a number with a unit; 0 and less are taken for the default, as go-redis does.
fn duration(params: &mut Vec<(String, String)>, name: &str) -> Parsed<Option<Duration>> {
    let Some(text) = take(params, name).filter(|text| !text.is_empty() && !text.starts_with('-')) else {
        return Ok(None);
    };
    let parsed = parse_duration(&text).map_err(|_why| format!("{name}: {text:?}, expected a time such as 5s or 100ms"));
    Ok(Some(parsed?).filter(|parsed| !parsed.is_zero()))
}

fn client_cache(params: &mut Vec<(String, String)>) -> Parsed<ClientCache> {
    if params.iter().all(|(name, _value)| name != "client-cache") {
        return Ok(ClientCache::Asked);
    }
    Ok(if flag(params, "client-cache")? { ClientCache::All } else { ClientCache::Off })
}

/// A switch.
pub(super) fn flag(params: &mut Vec<(String, String)>, name: &str) -> Parsed<bool> {
    match take(params, name).as_deref() {
        None | Some("0" | "false") => Ok(false),
        Some("" | "1" | "true") => Ok(true),
        Some(other) => Err(format!("{name}: {other:?}, expected true or false")),
    }
}

fn size(params: &mut Vec<(String, String)>, name: &str) -> Parsed<Option<usize>> {
    let Some(text) = take(params, name) else { return Ok(None) };
    let size = text.parse().map_err(|_not_a_number| format!("{name}: {text:?}, expected a number of records"))?;
    Ok(Some(size).filter(|size| *size > 0))
}
