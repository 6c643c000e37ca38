//! Tests of the whole crate against a store that can be made to fail.

mod cache;
mod failing;
mod fake;
mod model;
mod read;
mod speed;
mod staging;
mod write;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stead_base::SliceId;

use crate::tests::fake::FakeStore;
use crate::{ChunkConfig, ChunkStore, Compression, SliceWriter};

const BLOCK: u32 = 256 << 10;
const UUID: &str = "5ebdc8aa-8fa1-453c-9c5b-015418d33ad5";

fn config() -> ChunkConfig {
    ChunkConfig {
        block_size: BLOCK,
        uuid: UUID.to_owned(),
        free_space_ratio: 0.0,
        prefetch: 0,
        ..ChunkConfig::default()
    }
}

fn on_disk(dir: &Path) -> ChunkConfig {
    ChunkConfig { cache_dirs: vec![dir.to_owned()], ..config() }
}

fn open(config: ChunkConfig, objects: &Arc<FakeStore>) -> Arc<ChunkStore> {
    ChunkStore::open(config, Arc::clone(objects) as _).expect("the settings are right")
}

/// Bytes that differ from block to block and from slice to slice, and compress a little.
fn pattern(seed: u64, len: u32) -> Vec<u8> {
    (0..u64::from(len)).map(|n| ((n / 3).wrapping_mul(seed * 2 + 1) >> 4 ^ n >> 12) as u8).collect()
}

/// Writes a whole slice.
async fn put(store: &Arc<ChunkStore>, id: u64, data: &[u8]) -> SliceWriter {
    let mut writer = store.writer();
    writer.set_id(SliceId(id));
    writer.write(0, data).expect("it fits");
    writer.finish().await.expect("the store works");
    writer
}

/// Waits for something that happens in the background.
async fn eventually(what: &str, check: impl Fn() -> bool) {
    for _ in 0..500 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not happen within five seconds");
}

const ALL: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];
