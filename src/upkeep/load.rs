//! From a dump to a volume in an empty engine (format.md §9).
//!
//! The file is parsed as it is read, on a thread of its own, and stored in batches; memory holds what must be remembered
//! of all inodes and slices (a bit each), not the volume. Parents, links, references, usage and statistics are rebuilt from
//! the tree, whatever the dump says of them. The Format is stored last: an engine without it holds no volume. Until then a
//! [`Claim`] keeps other loads away, and tells the next one that what is there may go.

mod bits;
mod claim;
mod json;
mod node;
mod tree;

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use serde::Serialize;
use stead_base::{Clock, Ino, Timestamp};
use stead_meta::Meta;
use stead_meta::format::Format;
use stead_meta::ops::{MetaOptions, root_attr};
use stead_meta::records::{Counter, Key, Record, Write};
use stead_meta::store::Store;
use tokio::sync::mpsc;
use tracing::warn;

use crate::dump::is_removed;
use crate::error::{Error, Result};
use crate::progress::{Meter, Progress, Unit};

use claim::Claim;
use json::Source;
use tree::Contents;

/// Batches between the parser and the engine.
const BATCHES: usize = 4;

/// What a dump led to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Loaded {
    /// The volume's name.
    pub volume: String,
    /// Names, directories among them; a hard-linked file has several.
    pub entries: u64,
    /// Inodes, as the volume counts them.
    pub inodes: i64,
    /// Bytes, as the volume counts them.
    pub space: i64,
    /// What an operator should do now.
    pub warnings: Vec<String>,
}

/// A file with a dump, uncompressed if its name ends in `.gz`.
///
/// # Errors
/// A file that cannot be read.
pub fn open(path: &Path) -> Result<Box<dyn Read + Send>> {
    let file = std::fs::File::open(path);
    let file = file.map_err(|error| Error::Io { what: path.display().to_string(), error })?;
    let file = BufReader::with_capacity(1 << 20, file);
    if path.extension().is_some_and(|extension| extension == "gz") {
        Ok(Box::new(BufReader::with_capacity(1 << 20, MultiGzDecoder::new(file))))
    } else {
        Ok(Box::new(file))
    }
}

/// Loads a dump into an engine that holds nothing, or what a load left that was killed. After an error the engine is
/// empty again.
///
/// # Errors
/// [`Error::Refused`] if the engine holds something, or another load is not done; [`Error::Dump`] with line and column
/// of what is wrong.
pub async fn load(
    store: &Arc<dyn Store>,
    input: Box<dyn Read + Send>,
    clock: &Arc<dyn Clock>,
    progress: &dyn Progress,
) -> Result<Loaded> {
    let claim = Claim::take(store, clock).await?;
    let meter = progress.part("Loading entries", Unit::Items, None);
    let loaded = fill(&claim, input, clock, meter).await;
    if loaded.is_err()
        && let Err(error) = claim.give_up().await
    {
        warn!(%error, "what was loaded is still there; the next load removes it");
    }
    loaded
}

async fn fill(
    claim: &Claim,
    input: Box<dyn Read + Send>,
    clock: &Arc<dyn Clock>,
    meter: Arc<dyn Meter>,
) -> Result<Loaded> {
    let (sender, mut batches) = mpsc::channel::<Vec<Write>>(BATCHES);
    let parser = tokio::task::spawn_blocking(move || tree::parse(Source::new(input), sender));
    let mut stored = Ok(());
    while let Some(batch) = batches.recv().await {
        let entries = batch.iter().filter(|write| matches!(write, Write::SetEntry(..))).count();
        stored = claim.commit(batch).await;
        if stored.is_err() {
            break;
        }
        meter.add(entries as u64);
    }
    // The parser stops when nobody takes its batches any more.
    drop(batches);
    let parsed = parser.await.map_err(|lost| Error::Refused(format!("the parser ended: {lost}")))?;
    stored?;
    finish(claim, parsed?, clock).await
}

/// What can only be said once everything has been seen; the Format comes last.
async fn finish(claim: &Claim, contents: Contents, clock: &Arc<dyn Clock>) -> Result<Loaded> {
    let store = claim.store();
    links(claim, &contents.links).await?;
    let counters = &contents.counters;
    raise(store.as_ref(), Counter::NextInode, counters.next_inode).await?;
    raise(store.as_ref(), Counter::NextChunk, counters.next_chunk).await?;
    raise(store.as_ref(), Counter::AclMaxId, counters.next_acl).await?;
    raise(store.as_ref(), Counter::NextSession, counters.next_session + 1).await?;
    let format = contents.format;
    let mut last = vec![
        Write::AddCounter(Counter::NextTrash, counters.next_trash.cast_signed()),
        Write::AddCounter(Counter::UsedSpace, counters.space),
        Write::AddCounter(Counter::TotalInodes, counters.inodes),
    ];
    if format.trash_days > 0 && !contents.has_trash {
        last.push(Write::SetAttr(Ino::TRASH, root_attr(0o555, Timestamp::from_secs(clock.now().secs))));
    }
    last.push(Write::SetSetting(Bytes::from(format.encode())));
    quotas(store, &format, &contents.quotas, clock).await?;
    claim.finish(last).await?;
    Ok(Loaded {
        warnings: warnings(&format),
        volume: format.name,
        entries: contents.entries,
        inodes: counters.inodes,
        space: counters.space,
    })
}

/// Stores the directories of inodes with several names.
async fn links(claim: &Claim, links: &BTreeMap<Ino, Vec<Ino>>) -> Result<()> {
    for (ino, parents) in links {
        let Some(Record::Attr(mut attr)) = claim.store().read(&[Key::Attr(*ino)]).await?.pop().flatten() else {
            continue;
        };
        let first = std::mem::replace(&mut attr.parent, Ino(0));
        attr.nlink = u32::try_from(parents.len() + 1).unwrap_or(u32::MAX);
        let mut writes = vec![Write::SetAttr(*ino, attr), Write::AddParent(*ino, first, 1)];
        writes.extend(parents.iter().map(|parent| Write::AddParent(*ino, *parent, 1)));
        claim.commit(writes).await?;
    }
    Ok(())
}

/// Makes `next` the first number that is handed out.
async fn raise(store: &dyn Store, counter: Counter, next: u64) -> Result<()> {
    let free = store.allocate(counter, 0).await?;
    if next > free {
        store.allocate(counter, next - free).await?;
    }
    Ok(())
}

/// Sets the limits; what is used is counted.
async fn quotas(
    store: &Arc<dyn Store>,
    format: &Format,
    quotas: &BTreeMap<Ino, (u64, u64)>,
    clock: &Arc<dyn Clock>,
) -> Result<()> {
    if quotas.is_empty() {
        return Ok(());
    }
    let options = MetaOptions { no_bgjob: true, clock: Arc::clone(clock), ..MetaOptions::default() };
    let meta = Meta::new(Arc::clone(store), format.clone(), options).await?;
    for (dir, (space, inodes)) in quotas {
        match meta.set_quota(*dir, Some(*space), Some(*inodes)).await {
            Ok(_) => {}
            // A dump of a sub-directory names the quotas of all directories.
            Err(stead_meta::Error::NoInode { .. } | stead_meta::Error::NotDirectory { .. }) => {
                warn!(%dir, "the dump has a quota of a directory that it does not have");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn warnings(format: &Format) -> Vec<String> {
    let secrets = [
        (&format.secret_key, "the secret key", "--secret-key"),
        (&format.session_token, "the session token", "--session-token"),
        (&format.encrypt_key, "the encryption key", "a dump with --keep-secret-key"),
    ];
    let lost = secrets.into_iter().filter(|(secret, _, _)| is_removed(secret));
    lost.map(|(_, what, how)| format!("{what} is not in the dump; set it with `stead config` and {how}")).collect()
}

#[cfg(test)]
mod tests;
