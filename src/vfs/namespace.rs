//! Operations on names and attributes.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use stead_base::{Errno, Ino};
use stead_meta::ops::{Caller, NewNode, SetAttr, SetTime, StatFs};
use stead_meta::records::{Attr, MAX_NAME, NodeType};
use tokio::time::Instant;

use crate::accesslog;
use crate::attr::{Attributes, Entry};
use crate::directory::{DirEntry, DirHandle, Item, Snapshot};
use crate::errno::{Result, fail};
use crate::handles::{Handle, HandleId};
use crate::inode::OpenInode;
use crate::internal::{self, Internal, Virtual};
use crate::operation::Op;
use crate::resent::{self, closed_before};
use crate::segment::{OpenKind, OpenRecord};
use crate::{Opened, Vfs};

/// A name for the access log.
pub(crate) fn lossy(name: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(name)
}

/// Appends the form of an entry if there is one.
pub(crate) fn put_entry(out: &mut String, entry: Option<&Entry>) {
    put_attributes(out, entry.map(|entry| &entry.attributes));
}

fn put_attributes(out: &mut String, attributes: Option<&Attributes>) {
    if let Some(Attributes { ino, attr, .. }) = attributes {
        accesslog::entry(out, *ino, attr);
    }
}

/// An entry that is in no engine.
struct Special {
    ino: Ino,
    kind: NodeType,
    name: String,
}

impl Special {
    fn item(&self) -> Item<'_> {
        Item { ino: self.ino, kind: self.kind, name: self.name.as_bytes(), attr: None, loaded: Instant::now() }
    }
}

impl Vfs {
    /// Finds a name.
    pub async fn lookup(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<Entry> {
        self.observed(Op::Lookup, caller, self.find(parent, name), |out, entry| {
            let _ = write!(out, "({parent},{}):", lossy(name));
            put_entry(out, entry);
        })
        .await
    }

    pub(crate) async fn find(&self, parent: Ino, name: &[u8]) -> Result<Entry> {
        if name.len() > MAX_NAME {
            return Err(Errno::ENAMETOOLONG);
        }
        let asked = Instant::now();
        let found = match self.names.find(parent, name) {
            Some(Internal::File(file)) => return Ok(self.virtual_entry(file)),
            Some(Internal::Trash) => self.meta.getattr(Ino::TRASH).await.map(|attr| (Ino::TRASH, attr)),
            None => self.meta.lookup(parent, name).await,
        };
        let (ino, attr) = found.map_err(fail)?;
        Ok(self.entry(ino, attr, asked).await)
    }

    /// The attributes of an inode.
    pub async fn getattr(&self, caller: &Caller, ino: Ino) -> Result<Attributes> {
        self.observed(Op::GetAttr, caller, self.attributes(ino), |out, found| {
            let _ = write!(out, "({ino}):");
            put_attributes(out, found);
        })
        .await
    }

    async fn attributes(&self, ino: Ino) -> Result<Attributes> {
        if let Some(file) = Virtual::of(ino) {
            return Ok(self.virtual_entry(file).attributes);
        }
        if let Some(known) = self.inodes.recent(ino, self.config.attr_cache) {
            return Ok(known);
        }
        // An open inode knows better what it may believe; mostly this is a directory in which something was just made.
        if self.inodes.get(ino).is_none()
            && let Some((attr, asked)) = self.meta.recent_attr(ino, self.config.attr_cache)
        {
            return Ok(self.entry(ino, attr, asked).await.attributes);
        }
        let asked = Instant::now();
        let attr = self.meta.getattr(ino).await.map_err(fail)?;
        Ok(self.learn(ino, attr, asked).await)
    }

    /// Asks the engine for the attributes of an open inode, whatever is remembered of them.
    pub(crate) async fn refresh(&self, open: &OpenInode) -> Result<()> {
        let asked = Instant::now();
        let attr = self.meta.getattr(open.ino).await.map_err(fail)?;
        self.learn(open.ino, attr, asked).await;
        Ok(())
    }

    /// Changes attributes; with `size`, also the length.
    pub async fn setattr(&self, caller: &Caller, ino: Ino, set: SetAttr, size: Option<u64>) -> Result<Attributes> {
        let shown = format!("{set:?}");
        self.observed(Op::SetAttr, caller, self.set(caller, ino, set, size), |out, found| {
            let _ = write!(out, "({ino},{size:?},[{shown}]):");
            put_attributes(out, found);
        })
        .await
    }

    async fn set(&self, caller: &Caller, ino: Ino, set: SetAttr, size: Option<u64>) -> Result<Attributes> {
        refuse_virtual(ino)?;
        let mut changed = None;
        if let Some(size) = size {
            changed = Some(self.truncate(caller, ino, size).await?);
        }
        if set != SetAttr::default() {
            changed = Some(self.set_members(caller, ino, set).await?);
        }
        match changed {
            Some(attr) => Ok(Attributes {
                ino,
                attr: self.inodes.get(ino).map_or(attr, |open| open.attr()),
                timeout: self.config.attr_cache,
            }),
            None => self.attributes(ino).await,
        }
    }

    async fn set_members(&self, caller: &Caller, ino: Ino, set: SetAttr) -> Result<Attr> {
        let Some(open) = self.inodes.get(ino) else {
            let changed = self.meta.setattr(caller, ino, set).await.map_err(fail)?;
            self.recent.inode(ino);
            return Ok(changed.attr);
        };
        let _change = open.change.lock().await;
        let mtime = set.mtime.map(|mtime| match mtime {
            SetTime::Now => self.clock.now(),
            SetTime::At(time) => time,
        });
        let changed = self.meta.setattr(caller, ino, set).await.map_err(fail)?;
        if let Some(mtime) = mtime {
            open.writer.set_mtime(mtime);
        }
        self.changed(&open, changed.before, changed.attr.clone()).await;
        self.recent.inode(ino);
        Ok(changed.attr)
    }

    /// Makes a file of any kind but a symbolic link.
    pub async fn mknod(&self, caller: &Caller, parent: Ino, name: &[u8], new: NewNode) -> Result<Entry> {
        let op = if new.kind == NodeType::Directory { Op::MkDir } else { Op::MkNod };
        let (mode, rdev) = (new.mode, new.rdev);
        self.observed(op, caller, self.make(caller, parent, name, new), |out, entry| {
            let _ = match op {
                Op::MkDir => write!(out, "({parent},{},0{mode:o}):", lossy(name)),
                _ => write!(out, "({parent},{},0{mode:o},0x{rdev:X}):", lossy(name)),
            };
            put_entry(out, entry);
        })
        .await
    }

    /// Makes a directory.
    pub async fn mkdir(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u16, umask: u16) -> Result<Entry> {
        self.mknod(caller, parent, name, NewNode::directory(mode, umask)).await
    }

    /// Makes a symbolic link.
    pub async fn symlink(&self, caller: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> Result<Entry> {
        let new = NewNode::symlink(Bytes::copy_from_slice(target));
        self.observed(Op::Symlink, caller, self.make(caller, parent, name, new), |out, entry| {
            let _ = write!(out, "({parent},{},{}):", lossy(name), lossy(target));
            put_entry(out, entry);
        })
        .await
    }

    async fn make(&self, caller: &Caller, parent: Ino, name: &[u8], new: NewNode) -> Result<Entry> {
        self.refuse_special(parent, name, Errno::EEXIST)?;
        let asked = Instant::now();
        let made = self.meta.mknod(caller, parent, name, new).await.map_err(fail);
        let (ino, attr) = match made {
            Err(Errno::EEXIST) if self.made_before(caller, parent, name).await? => {
                return self.find(parent, name).await;
            }
            made => made?,
        };
        self.recent.entry(parent, name);
        Ok(self.entry(ino, attr, asked).await)
    }

    /// Where a symbolic link leads.
    pub async fn readlink(&self, caller: &Caller, ino: Ino) -> Result<Bytes> {
        let work = async { self.meta.readlink(ino).await.map_err(fail) };
        self.observed(Op::ReadLink, caller, work, |out, target: Option<&Bytes>| {
            let _ = write!(out, "({ino}): ({})", target.map_or_else(Default::default, |t| lossy(t)));
        })
        .await
    }

    /// Removes a name of anything but a directory.
    pub async fn unlink(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        let work = async {
            self.refuse_special(parent, name, Errno::EPERM)?;
            let removed = self.meta.unlink(caller, parent, name).await.map_err(fail);
            resent::or_gone_before(caller, removed)?;
            self.recent.entry(parent, name);
            self.inodes.links_changed();
            Ok(())
        };
        self.observed(Op::Unlink, caller, work, |out, _| {
            let _ = write!(out, "({parent},{})", lossy(name));
        })
        .await
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        let work = async {
            self.refuse_special(parent, name, Errno::EPERM)?;
            let removed = self.meta.rmdir(caller, parent, name).await.map_err(fail);
            resent::or_gone_before(caller, removed)?;
            self.recent.entry(parent, name);
            Ok(())
        };
        self.observed(Op::RmDir, caller, work, |out, _| {
            let _ = write!(out, "({parent},{})", lossy(name));
        })
        .await
    }

    /// Moves a name; `flags` are those of renameat2(2).
    pub async fn rename(
        &self,
        caller: &Caller,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        flags: u32,
    ) -> Result<()> {
        let work = async {
            self.refuse_special(parent, name, Errno::EPERM)?;
            self.refuse_special(new_parent, new_name, Errno::EPERM)?;
            let moved = self.meta.rename(caller, parent, name, new_parent, new_name, flags);
            let moved = moved.await.map(|(ino, _attr)| ino).map_err(fail);
            let ino = self.or_moved_before(caller, moved, (new_parent, new_name)).await?;
            self.recent.entry(parent, name);
            self.recent.entry(new_parent, new_name);
            self.inodes.links_changed();
            self.recent.inode(ino);
            Ok(())
        };
        self.observed(Op::Rename, caller, work, |out, _| {
            let _ = write!(out, "({parent},{},{new_parent},{},{flags})", lossy(name), lossy(new_name));
        })
        .await
    }

    /// Gives an inode one more name.
    pub async fn link(&self, caller: &Caller, ino: Ino, parent: Ino, name: &[u8]) -> Result<Entry> {
        let work = async {
            refuse_virtual(ino)?;
            self.refuse_special(parent, name, Errno::EPERM)?;
            let asked = Instant::now();
            let linked = self.meta.link(caller, ino, parent, name).await.map_err(fail);
            let attr = self.or_linked_before(caller, linked, ino, (parent, name)).await?;
            self.recent.entry(parent, name);
            self.recent.inode(ino);
            self.inodes.links_changed();
            Ok(self.entry(ino, attr, asked).await)
        };
        self.observed(Op::Link, caller, work, |out, entry| {
            let _ = write!(out, "({ino},{parent},{}):", lossy(name));
            put_entry(out, entry);
        })
        .await
    }

    /// Opens a directory.
    pub async fn opendir(&self, caller: &Caller, ino: Ino) -> Result<Opened> {
        let work = async {
            if let Some((fh, _handle)) = self.handles.opened_for(caller) {
                return Ok(Opened::plain(fh));
            }
            let record = OpenRecord { kind: OpenKind::Directory, ino, flags: 0, request: caller.request };
            self.handles.insert(record, |_mark| Handle::Directory(DirHandle::new(ino))).map(Opened::plain)
        };
        self.observed(Op::OpenDir, caller, work, |out, opened: Option<&Opened>| {
            let _ = write!(out, "({ino}) [fh:{}]", opened.map_or(0, |opened| opened.fh));
        })
        .await
    }

    /// Shows entries from `offset` on to `sink`, until it says that it is full (`true`), in which case the entry it was
    /// shown last comes again next time. With `plus`, entries have attributes.
    pub async fn readdir(
        &self,
        caller: &Caller,
        fh: HandleId,
        offset: u64,
        plus: bool,
        sink: impl FnMut(DirEntry<'_>) -> bool + Send,
    ) -> Result<()> {
        let work = async {
            let handle = self.handles.get(fh)?;
            match &*handle {
                Handle::Directory(dir) => self.list(dir, offset, plus, sink).await.map(|count| (dir.ino, count)),
                Handle::File(_) | Handle::Virtual(_) => Err(Errno::ENOTDIR),
            }
        };
        let result = self.observed(Op::ReadDir, caller, work, |out, done| {
            let (ino, count) = done.copied().unwrap_or((Ino(0), 0));
            let _ = write!(out, "({ino},{fh},{offset},{}): ({count})", u8::from(plus));
        });
        result.await.map(|_shown| ())
    }

    async fn list(
        &self,
        dir: &DirHandle,
        offset: u64,
        plus: bool,
        mut sink: impl FnMut(DirEntry<'_>) -> bool + Send,
    ) -> Result<usize> {
        let special = self.special_entries(dir.ino, offset).await?;
        let start = usize::try_from(offset).map_err(|_too_far| Errno::EINVAL)?;
        let mut snapshot = dir.snapshot().await;
        if offset == 0 {
            *snapshot = Snapshot::default();
        }
        snapshot.taken(start.saturating_sub(special.len()));
        for at in start.. {
            let item = match at.checked_sub(special.len()) {
                None => special[at].item(),
                Some(index) => match snapshot.get(&self.meta, dir.ino, index, plus).await? {
                    Some(item) => item,
                    None => return Ok(at - start),
                },
            };
            let Some(entry) = (if plus { self.listed(dir.ino, &item).await? } else { Some(None) }) else { continue };
            let found = entry.as_ref().map(|entry| (entry.attributes.ino, entry.attributes.attr.kind));
            let (ino, kind) = found.unwrap_or((item.ino, item.kind));
            if sink(DirEntry { name: item.name, next: at as u64 + 1, ino, kind, entry }) {
                return Ok(at - start);
            }
        }
        Ok(0)
    }

    /// `.`, `..` and the virtual files. They hold their places even where `offset` has passed them.
    async fn special_entries(&self, dir: Ino, offset: u64) -> Result<Vec<Special>> {
        let parent = if offset < 2 && dir != Ino::ROOT { self.meta.parent_of(dir).await.map_err(fail)? } else { dir };
        let directory = |ino, name: &str| Special { ino, kind: NodeType::Directory, name: name.to_owned() };
        let mut items = vec![directory(dir, "."), directory(parent, "..")];
        if dir == Ino::ROOT {
            items.extend(self.names.listed().into_iter().map(|(ino, kind, name)| Special { ino, kind, name }));
        }
        Ok(items)
    }

    /// What an entry leads to: as the snapshot has it, or fresh if this mount has changed it since. `None`: the entry is
    /// gone. `Some(None)`: it is there, and nobody knows or needs more.
    async fn listed(&self, dir: Ino, item: &Item<'_>) -> Result<Option<Option<Entry>>> {
        let name = item.name;
        if name == b"." || name == b".." {
            return Ok(Some(None));
        }
        if let Some(attr) = item.attr
            && !self.recent.since(item.loaded, dir, name, item.ino)
        {
            return Ok(Some(Some(self.entry(item.ino, attr.clone(), item.loaded).await)));
        }
        match self.find(dir, name).await {
            Ok(entry) => Ok(Some(Some(entry))),
            Err(Errno::ENOENT) if self.recent.since(item.loaded, dir, name, item.ino) => Ok(None),
            Err(Errno::ENOENT) => Ok(Some(None)),
            Err(errno) => Err(errno),
        }
    }

    /// Closes a directory.
    pub async fn releasedir(&self, caller: &Caller, fh: HandleId) -> Result<()> {
        let work = async {
            let Some(_handle) = self.handles.remove(fh) else { return closed_before(caller) };
            self.handles.forget(fh);
            Ok(())
        };
        self.observed(Op::ReleaseDir, caller, work, |out, _| {
            let _ = write!(out, "({fh})");
        })
        .await
    }

    /// Makes changes of a directory survive a power failure.
    pub async fn fsyncdir(&self, caller: &Caller, ino: Ino) -> Result<()> {
        let work = async { self.meta.fsync().await.map_err(fail) };
        self.observed(Op::FSync, caller, work, |out, _| {
            let _ = write!(out, "({ino},0)");
        })
        .await
    }

    /// Room of the volume.
    pub async fn statfs(&self, caller: &Caller, ino: Ino) -> Result<StatFs> {
        let work = async { self.meta.statfs(ino).await.map_err(fail) };
        self.observed(Op::StatFs, caller, work, |out, found: Option<&StatFs>| {
            let _ = write!(out, "({ino}):");
            if let Some(room) = found {
                let used = room.total.saturating_sub(room.avail);
                let _ = write!(out, " ({used},{},{},{})", room.avail, room.iused, room.iavail);
            }
        })
        .await
    }

    /// What the kernel is told of an inode whose attributes were asked for at `asked`.
    pub(crate) async fn entry(&self, ino: Ino, attr: Attr, asked: Instant) -> Entry {
        let timeout = self.entry_timeout(attr.kind);
        Entry { attributes: self.learn(ino, attr, asked).await, timeout }
    }

    fn entry_timeout(&self, kind: NodeType) -> Duration {
        match kind {
            NodeType::Directory => self.config.dir_entry_cache,
            NodeType::File
            | NodeType::Symlink
            | NodeType::Fifo
            | NodeType::BlockDevice
            | NodeType::CharDevice
            | NodeType::Socket => self.config.entry_cache,
        }
    }

    fn virtual_entry(&self, file: Virtual) -> Entry {
        let length = match file {
            Virtual::Config => self.config_text().len() as u64,
            Virtual::AccessLog | Virtual::Control | Virtual::Stats => 0,
        };
        Entry {
            attributes: Attributes {
                ino: file.ino(),
                attr: internal::attr(file, &self.config, self.since, length),
                timeout: internal::TIMEOUT,
            },
            timeout: internal::TIMEOUT,
        }
    }

    /// The content of `.config`.
    pub(crate) fn config_text(&self) -> String {
        let sid = self.meta.session().0;
        internal::config(&self.config, self.meta.options(), &self.meta.format(), sid, &self.published.read())
    }

    /// Refuses to change a name of the root that is ours.
    pub(crate) fn refuse_special(&self, parent: Ino, name: &[u8], errno: Errno) -> Result<()> {
        match self.names.find(parent, name) {
            Some(Internal::File(_) | Internal::Trash) => Err(errno),
            None if name.len() > MAX_NAME => Err(Errno::ENAMETOOLONG),
            None => Ok(()),
        }
    }
}

/// Refuses to change a virtual file.
pub(crate) fn refuse_virtual(ino: Ino) -> Result<()> {
    if ino.is_internal() { Err(Errno::EPERM) } else { Ok(()) }
}
