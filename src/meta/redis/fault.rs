//! What a failed command means: whether it may have taken effect, and whether another try can help.

use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::time::Instant;

use crate::error::{Error, Result};

/// Why a command failed. The error inside is what the caller gets when nothing helps.
#[derive(Debug)]
pub(super) enum Fault {
    /// Nothing was done; later it may go.
    NotDone(Error),
    /// The reply got lost: it may have been done, or may even still be done.
    Unknown(Error),
    /// Nothing was done: the server does not know the script.
    NoScript,
    /// Another try would fail the same way.
    Final(Error),
}

/// A server that cannot serve for the moment.
const BUSY: [&str; 10] = [
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "TRYAGAIN",
    "BUSY",
    "CLUSTERDOWN",
    "NOREPLICAS",
    "MISCONF",
    "max number of clients",
    // A key of a slot that is on its way to another node: no script has written by then, unless it has emptied the key
    // itself, which only a rename does that replaces all that another directory has.
    "non local key",
];
/// A server that does not want us.
const DENIED: [&str; 6] =
    ["NOAUTH", "WRONGPASS", "NOPERM", "Authentication required", "no permissions", "invalid password"];

/// Whether another server has the volume now, or may have: a master that became a replica, a slot that moved, a node
/// that has lost its cluster.
pub(super) fn is_elsewhere(error: &RedisError) -> bool {
    is_redirect(error) || matches!(error.code(), Some("READONLY" | "CLUSTERDOWN"))
}

fn is_redirect(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask))
}

impl Fault {
    /// Sorts a client error. `engine` names the server in errors.
    pub(super) fn of(engine: &str, error: &RedisError) -> Self {
        let (engine, why) = (engine.to_owned(), error.to_string());
        let code = error.code().unwrap_or_default();
        // Errors of commands inside a script carry their code in the text on older servers.
        let says = |words: &[&str]| words.iter().any(|word| code == *word || why.contains(word));
        if code == "NOSCRIPT" {
            Self::NoScript
        } else if code == "CORRUPT" {
            // Our scripts name the key and what is wrong.
            let (key, why) = error.detail().and_then(|detail| detail.split_once(' ')).unwrap_or(("?", &why));
            Self::Final(Error::Corrupt { key: key.to_owned(), why: why.to_owned() })
        } else if says(&["WRONGTYPE"]) {
            Self::Final(Error::Corrupt { key: engine, why })
        } else if error.kind() == ErrorKind::AuthenticationFailed || says(&DENIED) {
            Self::Final(Error::Denied { engine, why })
        } else if matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse) {
            Self::Unknown(Error::Unavailable { engine, why })
        } else if code == "OOM" || says(&["OOM command not allowed"]) {
            Self::Final(Error::EngineFull { engine, why })
        } else if is_redirect(error) || says(&BUSY) {
            Self::NotDone(Error::Unavailable { engine, why })
        } else {
            Self::Final(Error::Engine { engine, why })
        }
    }

    /// The same for an error while connecting, when no command can have been sent.
    pub(super) fn of_connecting(engine: &str, address: &str, error: &RedisError) -> Self {
        let why = error.to_string();
        if why.contains("DB index") {
            let address = address.to_owned();
            return Self::Final(Error::Address { address, why });
        }
        match Self::of(engine, error) {
            Self::Unknown(error) => Self::NotDone(error),
            other => other,
        }
    }

    /// The error inside.
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::NotDone(error) | Self::Unknown(error) | Self::Final(error) => error,
            Self::NoScript => {
                Error::Engine { engine: "redis".to_owned(), why: "the server refuses to keep scripts".to_owned() }
            }
        }
    }
}

/// How long to go on trying: from the first failure for the store's retry time, with growing, jittered pauses.
#[derive(Debug)]
pub(super) struct Patience {
    retry_for: Duration,
    until: Option<Instant>,
    next: Duration,
    longest: Duration,
}

impl Patience {
    /// `first` and `longest` are pauses.
    pub(super) fn new(retry_for: Duration, first: Duration, longest: Duration) -> Self {
        Self { retry_for, until: None, next: first, longest }
    }

    /// Pauses before another try.
    ///
    /// # Errors
    /// `why`, when the time is over.
    pub(super) async fn pause(&mut self, why: Error) -> Result<()> {
        let now = Instant::now();
        let until = *self.until.get_or_insert(now + self.retry_for);
        if now >= until {
            return Err(why);
        }
        let pause = self.next.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        self.next = (self.next * 2).min(self.longest);
        tokio::time::sleep_until(until.min(now + pause)).await;
        Ok(())
    }
}
