//! What SQLite reports, until it is explained to the caller; and how long to wait for a busy file.

use std::time::{Duration, Instant};

use rusqlite::ErrorCode;

use crate::error::Error;

/// A failure below the store's surface.
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite's own.
    Sql(rusqlite::Error),
    /// Ours: a row that does not decode.
    Meta(Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Meta(error)
    }
}

impl Fault {
    fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Sql(error) => error.sqlite_error_code(),
            Self::Meta(_) => None,
        }
    }

    /// Another process holds a lock that will be released.
    pub(super) fn is_busy(&self) -> bool {
        use ErrorCode::{DatabaseBusy, DatabaseLocked, FileLockingProtocolFailed};
        matches!(self.code(), Some(DatabaseBusy | DatabaseLocked | FileLockingProtocolFailed))
    }

    /// The error that callers of the store see.
    pub(super) fn explain(self, engine: &str) -> Error {
        let code = self.code();
        let busy = self.is_busy();
        let error = match self {
            Self::Meta(error) => return error,
            Self::Sql(error) => error,
        };
        let (engine, why) = (engine.to_owned(), error.to_string());
        match (code, error) {
            (_, rusqlite::Error::InvalidColumnType(_, column, found)) => {
                Error::Corrupt { key: format!("column {column}"), why: format!("unexpected {found}") }
            }
            _ if busy => Error::Unavailable { engine, why: "other processes kept the file locked".to_owned() },
            _ if why.contains("no such table") => Error::NotFormatted { engine },
            (Some(ErrorCode::DiskFull), _) => Error::EngineFull { engine, why },
            (
                Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::AuthorizationForStatementDenied),
                _,
            ) => Error::Denied { engine, why },
            _ => Error::Engine { engine, why },
        }
    }
}

/// Waits between attempts: short, growing, with jitter, until the time is up.
#[derive(Debug)]
pub(super) struct Patience {
    until: Instant,
    next: Duration,
}

impl Patience {
    const FIRST: Duration = Duration::from_micros(50);
    const LONGEST: Duration = Duration::from_millis(4);

    pub(super) fn new(wait_for: Duration) -> Self {
        Self { until: Instant::now() + wait_for, next: Self::FIRST }
    }

    /// How long to wait before the next attempt, `None` when it is time to give up.
    pub(super) fn next_wait(&mut self) -> Option<Duration> {
        let wait = self.next.mul_f64(0.5 + rand::random::<f64>());
        self.next = (self.next * 2).min(Self::LONGEST);
        (Instant::now() < self.until).then_some(wait)
    }
}
