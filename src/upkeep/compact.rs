//! Many small slices of a chunk become one.

use std::sync::Arc;

use serde::Serialize;
use stead_base::Ino;
use stead_chunk::{ChunkConfig, ChunkStore, Compression};
use stead_object::ObjectStore;
use tokio_util::sync::CancellationToken;

use crate::blocks;
use crate::error::Result;
use crate::gc::Remover;
use crate::open::Opened;
use crate::progress::{Progress, Unit};

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Compacted {
    /// Chunks that have fewer records now.
    pub chunks: u64,
    /// Records that were replaced.
    pub records: u64,
    /// Bytes that were rewritten.
    pub bytes: u64,
    /// Chunks that could not be compacted; the log says why.
    pub failed: u64,
}

/// Compacts all files of a volume, without a mount.
///
/// # Errors
/// The tree cannot be read, or the Format names a compression that is not known.
pub async fn compact(volume: &Opened, objects: &Arc<dyn ObjectStore>, progress: &dyn Progress) -> Result<Compacted> {
    let meta = volume.meta(false).await?;
    let remover = Remover { objects: Arc::clone(objects), naming: blocks::naming(&volume.format) };
    meta.set_slice_remover(Arc::new(remover));
    let chunks = ChunkStore::open(config(volume)?, Arc::clone(objects))?;
    let meter = progress.part("Compacting chunks", Unit::Items, None);
    let tell = |_chunk: stead_vfs::Compacted| meter.add(1);
    let (done, failed) = stead_vfs::compact_tree(&meta, &chunks, Ino::ROOT, &CancellationToken::new(), &tell).await?;
    chunks.drain().await;
    meta.drain().await;
    Ok(Compacted { chunks: done.chunks, records: done.records, bytes: done.bytes, failed })
}

/// Blocks as the volume has them; nothing is cached on disk.
fn config(volume: &Opened) -> Result<ChunkConfig> {
    let format = &volume.format;
    let compression = match format.compression.as_str() {
        "" | "none" => Compression::None,
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd,
        other => {
            let why = "none, lz4 or zstd can be read".to_owned();
            return Err(stead_meta::Error::Format { member: "Compression", value: other.to_owned(), why }.into());
        }
    };
    Ok(ChunkConfig {
        block_size: format.block_bytes(),
        compression,
        hash_prefix: format.hash_prefix,
        uuid: format.uuid.clone(),
        cache_size: 0,
        range_reads: format.encrypt_key.is_empty(),
        ..ChunkConfig::default()
    })
}
