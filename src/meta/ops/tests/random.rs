//! Random operations against a simple model: same outcomes, same tree, and every invariant of the records.

use std::collections::BTreeMap;

use super::*;
use crate::records::Job;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// What the model knows of an inode.
#[derive(Clone, Debug)]
struct Node {
    kind: NodeType,
    length: u64,
    parent: Ino,
    children: BTreeMap<&'static str, Ino>,
}

/// A file system without stores, transactions and trash.
#[derive(Debug)]
struct Model {
    nodes: BTreeMap<Ino, Node>,
    opened: Vec<Ino>,
}

type Outcome<T = ()> = std::result::Result<T, String>;

/// The name of an error's kind.
fn kind_of<T>(result: &Result<T>) -> Outcome {
    match result {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{error:?}").split([' ', '{']).next().unwrap_or_default().to_owned()),
    }
}

fn fail<T>(kind: &str) -> Outcome<T> {
    Err(kind.to_owned())
}

impl Model {
    fn new() -> Self {
        let root = Node { kind: NodeType::Directory, length: 4096, parent: ROOT, children: BTreeMap::new() };
        Self { nodes: BTreeMap::from([(ROOT, root)]), opened: Vec::new() }
    }

    fn dirs(&self) -> Vec<Ino> {
        self.of_kind(|kind| kind == NodeType::Directory)
    }

    fn of_kind(&self, wanted: impl Fn(NodeType) -> bool) -> Vec<Ino> {
        self.nodes.iter().filter(|(_ino, node)| wanted(node.kind)).map(|(ino, _node)| *ino).collect()
    }

    fn child(&self, dir: Ino, name: &str) -> Outcome<Ino> {
        self.nodes[&dir].children.get(name).copied().ok_or_else(|| "NoEntry".to_owned())
    }

    fn is_dir(&self, ino: Ino) -> bool {
        self.nodes[&ino].kind == NodeType::Directory
    }

    fn names_of(&self, ino: Ino) -> usize {
        self.nodes.values().flat_map(|node| node.children.values()).filter(|child| **child == ino).count()
    }

    /// Whether `ino` lies below `top` or is it.
    fn is_below(&self, mut ino: Ino, top: Ino) -> bool {
        while ino != top && ino != ROOT {
            ino = self.nodes[&ino].parent;
        }
        ino == top
    }

    fn can_make(&self, dir: Ino, name: &str) -> Outcome {
        if self.child(dir, name).is_ok() { fail("Exists") } else { Ok(()) }
    }

    fn make(&mut self, dir: Ino, name: &'static str, ino: Ino, kind: NodeType) {
        let length = match kind {
            NodeType::Directory => 4096,
            NodeType::Symlink => 6,
            _ => 0,
        };
        self.nodes.insert(ino, Node { kind, length, parent: dir, children: BTreeMap::new() });
        self.put(dir, name, ino);
    }

    fn put(&mut self, dir: Ino, name: &'static str, ino: Ino) {
        self.nodes.get_mut(&dir).expect("a directory").children.insert(name, ino);
        let node = self.nodes.get_mut(&ino).expect("a node");
        if node.kind == NodeType::Directory {
            node.parent = dir;
        }
    }

    /// Takes a name away; the node goes with its last name unless it is open.
    fn drop_name(&mut self, dir: Ino, name: &str) {
        let gone = self.nodes.get_mut(&dir).expect("a directory").children.remove(name).expect("a name");
        if self.names_of(gone) == 0 && !self.opened.contains(&gone) {
            self.nodes.remove(&gone);
        }
    }

    fn unlink(&mut self, dir: Ino, name: &str) -> Outcome {
        let ino = self.child(dir, name)?;
        if self.is_dir(ino) {
            return fail("IsDirectory");
        }
        self.drop_name(dir, name);
        Ok(())
    }

    fn rmdir(&mut self, dir: Ino, name: &str) -> Outcome {
        let ino = self.child(dir, name)?;
        match &self.nodes[&ino] {
            node if node.kind != NodeType::Directory => fail("NotDirectory"),
            node if !node.children.is_empty() => fail("NotEmpty"),
            _ => {
                self.drop_name(dir, name);
                Ok(())
            }
        }
    }

    fn link(&mut self, ino: Ino, dir: Ino, name: &'static str) -> Outcome {
        if self.is_dir(ino) {
            return fail("NotPermitted");
        }
        self.can_make(dir, name)?;
        self.put(dir, name, ino);
        Ok(())
    }

    fn rename(&mut self, from: (Ino, &'static str), to: (Ino, &'static str), flags: u32) -> Outcome {
        let ino = self.child(from.0, from.1)?;
        if self.is_dir(ino) && self.is_below(to.0, ino) {
            return fail("NotPermitted");
        }
        let target = self.child(to.0, to.1).ok();
        match target {
            Some(target) if target == ino => return Ok(()),
            None if flags == rename_flags::EXCHANGE => return fail("NoEntry"),
            Some(_) if flags == rename_flags::NOREPLACE => return fail("Exists"),
            Some(target) if flags == rename_flags::EXCHANGE => {
                if self.is_dir(target) && self.is_below(from.0, target) {
                    return fail("NotPermitted");
                }
                self.put(to.0, to.1, ino);
                self.put(from.0, from.1, target);
                return Ok(());
            }
            Some(target) => match (self.is_dir(ino), self.is_dir(target)) {
                (false, true) => return fail("IsDirectory"),
                (true, false) => return fail("NotDirectory"),
                (true, true) if !self.nodes[&target].children.is_empty() => return fail("NotEmpty"),
                _ => self.drop_name(to.0, to.1),
            },
            None => {}
        }
        self.nodes.get_mut(&from.0).expect("a directory").children.remove(from.1);
        self.put(to.0, to.1, ino);
        Ok(())
    }
}

/// A repeatable source of chance (xorshift).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).expect("below a usize")
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    pub(super) fn number(&mut self, end: u32) -> u32 {
        u32::try_from(self.below(end as usize)).expect("below a u32")
    }
}

struct Run {
    volume: Volume,
    model: Model,
    dice: Dice,
    trash: bool,
}

impl Run {
    async fn step(&mut self) {
        let dirs = self.model.dirs();
        let (dir, name) = (self.dice.pick(&dirs), self.dice.pick(&NAMES));
        match self.dice.below(16) {
            0..=2 => self.make(dir, name).await,
            3 => {
                let (done, expected) =
                    (self.volume.unlink(&root(), dir, name.as_bytes()).await, self.model.unlink(dir, name));
                assert_eq!(kind_of(&done), expected, "unlink {name} in {dir}");
            }
            4 => {
                let (done, expected) =
                    (self.volume.rmdir(&root(), dir, name.as_bytes()).await, self.model.rmdir(dir, name));
                assert_eq!(kind_of(&done), expected, "rmdir {name} in {dir}");
            }
            5 => self.link(dir, name).await,
            6..=8 => self.rename(dir, name, &dirs).await,
            9..=10 => self.write().await,
            11 => self.truncate().await,
            12 => self.open().await,
            13 => self.close().await,
            14 => self.set_quota(dir).await,
            _ => self.pass_time().await,
        }
    }

    async fn make(&mut self, dir: Ino, name: &'static str) {
        let kinds = [NodeType::File, NodeType::File, NodeType::Directory, NodeType::Symlink, NodeType::Fifo];
        let kind = self.dice.pick(&kinds);
        let new = match kind {
            NodeType::Symlink => NewNode::symlink(Bytes::from_static(b"target")),
            _ => NewNode { kind, ..NewNode::file(0o755, 0o22) },
        };
        let made = self.volume.mknod(&root(), dir, name.as_bytes(), new).await;
        assert_eq!(kind_of(&made), self.model.can_make(dir, name), "{kind:?} {name} in {dir}");
        if let Ok((ino, _attr)) = made {
            self.model.make(dir, name, ino, kind);
        }
    }

    async fn link(&mut self, dir: Ino, name: &'static str) {
        let all = self.model.of_kind(|_kind| true);
        let ino = self.dice.pick(&all);
        if self.model.names_of(ino) == 0 {
            return;
        }
        let done = self.volume.link(&root(), ino, dir, name.as_bytes()).await;
        assert_eq!(kind_of(&done), self.model.link(ino, dir, name), "link {ino} as {name} in {dir}");
    }

    async fn rename(&mut self, dir: Ino, name: &'static str, dirs: &[Ino]) {
        let (to, new_name) = (self.dice.pick(dirs), self.dice.pick(&NAMES));
        let flags = self.dice.pick(&[0, 0, 0, rename_flags::NOREPLACE, rename_flags::EXCHANGE]);
        let is_deep = |top: Ino, at: Ino| {
            // The kernel refuses these by its tree of names; only the two nearest levels are checked here.
            let model = &self.model;
            model.is_dir(top) && model.is_below(at, top) && at != top && model.nodes[&at].parent != top
        };
        let deep = self.model.child(dir, name).is_ok_and(|ino| is_deep(ino, to));
        let back = self.model.child(to, new_name).is_ok_and(|ino| ino != dir && is_deep(ino, dir));
        let back_near = self.model.child(to, new_name).is_ok_and(|ino| self.model.nodes[&dir].parent == ino);
        if deep || (flags == rename_flags::EXCHANGE && (back || back_near)) {
            return;
        }
        let done = self.volume.rename(&root(), dir, name.as_bytes(), to, new_name.as_bytes(), flags).await;
        let expected = self.model.rename((dir, name), (to, new_name), flags);
        assert_eq!(kind_of(&done), expected, "rename {name} in {dir} to {new_name} in {to}, flags {flags}");
    }

    async fn write(&mut self) {
        let files = self.model.of_kind(|kind| kind == NodeType::File);
        if files.is_empty() {
            return;
        }
        let (ino, index) = (self.dice.pick(&files), self.dice.number(3));
        let (pos, len) = (self.dice.number(1 << 25), 1 + self.dice.number(1 << 20));
        let outcome = self.volume.write(ino, index, pos, len).await.expect("writes");
        let node = self.model.nodes.get_mut(&ino).expect("a file");
        node.length = node.length.max(u64::from(index) * (1 << 26) + u64::from(pos) + u64::from(len));
        assert_eq!(outcome.attr.length, node.length);
    }

    async fn truncate(&mut self) {
        let files = self.model.of_kind(|kind| kind == NodeType::File);
        if files.is_empty() {
            return;
        }
        let (ino, length) = (self.dice.pick(&files), self.dice.pick(&[0, 1, 4096, 5000, 1 << 26, (1 << 27) + 5]));
        let attr = self.volume.truncate(&root(), ino, length).await.expect("truncates");
        assert_eq!(attr.length, length);
        self.model.nodes.get_mut(&ino).expect("a file").length = length;
    }

    async fn open(&mut self) {
        let files = self.model.of_kind(|kind| kind == NodeType::File);
        if files.is_empty() {
            return;
        }
        let ino = self.dice.pick(&files);
        if self.model.names_of(ino) > 0 {
            self.volume.meta.open(&root(), ino, 2).await.expect("opens");
            self.model.opened.push(ino);
        }
    }

    async fn close(&mut self) {
        if self.model.opened.is_empty() {
            return;
        }
        let nth = self.dice.below(self.model.opened.len());
        let ino = self.model.opened.swap_remove(nth);
        self.volume.close(ino).await.expect("closes");
        if self.model.names_of(ino) == 0 && !self.model.opened.contains(&ino) {
            self.model.nodes.remove(&ino);
            if !self.trash {
                refused!(self.volume.getattr(ino).await, Error::NoInode { .. });
            }
        }
    }

    async fn set_quota(&mut self, dir: Ino) {
        if self.dice.below(4) == 0 {
            self.volume.del_quota(dir).await.expect("removes a quota");
        } else {
            self.volume.set_quota(dir, Some(1 << 50), None).await.expect("sets a quota");
        }
    }

    async fn pass_time(&mut self) {
        let hours = self.dice.pick(&[0, 0, 0, 1, 1, 60]);
        self.volume.clock.advance(Duration::from_secs(hours * 3600 + 1));
        for job in [Job::CleanupTrash, Job::CleanupFiles, Job::CleanupSlices] {
            self.volume.run_job(job).await.expect("a job runs");
        }
    }

    /// Compares everything visible, then audits the records.
    async fn compare(&self) {
        for (ino, node) in &self.model.nodes {
            let attr = self.volume.attr(*ino).await;
            assert_eq!((attr.kind, attr.length), (node.kind, node.length), "inode {ino}");
            if node.kind == NodeType::Directory {
                let found = self.volume.list_all(*ino, true).await.expect("lists");
                let found: Vec<(String, Ino)> =
                    found.into_values().map(|item| (item.name.to_string(), item.entry.ino)).collect();
                let expected: Vec<(String, Ino)> =
                    node.children.iter().map(|(name, ino)| ((*name).to_owned(), *ino)).collect();
                assert_eq!(found, expected, "directory {ino}");
            } else if !self.trash {
                assert_eq!(attr.nlink as usize, self.model.names_of(*ino), "names of {ino}");
            }
        }
        self.volume.audit().await;
    }
}

async fn run(setup: Setup, seed: u64, steps: usize) {
    let trash = setup.trash_days > 0;
    let volume = setup.volume().await;
    let mut run = Run { volume, model: Model::new(), dice: Dice(seed), trash };
    for step in 0..steps {
        run.step().await;
        if step % 25 == 0 {
            run.compare().await;
        }
    }
    run.compare().await;
    let opened = std::mem::take(&mut run.model.opened);
    for ino in opened {
        run.volume.close(ino).await.expect("closes");
    }
    run.volume.settle().await;
    let state = run.volume.store.snapshot();
    assert!(state.sustained.is_empty(), "nothing is open: {:?}", state.sustained);
    assert!(state.deleted.is_empty(), "all data is removed: {:?}", state.deleted);
    audit::audit(&state, &run.volume.format());
}

#[tokio::test]
async fn without_a_trash() {
    for seed in 1..=12 {
        run(Setup { user_group_quota: true, ..Setup::default() }, seed * 7919, 300).await;
    }
}

#[tokio::test]
async fn with_a_trash() {
    for seed in 1..=12 {
        run(Setup { trash_days: 1, user_group_quota: true, ..Setup::default() }, seed * 104_729, 300).await;
    }
}

#[tokio::test]
async fn on_a_store_that_fetches() {
    for seed in 1..=6 {
        let trash_days = u32::from(seed % 2 == 0);
        run(Setup { store: MemoryStore::remote(), trash_days, ..Setup::default() }, seed * 15_485_863, 300).await;
    }
}
