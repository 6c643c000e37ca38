//! The file system: POSIX semantics over typed records, written once for every store.
//!
//! Every operation is one transaction whose body may run several times; what a body needs is fetched at once (`prime`).
//! Usage counters, directory statistics and quotas change in the transaction that causes the change, so they are exact.
//! Inode 1 is what the mount shows as its root: with `subdir`, that directory.

mod types;

pub use types::{
    Caller, MetaOptions, NewNode, SetAttr, SetTime, SliceRemover, StatFs, Summary, WriteOutcome, XattrFlag,
    fallocate_mode, rename_flags,
};

use std::sync::Arc;

use bytes::Bytes;
use stead_base::{Clock, Ino, SessionId, SliceId, Timestamp};

use crate::error::{Error, Result};
use crate::format::Format;
use crate::records::{Attr, Name, Quota, Slice};
use crate::store::{Cursor, Listed, Page, Store};

/// What is called with the new Format after a reload that changed it.
pub type ReloadHook = Box<dyn Fn(&Format) + Send + Sync>;

/// A volume's metadata as one client works with it.
pub struct Meta;

const LATER: Error = Error::NotSupported { what: "this operation" };

#[expect(clippy::unused_async, unused_variables, reason = "the bodies follow")]
impl Meta {
    pub async fn load_format(store: &dyn Store) -> Result<Format> {
        Err(LATER)
    }
    pub async fn write_format(store: &dyn Store, format: &Format, clock: &dyn Clock) -> Result<Format> {
        Err(LATER)
    }
    pub async fn new(store: Arc<dyn Store>, format: Format, options: MetaOptions) -> Result<Arc<Self>> {
        Err(LATER)
    }
    pub fn format(&self) -> Arc<Format> {
        panic!("the bodies follow")
    }
    pub fn options(&self) -> &MetaOptions {
        panic!("the bodies follow")
    }
    pub fn store(&self) -> &Arc<dyn Store> {
        panic!("the bodies follow")
    }
    pub async fn reload(&self) -> Result<Arc<Format>> {
        Err(LATER)
    }
    pub fn on_reload(&self, hook: ReloadHook) {}
    pub fn set_slice_remover(&self, remover: Arc<dyn SliceRemover>) {}
    pub fn session(&self) -> SessionId {
        SessionId::NONE
    }
    pub async fn start_session(&self) -> Result<SessionId> {
        Err(LATER)
    }
    pub async fn close_session(&self) -> Result<()> {
        Err(LATER)
    }
    pub fn start_background(self: &Arc<Self>) {}
    pub async fn drain(&self) {}
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<(Ino, Attr)> {
        Err(LATER)
    }
    pub async fn getattr(&self, ino: Ino) -> Result<Attr> {
        Err(LATER)
    }
    pub async fn setattr(&self, caller: &Caller, ino: Ino, set: SetAttr) -> Result<Attr> {
        Err(LATER)
    }
    pub async fn mknod(&self, caller: &Caller, parent: Ino, name: &[u8], new: NewNode) -> Result<(Ino, Attr)> {
        Err(LATER)
    }
    pub async fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u16,
        umask: u16,
        exclusive: bool,
    ) -> Result<(Ino, Attr)> {
        Err(LATER)
    }
    pub async fn mkdir(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u16,
        umask: u16,
    ) -> Result<(Ino, Attr)> {
        Err(LATER)
    }
    pub async fn symlink(&self, caller: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> Result<(Ino, Attr)> {
        Err(LATER)
    }
    pub async fn unlink(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        Err(LATER)
    }
    pub async fn rmdir(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        Err(LATER)
    }
    pub async fn rename(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(Ino, Attr)> {
        Err(LATER)
    }
    pub async fn link(&self, caller: &Caller, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        Err(LATER)
    }
    pub async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        Err(LATER)
    }
    pub async fn list(&self, dir: Ino, with_attrs: bool, from: Cursor, limit: usize) -> Result<Page<Listed>> {
        Err(LATER)
    }
    pub async fn parent_of(&self, dir: Ino) -> Result<Ino> {
        Err(LATER)
    }
    pub async fn open(&self, caller: &Caller, ino: Ino, flags: i32) -> Result<Attr> {
        Err(LATER)
    }
    pub async fn close(&self, ino: Ino) -> Result<()> {
        Err(LATER)
    }
    pub async fn new_slice(&self) -> Result<SliceId> {
        Err(LATER)
    }
    pub async fn write_slice(&self, ino: Ino, index: u32, slice: Slice, mtime: Timestamp) -> Result<WriteOutcome> {
        Err(LATER)
    }
    pub async fn chunk(&self, ino: Ino, index: u32) -> Result<Vec<Slice>> {
        Err(LATER)
    }
    pub async fn truncate(&self, caller: &Caller, ino: Ino, length: u64) -> Result<Attr> {
        Err(LATER)
    }
    pub async fn fallocate(&self, caller: &Caller, ino: Ino, mode: u32, offset: u64, length: u64) -> Result<Attr> {
        Err(LATER)
    }
    pub async fn statfs(&self, ino: Ino) -> Result<StatFs> {
        Err(LATER)
    }
    pub async fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<Bytes> {
        Err(LATER)
    }
    pub async fn set_xattr(
        &self,
        caller: &Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flag: XattrFlag,
    ) -> Result<()> {
        Err(LATER)
    }
    pub async fn list_xattrs(&self, ino: Ino) -> Result<Vec<Name>> {
        Err(LATER)
    }
    pub async fn remove_xattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<()> {
        Err(LATER)
    }
    pub async fn get_quota(&self, dir: Ino) -> Result<Option<Quota>> {
        Err(LATER)
    }
    /// `None` keeps the limit; 0 is none.
    pub async fn set_quota(&self, dir: Ino, max_space: Option<u64>, max_inodes: Option<u64>) -> Result<Quota> {
        Err(LATER)
    }
    pub async fn del_quota(&self, dir: Ino) -> Result<()> {
        Err(LATER)
    }
    pub async fn summary(&self, ino: Ino) -> Result<Summary> {
        Err(LATER)
    }
    pub async fn remove_tree(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        skip_trash: bool,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<u64> {
        Err(LATER)
    }
    pub async fn resolve_path(&self, path: &str) -> Result<(Ino, Attr)> {
        Err(LATER)
    }
    pub async fn make_dirs(&self, path: &str, mode: u16, uid: u32, gid: u32) -> Result<Ino> {
        Err(LATER)
    }
    pub async fn fsync(&self) -> Result<()> {
        Err(LATER)
    }
}
