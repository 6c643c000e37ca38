//! Whether the server is fit to keep a volume: its version, and a configuration that would lose metadata.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue};
use tracing::{debug, info, warn};

use super::RedisStore;
use super::fault::Fault;
use crate::error::{Error, Result};

/// The oldest version that will do (format.md §2.1).
const OLDEST: u32 = 4;

/// What this process has warned of: it may connect more than once.
static SAID: LazyLock<Mutex<BTreeSet<String>>> = LazyLock::new(Mutex::default);

impl RedisStore {
    /// Refuses a server that is too old; says once in the log what of its configuration endangers a volume. What
    /// cannot be asked is not said.
    pub(super) async fn check_server(&self) -> Result<()> {
        let info = match self.info("server").await {
            Ok(info) => info,
            Err(error) => {
                debug!(%error, "the server does not tell its version");
                return Ok(());
            }
        };
        let version = value_of(&info, "redis_version").unwrap_or_default();
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_some_and(|major| major < OLDEST) {
            let why = format!("Redis {version} is too old, expected {OLDEST}.0 or later");
            return Err(Error::Engine { engine: self.link.engine().to_owned(), why });
        }
        match self.dangers().await {
            Ok(dangers) => {
                for danger in dangers {
                    if SAID.lock().insert(format!("{} {danger}", self.link.engine())) {
                        warn!(engine = self.link.engine(), "{danger}");
                    }
                }
            }
            Err(error) => debug!(%error, "the server does not tell its configuration"),
        }
        Ok(())
    }

    /// What endangers a volume, after an attempt to keep the server from evicting.
    pub(super) async fn dangers(&self) -> Result<Vec<String>> {
        let (memory, persistence) = (self.info("memory").await?, self.info("persistence").await?);
        let mut dangers = Vec::new();
        let policy = value_of(&memory, "maxmemory_policy").unwrap_or("noeviction");
        if policy != "noeviction" {
            match self.config(&["SET", "maxmemory-policy", "noeviction"]).await {
                Ok(_done) => info!(engine = self.link.engine(), policy, "set maxmemory-policy to noeviction"),
                Err(fault) => dangers.push(format!(
                    "maxmemory-policy is {policy}: Redis may evict metadata; it could not be set to noeviction: {}",
                    fault.into_error(),
                )),
            }
        }
        if value_of(&persistence, "aof_enabled") == Some("0") {
            let save = self.config(&["GET", "save"]).await.ok();
            let save = save.and_then(|reply| Vec::<(String, String)>::from_redis_value(reply).ok());
            if save.is_some_and(|save| save.iter().all(|(_name, value)| value.is_empty())) {
                dangers.push("neither appendonly nor save is configured: a restart of Redis loses the volume".into());
            }
        }
        Ok(dangers)
    }

    async fn info(&self, section: &str) -> Result<String> {
        let reply = self.link.send(redis::cmd("INFO").arg(section)).await.map_err(Fault::into_error)?;
        String::from_redis_value(reply).map_err(|error| self.link.unexpected(error))
    }

    async fn config(&self, words: &[&str]) -> Result<redis::Value, Fault> {
        let mut command: Cmd = redis::cmd("CONFIG");
        command.arg(words);
        self.link.send(&command).await
    }
}

/// The value of a line `name:value` of INFO.
pub(super) fn value_of<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines();
    lines.find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
}
