//! Whether a volume hangs together: every block that a file needs is there, directories and counters say what is true.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use stead_base::{Ino, SliceId};
use stead_chunk::BlockId;
use stead_meta::Meta;
use stead_meta::format::Format;
use stead_meta::ops::{Damage, SliceUse};
use stead_object::ObjectStore;

use crate::blocks::{self, Named, Use};
use crate::error::{Error, Result};
use crate::open::Opened;
use crate::paths;
use crate::progress::{Meter, Progress, Unit};

/// Lost blocks that are named; more are only counted.
const MOST_NAMED: usize = 10_000;
/// Entries that are read together.
const PAGE: usize = 1000;

/// What is to be checked.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Check this file or directory.
    pub path: Option<String>,
    /// Check what is below it, too.
    pub recursive: bool,
    /// Set right what can be.
    pub repair: bool,
    /// Set statistics of directories right.
    pub sync_dir_stat: bool,
}

/// A block that a file needs and that is not there, or not all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Lost {
    /// The object.
    pub key: String,
    /// The inode that needs it; its path is found with `info --inode`.
    pub inode: u64,
    /// The chunk of the inode.
    pub chunk: u32,
}

/// Something wrong with a directory or a name in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Wrong {
    /// The directory.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// Whether it was set right.
    pub repaired: bool,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Checked {
    /// Blocks that were found, and their bytes.
    pub blocks: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Slices that files use.
    pub slices: u64,
    /// Blocks that are lost.
    pub lost: Vec<Lost>,
    /// How many, if they are too many to be named.
    pub lost_blocks: u64,
    /// Directories that were checked.
    pub directories: u64,
    /// What is wrong with them.
    pub wrong: Vec<Wrong>,
    /// Records that do not decode.
    pub corrupt: Vec<String>,
}

impl Checked {
    /// Whether everything is right now.
    pub fn is_sound(&self) -> bool {
        self.lost_blocks == 0 && self.corrupt.is_empty() && self.wrong.iter().all(|wrong| wrong.repaired)
    }
}

/// Checks a volume.
///
/// # Errors
/// Those of the engine and of the object storage; a path that is not there.
pub async fn check(
    volume: &Opened,
    objects: &Arc<dyn ObjectStore>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Checked> {
    let meta = volume.meta(!options.repair && !options.sync_dir_stat).await?;
    let mut report = Checked::default();
    if let Some(path) = &options.path {
        let meter = progress.part("Checking directories", Unit::Items, None);
        directories(&meta, path, options, &mut report, &*meter).await?;
    }
    blocks_of(volume, &meta, objects, &mut report, progress).await?;
    usage(&meta, options, &mut report).await?;
    Ok(report)
}

/// Every block of every slice.
async fn blocks_of(
    volume: &Opened,
    meta: &Meta,
    objects: &Arc<dyn ObjectStore>,
    report: &mut Checked,
    progress: &dyn Progress,
) -> Result<()> {
    let naming = blocks::naming(&volume.format);
    let slices = blocks::slices(meta, &*progress.part("Scanning slices", Unit::Items, None)).await?;
    report.corrupt.extend(slices.corrupt);
    let mut named = slices.named;
    named.retain(|_, slice| slice.kept != Use::Pending);
    report.slices = named.values().filter(|slice| slice.kept == Use::File).count() as u64;
    let meter = progress.part("Scanning objects", Unit::Items, None);
    blocks::each_page(&**objects, naming, async |page| {
        meter.add(page.len() as u64);
        for found in &page {
            let whole = found.block.filter(|block| is_whole(&volume.format, *block, found.object.size));
            let Some(block) = whole else { continue };
            if let Some(slice) = named.get_mut(&block.slice).filter(|slice| slice.has(naming, block)) {
                slice.met += 1;
                report.blocks += 1;
                report.bytes += u64::from(block.len);
            }
        }
        Ok(())
    })
    .await?;
    named.retain(|id, slice| usize::from(slice.met) < naming.blocks(*id, slice.size).count());
    if named.is_empty() { Ok(()) } else { lost(volume, meta, objects, &named, report).await }
}

/// Whether an object of this size can be the block: as long as its data, unless that is compressed. The size is that of
/// what encryption wraps.
fn is_whole(format: &Format, block: BlockId, size: u64) -> bool {
    if matches!(format.compression.as_str(), "" | "none") { size == u64::from(block.len) } else { size > 0 }
}

/// Looks once more for blocks that the listing did not show, of slices that are still in use.
async fn lost(
    volume: &Opened,
    meta: &Meta,
    objects: &Arc<dyn ObjectStore>,
    incomplete: &HashMap<SliceId, Named>,
    report: &mut Checked,
) -> Result<()> {
    let naming = blocks::naming(&volume.format);
    let mut users = HashMap::new();
    meta.each_slice(&mut |id, _size, used| {
        if let (SliceUse::Chunk(ino, index), true) = (used, incomplete.contains_key(&id)) {
            users.entry(id).or_insert((ino, index));
        }
    })
    .await?;
    for (id, (ino, chunk)) in users {
        let Some(slice) = incomplete.get(&id) else { continue };
        for block in naming.blocks(id, slice.size) {
            let key = naming.key(block);
            match objects.head(&key).await {
                Ok(found) if is_whole(&volume.format, block, found.size) => {}
                Ok(_) | Err(stead_object::Error::NotFound { .. }) => {
                    report.lost_blocks += 1;
                    if report.lost.len() < MOST_NAMED {
                        report.lost.push(Lost { key, inode: ino.0, chunk });
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    report.lost.sort_by(|a, b| (a.inode, a.chunk, &a.key).cmp(&(b.inode, b.chunk, &b.key)));
    Ok(())
}

/// The directories at and below a path.
async fn directories(
    meta: &Meta,
    path: &str,
    options: &Options,
    report: &mut Checked,
    meter: &dyn Meter,
) -> Result<()> {
    let (ino, attr) = meta.resolve_path(path).await?;
    if !attr.is_dir() {
        return Err(Error::option("--path", path, "is no directory"));
    }
    let mut waiting = vec![ino];
    while let Some(dir) = waiting.pop() {
        meter.add(1);
        report.directories += 1;
        let found = meta.check_directory(dir, false).await?;
        let statistics = |damage: &Damage| matches!(damage, Damage::DirStat { .. });
        let repair = options.repair || (options.sync_dir_stat && found.iter().all(statistics));
        if !found.is_empty() {
            if repair {
                meta.check_directory(dir, true).await?;
            }
            let path = paths::directory(meta, dir).await?.unwrap_or_else(|| format!("inode {dir}"));
            let wrong = |damage: &Damage| Wrong {
                path: path.clone(),
                what: described(damage),
                repaired: repair && matches!(damage, Damage::DirLinks { .. } | Damage::DirStat { .. }),
            };
            report.wrong.extend(found.iter().map(wrong));
        }
        if options.recursive {
            waiting.extend(sub_directories(meta, dir).await?);
        }
    }
    Ok(())
}

async fn sub_directories(meta: &Meta, dir: Ino) -> Result<Vec<Ino>> {
    let (mut found, mut from) = (Vec::new(), stead_meta::store::Cursor::default());
    loop {
        let page = meta.list(dir, false, from, PAGE).await?;
        let dirs = page.items.iter().filter(|item| item.entry.kind == stead_meta::records::NodeType::Directory);
        found.extend(dirs.map(|item| item.entry.ino));
        match page.next {
            Some(next) => from = next,
            None => return Ok(found),
        }
    }
}

fn described(damage: &Damage) -> String {
    match damage {
        Damage::DirLinks { found, right } => format!("has {found} links, {right} would be right"),
        Damage::DirStat { found: None, right } => {
            format!("has no statistics; {} bytes in {} entries would be right", right.space, right.inodes)
        }
        Damage::DirStat { found: Some(found), right } => format!(
            "has statistics of {} bytes ({} of data) in {} entries; {} ({}) in {} would be right",
            found.space, found.length, found.inodes, right.space, right.length, right.inodes
        ),
        Damage::Parent { ino, found } => format!("inode {ino} says that it lies in directory {found}"),
        Damage::FileLinks { ino, found, right } => format!("inode {ino} has {found} links, {right} would be right"),
    }
}

/// The volume's counters.
async fn usage(meta: &Meta, options: &Options, report: &mut Checked) -> Result<()> {
    if options.path.as_deref() != Some("/") || !options.recursive {
        return Ok(());
    }
    let (stored, counted) = meta.check_usage(options.repair).await?;
    if stored != counted {
        report.wrong.push(Wrong {
            path: "/".to_owned(),
            what: format!(
                "the volume counts {} bytes in {} inodes; {} in {} would be right",
                stored.space, stored.inodes, counted.space, counted.inodes
            ),
            repaired: options.repair,
        });
    }
    Ok(())
}
