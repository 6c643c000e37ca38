//! The state of a volume: its Format, who uses it, how much it holds. JSON in the Go client's form.

use serde_json::{Map, Value, json};
use stead_base::{Ino, SessionId};
use stead_meta::records::{Key, LockKind, LockRange, LockTable, Record};
use stead_meta::store::SessionRecord;

use crate::error::{Error, Result};
use crate::open::Opened;

/// Format, sessions and usage.
///
/// # Errors
/// Those of the engine.
pub async fn status(volume: &Opened) -> Result<Value> {
    let sessions = volume.store.list_sessions().await?;
    let usage = volume.meta(true).await?.statfs(Ino::ROOT).await?;
    Ok(json!({
        "Setting": volume.format.redacted().to_json(),
        "Sessions": sessions.iter().map(|record| Value::Object(shown(record))).collect::<Vec<_>>(),
        "Stat": {
            "UsedSpace": usage.total - usage.avail,
            "AvailableSpace": usage.avail,
            "UsedInodes": usage.iused,
            "AvailableInodes": usage.iavail,
        },
    }))
}

/// One session with the files that it keeps although they have no name.
///
/// # Errors
/// [`Error::Option`] if there is no such session.
pub async fn session(volume: &Opened, sid: u64) -> Result<Value> {
    let sid = SessionId(sid);
    let found = volume.store.list_sessions().await?.into_iter().find(|record| record.sid == sid);
    let record = found.ok_or_else(|| Error::option("--session", sid, "there is no such session"))?;
    let mut shown = shown(&record);
    let sustained = volume.store.list_sustained(sid).await?;
    shown.insert("Sustained".to_owned(), sustained.iter().map(|ino| ino.0).collect());
    let (flocks, plocks) = locks(volume, sid).await?;
    shown.insert("Flocks".to_owned(), flocks.into());
    shown.insert("Plocks".to_owned(), plocks.into());
    Ok(Value::Object(shown))
}

/// The locks of a session: on whole files, and on ranges.
async fn locks(volume: &Opened, sid: SessionId) -> Result<(Vec<Value>, Vec<Value>)> {
    let (mut flocks, mut plocks) = (Vec::new(), Vec::new());
    for (table, ino) in volume.store.list_locks(sid).await? {
        let key = match table {
            LockTable::Flock => Key::Flocks(ino),
            LockTable::Plock => Key::Plocks(ino),
        };
        match volume.store.read(&[key]).await?.pop().flatten() {
            Some(Record::Flocks(owners)) => {
                let own = owners.into_iter().filter(|(owner, _)| owner.sid == sid);
                flocks.extend(
                    own.map(|(owner, kind)| json!({"Inode": ino.0, "Owner": owner.owner, "Ltype": letter(kind)})),
                );
            }
            Some(Record::Plocks(owners)) => {
                let own = owners.into_iter().filter(|(owner, _)| owner.sid == sid);
                plocks.extend(own.map(|(owner, ranges)| {
                    let ranges: Vec<Value> = ranges.iter().map(range).collect();
                    json!({"Inode": ino.0, "Owner": owner.owner, "Records": ranges})
                }));
            }
            _ => {}
        }
    }
    Ok((flocks, plocks))
}

const fn letter(kind: LockKind) -> &'static str {
    match kind {
        LockKind::Read => "R",
        LockKind::Write => "W",
    }
}

fn range(range: &LockRange) -> Value {
    json!({"Type": letter(range.kind), "Pid": range.pid, "Start": range.start, "End": range.end})
}

/// What the session says of itself, with its number and expiry.
fn shown(record: &SessionRecord) -> Map<String, Value> {
    let expire = chrono::DateTime::from_timestamp(record.expire, 0);
    let expire = expire.map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
    let mut shown = Map::new();
    shown.insert("Sid".to_owned(), record.sid.0.into());
    shown.insert("Expire".to_owned(), expire.into());
    if let Ok(Value::Object(info)) = serde_json::from_slice(&record.info) {
        shown.extend(info);
    }
    shown
}
