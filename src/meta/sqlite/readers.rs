//! Connections for reading: as many as there are threads that read at the same time, each with its prepared statements.

use std::path::PathBuf;

use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::fault::Fault;

/// Statements that a connection keeps prepared: more than there are.
const STATEMENTS: usize = 128;
/// KiB of pages that a connection keeps in memory.
const CACHE_KIB: i64 = 16 << 10;
/// Idle connections that are kept.
const KEPT: usize = 32;

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::default() }
    }

    /// Runs `read` on a connection that nobody else uses meanwhile.
    pub(super) fn with<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        let idle = self.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.open()?,
        };
        let outcome = read(&connection);
        let mut idle = self.idle.lock();
        if idle.len() < KEPT {
            idle.push(connection);
        }
        outcome
    }

    fn open(&self) -> Result<Connection, Fault> {
        // Read-write, because in WAL mode also a reader writes to the shared index.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        configure(&connection)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    }
}

/// What every connection needs.
pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    // We wait ourselves: asynchronously, or on the writer's thread.
    connection.busy_timeout(std::time::Duration::ZERO)?;
    // Else SQLite looks at the bound values and prepares a join anew for each of them.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(())
}
