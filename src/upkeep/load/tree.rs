//! The dump as a whole: settings and counters, then the trees, turned into records as they come.

use std::collections::{BTreeMap, HashMap};

use stead_base::Ino;
use stead_meta::format::Format;
use stead_meta::records::{AclRule, DirStat, Entry, Name, NodeType, Write};
use tokio::sync::mpsc;

use super::bits::Bits;
use super::json::Source;
use super::node::{self, Node};
use crate::error::{Error, Result};

/// Records in one transaction.
const BATCH: usize = 500;
/// Larger numbers leave none for what is made later.
const LAST_NUMBER: u64 = i64::MAX.unsigned_abs() / 2;

/// What is left to store once the trees are.
pub(super) struct Contents {
    pub(super) format: Format,
    pub(super) counters: Counters,
    /// Limits of directories: bytes, inodes.
    pub(super) quotas: BTreeMap<Ino, (u64, u64)>,
    /// Inodes with several names: the directories of all names but the first.
    pub(super) links: BTreeMap<Ino, Vec<Ino>>,
    pub(super) entries: u64,
    pub(super) has_trash: bool,
}

/// The numbers of the volume: the larger ones of what the dump says and what was found.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) next_inode: u64,
    pub(super) next_chunk: u64,
    pub(super) next_session: u64,
    pub(super) next_trash: u64,
    pub(super) next_acl: u64,
    pub(super) space: i64,
    pub(super) inodes: i64,
}

/// Reads a dump and hands its records on in batches.
pub(super) fn parse(mut source: Source, sender: mpsc::Sender<Vec<Write>>) -> Result<Contents> {
    let (mut format, mut quotas) = (None, BTreeMap::new());
    let mut builder = Builder::new(sender);
    let mut has_root = false;
    source.begin()?;
    while let Some(member) = source.member()? {
        match member.as_str() {
            "Setting" => format = Some(setting(&mut source)?),
            "Counters" => counters(&mut source, &mut builder.counters)?,
            "Quotas" => quotas = read_quotas(&mut source)?,
            "FSTree" if !source.null()? => {
                builder.tree(&mut source, Ino::ROOT)?;
                has_root = true;
            }
            "Trash" if !source.null()? => {
                builder.tree(&mut source, Ino::TRASH)?;
                builder.has_trash = true;
            }
            // What belongs to processes that are gone, and to files whose data is not in the dump.
            _ => source.skip()?,
        }
    }
    let format = format.ok_or_else(|| source.wrong("a dump without Setting"))?;
    if !has_root {
        return Err(source.wrong("a dump without FSTree"));
    }
    source.end()?;
    builder.send()?;
    let Builder { counters, links, entries, has_trash, .. } = builder;
    Ok(Contents { format, counters, quotas, links, entries, has_trash })
}

fn setting(source: &mut Source) -> Result<Format> {
    let value = source.value()?;
    let format = Format::parse(value.to_string().as_bytes()).map_err(|error| source.wrong(error))?;
    format.check_meta_version().map_err(|error| source.wrong(error))?;
    Ok(format)
}

fn counters(source: &mut Source, counters: &mut Counters) -> Result<()> {
    source.begin()?;
    while let Some(member) = source.member()? {
        let counter = match member.as_str() {
            "nextInodes" => &mut counters.next_inode,
            "nextChunk" => &mut counters.next_chunk,
            "nextSession" => &mut counters.next_session,
            "nextTrash" => &mut counters.next_trash,
            // Usage is counted.
            _ => {
                source.skip()?;
                continue;
            }
        };
        let value: u64 = source.number()?;
        if value > LAST_NUMBER {
            return Err(source.wrong(format_args!("{member} {value} leaves no numbers")));
        }
        *counter = (*counter).max(value);
    }
    Ok(())
}

fn read_quotas(source: &mut Source) -> Result<BTreeMap<Ino, (u64, u64)>> {
    let mut quotas = BTreeMap::new();
    if source.null()? {
        return Ok(quotas);
    }
    source.begin()?;
    while let Some(dir) = source.member()? {
        let dir = dir.parse().map_err(|_| source.wrong(format_args!("a quota of {dir:?}, which is no inode")))?;
        let (mut space, mut inodes) = (0_i64, 0_i64);
        source.begin()?;
        while let Some(member) = source.member()? {
            match member.as_str() {
                "maxSpace" => space = source.number()?,
                "maxInodes" => inodes = source.number()?,
                _ => source.skip()?,
            }
        }
        quotas.insert(Ino(dir), (space.max(0).unsigned_abs(), inodes.max(0).unsigned_abs()));
    }
    Ok(quotas)
}

/// Turns inodes into records.
struct Builder {
    sender: mpsc::Sender<Vec<Write>>,
    batch: Vec<Write>,
    counters: Counters,
    links: BTreeMap<Ino, Vec<Ino>>,
    entries: u64,
    has_trash: bool,
    inodes: Bits,
    slices: Bits,
    acls: HashMap<AclRule, u32>,
}

/// A directory whose entries are being read.
struct Directory {
    node: Node,
    stat: DirStat,
    directories: u32,
}

impl Directory {
    fn new(node: Node) -> Self {
        Self { node, stat: DirStat::default(), directories: 0 }
    }

    fn note(&mut self, source: &Source, child: &Node) -> Result<()> {
        self.stat.inodes += 1;
        self.stat.space = sum(source, self.stat.space, child.attr.space())?;
        match child.attr.kind {
            NodeType::Directory => self.directories += 1,
            // Never more than the space.
            NodeType::File => self.stat.length += child.attr.length.cast_signed(),
            _ => {}
        }
        Ok(())
    }
}

impl Builder {
    fn new(sender: mpsc::Sender<Vec<Write>>) -> Self {
        Self {
            sender,
            batch: Vec::new(),
            counters: Counters::default(),
            links: BTreeMap::new(),
            entries: 0,
            has_trash: false,
            inodes: Bits::default(),
            slices: Bits::default(),
            acls: HashMap::new(),
        }
    }

    /// A tree, whose top becomes inode `top`: a dump of a sub-directory has another number there.
    fn tree(&mut self, source: &mut Source, top: Ino) -> Result<()> {
        source.begin()?;
        let (mut node, entered) = node::read(source)?;
        if node.attr.kind != NodeType::Directory {
            return Err(source.wrong("the top of a tree is no directory"));
        }
        node.ino = top;
        node.attr.parent = Ino::ROOT;
        if !self.inodes.insert(top.0) {
            return Err(source.wrong(format_args!("inode {top} is the top of a second tree")));
        }
        let mut stack = vec![Directory::new(node)];
        if !entered {
            self.leave(stack.pop().expect("it was just put there"))?;
        }
        while let Some(directory) = stack.last_mut() {
            let Some(escaped) = source.member()? else {
                after_entries(source)?;
                self.leave(stack.pop().expect("there is a last one"))?;
                continue;
            };
            let name = node::entry_name(source, &escaped)?;
            source.begin()?;
            let (node, entered) = node::read(source)?;
            directory.note(source, &node)?;
            let parent = directory.node.ino;
            if let Some(child) = self.enter(source, parent, name, node)? {
                if entered { stack.push(child) } else { self.leave(child)? }
            }
        }
        Ok(())
    }

    /// A name and its inode. Directories are handed back: their attributes are complete when their entries are known.
    fn enter(&mut self, source: &Source, parent: Ino, name: Name, mut node: Node) -> Result<Option<Directory>> {
        let (ino, kind) = (node.ino, node.attr.kind);
        let in_trash = parent == Ino::TRASH;
        if ino.0 <= 1 || ino == Ino::TRASH || ino.is_trash() != in_trash {
            return Err(source.wrong(format_args!("inode {ino} cannot be here")));
        }
        let last = if in_trash { i64::MAX.unsigned_abs() } else { LAST_NUMBER };
        if ino.0 > last {
            return Err(source.wrong(format_args!("inode {ino} leaves no numbers")));
        }
        self.entries += 1;
        self.put(Write::SetEntry(parent, name, Entry { kind, ino }))?;
        if !self.inodes.insert(ino.0) {
            if kind == NodeType::Directory {
                return Err(source.wrong(format_args!("directory {ino} has two names")));
            }
            self.links.entry(ino).or_default().push(parent);
            return Ok(None);
        }
        node.attr.parent = parent;
        self.counters.inodes += 1;
        self.counters.space = sum(source, self.counters.space, node.attr.space())?;
        if in_trash {
            self.counters.next_trash = self.counters.next_trash.max(ino.0 - Ino::TRASH.0);
        } else {
            self.counters.next_inode = self.counters.next_inode.max(ino.0 + 1);
        }
        if kind == NodeType::Directory {
            return Ok(Some(Directory::new(node)));
        }
        node.attr.nlink = 1;
        self.content(source, &mut node)?;
        Ok(None)
    }

    /// What a file, or something like it, consists of.
    fn content(&mut self, source: &Source, node: &mut Node) -> Result<()> {
        let ino = node.ino;
        for (index, slices) in std::mem::take(&mut node.chunks) {
            for slice in slices.iter().filter(|slice| !slice.id.is_hole()) {
                if slice.id.0 > LAST_NUMBER {
                    return Err(source.wrong(format_args!("slice {} leaves no numbers", slice.id)));
                }
                self.counters.next_chunk = self.counters.next_chunk.max(slice.id.0 + 1);
                let write = match self.slices.insert(slice.id.0) {
                    true => Write::NewSlice(slice.id, slice.size),
                    false => Write::AddSliceRef(slice.id, slice.size, 1),
                };
                self.put(write)?;
            }
            self.put(Write::AppendSlices(ino, index, slices))?;
        }
        if let Some(target) = node.symlink.take() {
            self.put(Write::SetSymlink(ino, target))?;
        }
        self.attributes(node)
    }

    fn attributes(&mut self, node: &mut Node) -> Result<()> {
        node.attr.access_acl = self.acl(node.access_acl.take())?;
        node.attr.default_acl = self.acl(node.default_acl.take())?;
        for (name, value) in std::mem::take(&mut node.xattrs) {
            self.put(Write::SetXattr(node.ino, name, value))?;
        }
        self.put(Write::SetAttr(node.ino, node.attr.clone()))
    }

    /// The number of a rule; rules that are equal share one.
    fn acl(&mut self, rule: Option<AclRule>) -> Result<u32> {
        let Some(rule) = rule else { return Ok(0) };
        if let Some(known) = self.acls.get(&rule) {
            return Ok(*known);
        }
        let id = u32::try_from(self.acls.len() + 1).map_err(|_| Error::Refused("too many ACLs".to_owned()))?;
        self.acls.insert(rule.clone(), id);
        self.counters.next_acl = u64::from(id) + 1;
        self.put(Write::SetAcl(id, rule))?;
        Ok(id)
    }

    fn leave(&mut self, directory: Directory) -> Result<()> {
        let Directory { mut node, stat, directories } = directory;
        // What lies in the trash does not count for the link count of its top.
        node.attr.nlink = if node.ino == Ino::TRASH { 2 } else { 2 + directories };
        self.put(Write::SetDirStat(node.ino, stat))?;
        self.attributes(&mut node)
    }

    fn put(&mut self, write: Write) -> Result<()> {
        self.batch.push(write);
        if self.batch.len() < BATCH { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let closed = |_| Error::Refused("the engine takes no more records".to_owned());
        self.sender.blocking_send(batch).map_err(closed)
    }
}

/// A number of bytes that grows.
fn sum(source: &Source, bytes: i64, more: i64) -> Result<i64> {
    bytes.checked_add(more).ok_or_else(|| source.wrong("all files have more bytes than can be counted"))
}

/// The rest of a directory after its entries.
fn after_entries(source: &mut Source) -> Result<()> {
    while let Some(member) = source.member()? {
        match member.as_str() {
            "attr" | "entries" => return Err(source.wrong(format_args!("a second {member}"))),
            _ => source.skip()?,
        }
    }
    Ok(())
}
