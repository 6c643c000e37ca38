//! Random operations on a file, compared with a vector of bytes after each step.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stead_base::Ino;
use stead_meta::ops::{SetAttr, fallocate_mode};
use stead_meta::records::CHUNK_SIZE;

use super::{BLOCK, Rig};
use crate::{CopyRange, HandleId, VfsConfig};

/// A file and what it should contain: zeros below `base`, then `content`.
struct Pair {
    rig: Rig,
    ino: Ino,
    fh: HandleId,
    base: u64,
    content: Vec<u8>,
    random: StdRng,
}

/// The furthest byte behind `base`.
const SPAN: usize = 6 * BLOCK as usize;

impl Pair {
    async fn new(seed: u64, base: u64) -> Self {
        let config = VfsConfig { max_open_slices: 5, ..VfsConfig::default() };
        let rig = Rig::with(config, Default::default()).await;
        let (ino, fh) = rig.create("file").await;
        let random = StdRng::seed_from_u64(seed);
        let mut pair = Self { rig, ino, fh, base, content: Vec::new(), random };
        pair.truncate(0).await;
        pair
    }

    async fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..45 => self.write().await,
            45..80 => self.read().await,
            80..86 => {
                let length = self.random.random_range(0..SPAN);
                self.truncate(length).await;
            }
            86..90 => self.clear().await,
            90..93 => self.rig.flush(self.fh).await.unwrap(),
            93..95 => self.copy().await,
            95..96 => self.compact().await,
            96..98 => self.reopen().await,
            _ => tokio::task::yield_now().await,
        }
        assert_eq!(self.rig.length(self.ino).await, self.base + self.content.len() as u64);
    }

    /// Mostly small, at times several blocks; often right behind the end.
    fn range(&mut self) -> (usize, usize) {
        let size = if self.random.random_range(0..10) == 0 { 2 * BLOCK as usize } else { 3000 };
        let size = self.random.random_range(1..size);
        let at =
            if self.random.random_range(0..4) == 0 { self.content.len() } else { self.random.random_range(0..SPAN) };
        let at = at.min(SPAN - 1);
        (at, size.min(SPAN - at))
    }

    async fn write(&mut self) {
        let (at, size) = self.range();
        let mut data = vec![0; size];
        self.random.fill(&mut data[..]);
        self.rig.write(self.fh, self.base + at as u64, &data).await;
        if self.content.len() < at + size {
            self.content.resize(at + size, 0);
        }
        self.content[at..at + size].copy_from_slice(&data);
    }

    async fn read(&mut self) {
        let (at, size) = self.range();
        let read = self.rig.read(self.fh, self.base + at as u64, u32::try_from(size).unwrap()).await;
        let at = at.min(self.content.len());
        let expected = &self.content[at..self.content.len().min(at + size)];
        assert!(read == expected, "{size} bytes at {at} differ");
    }

    async fn truncate(&mut self, length: usize) {
        let set = self.rig.vfs.setattr(&self.rig.caller, self.ino, SetAttr::default(), Some(self.base + length as u64));
        set.await.unwrap();
        self.content.resize(length, 0);
    }

    async fn clear(&mut self) {
        let (at, size) = self.range();
        let mode = fallocate_mode::PUNCH_HOLE | fallocate_mode::KEEP_SIZE;
        let (offset, size64) = (self.base + at as u64, size as u64);
        self.rig.vfs.fallocate(&self.rig.caller, self.fh, mode, offset, size64).await.unwrap();
        let end = self.content.len().min(at + size);
        if at < end {
            self.content[at..end].fill(0);
        }
    }

    async fn copy(&mut self) {
        let (from, size) = self.range();
        let to = self.random.random_range(0..SPAN);
        let size = size.min(SPAN - to).min(from.abs_diff(to));
        let range = CopyRange {
            from: self.fh,
            from_offset: self.base + from as u64,
            to: self.fh,
            to_offset: self.base + to as u64,
            length: size as u64,
            flags: 0,
        };
        let copied = self.rig.vfs.copy_file_range(&self.rig.caller, range).await.unwrap();
        let end = self.content.len().min(from + size);
        assert_eq!(copied, end.saturating_sub(from) as u64);
        if from < end {
            let part = self.content[from..end].to_vec();
            if self.content.len() < to + part.len() {
                self.content.resize(to + part.len(), 0);
            }
            self.content[to..to + part.len()].copy_from_slice(&part);
        }
    }

    async fn compact(&mut self) {
        for index in self.base / CHUNK_SIZE..=(self.base + SPAN as u64) / CHUNK_SIZE {
            self.rig.vfs.compact(self.ino, u32::try_from(index).unwrap()).await.unwrap();
        }
    }

    async fn reopen(&mut self) {
        self.rig.close(self.fh).await.unwrap();
        self.fh = self.rig.open(self.ino).await;
    }

    async fn compare_all(&self) {
        let read = self.rig.read(self.fh, self.base, u32::try_from(SPAN).unwrap() + 1).await;
        assert!(read == self.content, "the whole file differs");
    }
}

async fn run(seed: u64, base: u64, steps: usize) {
    let mut pair = Pair::new(seed, base).await;
    for step in 0..steps {
        pair.step().await;
        if step % 50 == 0 {
            pair.compare_all().await;
        }
    }
    pair.compare_all().await;
    pair.reopen().await;
    pair.compare_all().await;
    let other = pair.rig.second().await;
    let fh = other.open(pair.ino).await;
    let read = other.read(fh, pair.base, u32::try_from(SPAN).unwrap() + 1).await;
    assert!(read == pair.content, "another client reads something else");
}

#[tokio::test]
async fn random_operations_behave_like_a_vector() {
    for seed in 0..6 {
        run(seed, 0, 1500).await;
    }
}

#[tokio::test]
async fn random_operations_behave_like_a_vector_across_chunks() {
    for seed in 10..13 {
        run(seed, CHUNK_SIZE - SPAN as u64 / 2, 1000).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn random_operations_behave_like_a_vector_on_many_threads() {
    let runs: Vec<_> = (20..28).map(|seed| tokio::spawn(run(seed, 0, 600))).collect();
    for run in runs {
        run.await.unwrap();
    }
}
