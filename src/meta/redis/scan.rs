//! Lists: sessions, quotas, work that waits, the keys of a volume.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use bytes::Bytes;
use redis::{Cmd, FromRedisValue};
use stead_base::{Ino, SessionId, SliceId};
use tracing::{debug, error};

use super::RedisStore;
use super::{keys, script, writes};
use crate::codec;
use crate::error::Result;
use crate::records::{AclRule, LockTable, Name, Principal, Quota};
use crate::store::SessionRecord;

/// Items that a scan asks for at once; more would hold the server up.
pub(super) const BATCH: usize = 1000;
/// Chunks that are asked for one by one; beyond, all keys of the database are gone through.
const MAX_PROBES: u32 = 100_000;

type Fields = Vec<(Bytes, Bytes)>;

impl RedisStore {
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

    pub(super) async fn chunks_of(&self, files: &[(Ino, Range<u32>)]) -> Result<Vec<(Ino, u32)>> {
        let all = |(ino, range): &(Ino, Range<u32>)| range.clone().map(|index| self.keys.chunk(*ino, index)).collect();
        let keys: Vec<Vec<u8>> = files.iter().flat_map::<Vec<_>, _>(all).collect();
        let mut any = false;
        for keys in keys.chunks(BATCH) {
            any |= self.link.query::<u64>(redis::cmd("EXISTS").arg(keys)).await? > 0;
        }
        let mut found = Vec::new();
        for (ino, range) in files.iter().filter(|_file| any) {
            found.extend(self.chunks(*ino, range.clone()).await?.into_iter().map(|index| (*ino, index)));
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
                    let count =
                        codec::decode_number(&format_args!("sliceRef {}", String::from_utf8_lossy(&field)), &value);
                    pending.extend(readable(count).and_then(|_count| keys::parse_slice_field(&field)));
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
                let shown = format!("delSlices {}", String::from_utf8_lossy(&field));
                let place = keys::parse_delayed_field(&field);
                let place = place.ok_or_else(|| codec::corrupt(&shown, "its name is not SLICE_SECOND"))?;
                if place.1 < before {
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
        let quotas = self.quota_hash(&self.keys.named("dirQuota")).await?;
        Ok(quotas.into_iter().map(|(number, quota)| (Ino(number), quota)).collect())
    }

    pub(super) async fn owner_quotas(&self) -> Result<Vec<(Principal, Quota)>> {
        let mut found = Vec::new();
        for kind in [Principal::User, Principal::Group] {
            let (key, _number) = self.keys.owner_quota(kind(0));
            let quotas = self.quota_hash(&key).await?.into_iter();
            found.extend(quotas.filter_map(|(number, quota)| Some((kind(number.try_into().ok()?), quota))));
        }
        Ok(found)
    }

    /// The quotas whose limits are in the hash `key`; one that does not decode is left out.
    async fn quota_hash(&self, key: &[u8]) -> Result<Vec<(u64, Quota)>> {
        let limits: Fields = self.hash(key).await?;
        if limits.is_empty() {
            return Ok(Vec::new());
        }
        let [space, inodes] = writes::usage_hashes(key);
        let space: HashMap<Bytes, Bytes> = self.hash(&space).await?;
        let inodes: HashMap<Bytes, Bytes> = self.hash(&inodes).await?;
        let quotas = limits.into_iter().map(|(field, limits)| {
            let shown = format!("{} {}", String::from_utf8_lossy(key), String::from_utf8_lossy(&field));
            let used = |of: &HashMap<Bytes, Bytes>| {
                of.get(&field).map_or(Ok(0), |number| codec::decode_number(&shown, number))
            };
            let number = codec::decode_number(&shown, &field)?.cast_unsigned();
            let limits = codec::decode_quota_limits(&shown, &limits)?;
            Ok((number, Quota { used_space: used(&space)?, used_inodes: used(&inodes)?, ..limits }))
        });
        Ok(quotas.filter_map(readable).collect())
    }

    pub(super) async fn acls(&self) -> Result<Vec<(u32, AclRule)>> {
        let rules: Fields = self.hash(&self.keys.named("acl")).await?;
        let rules = rules.into_iter().map(|(field, rule)| {
            let shown = format!("acl {}", String::from_utf8_lossy(&field));
            let id = codec::decode_number(&shown, &field)?;
            let id = u32::try_from(id).map_err(|_| codec::corrupt(&shown, "its id is no number of 32 bits"))?;
            Ok((id, codec::decode_acl(&shown, &rule)?))
        });
        Ok(rules.filter_map(readable).collect())
    }

    pub(super) async fn detached(&self) -> Result<Vec<(Ino, i64)>> {
        let mut range = redis::cmd("ZRANGE");
        range.arg(self.keys.named("detachedNodes")).arg(0).arg(-1).arg("WITHSCORES");
        let found: Vec<(Bytes, f64)> = self.link.query(&range).await?;
        let found = found.into_iter().map(|(member, since)| {
            let ino = codec::decode_number(&"detachedNodes", &member)?;
            Ok((Ino(ino.cast_unsigned()), whole_seconds(since)))
        });
        Ok(found.filter_map(readable).collect())
    }

    pub(super) async fn locks(&self, sid: SessionId) -> Result<Vec<(LockTable, Ino)>> {
        let keys: Vec<Bytes> = self.link.query(&command("SMEMBERS", [self.keys.locked(sid)])).await?;
        Ok(keys.iter().filter_map(|key| self.keys.parse_locks(key)).collect())
    }

    async fn hash<T: FromRedisValue>(&self, key: &[u8]) -> Result<T> {
        self.link.query(&command("HGETALL", [key.to_vec()])).await
    }

    /// Removes the keys of the volume: the setting first, so that other clients stop, the sessions last, so that who
    /// removes it is known to the end.
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
        let sessions = [self.keys.named("allSessions"), self.keys.named("sessionInfos")].map(Bytes::from);
        ours.retain(|key| !sessions.contains(key));
        for keys in ours.chunks(BATCH) {
            self.unlink(keys).await?;
        }
        self.unlink(&sessions).await?;
        self.seeds.clear();
        Ok(())
    }

    async fn unlink(&self, keys: &[Bytes]) -> Result<()> {
        self.link.query(&command("UNLINK", keys.iter().map(|key| key.to_vec()))).await
    }
}

/// A record that decodes; the error of another goes to the log.
pub(super) fn readable<T>(record: Result<T>) -> Option<T> {
    record.inspect_err(|error| error!(%error, "left out of a list")).ok()
}

fn command(name: &str, args: impl IntoIterator<Item = Vec<u8>>) -> Cmd {
    let mut command = redis::cmd(name);
    for arg in args {
        command.arg(arg);
    }
    command
}

/// A score, which Redis keeps as a floating-point number.
fn whole_seconds(score: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
    let seconds = score as i64;
    seconds
}
