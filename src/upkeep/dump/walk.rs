//! The walk through a tree: a stack of directories, each with a page of its entries.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use stead_base::Ino;
use stead_meta::Error as MetaError;
use stead_meta::records::{AclRule, Attr, CHUNK_SIZE, Key, Name, NodeType, Record, Slice};
use stead_meta::store::{Cursor, Listed, Store};

use super::Text;
use super::node::Node;
use crate::error::Result;
use crate::escape::escape;
use crate::open::Opened;
use crate::progress::Meter;

/// Entries of a directory that are read at once.
const PAGE: usize = 1000;
/// Inodes whose details are read at once.
const DETAILED: usize = 100;
/// Records in one read.
const RECORDS: usize = 1000;

pub(super) struct Walk {
    store: Arc<dyn Store>,
    meter: Arc<dyn Meter>,
    entries: u64,
    hashers: [RandomState; 2],
    acls: HashMap<u32, AclRule>,
}

/// A directory that is being written.
struct Directory {
    ino: Ino,
    /// Where the listing goes on; `None` when it has ended.
    next: Option<Cursor>,
    listed: VecDeque<Listed>,
    ready: VecDeque<(Name, Node)>,
    /// Fingerprints of the names so far, once the listing has more than one page: an engine may repeat names.
    seen: HashSet<(u64, u64)>,
    empty: bool,
}

impl Directory {
    fn new(ino: Ino) -> Self {
        Self {
            ino,
            next: Some(Cursor::default()),
            listed: VecDeque::new(),
            ready: VecDeque::new(),
            seen: HashSet::new(),
            empty: true,
        }
    }
}

impl Walk {
    pub(super) async fn new(volume: &Opened, meter: Arc<dyn Meter>) -> Result<Self> {
        let hashers = [RandomState::new(), RandomState::new()];
        let acls = volume.store.list_acls().await?.into_iter().collect();
        Ok(Self { store: Arc::clone(&volume.store), meter, entries: 0, hashers, acls })
    }

    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    pub(super) async fn exists(&self, ino: Ino) -> Result<bool> {
        Ok(self.attr(ino).await?.is_some())
    }

    async fn attr(&self, ino: Ino) -> Result<Option<Attr>> {
        match self.store.read(&[Key::Attr(ino)]).await?.pop().flatten() {
            Some(Record::Attr(attr)) => Ok(Some(attr)),
            _ => Ok(None),
        }
    }

    /// Writes the tree below a directory, itself included.
    pub(super) async fn tree(&mut self, top: Ino, text: &mut Text) -> Result<()> {
        let attr = self.attr(top).await?.ok_or(MetaError::NoInode { ino: top })?;
        let node = self.details(top, attr).await?;
        self.begin(&node, 1, text);
        let mut stack = vec![Directory::new(top)];
        while let Some(depth) = stack.len().checked_sub(1) {
            text.relieve().await?;
            let level = 2 * depth + 2;
            let directory = &mut stack[depth];
            let Some((name, node)) = self.next(directory).await? else {
                text.push(&format!("\n{}}}\n{}}}", "  ".repeat(level), "  ".repeat(level - 1)));
                stack.pop();
                continue;
            };
            let comma = if std::mem::replace(&mut directory.empty, false) { "\n" } else { ",\n" };
            let indent = "  ".repeat(level + 1);
            text.push(&format!("{comma}{indent}{}: ", json!(escape(name.as_bytes()))));
            if node.attr.is_dir() {
                self.begin(&node, level + 1, text);
                stack.push(Directory::new(node.ino));
            } else {
                text.push(&format!("{{\n{}\n{indent}}}", node.members(&format!("{indent}  "))));
            }
            self.entries += 1;
            self.meter.add(1);
        }
        Ok(())
    }

    fn begin(&self, node: &Node, level: usize, text: &mut Text) {
        let indent = "  ".repeat(level + 1);
        text.push(&format!("{{\n{},\n{indent}\"entries\": {{", node.members(&indent)));
    }

    /// The next entry of a directory.
    async fn next(&self, directory: &mut Directory) -> Result<Option<(Name, Node)>> {
        loop {
            if let Some(ready) = directory.ready.pop_front() {
                return Ok(Some(ready));
            }
            if directory.listed.is_empty() {
                let Some(from) = directory.next.take() else { return Ok(None) };
                self.turn_page(directory, from).await?;
                continue;
            }
            let count = directory.listed.len().min(DETAILED);
            let some: Vec<Listed> = directory.listed.drain(..count).collect();
            directory.ready = self.detailed(some).await?;
        }
    }

    async fn turn_page(&self, directory: &mut Directory, from: Cursor) -> Result<()> {
        let page = self.store.list_entries(directory.ino, true, from, PAGE).await?;
        directory.next = page.next;
        let paged = directory.next.is_some() || !directory.seen.is_empty();
        for listed in page.items {
            let fingerprint = || self.hashers.each_ref().map(|hasher| hasher.hash_one(listed.name.as_bytes()));
            if !paged || directory.seen.insert(fingerprint().into()) {
                directory.listed.push_back(listed);
            }
        }
        Ok(())
    }

    /// Reads what belongs to the inodes of some entries. An entry without attributes is left out: it leads nowhere.
    async fn detailed(&self, some: Vec<Listed>) -> Result<VecDeque<(Name, Node)>> {
        let details = some.into_iter().filter_map(|Listed { name, entry, attr }| {
            let attr = attr?;
            Some(async move { Ok::<_, crate::Error>((name, self.details(entry.ino, attr).await?)) })
        });
        stream::iter(details).buffered(DETAILED).try_collect().await
    }

    async fn details(&self, ino: Ino, attr: Attr) -> Result<Node> {
        let mut node = Node {
            ino,
            symlink: None,
            xattrs: Vec::new(),
            access_acl: self.acls.get(&attr.access_acl).cloned(),
            default_acl: self.acls.get(&attr.default_acl).cloned(),
            chunks: BTreeMap::new(),
            attr,
        };
        let names = self.store.list_xattrs(ino).await?;
        let mut keys: Vec<Key> = names.iter().map(|name| Key::Xattr(ino, name.clone())).collect();
        if node.attr.kind == NodeType::Symlink {
            keys.push(Key::Symlink(ino));
        }
        let mut values = if keys.is_empty() { Vec::new() } else { self.store.read(&keys).await? }.into_iter();
        for name in names {
            if let Some(Some(Record::Bytes(value))) = values.next() {
                node.xattrs.push((name, value));
            }
        }
        if let Some(Some(Record::Bytes(target))) = values.next() {
            node.symlink = Some(target);
        }
        if node.attr.kind == NodeType::File {
            node.chunks = self.chunks(ino, node.attr.length).await?;
        }
        Ok(node)
    }

    async fn chunks(&self, ino: Ino, length: u64) -> Result<BTreeMap<u32, Vec<Slice>>> {
        let end = u32::try_from(length.div_ceil(CHUNK_SIZE)).unwrap_or(u32::MAX);
        // Asking for the only chunk is as fast as asking which there are.
        let indices = if end <= 1 { (0..end).collect() } else { self.store.list_chunks(ino, 0..end).await? };
        let mut chunks = BTreeMap::new();
        for some in indices.chunks(RECORDS) {
            let keys: Vec<Key> = some.iter().map(|index| Key::Chunk(ino, *index)).collect();
            for (index, record) in some.iter().zip(self.store.read(&keys).await?) {
                if let Some(Record::Slices(slices)) = record {
                    chunks.insert(*index, slices);
                }
            }
        }
        Ok(chunks)
    }
}
