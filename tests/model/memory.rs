//! The same layers without kernel, process or server: metadata and objects in memory, asked as the kernel would ask.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{O_CREAT, O_EXCL, O_RDWR, O_WRONLY, SEEK_DATA, SEEK_HOLE};
use stead_base::{Clock, Ino, SliceId, SystemClock, Timestamp};
use stead_chunk::{ChunkConfig, ChunkStore};
use stead_meta::Meta;
use stead_meta::format::Format;
use stead_meta::memory::MemoryStore;
use stead_meta::ops::{MetaOptions, SliceRemover, fallocate_mode, rename_flags};
use stead_tests::pattern;
use stead_vfs::{Caller, CopyRange, HandleId, NodeType, SetAttr, SetTime, Vfs, VfsConfig, XattrFlag};
use tokio::runtime::{Builder, Runtime};

use super::operation::{Allocation, Operation, Renaming, SLOTS, Span};
use super::reference::{NOWHERE, Seen};
use super::run::Subject;

const BLOCK: u32 = 64 << 10;
const ROOT: Caller = Caller::root();

type Result<T, E = stead_base::Errno> = std::result::Result<T, E>;

/// What outlives a client.
struct Stores {
    meta: Arc<MemoryStore>,
    objects: Arc<stead_object::MemoryStore>,
}

/// A client, and all its tasks.
struct Client {
    vfs: Arc<Vfs>,
    runtime: Runtime,
}

pub(crate) struct Memory {
    stores: Stores,
    client: Option<Client>,
    /// The directory that everything happens in.
    top: Ino,
    slots: [Cell<Option<(Ino, HandleId)>>; SLOTS],
}

/// Removes blocks as a worker does.
struct Remover(Arc<ChunkStore>);

#[async_trait::async_trait]
impl SliceRemover for Remover {
    async fn remove_slices(&self, slices: &[(SliceId, u32)]) -> Result<(), String> {
        self.0.remove(slices).await.map_err(|error| error.to_string())
    }
}

impl Client {
    fn start(stores: &Stores) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let vfs = runtime.block_on(async {
            let format = Meta::load_format(&*stores.meta).await.expect("it is formatted");
            let options = MetaOptions { enable_xattr: true, skip_dir_mtime: Duration::ZERO, ..MetaOptions::default() };
            let meta = Meta::new(Arc::clone(&stores.meta) as _, format, options).await.expect("a volume");
            meta.start_session().await.expect("a session");
            let settings = ChunkConfig { block_size: BLOCK, ..ChunkConfig::default() };
            let chunks = ChunkStore::open(settings, Arc::clone(&stores.objects) as _).expect("chunks");
            meta.set_slice_remover(Arc::new(Remover(Arc::clone(&chunks))));
            Vfs::new(VfsConfig::default(), meta, chunks, Arc::new(SystemClock))
        });
        Self { vfs, runtime }
    }

    /// No task takes another step, nothing is flushed.
    fn crash(self) {
        self.runtime.shutdown_timeout(Duration::from_secs(10));
    }
}

impl Memory {
    pub(crate) fn new() -> Self {
        let stores = Stores { meta: Arc::default(), objects: Arc::default() };
        let format = Format { trash_days: 0, ..Format::new("model", "mem", "memory") };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(Meta::write_format(&*stores.meta, &format, &*clock)).expect("formatted");
        let client = Some(Client::start(&stores));
        let mut memory = Self { stores, client, top: Ino::ROOT, slots: [const { Cell::new(None) }; SLOTS] };
        let top = memory.run(memory.vfs().mkdir(&ROOT, Ino::ROOT, b"top", 0o755, 0)).expect("a directory");
        memory.top = top.attributes.ino;
        memory
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("it serves")
    }

    fn vfs(&self) -> &Vfs {
        &self.client().vfs
    }

    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.client().runtime.block_on(work)
    }

    async fn set(&self, ino: Ino, set: SetAttr, size: Option<u64>) -> Result<()> {
        self.vfs().setattr(&ROOT, ino, set, size).await.map(drop)
    }

    /// The directory and the name that a place ends with, as the kernel finds them.
    async fn parent(&self, place: &[&'static str]) -> Result<(Ino, &'static [u8])> {
        let (name, above) = place.split_last().expect("one name or more");
        let mut dir = self.top;
        for step in above {
            let found = self.vfs().lookup(&ROOT, dir, step.as_bytes()).await?.attributes;
            match found.attr.kind {
                NodeType::Directory => dir = found.ino,
                NodeType::Symlink => return Err(stead_base::Errno::ENOENT),
                _ => return Err(stead_base::Errno::ENOTDIR),
            }
        }
        Ok((dir, name.as_bytes()))
    }

    async fn find(&self, place: &[&'static str]) -> Result<(Ino, NodeType)> {
        let (dir, name) = self.parent(place).await?;
        let found = self.vfs().lookup(&ROOT, dir, name).await?.attributes;
        Ok((found.ino, found.attr.kind))
    }

    /// What is there; symbolic links lead nowhere.
    async fn followed(&self, place: &[&'static str]) -> Result<(Ino, NodeType)> {
        match self.find(place).await? {
            (_, NodeType::Symlink) => Err(stead_base::Errno::ENOENT),
            found => Ok(found),
        }
    }

    async fn file(&self, place: &[&'static str]) -> Result<Ino> {
        match self.followed(place).await? {
            (_, NodeType::Directory) => Err(stead_base::Errno::EISDIR),
            (ino, _) => Ok(ino),
        }
    }

    async fn exists(&self, (dir, name): (Ino, &[u8])) -> Result<bool> {
        match self.vfs().lookup(&ROOT, dir, name).await {
            Ok(_) => Ok(true),
            Err(stead_base::Errno::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn open(&self, ino: Ino) -> Result<HandleId> {
        Ok(self.vfs().open(&ROOT, ino, O_RDWR).await?.fh)
    }

    /// What close(2) does.
    async fn close(&self, fh: HandleId) -> Result<()> {
        let flushed = self.vfs().flush(&ROOT, fh, 0).await;
        self.vfs().release(&ROOT, fh).await?;
        flushed
    }

    async fn write(&self, fh: HandleId, span: Span) -> Result<()> {
        let data = pattern::bytes(span.seed, span.len);
        let written = self.vfs().write(&ROOT, fh, span.offset, &data).await?;
        assert_eq!(written as usize, span.len, "a short write");
        Ok(())
    }

    async fn rename(&self, from: &[&'static str], to: &[&'static str], how: Renaming) -> Result<()> {
        let (source, target) = (self.parent(from).await?, self.parent(to).await?);
        self.find(from).await?;
        // The kernel has these answers before it asks us.
        let exists = self.exists(target).await?;
        match (how, exists) {
            (Renaming::NoReplace, true) => return Err(stead_base::Errno::EEXIST),
            (Renaming::Exchange, false) => return Err(stead_base::Errno::ENOENT),
            _ if to.len() > from.len() && to.starts_with(from) => return Err(stead_base::Errno::EINVAL),
            (Renaming::Exchange, _) if from.len() > to.len() && from.starts_with(to) => {
                return Err(stead_base::Errno::EINVAL);
            }
            _ if from.len() > to.len() && from.starts_with(to) => return Err(stead_base::Errno::ENOTEMPTY),
            _ => {}
        }
        let flags = match how {
            Renaming::Plain => 0,
            Renaming::NoReplace => rename_flags::NOREPLACE,
            Renaming::Exchange => rename_flags::EXCHANGE,
        };
        self.vfs().rename(&ROOT, source, target, flags).await
    }

    async fn copy(&self, from: Ino, to: Ino, span: Span, at: u64) -> Result<()> {
        if from == to {
            return Ok(());
        }
        let (source, target) = (self.open(from).await?, self.open(to).await?);
        let mut done = 0;
        while done < span.len as u64 {
            let range = CopyRange {
                from: source,
                from_offset: span.offset + done,
                to: target,
                to_offset: at + done,
                length: span.len as u64 - done,
                flags: 0,
            };
            match self.vfs().copy_file_range(&ROOT, range).await? {
                0 => break,
                copied => done += copied,
            }
        }
        self.close(source).await?;
        self.close(target).await
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each operation")]
    async fn perform(&self, operation: &Operation) -> Result<()> {
        match operation {
            Operation::Create(place) => {
                let (dir, name) = self.parent(place).await?;
                let flags = O_WRONLY | O_CREAT | O_EXCL;
                let (_, opened) = self.vfs().create(&ROOT, dir, name, (0o644, 0), flags).await?;
                self.close(opened.fh).await
            }
            Operation::Mkdir(place) => {
                let (dir, name) = self.parent(place).await?;
                self.vfs().mkdir(&ROOT, dir, name, 0o755, 0).await.map(drop)
            }
            Operation::Rmdir(place) => {
                let (dir, name) = self.parent(place).await?;
                self.vfs().rmdir(&ROOT, dir, name).await
            }
            Operation::Unlink(place) => {
                let (dir, name) = self.parent(place).await?;
                match self.find(place).await? {
                    (_, NodeType::Directory) => Err(stead_base::Errno::EISDIR),
                    _ => self.vfs().unlink(&ROOT, dir, name).await,
                }
            }
            Operation::Symlink(place) => {
                let (dir, name) = self.parent(place).await?;
                self.vfs().symlink(&ROOT, dir, name, NOWHERE.as_bytes()).await.map(drop)
            }
            Operation::Link(from, to) => {
                let (source, _) = self.find(from).await?;
                let (dir, name) = self.parent(to).await?;
                if self.exists((dir, name)).await? {
                    return Err(stead_base::Errno::EEXIST);
                }
                self.vfs().link(&ROOT, source, dir, name).await.map(drop)
            }
            Operation::Rename(from, to, how) => self.rename(from, to, *how).await,
            Operation::Write(place, span) => {
                let fh = self.open(self.file(place).await?).await?;
                self.write(fh, *span).await?;
                self.close(fh).await
            }
            Operation::Truncate(place, size) => {
                let ino = self.file(place).await?;
                self.set(ino, SetAttr::default(), Some(*size)).await
            }
            Operation::Fallocate(place, how, span) => {
                let fh = self.open(self.file(place).await?).await?;
                let mode = match how {
                    Allocation::Extend => 0,
                    Allocation::KeepSize => fallocate_mode::KEEP_SIZE,
                    Allocation::Punch => fallocate_mode::PUNCH_HOLE | fallocate_mode::KEEP_SIZE,
                    Allocation::Zero => fallocate_mode::ZERO_RANGE,
                };
                self.vfs().fallocate(&ROOT, fh, mode, span.offset, span.len as u64).await?;
                self.close(fh).await
            }
            Operation::Copy(from, to, span, at) => {
                let (from, to) = (self.file(from).await?, self.file(to).await?);
                self.copy(from, to, *span, *at).await
            }
            Operation::SetXattr(place, name, value) => {
                let (ino, _) = self.followed(place).await?;
                let value = vec![*value; usize::from(*value)];
                self.vfs().setxattr(&ROOT, ino, name.as_bytes(), &value, XattrFlag::Any).await
            }
            Operation::RemoveXattr(place, name) => {
                let (ino, _) = self.followed(place).await?;
                self.vfs().removexattr(&ROOT, ino, name.as_bytes()).await
            }
            Operation::Chmod(place, mode) => {
                let (ino, _) = self.followed(place).await?;
                let mode = u16::try_from(*mode).expect("permissions");
                self.set(ino, SetAttr { mode: Some(mode), ..SetAttr::default() }, None).await
            }
            Operation::SetMtime(place, time) => {
                let (ino, _) = self.followed(place).await?;
                let mtime = Some(SetTime::At(Timestamp::from_secs(*time)));
                self.set(ino, SetAttr { mtime, ..SetAttr::default() }, None).await
            }
            Operation::Open(slot, place) => {
                self.close_slot(*slot).await?;
                let ino = self.file(place).await?;
                self.slots[*slot].set(Some((ino, self.open(ino).await?)));
                Ok(())
            }
            Operation::WriteOpen(slot, span) => self.write(self.slot(*slot)?, *span).await,
            Operation::SyncOpen(slot) => self.vfs().fsync(&ROOT, self.slot(*slot)?, false).await,
            Operation::CloseOpen(slot) => self.close_slot(*slot).await,
            Operation::Crash => Ok(()),
        }
    }

    fn slot(&self, slot: usize) -> Result<HandleId> {
        self.slots[slot].get().map(|(_, fh)| fh).ok_or(stead_base::Errno::EBADF)
    }

    async fn close_slot(&self, slot: usize) -> Result<()> {
        match self.slots[slot].take() {
            Some((_, fh)) => self.close(fh).await,
            None => Ok(()),
        }
    }

    async fn look(&self) -> Result<BTreeMap<String, Seen>> {
        let mut seen = BTreeMap::new();
        let mut todo = vec![(String::new(), self.top)];
        while let Some((path, ino)) = todo.pop() {
            let (found, below) = self.look_at(ino, None).await?;
            todo.extend(below.into_iter().map(|(name, ino)| (format!("{path}/{name}"), ino)));
            seen.insert(path, found);
        }
        for (slot, open) in self.slots.iter().enumerate() {
            if let Some((ino, fh)) = open.get() {
                seen.insert(format!("slot {slot}"), self.look_at(ino, Some(fh)).await?.0);
            }
        }
        Ok(seen)
    }

    /// Everything that can be seen of an inode, by an open handle if there is one, and what its names lead to.
    async fn look_at(&self, ino: Ino, fh: Option<HandleId>) -> Result<(Seen, BTreeMap<String, Ino>)> {
        let attr = self.vfs().getattr(&ROOT, ino).await?.attr;
        let (mut content, mut below) = (Vec::new(), BTreeMap::new());
        let kind = match attr.kind {
            NodeType::Directory => {
                below = self.names(ino).await?;
                "directory"
            }
            NodeType::Symlink => {
                content = self.vfs().readlink(&ROOT, ino).await?.to_vec();
                "link"
            }
            _ => {
                let reader = if let Some(fh) = fh { fh } else { self.open(ino).await? };
                content = self.content(reader, attr.length).await?;
                if fh.is_none() {
                    self.vfs().release(&ROOT, reader).await?;
                }
                "file"
            }
        };
        let mut xattrs = BTreeMap::new();
        let list = self.vfs().listxattr(&ROOT, ino).await?;
        for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let value = self.vfs().getxattr(&ROOT, ino, name).await?.to_vec();
            xattrs.insert(String::from_utf8_lossy(name).into_owned(), value);
        }
        let (names, links) = (below.keys().cloned().collect(), attr.nlink.into());
        let mode = u32::from(attr.mode);
        Ok((Seen { kind, mode, links, content, names, xattrs, mtime: Some(attr.mtime.secs) }, below))
    }

    async fn names(&self, dir: Ino) -> Result<BTreeMap<String, Ino>> {
        let mut names = BTreeMap::new();
        let fh = self.vfs().opendir(&ROOT, dir).await?.fh;
        let mut next = 0;
        loop {
            let before = next;
            let sink = |entry: stead_vfs::DirEntry<'_>| {
                next = entry.next;
                if entry.name != b"." && entry.name != b".." {
                    names.insert(String::from_utf8_lossy(entry.name).into_owned(), entry.ino);
                }
                true
            };
            self.vfs().readdir(&ROOT, fh, before, false, sink).await?;
            if next == before {
                break;
            }
        }
        self.vfs().releasedir(&ROOT, fh).await?;
        Ok(names)
    }

    /// The bytes of a file. What is said to be a hole reads as zeros.
    async fn content(&self, fh: HandleId, length: u64) -> Result<Vec<u8>> {
        let size = u32::try_from(length).expect("small");
        let content = self.vfs().read(&ROOT, fh, 0, size + 1).await?.to_vec();
        assert_eq!(content.len() as u64, length, "bytes of a file of {length}");
        let mut at = 0;
        while at < length {
            let data = match self.vfs().lseek(&ROOT, fh, at, SEEK_DATA).await {
                Err(stead_base::Errno::ENXIO) => length,
                found => found?,
            };
            let hole = &content[usize::try_from(at).expect("small")..usize::try_from(data).expect("small")];
            assert!(hole.iter().all(|byte| *byte == 0), "data in what SEEK_DATA says is a hole at {at} .. {data}");
            if data == length {
                break;
            }
            at = self.vfs().lseek(&ROOT, fh, data, SEEK_HOLE).await?;
            assert!(at > data, "SEEK_HOLE gives {at} at data that begins at {data}");
        }
        Ok(content)
    }
}

impl Subject for Memory {
    fn apply(&mut self, operation: &Operation) -> Result<(), Errno> {
        self.run(self.perform(operation)).map_err(|errno| Errno::from_raw(errno.0))
    }

    fn see(&self) -> BTreeMap<String, Seen> {
        self.run(self.look()).unwrap_or_else(|errno| panic!("looking at everything: {errno:?}"))
    }

    fn crash(&mut self) -> bool {
        self.slots = Default::default();
        self.client.take().expect("it serves").crash();
        self.client = Some(Client::start(&self.stores));
        true
    }

    fn forget_open(&mut self) {
        for slot in 0..SLOTS {
            self.run(self.close_slot(slot)).expect("what was written can be kept");
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.client.take().into_iter().for_each(Client::crash);
    }
}
