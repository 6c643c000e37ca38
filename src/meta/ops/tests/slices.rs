//! Random writes, cuts, copies, clones, compactions and removals against a model of bytes: what a file shows is right, every
//! slice is counted, and none that is shown was removed.

use std::collections::{BTreeMap, HashMap};

use super::random::Dice;
use super::*;
use crate::records::{CHUNK_SIZE, Job};
use crate::view::view;

/// Files begin here, so that they cross the border of a chunk.
const BASE: u64 = CHUNK_SIZE - 300;
const SPAN: u32 = 600;

/// A byte of data is a number that occurs once; 0 is a hole.
type Content = Vec<u64>;

struct Run {
    v: Volume,
    dice: Dice,
    files: BTreeMap<Ino, (String, Content)>,
    /// What is stored of each slice.
    slices: HashMap<SliceId, Content>,
    last: u64,
    trash: bool,
}

impl Run {
    async fn new(setup: Setup, seed: u64) -> Self {
        let trash = setup.trash_days > 0;
        let v = setup.volume().await;
        let (files, slices) = (BTreeMap::new(), HashMap::new());
        let mut run = Self { v, dice: Dice(seed), files, slices, last: 0, trash };
        run.make().await;
        run
    }

    fn name(&mut self) -> String {
        self.last += 1;
        format!("file-{}", self.last)
    }

    fn pick(&mut self) -> Ino {
        let all: Vec<Ino> = self.files.keys().copied().collect();
        self.dice.pick(&all)
    }

    fn range(&mut self) -> (u32, u32) {
        let at = self.dice.number(SPAN - 1);
        (at, 1 + self.dice.number((SPAN - at).min(200)))
    }

    async fn step(&mut self) {
        match self.dice.below(20) {
            0..=6 => self.write().await,
            7 => self.cut().await,
            8 => self.punch().await,
            9..=12 => self.copy().await,
            13..=15 => self.compact().await,
            16 => self.clone().await,
            17 => self.make().await,
            18 => self.remove().await,
            _ => self.pass_time().await,
        }
        self.compare().await;
    }

    async fn make(&mut self) {
        let name = self.name();
        let ino = self.v.file(ROOT, &name).await;
        self.v.truncate(&root(), ino, BASE).await.expect("grown");
        self.files.insert(ino, (name, Vec::new()));
    }

    fn content(&mut self, ino: Ino) -> &mut Content {
        &mut self.files.get_mut(&ino).expect("a file").1
    }

    fn put(&mut self, ino: Ino, at: u32, data: &[u64]) {
        let (at, content) = (at as usize, self.content(ino));
        if content.len() < at + data.len() {
            content.resize(at + data.len(), 0);
        }
        content[at..at + data.len()].copy_from_slice(data);
    }

    async fn write(&mut self) {
        let (ino, (at, len)) = (self.pick(), self.range());
        let mut at = at;
        let end = at + len;
        while at < end {
            let offset = BASE + u64::from(at);
            let room = CHUNK_SIZE - offset % CHUNK_SIZE;
            let len = (end - at).min(u32::try_from(room).expect("inside a chunk"));
            let id = self.v.new_slice().await.expect("a slice");
            let data: Content = (0..u64::from(len)).map(|n| self.last * 1000 + n + 1).collect();
            self.last += 1;
            let (index, pos) = (offset / CHUNK_SIZE, offset % CHUNK_SIZE);
            let (index, pos) = (u32::try_from(index).expect("small"), u32::try_from(pos).expect("small"));
            let slice = Slice { pos, id, size: len, off: 0, len };
            self.v.write_slice(ino, index, slice, self.v.clock.now()).await.expect("written");
            self.put(ino, at, &data);
            self.slices.insert(id, data);
            at += len;
        }
    }

    async fn cut(&mut self) {
        let (ino, length) = (self.pick(), self.dice.number(SPAN));
        self.v.truncate(&root(), ino, BASE + u64::from(length)).await.expect("cut");
        self.content(ino).resize(length as usize, 0);
    }

    async fn punch(&mut self) {
        let (ino, (at, len)) = (self.pick(), self.range());
        let mode = fallocate_mode::PUNCH_HOLE | fallocate_mode::KEEP_SIZE;
        self.v.fallocate(&root(), ino, mode, BASE + u64::from(at), len.into()).await.expect("punched");
        let content = self.content(ino);
        let (from, to) = ((at as usize).min(content.len()), ((at + len) as usize).min(content.len()));
        content[from..to].fill(0);
    }

    async fn copy(&mut self) {
        let (src, dst) = (self.pick(), self.pick());
        let ((from, len), to) = (self.range(), self.dice.number(SPAN));
        let mut len = len.min(SPAN - to);
        if src == dst {
            len = len.min(from.abs_diff(to));
        }
        let (src_off, dst_off) = (BASE + u64::from(from), BASE + u64::from(to));
        let copied = self.v.copy_range(&root(), src, src_off, dst, dst_off, len.into(), 0).await.expect("copied").0;
        let content = self.content(src);
        let (from, end) = ((from as usize).min(content.len()), ((from + len) as usize).min(content.len()));
        assert_eq!(copied, (end - from) as u64);
        let part = content[from..end].to_vec();
        if !part.is_empty() {
            self.put(dst, to, &part);
        }
    }

    async fn compact(&mut self) {
        let (ino, index) = (self.pick(), self.dice.number(2));
        let Some(plan) = self.v.compaction_plan(ino, index).await.expect("planned") else { return };
        let id = self.v.new_slice().await.expect("a slice");
        let data: Content = plan.pieces().iter().flat_map(|piece| self.bytes(piece.id, piece.off, piece.len)).collect();
        assert_eq!(data.len(), plan.size() as usize);
        if self.dice.below(3) == 0 {
            self.write().await;
        }
        if self.v.commit_compaction(&plan, id).await.expect("committed") {
            if !data.is_empty() {
                self.slices.insert(id, data);
            }
        } else {
            self.v.abandon_slice(id, plan.size()).await.expect("abandoned");
        }
    }

    async fn clone(&mut self) {
        let (ino, name) = (self.pick(), self.name());
        let options = CloneOptions::default();
        let go_on = |_count| std::ops::ControlFlow::Continue(());
        let made = self.v.clone_tree(&root(), ino, ROOT, name.as_bytes(), options, &go_on).await.expect("cloned");
        let content = self.content(ino).clone();
        self.files.insert(made.0, (name, content));
    }

    async fn remove(&mut self) {
        let ino = self.pick();
        if self.files.len() > 1 {
            let (name, _content) = self.files.remove(&ino).expect("a file");
            self.v.unlink(&root(), ROOT, name.as_bytes()).await.expect("unlinked");
        }
    }

    async fn pass_time(&mut self) {
        let hours = self.dice.pick(&[1, 1, 60]);
        self.v.clock.advance(Duration::from_secs(hours * 3600 + 1));
        for job in [Job::CleanupTrash, Job::CleanupFiles, Job::CleanupSlices] {
            self.v.run_job(job).await.expect("a job runs");
        }
    }

    /// Bytes of a slice, which must still be stored.
    fn bytes(&self, id: SliceId, off: u32, len: u32) -> Content {
        if id.is_hole() {
            return vec![0; len as usize];
        }
        let data = self.slices.get(&id).unwrap_or_else(|| panic!("slice {id} is shown and gone"));
        data[off as usize..(off + len) as usize].to_vec()
    }

    async fn compare(&mut self) {
        self.v.audit().await;
        for (id, _size) in self.v.removed.slices.lock().drain(..) {
            self.slices.remove(&id);
        }
        for (ino, (name, content)) in &self.files {
            assert_eq!(self.v.attr(*ino).await.length, BASE + content.len() as u64, "length of {name}");
            let mut shown = vec![0; SPAN as usize];
            for index in 0..2_u64 {
                let records = self.v.chunk(*ino, u32::try_from(index).expect("small")).await.expect("read");
                for piece in view(&records).iter().filter(|piece| !piece.id.is_hole()) {
                    let at =
                        usize::try_from(index * CHUNK_SIZE + u64::from(piece.pos) - BASE).expect("near the border");
                    let bytes = self.bytes(piece.id, piece.off, piece.len);
                    shown[at..at + bytes.len()].copy_from_slice(&bytes);
                }
            }
            shown.resize(content.len(), 0);
            assert!(shown == *content, "content of {name}, inode {ino}");
        }
    }

    /// Without files there is no slice.
    async fn end(mut self) {
        for (name, _content) in std::mem::take(&mut self.files).into_values() {
            self.v.unlink(&root(), ROOT, name.as_bytes()).await.expect("unlinked");
        }
        if self.trash {
            for _day in 0..2 {
                self.v.clock.advance(Duration::from_secs(60 * 3600));
                self.v.run_job(Job::CleanupTrash).await.expect("runs");
            }
        }
        self.v.finish_deletions(&Default::default()).await.expect("finished");
        self.compare().await;
        assert!(self.slices.is_empty(), "left behind: {:?}", self.slices.keys());
    }
}

async fn run(setup: Setup, seed: u64) {
    let mut run = Run::new(setup, seed).await;
    for _step in 0..150 {
        run.step().await;
    }
    run.end().await;
}

#[tokio::test]
async fn without_a_trash() {
    for seed in 1..=8 {
        run(Setup::default(), seed * 7919).await;
    }
}

#[tokio::test]
async fn with_a_trash() {
    for seed in 1..=8 {
        run(Setup { trash_days: 1, ..Setup::default() }, seed * 104_729).await;
    }
}

#[tokio::test]
async fn on_a_store_that_fetches() {
    for seed in 1..=4 {
        let trash_days = u32::from(seed % 2 == 0);
        run(Setup { store: MemoryStore::remote(), trash_days, ..Setup::default() }, seed * 15_485_863).await;
    }
}
