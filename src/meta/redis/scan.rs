//! Reading what is more than one record: directories, sessions, lists of work, all keys.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use bytes::Bytes;
use redis::{Cmd, FromRedisValue};
use stead_base::{Ino, SessionId, SliceId};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::RedisStore;
use super::{keys, script};
use crate::codec;
use crate::error::{Error, Result};
use crate::records::{Key, Name, Quota};
use crate::store::{Cursor, Listed, Page, SessionRecord};

/// Items that a scan asks for at once; more would hold the server up.
const BATCH: usize = 1000;
/// Chunks that are asked for one by one; beyond, all keys of the database are gone through.
const MAX_PROBES: u32 = 100_000;

type Fields = Vec<(Bytes, Bytes)>;
/// Name, entry, attributes.
type RawListed = (Bytes, Bytes, Option<Bytes>);

impl RedisStore {
    pub(super) async fn page(&self, dir: Ino, with_attrs: bool, from: Cursor, limit: usize) -> Result<Page<Listed>> {
        let at = Instant::now();
        let cursor = if from.0.is_empty() { b"0".to_vec() } else { from.0 };
        let count = limit.clamp(1, BATCH);
        let (next, found): (Vec<u8>, Vec<RawListed>) = self
            .link
            .eval(&script::PAGE, &[&self.keys.entries(dir)], |call| {
                call.arg(&cursor).arg(count);
                call.arg(i32::from(with_attrs)).arg(self.keys.prefix());
            })
            .await?;
        let items = found.into_iter().map(|(name, raw, attr)| {
            let name = Name::stored(name);
            let key = Key::Entry(dir, name.clone());
            let (entry, attr) =
                if with_attrs { self.found(key, &raw, attr, at)? } else { (self.decode_entry(&key, &raw)?, None) };
            Ok(Listed { name, entry, attr })
        });
        Ok(Page { items: items.collect::<Result<_>>()?, next: (next != b"0").then_some(Cursor(next)) })
    }

    pub(super) async fn xattrs(&self, ino: Ino) -> Result<Vec<Name>> {
        let names: Vec<Bytes> = self.link.query(&command("HKEYS", [self.keys.xattrs(ino)])).await?;
        Ok(names.into_iter().map(Name::stored).collect())
    }

    pub(super) async fn chunks(&self, ino: Ino, range: Range<u32>) -> Result<Vec<u32>> {
        if range.len() > MAX_PROBES as usize {
            return self.chunks_by_scan(ino, range).await;
        }
        let (start, mut found) = (self.keys.chunks(ino), Vec::new());
        for first in range.clone().step_by(BATCH) {
            let last = first.saturating_add(BATCH as u32 - 1).min(range.end - 1);
            let some: Vec<u32> = self
                .link
                .eval(&script::CHUNKS, &[&self.tokens.key], |call| {
                    call.arg(&start).arg(first).arg(last);
                })
                .await?;
            found.extend(some);
        }
        Ok(found)
    }

    async fn chunks_by_scan(&self, ino: Ino, range: Range<u32>) -> Result<Vec<u32>> {
        let start = self.keys.chunks(ino);
        let mut found = BTreeSet::new();
        let note = |keys: Vec<Bytes>| {
            for key in keys {
                let index = key.strip_prefix(start.as_slice()).map(std::str::from_utf8);
                let index = index.and_then(|text| text.ok()?.parse().ok());
                found.extend(index.filter(|index| range.contains(index)));
            }
        };
        let pattern = [start.as_slice(), b"*"].concat();
        self.scan_keys(&pattern, note).await?;
        Ok(found.into_iter().collect())
    }

    /// Hands all keys that match to `each`, in batches, some perhaps twice.
    async fn scan_keys(&self, pattern: &[u8], mut each: impl FnMut(Vec<Bytes>)) -> Result<()> {
        let mut cursor = b"0".to_vec();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(BATCH);
            let (next, keys): (Vec<u8>, Vec<Bytes>) = self.link.query(&scan).await?;
            each(keys);
            if next == b"0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Hands all fields of a hash to `each`, in batches, some perhaps twice.
    async fn scan_hash(&self, key: &[u8], mut each: impl FnMut(Fields) -> Result<()>) -> Result<()> {
        let mut cursor = b"0".to_vec();
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(key).arg(&cursor).arg("COUNT").arg(BATCH);
            let (next, fields): (Vec<u8>, Fields) = self.link.query(&scan).await?;
            each(fields)?;
            if next == b"0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    pub(super) async fn sessions(&self) -> Result<Vec<SessionRecord>> {
        let mut range = redis::cmd("ZRANGE");
        range.arg(self.keys.named("allSessions")).arg(0).arg(-1).arg("WITHSCORES");
        let registered: Vec<(u64, f64)> = self.link.query(&range).await?;
        if registered.is_empty() {
            return Ok(Vec::new());
        }
        let mut read = redis::cmd("HMGET");
        read.arg(self.keys.named("sessionInfos"));
        for (sid, _expire) in &registered {
            read.arg(sid);
        }
        let infos: Vec<Option<Bytes>> = self.link.query(&read).await?;
        let all = registered.into_iter().zip(infos);
        Ok(all
            .map(|((sid, expire), info)| SessionRecord {
                sid: SessionId(sid),
                expire: whole_seconds(expire),
                info: info.unwrap_or_default(),
            })
            .collect())
    }

    pub(super) async fn sustained(&self, sid: SessionId) -> Result<Vec<Ino>> {
        let kept: Vec<u64> = self.link.query(&command("SMEMBERS", [self.keys.sustained(sid)])).await?;
        Ok(kept.into_iter().map(Ino).collect())
    }

    pub(super) async fn deleted(&self, before: i64, limit: usize) -> Result<Vec<(Ino, u64)>> {
        let mut range = redis::cmd("ZRANGEBYSCORE");
        range.arg(self.keys.named("delfiles")).arg("-inf").arg(before);
        range.arg("LIMIT").arg(0).arg(limit);
        let members: Vec<Bytes> = self.link.query(&range).await?;
        let parsed = members.iter().filter_map(|member| {
            let file = keys::parse_deleted_member(member);
            if file.is_none() {
                debug!(member = %String::from_utf8_lossy(member), "not a deleted file of this format");
            }
            file
        });
        Ok(parsed.collect())
    }

    pub(super) async fn unreferenced(&self) -> Result<Vec<(SliceId, u32)>> {
        let key = self.keys.named("sliceRef");
        let (mut pending, mut zeros) = (BTreeSet::new(), BTreeSet::new());
        self.scan_hash(&key, |fields| {
            for (field, value) in fields {
                if value.starts_with(b"-") {
                    pending.extend(keys::parse_slice_field(&field));
                } else if value.as_ref() == b"0" {
                    zeros.insert(field);
                }
            }
            Ok(())
        })
        .await?;
        let zeros: Vec<Bytes> = zeros.into_iter().collect();
        for zeros in zeros.chunks(BATCH) {
            let fill = |call: &mut Cmd| {
                for field in zeros {
                    call.arg(field.as_ref());
                }
            };
            self.link.eval::<()>(&script::DROP_ZEROS, &[&key], fill).await?;
        }
        Ok(pending.into_iter().collect())
    }

    pub(super) async fn delayed(&self, before: i64) -> Result<Vec<(SliceId, i64, Vec<(SliceId, u32)>)>> {
        let mut found = BTreeMap::new();
        self.scan_hash(&self.keys.named("delSlices"), |fields| {
            for (field, value) in fields {
                let parsed = keys::parse_delayed_field(&field).filter(|(_id, since)| *since < before);
                if let Some(place) = parsed {
                    let shown = format!("delSlices {}", String::from_utf8_lossy(&field));
                    found.insert(place, codec::decode_delayed(&shown, &value)?);
                }
            }
            Ok(())
        })
        .await?;
        let found = found.into_iter();
        Ok(found.map(|((id, since), slices)| (id, since, slices)).collect())
    }

    pub(super) async fn quotas(&self) -> Result<Vec<(Ino, Quota)>> {
        let limits: Fields = self.hash("dirQuota").await?;
        if limits.is_empty() {
            return Ok(Vec::new());
        }
        let space: HashMap<Bytes, i64> = self.hash("dirQuotaUsedSpace").await?;
        let inodes: HashMap<Bytes, i64> = self.hash("dirQuotaUsedInodes").await?;
        let quotas = limits.into_iter().map(|(field, limits)| {
            let shown = format!("dirQuota {}", String::from_utf8_lossy(&field));
            let ino = codec::decode_number(&shown, &field)?;
            let quota = Quota {
                used_space: space.get(&field).copied().unwrap_or_default(),
                used_inodes: inodes.get(&field).copied().unwrap_or_default(),
                ..codec::decode_quota_limits(&shown, &limits)?
            };
            Ok((Ino(ino.cast_unsigned()), quota))
        });
        quotas.collect()
    }

    async fn hash<T: FromRedisValue>(&self, name: &str) -> Result<T> {
        self.link.query(&command("HGETALL", [self.keys.named(name)])).await
    }

    /// Removes the keys of the volume, the setting first, so that other clients stop.
    pub(super) async fn remove_everything(&self) -> Result<()> {
        self.unlink(&[self.keys.named("setting").into()]).await?;
        let mut ours = Vec::new();
        let prefix = self.keys.prefix().as_bytes();
        let pattern = [prefix, b"*"].concat();
        self.scan_keys(&pattern, |keys| {
            let rest = |key: &Bytes| key.strip_prefix(prefix).is_some_and(keys::is_ours);
            ours.extend(keys.into_iter().filter(rest));
        })
        .await?;
        for keys in ours.chunks(BATCH) {
            self.unlink(keys).await?;
        }
        self.seeds.clear();
        Ok(())
    }

    async fn unlink(&self, keys: &[Bytes]) -> Result<()> {
        self.link.query(&command("UNLINK", keys.iter().map(|key| key.to_vec()))).await
    }

    /// Says in the log what of the server's configuration endangers a volume. What cannot be asked is not said.
    pub(super) async fn warn_of_configuration(&self) {
        match self.dangers().await {
            Ok(dangers) => {
                for danger in dangers {
                    warn!(engine = self.link.engine(), "{danger}");
                }
            }
            Err(error) => debug!(%error, "the server does not tell its configuration"),
        }
    }

    pub(super) async fn dangers(&self) -> Result<Vec<String>, Error> {
        let ask = async |section: &str| -> Result<String> {
            let reply = self.link.send(&command("INFO", [section.as_bytes().to_vec()])).await;
            let reply = reply.map_err(super::fault::Fault::into_error)?;
            String::from_redis_value(reply).map_err(|error| self.link.unexpected(error))
        };
        let (memory, persistence) = (ask("memory").await?, ask("persistence").await?);
        let mut dangers = Vec::new();
        let policy = value_of(&memory, "maxmemory_policy").unwrap_or("noeviction");
        if policy != "noeviction" && value_of(&memory, "maxmemory") != Some("0") {
            dangers.push(format!("maxmemory-policy is {policy}: Redis may evict metadata, set it to noeviction"));
        }
        if value_of(&persistence, "aof_enabled") == Some("0") {
            let ask = ["GET", "save"].map(|word| word.as_bytes().to_vec());
            let save = self.link.send(&command("CONFIG", ask)).await;
            let save = save.ok().and_then(|reply| Vec::<String>::from_redis_value(reply).ok());
            if save.is_some_and(|save| save.get(1).is_some_and(String::is_empty)) {
                dangers.push("neither appendonly nor save is configured: a restart of Redis loses the volume".into());
            }
        }
        Ok(dangers)
    }
}

fn command(name: &str, args: impl IntoIterator<Item = Vec<u8>>) -> Cmd {
    let mut command = redis::cmd(name);
    for arg in args {
        command.arg(arg);
    }
    command
}

/// The value of a line `name:value` of INFO.
fn value_of<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines();
    lines.find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
}

/// A score, which Redis keeps as a floating-point number.
fn whole_seconds(score: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
    let seconds = score as i64;
    seconds
}
