//! Copying the log into the database. That waits for the disk twice, so it has a thread and a connection of its own:
//! whoever reads and writes goes on meanwhile.

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::readers::configure;
use crate::error::Error;

/// Changed rows after which the log is copied: about 1000 pages. A larger log is slower to write once it has left the
/// page cache, since a frame fills no page and the rest of the page has to be read.
pub(super) const ROWS: u64 = 600;

/// A log of so many pages (10 MiB) is copied while writers wait, since it begins anew only when nothing was written
/// during the copy.
const LONG: i64 = 2_500;

/// How long such a copy waits for others who write or read old pages, before it is left to the next one.
const PATIENCE: Duration = Duration::from_secs(2);

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Checkpointer {
    asked: SyncSender<()>,
}

impl Checkpointer {
    pub(super) fn start(database: PathBuf) -> Result<Self, Error> {
        let (asked, inbox) = mpsc::sync_channel(1);
        let engine = database.display().to_string();
        let spawned = std::thread::Builder::new().name("sqlite-log".to_owned()).spawn(move || serve(database, &inbox));
        spawned.map_err(|error| Error::Engine { engine, why: format!("no thread to copy its log: {error}") })?;
        Ok(Self { asked })
    }

    /// Has the log copied soon.
    pub(super) fn ask(&self) {
        // If it is full, it has been asked for already.
        let _ = self.asked.try_send(());
    }
}

fn serve(database: PathBuf, asked: &Receiver<()>) {
    let mut connection = None;
    while let Ok(()) = asked.recv() {
        let copied = connection.take().map_or_else(|| open(&database), Ok).and_then(|open| {
            copy(&open)?;
            connection = Some(open);
            Ok(())
        });
        if let Err(error) = copied {
            tracing::warn!(%error, "the SQLite log was not copied into the database; it goes on growing until it is");
        }
    }
}

fn open(database: &PathBuf) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    configure(&connection)?;
    connection.busy_timeout(PATIENCE)?;
    Ok(connection)
}

fn copy(connection: &Connection) -> rusqlite::Result<()> {
    let pages: i64 = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get("log"))?;
    if pages > LONG {
        connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_busy_or_not| Ok(()))?;
    }
    Ok(())
}
