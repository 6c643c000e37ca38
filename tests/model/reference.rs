//! What is right: a file system of plain maps and vectors, with the errors of Linux.

use std::collections::BTreeMap;

use nix::errno::Errno;
use stead_tests::pattern;

use super::operation::{Allocation, Operation, Renaming, SLOTS, Span};

/// Where every symbolic link leads: nowhere.
pub(crate) const NOWHERE: &str = "nowhere";

type Outcome<T = ()> = Result<T, Errno>;
type Number = usize;

#[derive(Clone, Debug)]
enum Body {
    File(Vec<u8>),
    Directory(BTreeMap<String, Number>),
    Link,
}

#[derive(Clone, Debug)]
struct Node {
    body: Body,
    mode: u32,
    xattrs: BTreeMap<String, Vec<u8>>,
    /// `None`: whatever the clock said.
    mtime: Option<i64>,
    /// The content before each write that nobody was told of, the oldest first.
    layers: Vec<Vec<u8>>,
    /// Besides writes something else has changed since then: after a crash anything goes.
    mixed: bool,
}

/// What can be seen of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: &'static str,
    pub(crate) mode: u32,
    pub(crate) links: u64,
    pub(crate) content: Vec<u8>,
    pub(crate) names: Vec<String>,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    pub(crate) mtime: Option<i64>,
}

pub(crate) struct Reference {
    nodes: BTreeMap<Number, Node>,
    next: Number,
    slots: [Option<Number>; SLOTS],
}

const ROOT: Number = 0;

impl Node {
    fn new(body: Body, mode: u32) -> Self {
        Self { body, mode, xattrs: BTreeMap::new(), mtime: None, layers: Vec::new(), mixed: false }
    }
}

impl Reference {
    pub(crate) fn new() -> Self {
        let root = Node::new(Body::Directory(BTreeMap::new()), 0o755);
        Self { nodes: BTreeMap::from([(ROOT, root)]), next: 1, slots: [None; SLOTS] }
    }

    /// Does it, or says why Linux would not.
    pub(crate) fn apply(&mut self, operation: &Operation) -> Outcome {
        match operation {
            Operation::Create(place) => self.make(place, Node::new(Body::File(Vec::new()), 0o644)),
            Operation::Mkdir(place) => self.make(place, Node::new(Body::Directory(BTreeMap::new()), 0o755)),
            Operation::Symlink(place) => self.make(place, Node::new(Body::Link, 0o777)),
            Operation::Rmdir(place) => self.rmdir(place),
            Operation::Unlink(place) => self.unlink(place),
            Operation::Link(from, to) => self.link(from, to),
            Operation::Rename(from, to, how) => self.rename(from, to, *how),
            Operation::Write(place, span) => {
                let file = self.file(place)?;
                self.write(file, *span);
                self.settle(file);
                Ok(())
            }
            Operation::Truncate(place, size) => {
                let file = self.file(place)?;
                self.change(file, |content| content.resize(usize::try_from(*size).expect("small"), 0));
                Ok(())
            }
            Operation::Fallocate(place, how, span) => {
                let file = self.file(place)?;
                self.change(file, |content| allocate(content, *how, *span));
                self.settle(file);
                Ok(())
            }
            Operation::Copy(from, to, span, at) => self.copy(from, to, *span, *at),
            Operation::SetXattr(place, name, value) => {
                let node = self.followed(place)?;
                self.node(node).xattrs.insert((*name).to_owned(), vec![*value; usize::from(*value)]);
                Ok(())
            }
            Operation::RemoveXattr(place, name) => {
                let node = self.followed(place)?;
                self.node(node).xattrs.remove(*name).map(drop).ok_or(Errno::ENODATA)
            }
            Operation::Chmod(place, mode) => {
                let node = self.followed(place)?;
                self.node(node).mode = *mode;
                Ok(())
            }
            Operation::SetMtime(place, time) => {
                let node = self.followed(place)?;
                self.node(node).mtime = Some(*time);
                Ok(())
            }
            Operation::Open(slot, place) => {
                self.close(*slot);
                self.slots[*slot] = Some(self.file(place)?);
                Ok(())
            }
            Operation::WriteOpen(slot, span) => {
                let file = self.slots[*slot].ok_or(Errno::EBADF)?;
                self.write(file, *span);
                Ok(())
            }
            Operation::SyncOpen(slot) => {
                let file = self.slots[*slot].ok_or(Errno::EBADF)?;
                self.settle(file);
                Ok(())
            }
            Operation::CloseOpen(slot) => {
                self.close(*slot);
                Ok(())
            }
            Operation::Crash => Ok(()),
        }
    }

    fn node(&mut self, number: Number) -> &mut Node {
        self.nodes.get_mut(&number).expect("a number that is in use")
    }

    fn entries(&mut self, dir: Number) -> &mut BTreeMap<String, Number> {
        match &mut self.node(dir).body {
            Body::Directory(entries) => entries,
            _ => unreachable!("only directories are walked through"),
        }
    }

    /// The directory and the name that a place ends with.
    fn parent<'a>(&mut self, place: &'a [&'static str]) -> Outcome<(Number, &'a str)> {
        let (name, above) = place.split_last().expect("one name or more");
        let mut dir = ROOT;
        for step in above {
            dir = *self.entries(dir).get(*step).ok_or(Errno::ENOENT)?;
            match self.nodes[&dir].body {
                Body::Directory(_) => {}
                Body::File(_) => return Err(Errno::ENOTDIR),
                Body::Link => return Err(Errno::ENOENT),
            }
        }
        Ok((dir, name))
    }

    fn find(&mut self, place: &[&'static str]) -> Outcome<Number> {
        let (dir, name) = self.parent(place)?;
        self.entries(dir).get(name).copied().ok_or(Errno::ENOENT)
    }

    fn followed(&mut self, place: &[&'static str]) -> Outcome<Number> {
        let found = self.find(place)?;
        if matches!(self.nodes[&found].body, Body::Link) { Err(Errno::ENOENT) } else { Ok(found) }
    }

    fn file(&mut self, place: &[&'static str]) -> Outcome<Number> {
        let found = self.followed(place)?;
        if matches!(self.nodes[&found].body, Body::Directory(_)) { Err(Errno::EISDIR) } else { Ok(found) }
    }

    fn make(&mut self, place: &[&'static str], node: Node) -> Outcome {
        let (dir, name) = self.parent(place)?;
        if self.entries(dir).contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let number = self.next;
        self.next += 1;
        self.nodes.insert(number, node);
        self.put(dir, name, number);
        Ok(())
    }

    /// Gives a name in a directory, whose time changes with it.
    fn put(&mut self, dir: Number, name: &str, number: Number) {
        self.entries(dir).insert(name.to_owned(), number);
        self.node(dir).mtime = None;
    }

    fn take(&mut self, dir: Number, name: &str) {
        let gone = self.entries(dir).remove(name);
        self.node(dir).mtime = None;
        gone.into_iter().for_each(|number| self.tidy(number));
    }

    /// Forgets what has neither a name nor a user.
    fn tidy(&mut self, number: Number) {
        if self.names_of(number) == 0 && !self.slots.contains(&Some(number)) {
            self.nodes.remove(&number);
        }
    }

    fn names_of(&self, number: Number) -> u64 {
        let in_dir = |node: &Node| match &node.body {
            Body::Directory(entries) => entries.values().filter(|&&entry| entry == number).count() as u64,
            _ => 0,
        };
        self.nodes.values().map(in_dir).sum()
    }

    fn is_dir(&self, number: Number) -> bool {
        matches!(self.nodes[&number].body, Body::Directory(_))
    }

    fn is_empty(&mut self, dir: Number) -> bool {
        self.entries(dir).is_empty()
    }

    fn rmdir(&mut self, place: &[&'static str]) -> Outcome {
        let (dir, name) = self.parent(place)?;
        let found = self.find(place)?;
        if !self.is_dir(found) {
            return Err(Errno::ENOTDIR);
        }
        if !self.is_empty(found) {
            return Err(Errno::ENOTEMPTY);
        }
        self.take(dir, name);
        Ok(())
    }

    fn unlink(&mut self, place: &[&'static str]) -> Outcome {
        let (dir, name) = self.parent(place)?;
        if self.is_dir_at(place)? {
            return Err(Errno::EISDIR);
        }
        self.take(dir, name);
        Ok(())
    }

    fn is_dir_at(&mut self, place: &[&'static str]) -> Outcome<bool> {
        let found = self.find(place)?;
        Ok(self.is_dir(found))
    }

    fn link(&mut self, from: &[&'static str], to: &[&'static str]) -> Outcome {
        let source = self.find(from)?;
        let (dir, name) = self.parent(to)?;
        if self.entries(dir).contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if self.is_dir(source) {
            return Err(Errno::EPERM);
        }
        self.put(dir, name, source);
        Ok(())
    }

    fn rename(&mut self, from: &[&'static str], to: &[&'static str], how: Renaming) -> Outcome {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        let source = self.find(from)?;
        let target = self.entries(to_dir).get(to_name).copied();
        match (how, target) {
            (Renaming::NoReplace, Some(_)) => return Err(Errno::EEXIST),
            (Renaming::Exchange, None) => return Err(Errno::ENOENT),
            _ => {}
        }
        if to.len() > from.len() && to.starts_with(from) {
            return Err(Errno::EINVAL);
        }
        if from.len() > to.len() && from.starts_with(to) {
            return Err(if how == Renaming::Exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if target == Some(source) {
            return Ok(());
        }
        if how == Renaming::Exchange {
            self.put(from_dir, from_name, target.expect("checked"));
            self.put(to_dir, to_name, source);
            return Ok(());
        }
        if let Some(target) = target {
            match (self.is_dir(source), self.is_dir(target)) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) if !self.is_empty(target) => return Err(Errno::ENOTEMPTY),
                _ => {}
            }
        }
        self.put(to_dir, to_name, source);
        self.take(from_dir, from_name);
        target.into_iter().for_each(|target| self.tidy(target));
        Ok(())
    }

    fn content(&mut self, file: Number) -> &mut Vec<u8> {
        match &mut self.node(file).body {
            Body::File(content) => content,
            _ => unreachable!("only files are opened"),
        }
    }

    fn write(&mut self, file: Number, span: Span) {
        let before = self.content(file).clone();
        let content = self.content(file);
        let start = usize::try_from(span.offset).expect("small");
        content.resize(content.len().max(start + span.len), 0);
        content[start..start + span.len].copy_from_slice(&pattern::bytes(span.seed, span.len));
        let node = self.node(file);
        node.layers.push(before);
        node.mtime = None;
    }

    /// Changes content by something else than a write; that is durable by itself.
    fn change(&mut self, file: Number, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.content(file));
        let node = self.node(file);
        node.mixed |= !node.layers.is_empty();
        node.mtime = None;
    }

    /// All of it was acknowledged.
    fn settle(&mut self, file: Number) {
        let node = self.node(file);
        (node.layers, node.mixed) = (Vec::new(), false);
    }

    fn close(&mut self, slot: usize) {
        if let Some(file) = self.slots[slot].take() {
            self.settle(file);
            self.tidy(file);
        }
    }

    fn copy(&mut self, from: &[&'static str], to: &[&'static str], span: Span, at: u64) -> Outcome {
        let (source, target) = (self.file(from)?, self.file(to)?);
        if source == target {
            return Ok(());
        }
        let content = self.content(source);
        let start = content.len().min(usize::try_from(span.offset).expect("small"));
        let part = content[start..content.len().min(start + span.len)].to_vec();
        let at = usize::try_from(at).expect("small");
        if !part.is_empty() {
            self.change(target, |content| {
                content.resize(content.len().max(at + part.len()), 0);
                content[at..at + part.len()].copy_from_slice(&part);
            });
        }
        self.settle(target);
        Ok(())
    }

    /// Everything that can be seen, by path, and what is open by slot.
    pub(crate) fn see(&self) -> BTreeMap<String, Seen> {
        let mut seen = BTreeMap::new();
        let mut todo = vec![(String::new(), ROOT)];
        while let Some((path, number)) = todo.pop() {
            seen.insert(path.clone(), self.seen(number));
            if let Body::Directory(entries) = &self.nodes[&number].body {
                todo.extend(entries.iter().map(|(name, number)| (format!("{path}/{name}"), *number)));
            }
        }
        for (slot, open) in self.slots.iter().enumerate() {
            seen.extend(open.map(|file| (format!("slot {slot}"), self.seen(file))));
        }
        seen
    }

    fn seen(&self, number: Number) -> Seen {
        let node = &self.nodes[&number];
        let is_dir = |number: &&Number| self.is_dir(**number);
        let (kind, links, content, names) = match &node.body {
            Body::File(content) => ("file", self.names_of(number), content.clone(), Vec::new()),
            Body::Link => ("link", self.names_of(number), NOWHERE.as_bytes().to_vec(), Vec::new()),
            Body::Directory(entries) => {
                let links = 2 + entries.values().filter(is_dir).count() as u64;
                ("directory", links, Vec::new(), entries.keys().cloned().collect())
            }
        };
        Seen { kind, mode: node.mode, links, content, names, xattrs: node.xattrs.clone(), mtime: node.mtime }
    }

    /// After a crash: nothing is open, and what nobody was told of may be there or not. Takes over what was found, or
    /// says what must not be.
    pub(crate) fn crash(&mut self, found: &BTreeMap<String, Seen>) -> Result<(), String> {
        let open: Vec<Number> = self.slots.iter_mut().filter_map(Option::take).collect();
        open.into_iter().for_each(|file| self.tidy(file));
        let mut todo = vec![(String::new(), ROOT)];
        while let Some((path, number)) = todo.pop() {
            if let Body::Directory(entries) = &self.nodes[&number].body {
                todo.extend(entries.iter().map(|(name, number)| (format!("{path}/{name}"), *number)));
            }
            let Some(found) = found.get(&path) else { return Err(format!("{path}: lost in the crash")) };
            self.adopt(number, &found.content).map_err(|at| format!("{path}: byte {at} is neither old nor new"))?;
        }
        Ok(())
    }

    fn adopt(&mut self, number: Number, found: &[u8]) -> Result<(), usize> {
        let node = self.node(number);
        let Body::File(content) = &mut node.body else { return Ok(()) };
        if node.layers.is_empty() {
            return Ok(());
        }
        // Each byte is what one of the writes left, or what was there before all of them.
        let layers: Vec<&Vec<u8>> = node.layers.iter().chain([&*content]).collect();
        let byte = |of: &[u8], at: usize| of.get(at).copied().unwrap_or_default();
        let explained = |at: &usize| layers.iter().any(|layer| found[*at] == byte(layer, *at));
        let lengths = layers[0].len()..=content.len();
        let wrong = (0..found.len()).find(|at| !explained(at));
        let wrong = wrong.or((!lengths.contains(&found.len())).then_some(found.len()));
        if let Some(at) = wrong.filter(|_at| !node.mixed) {
            return Err(at);
        }
        *content = found.to_vec();
        (node.layers, node.mixed, node.mtime) = (Vec::new(), false, None);
        Ok(())
    }
}

fn allocate(content: &mut Vec<u8>, how: Allocation, span: Span) {
    let start = usize::try_from(span.offset).expect("small");
    let end = start + span.len;
    if matches!(how, Allocation::Extend | Allocation::Zero) {
        content.resize(content.len().max(end), 0);
    }
    if matches!(how, Allocation::Punch | Allocation::Zero) {
        let (start, end) = (start.min(content.len()), end.min(content.len()));
        content[start..end].fill(0);
    }
}
