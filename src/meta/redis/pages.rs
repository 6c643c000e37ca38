//! Scans in pages: a directory, and everything of a kind in the volume.
//!
//! A page is one step of SCAN or HSCAN together with the records it finds. These commands promise that what is there
//! from beginning to end comes at least once, but their cursors are one server's: the scripts notice when another server
//! answers, and begin again.

use bytes::Bytes;
use stead_base::{Ino, SliceId};
use tokio::time::Instant;
use tracing::{debug, error};

use super::RedisStore;
use super::scan::BATCH;
use super::{keys, script};
use crate::codec;
use crate::error::{Error, Result};
use crate::records::{Attr, Key, Name, Record, Slice};
use crate::store::{Cursor, Listed, Page};

/// A key and what a script says of its record.
type RawRecord = (Bytes, Option<Bytes>);

impl RedisStore {
    pub(super) async fn page(&self, dir: Ino, with_attrs: bool, from: Cursor, limit: usize) -> Result<Page<Listed>> {
        let at = Instant::now();
        let mut page = Page { items: Vec::new(), corrupt: Vec::new(), next: None };
        for (name, raw) in self.scan_entries(dir, &from, limit, &mut page.next).await? {
            let name = Name::stored(name);
            let key = Key::Entry(dir, name.clone());
            match self.decode_entry(&key, &raw) {
                Ok(entry) => {
                    self.seeds.put(&key, Some(raw), at);
                    page.items.push(Listed { name, entry, attr: None });
                }
                Err(error) => left_out(&mut page, error),
            }
        }
        if with_attrs {
            self.add_attrs(&mut page).await?;
        }
        Ok(page)
    }

    /// A step of HSCAN, by plain commands: a script would have the server handle each entry slowly, and there is one server
    /// for all. A cursor says on which connection it was given, since another server does not know it.
    async fn scan_entries(
        &self,
        dir: Ino,
        from: &Cursor,
        limit: usize,
        next: &mut Option<Cursor>,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        let text = String::from_utf8_lossy(&from.0);
        let (mut cursor, given_on) = text.split_once('@').unwrap_or(("0", ""));
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(self.keys.entries(dir)).arg(cursor).arg("COUNT").arg(limit.clamp(1, BATCH));
            let ((position, entries), number): ((String, _), _) = self.link.query_numbered(&scan).await?;
            if cursor == "0" || number.to_string() == given_on {
                *next = (position != "0").then(|| Cursor(format!("{position}@{number}").into_bytes()));
                return Ok(entries);
            }
            cursor = "0";
        }
    }

    /// Adds the attributes that there are.
    async fn add_attrs(&self, page: &mut Page<Listed>) -> Result<()> {
        for first in (0..page.items.len()).step_by(BATCH) {
            let (at, last) = (Instant::now(), page.items.len().min(first + BATCH));
            let inodes: Vec<Ino> = page.items[first..last].iter().map(|item| item.entry.ino).collect();
            let mut ask = redis::cmd("MGET");
            ask.arg(inodes.iter().map(|ino| self.keys.attr(*ino)).collect::<Vec<_>>());
            let found: Vec<Option<Bytes>> = self.link.query(&ask).await?;
            if found.len() != inodes.len() {
                return Err(self.link.unexpected("another number of records than was asked for"));
            }
            let mut missing = Vec::new();
            for ((n, ino), raw) in (first..).zip(inodes).zip(found) {
                match raw {
                    Some(raw) => match self.decode_attr(ino, Some(&raw)) {
                        Ok(attr) => {
                            self.seeds.put(&Key::Attr(ino), Some(raw), at);
                            page.items[n].attr = attr;
                        }
                        Err(error) => left_out(page, error),
                    },
                    None => missing.push(Key::Attr(ino)),
                }
            }
            self.say_what_is_wrong(missing, page).await?;
        }
        Ok(())
    }

    /// MGET finds nothing at a key of another type.
    async fn say_what_is_wrong(&self, missing: Vec<Key>, page: &mut Page<Listed>) -> Result<()> {
        match self.fetch(&missing).await {
            Ok(_absent) => return Ok(()),
            Err(Error::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
        for key in missing {
            match self.fetch(&[key]).await {
                Ok(_absent) => {}
                Err(error @ Error::Corrupt { .. }) => left_out(page, error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) async fn all_attrs(&self, from: Cursor, limit: usize) -> Result<Page<(Ino, Attr)>> {
        self.all(from, limit, "i*", "get", |name, raw| {
            let ino = Ino(number(name.strip_prefix('i')?)?);
            Some(self.decode_attr(ino, Some(raw)).map(|attr| attr.map(|attr| (ino, attr))))
        })
        .await
    }

    pub(super) async fn all_chunks(&self, from: Cursor, limit: usize) -> Result<Page<(Ino, u32, Vec<Slice>)>> {
        self.all(from, limit, "c*_*", "list", |name, raw| {
            let (ino, index) = name.strip_prefix('c')?.split_once('_')?;
            let (ino, index) = (Ino(number(ino)?), number(index)?);
            let decoded = self.decode(&Key::Chunk(ino, index), Some(raw));
            Some(decoded.map(|record| match record {
                Some(Record::Slices(slices)) => Some((ino, index, slices)),
                _ => None,
            }))
        })
        .await
    }

    /// A page of the records whose keys match `pattern`. `decode` gets the key without its prefix and the value, and
    /// gives `None` for a key that is of no such record.
    async fn all<T>(
        &self,
        from: Cursor,
        limit: usize,
        pattern: &str,
        how: &str,
        decode: impl Fn(&str, &Bytes) -> Option<Result<Option<T>>> + Send,
    ) -> Result<Page<T>> {
        let pattern = self.keys.named(pattern);
        let (next, found): (Vec<u8>, Vec<RawRecord>) = self
            .link
            .eval(&script::SCAN, &[&self.tokens.key], |call| {
                call.arg(start(&from)).arg(limit.clamp(1, BATCH)).arg(&pattern).arg(how);
            })
            .await?;
        let mut page = Page { items: Vec::new(), corrupt: Vec::new(), next: goes_on(next) };
        for (key, answer) in found {
            // Gone between SCAN and its reading: not there throughout.
            let Some(answer) = answer else { continue };
            let name = key.strip_prefix(self.keys.prefix().as_bytes()).and_then(|name| std::str::from_utf8(name).ok());
            let decoded = name.and_then(|name| match answered(&key, &answer) {
                Ok(raw) => decode(name, &raw),
                Err(error) => keys::is_ours(name.as_bytes()).then_some(Err(error)),
            });
            match decoded {
                Some(Ok(item)) => page.items.extend(item),
                Some(Err(error)) => left_out(&mut page, error),
                None => {}
            }
        }
        Ok(page)
    }

    /// Moves references that very old clients kept as `k{id}_{size}` at the top level (format.md §2.1).
    pub(super) async fn move_old_refs(&self) -> Result<u64> {
        let (hash, mut moved, mut from) = (self.keys.named("sliceRef"), 0, Cursor::default());
        loop {
            let page = self
                .all(from, BATCH, "k*_*", "get", |name, _raw| {
                    keys::parse_slice_field(name.as_bytes()).map(|(id, size)| Ok(Some(keys::slice_field(id, size))))
                })
                .await?;
            if !page.items.is_empty() {
                let fill = |call: &mut redis::Cmd| {
                    call.arg(self.keys.prefix()).arg(&page.items);
                };
                moved += self.link.eval::<u64>(&script::MOVE_REFS, &[&hash], fill).await?;
            }
            match page.next {
                Some(next) => from = next,
                None => return Ok(moved),
            }
        }
    }

    pub(super) async fn all_slice_refs(&self, from: Cursor, limit: usize) -> Result<Page<(SliceId, u32, i64)>> {
        let key = self.keys.named("sliceRef");
        let (next, found): (Vec<u8>, Vec<(Bytes, Bytes)>) = self
            .link
            .eval(&script::SCAN_HASH, &[&key], |call| {
                call.arg(start(&from)).arg(limit.clamp(1, BATCH));
            })
            .await?;
        let mut page = Page { items: Vec::new(), corrupt: Vec::new(), next: goes_on(next) };
        for (field, value) in found {
            let Some((id, size)) = keys::parse_slice_field(&field) else {
                debug!(field = %String::from_utf8_lossy(&field), "not a slice of this format");
                continue;
            };
            match codec::decode_number(&format_args!("sliceRef k{id}_{size}"), &value) {
                Ok(more) => page.items.push((id, size, more.saturating_add(1))),
                Err(error) => left_out(&mut page, error),
            }
        }
        Ok(page)
    }
}

/// What a script says of a record: `=` and its bytes, or `!` and why it cannot be read.
fn answered(key: &[u8], answer: &Bytes) -> Result<Bytes> {
    if answer.first() == Some(&b'=') {
        return Ok(answer.slice(1..));
    }
    let why = String::from_utf8_lossy(answer.get(1..).unwrap_or_default());
    Err(codec::corrupt(&String::from_utf8_lossy(key), why))
}

fn left_out<T>(page: &mut Page<T>, error: Error) {
    error!(%error, "left out of a list");
    page.corrupt.push(error);
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn start(from: &Cursor) -> &[u8] {
    if from.0.is_empty() { b"0" } else { &from.0 }
}

fn goes_on(next: Vec<u8>) -> Option<Cursor> {
    (next != b"0").then_some(Cursor(next))
}
