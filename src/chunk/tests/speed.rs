//! Figures, not checks: `cargo test --release -p stead-chunk speed -- --ignored --nocapture --test-threads 1`.

use std::time::{Duration, Instant};

use super::*;
use crate::MAX_SLICE;

fn large(dir: Option<&Path>) -> ChunkConfig {
    ChunkConfig {
        uuid: UUID.to_owned(),
        cache_dirs: dir.map(Path::to_owned).into_iter().collect(),
        free_space_ratio: 0.0,
        ..ChunkConfig::default()
    }
}

fn report(what: &str, bytes: u64, took: Duration) {
    println!("{what}: {:.0} MB/s", bytes as f64 / 1e6 / took.as_secs_f64());
}

async fn write_slices(store: &Arc<ChunkStore>, count: u64, step: usize) {
    let data = pattern(3, 1 << 20);
    for id in 1..=count {
        let mut writer = store.writer();
        writer.set_id(SliceId(id));
        let mut off = 0;
        while off < MAX_SLICE {
            drop(store.budget().reserve(step as u64).await);
            writer.write(off, &data[..step]).unwrap();
            off += step as u32;
            writer.upload_full_blocks();
        }
        writer.finish().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes seconds and tells only how fast"]
async fn write_speed() {
    let objects = Arc::new(FakeStore::default());
    for (compression, step) in [
        (Compression::None, 128 << 10),
        (Compression::None, 4096),
        (Compression::Lz4, 128 << 10),
        (Compression::Zstd, 128 << 10),
    ] {
        let store = open(ChunkConfig { compression, ..large(None) }, &objects);
        let start = Instant::now();
        write_slices(&store, 8, step).await;
        report(&format!("write {compression:?} {step}"), 8 * u64::from(MAX_SLICE), start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes seconds and tells only how fast"]
async fn read_speed() {
    let (dir, objects) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
    let store = open(large(Some(dir.path())), &objects);
    write_slices(&store, 4, 1 << 20).await;
    let blocks = || (1..=4_u64).flat_map(|id| (0..MAX_SLICE).step_by(4 << 20).map(move |off| (SliceId(id), off)));
    for round in ["store", "disk"] {
        let store = open(large(Some(dir.path())), &objects);
        let start = Instant::now();
        for (id, off) in blocks() {
            store.read(id, MAX_SLICE, off, 4 << 20).await.unwrap();
        }
        report(&format!("read from {round}, blocks of 4 MiB"), 4 * u64::from(MAX_SLICE), start.elapsed());
        if round == "store" {
            // The queue may have dropped some: fill the disk slowly.
            for (id, off) in blocks() {
                store.read(id, MAX_SLICE, off, 4 << 20).await.unwrap();
                store.drain().await;
            }
        }
    }
    let store = open(large(Some(dir.path())), &objects);
    store.read(SliceId(1), MAX_SLICE, 0, 4 << 20).await.unwrap();
    let start = Instant::now();
    for n in 0..100_000_u32 {
        store.read(SliceId(1), MAX_SLICE, n % 32 * (128 << 10), 128 << 10).await.unwrap();
    }
    report("read from memory, 128 KiB", 100_000 << 17, start.elapsed());
    let small = ChunkConfig { prefetch: 0, ..large(Some(dir.path())) };
    for tasks in [1_u64, 4] {
        let store = open(small.clone(), &objects);
        let start = Instant::now();
        let readers: Vec<_> = (0..tasks).map(|task| tokio::spawn(random_reads(Arc::clone(&store), task))).collect();
        for reader in readers {
            reader.await.unwrap();
        }
        let each = start.elapsed().as_secs_f64() * 1e6 / 20_000.0;
        println!(
            "4 KiB random read from disk cache, {tasks} tasks: {each:.1} µs, {} misses",
            store.usage().blockcache_miss
        );
    }
}

/// The most memory this process has had so far, and now, MiB.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let lines = status.lines().filter(|line| line.starts_with("VmHWM") || line.starts_with("VmRSS"));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes seconds and tells only how much"]
async fn memory_use() {
    let objects = Arc::new(FakeStore::default());
    objects.hollow.store(true, std::sync::atomic::Ordering::Relaxed);
    let store = open(large(None), &objects);
    println!("idle: {}", memory());
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { write_slices(&store, 12, 128 << 10).await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    println!("after four writers, 3 GiB: {}", memory());
    let readers: Vec<_> = (1..=4_u64)
        .map(|file| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for off in (0..8 * MAX_SLICE).step_by(128 << 10) {
                    let (id, off) = (SliceId(file * 100 + u64::from(off / MAX_SLICE)), off % MAX_SLICE);
                    store.prefetch(id, MAX_SLICE, off, (4 << 20).min(MAX_SLICE - off));
                    store.read(id, MAX_SLICE, off, 128 << 10).await.unwrap();
                }
            })
        })
        .collect();
    let start = Instant::now();
    for reader in readers {
        reader.await.unwrap();
    }
    report("four readers, 20 ms latency", 32 * u64::from(MAX_SLICE), start.elapsed());
    println!("after four readers, 2 GiB: {}", memory());
}

async fn random_reads(store: Arc<ChunkStore>, seed: u64) {
    let mut state = seed * 7919 + 1;
    for _ in 0..20_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (id, off) = (1 + (state >> 60) % 4, (state >> 33) as u32 % (MAX_SLICE / 4096 - 1) * 4096 + 512);
        store.read(SliceId(id), MAX_SLICE, off, 3072).await.unwrap();
    }
}
