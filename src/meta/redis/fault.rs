//! What a failed command means: whether it may have taken effect, and whether another try can help.

use std::time::Duration;

use redis::{ErrorKind, RedisError};
use tokio::time::Instant;

use crate::error::{Error, Result};

/// The first pause before another try.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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
const BUSY: [&str; 9] = [
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "TRYAGAIN",
    "BUSY",
    "CLUSTERDOWN",
    "NOREPLICAS",
    "MISCONF",
    "max number of clients",
];
/// A server that does not want us.
const DENIED: [&str; 6] =
    ["NOAUTH", "WRONGPASS", "NOPERM", "Authentication required", "no permissions", "invalid password"];

impl Fault {
    /// Sorts a client error. `engine` names the server in errors.
    pub(super) fn of(engine: &str, error: &RedisError) -> Self {
        let (engine, why) = (engine.to_owned(), error.to_string());
        let code = error.code().unwrap_or_default();
        // Errors of commands inside a script carry their code in the text on older servers.
        let says = |words: &[&str]| words.iter().any(|word| code == *word || why.contains(word));
        if code == "NOSCRIPT" {
            Self::NoScript
        } else if error.kind() == ErrorKind::AuthenticationFailed || says(&DENIED) {
            Self::Final(Error::Denied { engine, why })
        } else if matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse) {
            Self::Unknown(Error::Unavailable { engine, why })
        } else if code == "OOM" || says(&["OOM command not allowed"]) {
            Self::Final(Error::EngineFull { engine, why })
        } else if says(&BUSY) {
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
}

impl Patience {
    pub(super) fn new(retry_for: Duration) -> Self {
        Self { retry_for, until: None, next: FIRST_PAUSE }
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
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        tokio::time::sleep_until(until.min(now + pause)).await;
        Ok(())
    }
}
