//! The metadata of a volume as JSON, in the Go client's form (format.md §9).
//!
//! The tree is walked depth first and written as it is read: memory holds a page of each directory on the way, not the
//! volume. What changes meanwhile may or may not be in the dump; what stays is.

mod node;
mod walk;

pub(crate) use node::KINDS;

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde_json::{Map, Value, json};
use stead_base::{Ino, SessionId};
use stead_meta::format::REMOVED;
use stead_meta::records::{Counter, Key, Record};
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::open::Opened;
use crate::progress::{Progress, Unit};

/// Buffers between the walk and the file.
const BUFFERS: usize = 8;
/// Deleted files that are named.
const MOST_DELETED: usize = 100_000;

/// What goes into a dump.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only what is below this directory, as a volume of its own.
    pub subdir: Option<String>,
    /// Without the trash.
    pub skip_trash: bool,
    /// With the credentials of the object storage.
    pub keep_secret_key: bool,
}

/// What a dump holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dumped {
    /// Names, directories among them; a hard-linked file has several.
    pub entries: u64,
    /// Bytes before compression.
    pub bytes: u64,
}

/// Writes the metadata of `volume` to `out`.
///
/// # Errors
/// Those of the engine and of `out`; a `subdir` that is not there. What was written until then is no dump.
pub async fn dump(
    volume: &Opened,
    out: Box<dyn Write + Send>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Dumped> {
    let (sender, mut buffers) = mpsc::channel::<Vec<u8>>(BUFFERS);
    let writer = tokio::task::spawn_blocking(move || {
        let mut out = out;
        while let Some(buffer) = buffers.blocking_recv() {
            out.write_all(&buffer)?;
        }
        out.flush()
    });
    let mut text = Text { buffer: Vec::new(), sender, bytes: 0 };
    let entries = everything(volume, &mut text, options, progress).await;
    let flushed = text.send().await;
    let bytes = text.bytes;
    drop(text);
    let failed = |error: io::Error| Error::Io { what: "dump".to_owned(), error };
    writer.await.map_err(io::Error::other).and_then(|written| written).map_err(failed)?;
    let entries = entries?;
    flushed?;
    Ok(Dumped { entries, bytes })
}

/// A file for a dump that will have the name `name`, and is compressed if that ends in `.gz`.
///
/// # Errors
/// A file that cannot be made.
pub fn create(path: &Path, name: &Path) -> Result<Box<dyn Write + Send>> {
    // It may have keys, and it has everybody's names.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let file = file.map_err(|error| Error::Io { what: path.display().to_string(), error })?;
    Ok(compressed(Box::new(file), name))
}

/// `out`, with compression if the name asks for it.
pub fn compressed(out: Box<dyn Write + Send>, name: &Path) -> Box<dyn Write + Send> {
    if name.extension().is_some_and(|extension| extension == "gz") {
        Box::new(Finishing(Some(GzEncoder::new(out, Compression::fast()))))
    } else {
        Box::new(BufWriter::with_capacity(1 << 20, out))
    }
}

/// Ends the compressed stream when it is flushed for good.
struct Finishing(Option<GzEncoder<Box<dyn Write + Send>>>);

impl Write for Finishing {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Some(encoder) => encoder.write(data),
            None => Err(io::Error::other("the dump has ended")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.take() {
            Some(encoder) => encoder.finish()?.flush(),
            None => Ok(()),
        }
    }
}

/// The text on its way to the file.
pub(crate) struct Text {
    buffer: Vec<u8>,
    sender: mpsc::Sender<Vec<u8>>,
    bytes: u64,
}

impl Text {
    const FULL: usize = 256 << 10;

    pub(crate) fn push(&mut self, text: &str) {
        self.buffer.extend_from_slice(text.as_bytes());
    }

    /// Hands a full buffer on.
    pub(crate) async fn relieve(&mut self) -> Result<()> {
        if self.buffer.len() < Self::FULL { Ok(()) } else { self.send().await }
    }

    async fn send(&mut self) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        self.bytes += buffer.len() as u64;
        let closed = |_| Error::Io { what: "dump".to_owned(), error: io::ErrorKind::BrokenPipe.into() };
        self.sender.send(buffer).await.map_err(closed)
    }
}

async fn everything(volume: &Opened, text: &mut Text, options: &Options, progress: &dyn Progress) -> Result<u64> {
    let meta = volume.meta(true).await?;
    let top = match &options.subdir {
        Some(path) => {
            let (ino, attr) = meta.resolve_path(path).await?;
            if !attr.is_dir() {
                return Err(Error::option("--subdir", path, "is no directory"));
            }
            ino
        }
        None => Ino::ROOT,
    };
    text.push("{\n");
    for (name, value) in head(volume, options).await? {
        text.push(&format!("  {}: {},\n", json!(name), indented(&value)));
    }
    let known = volume.store.read(&[Key::Counter(Counter::TotalInodes)]).await?;
    let total = match known.as_slice() {
        [Some(Record::Number(count))] => u64::try_from(*count).ok(),
        _ => None,
    };
    let meter = progress.part("Dumping entries", Unit::Items, total);
    let mut walk = walk::Walk::new(volume, meter).await?;
    text.push("  \"FSTree\": ");
    walk.tree(top, text).await?;
    if !options.skip_trash && top == Ino::ROOT && walk.exists(Ino::TRASH).await? {
        text.push(",\n  \"Trash\": ");
        walk.tree(Ino::TRASH, text).await?;
    }
    text.push("\n}\n");
    Ok(walk.entries())
}

/// Everything that comes before the trees.
async fn head(volume: &Opened, options: &Options) -> Result<Vec<(&'static str, Value)>> {
    Ok(vec![
        ("Setting", setting(volume, options)),
        ("Counters", counters(volume).await?),
        ("Sustained", sustained(volume).await?),
        ("DelFiles", deleted(volume).await?),
        ("Quotas", quotas(volume).await?),
    ])
}

fn setting(volume: &Opened, options: &Options) -> Value {
    if options.keep_secret_key { volume.format.to_json() } else { volume.format.redacted().to_json() }
}

/// Numbers of inodes and slices are the next free ones, whatever the engine stores.
async fn counters(volume: &Opened) -> Result<Value> {
    let store = &volume.store;
    let keys = [Counter::UsedSpace, Counter::TotalInodes, Counter::NextTrash].map(Key::Counter);
    let number = |record: Option<Record>| match record {
        Some(Record::Number(number)) => number,
        _ => 0,
    };
    let mut read = store.read(&keys).await?.into_iter().map(number);
    let mut next = || read.next().unwrap_or(0);
    let (space, inodes, trash) = (next(), next(), next());
    Ok(json!({
        "usedSpace": space,
        "usedInodes": inodes,
        "nextInodes": store.allocate(Counter::NextInode, 0).await?,
        "nextChunk": store.allocate(Counter::NextChunk, 0).await?,
        "nextSession": store.allocate(Counter::NextSession, 0).await?.saturating_sub(1),
        "nextTrash": trash,
    }))
}

async fn sustained(volume: &Opened) -> Result<Value> {
    let mut all = Vec::new();
    for session in volume.store.list_sessions().await? {
        let SessionId(sid) = session.sid;
        let inodes = volume.store.list_sustained(session.sid).await?;
        if !inodes.is_empty() {
            all.push(json!({"sid": sid, "inodes": inodes.iter().map(|ino| ino.0).collect::<Vec<_>>()}));
        }
    }
    Ok(all.into())
}

async fn deleted(volume: &Opened) -> Result<Value> {
    let now = volume.clock.now().secs;
    let files = volume.store.list_deleted(now, MOST_DELETED).await?;
    let shown = files.into_iter().map(|(ino, length)| json!({"inode": ino.0, "length": length, "expire": now}));
    Ok(shown.collect())
}

async fn quotas(volume: &Opened) -> Result<Value> {
    let quotas = volume.store.list_quotas().await?;
    let limits = |max: i64| max.max(0);
    let shown = quotas.into_iter().map(|(dir, quota)| {
        let limits = json!({"maxSpace": limits(quota.max_space), "maxInodes": limits(quota.max_inodes)});
        (dir.to_string(), limits)
    });
    Ok(Value::Object(shown.collect::<Map<_, _>>()))
}

/// Two spaces per level, below a member of the top.
fn indented(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default().replace('\n', "\n  ")
}

/// Whether a secret of a dump's setting was left out.
pub(crate) fn is_removed(secret: &str) -> bool {
    secret == REMOVED
}
