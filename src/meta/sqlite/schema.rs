//! The file, its tables, and what older clients left out of them.

use std::io::ErrorKind;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::Place;
use super::fault::{Fault, Patience};
use super::readers::configure;
use crate::error::{Error, Result};

const SCHEMA: &str = include_str!("schema.sql");

/// Tables in it.
const SCHEMA_TABLES: i64 = 21;

/// Columns of `jfs_node` that older clients did not have.
const LATER_COLUMNS: [(&str, &str); 6] = [
    ("atimensec", "INTEGER DEFAULT 0 NOT NULL"),
    ("mtimensec", "INTEGER DEFAULT 0 NOT NULL"),
    ("ctimensec", "INTEGER DEFAULT 0 NOT NULL"),
    ("access_acl_id", "INTEGER NULL"),
    ("default_acl_id", "INTEGER NULL"),
    ("tier_id", "INTEGER NULL"),
];

/// Opens the connection that writes.
pub(super) fn open_file(place: &Place, create: bool, wait_for: Duration) -> Result<Connection> {
    check_path(place, create)?;
    let mut patience = Patience::new(wait_for);
    loop {
        match prepare(place, create) {
            Err(fault) if fault.is_busy() => match patience.next_wait() {
                Some(wait) => std::thread::park_timeout(wait),
                None => return Err(place.explain(fault)),
            },
            outcome => return outcome.map_err(|fault| place.explain(fault)),
        }
    }
}

/// SQLite only says "unable to open database file".
fn check_path(place: &Place, create: bool) -> Result<()> {
    let wrong = |why: &str| Error::Address { address: place.describe(), why: why.to_owned() };
    let directory = match place.path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => ".".as_ref(),
    };
    match std::fs::metadata(&place.path) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => Err(wrong("not a file")),
        Err(error) if error.kind() == ErrorKind::NotFound => match (create, directory.is_dir()) {
            (true, true) => Ok(()),
            (true, false) => Err(wrong("the directory of the file does not exist")),
            (false, _) => Err(wrong("no such file")),
        },
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(Error::Denied { engine: place.describe(), why: error.to_string() })
        }
        Err(error) => Err(wrong(&error.to_string())),
    }
}

/// Bytes of the log that stay when it begins anew.
const LOG_KEPT: u32 = 1 << 20;

fn prepare(place: &Place, create: bool) -> Result<Connection, Fault> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let connection = Connection::open_with_flags(&place.path, flags)?;
    configure(&connection)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Fault::Meta(Error::Engine {
            engine: place.describe(),
            why: format!("journal mode is {mode}, expected wal: the file system must support shared memory"),
        }));
    }
    // A commit is synced when that is asked for.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // A thread of its own does it.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // A log that begins anew is cut: a frame fills no page, so each page of the old one that has left the page cache would be
    // read before it is written over. What is left of it is room for removals on a full disk.
    connection.pragma_update(None, "journal_size_limit", LOG_KEPT)?;
    complete(&connection)?;
    Ok(connection)
}

/// Adds what a volume of an older client lacks, as the Go client does at start.
fn complete(connection: &Connection) -> Result<(), Fault> {
    if !connection.table_exists(None, "jfs_node")? {
        return Ok(());
    }
    let missing: Vec<_> = LATER_COLUMNS
        .into_iter()
        .filter_map(|column| match connection.column_exists(None, "jfs_node", column.0) {
            Ok(true) => None,
            Ok(false) => Some(Ok(column)),
            Err(error) => Some(Err(error)),
        })
        .collect::<Result<_, _>>()?;
    let tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name LIKE 'jfs\\_%' ESCAPE '\\'";
    let tables: i64 = connection.query_row(tables, [], |row| row.get(0))?;
    if missing.is_empty() && tables >= SCHEMA_TABLES {
        return Ok(());
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    for (column, kind) in missing {
        connection.execute_batch(&format!("ALTER TABLE jfs_node ADD COLUMN `{column}` {kind}"))?;
    }
    create(connection)?;
    connection.execute_batch("COMMIT")?;
    Ok(())
}

/// Creates tables, indices and counters that are missing.
pub(super) fn create(connection: &Connection) -> Result<(), Fault> {
    Ok(connection.execute_batch(SCHEMA)?)
}

/// Removes every row of the volume.
pub(super) fn empty(connection: &Connection) -> Result<(), Fault> {
    let tables: Vec<String> = connection
        .prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'jfs\\_%' ESCAPE '\\'")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for table in tables {
        connection.execute_batch(&format!("DELETE FROM `{table}`"))?;
    }
    Ok(())
}
