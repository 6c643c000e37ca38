//! Extended attributes, access control lists among them. Where they are off, ENOSYS makes the kernel stop asking, which
//! saves a request per write.

use std::fmt::Write as _;

use bytes::Bytes;
use stead_base::{Errno, Ino};
use stead_meta::ops::{Caller, XattrFlag};
use stead_meta::records::MAX_NAME;

use crate::Vfs;
use crate::errno::{Result, fail};
use crate::namespace::{lossy, refuse_virtual};
use crate::operation::Op;

impl Vfs {
    /// The value of an attribute.
    pub async fn getxattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<Bytes> {
        let work = async {
            self.check_xattr(name)?;
            if ino.is_internal() {
                return Err(Errno::ENODATA);
            }
            self.meta.get_xattr(ino, name).await.map_err(fail)
        };
        self.observed(Op::GetXattr, caller, work, |out, value: Option<&Bytes>| {
            let _ = write!(out, "({ino},{}): ({})", lossy(name), value.map_or(0, Bytes::len));
        })
        .await
    }

    /// Creates or replaces an attribute.
    pub async fn setxattr(&self, caller: &Caller, ino: Ino, name: &[u8], value: &[u8], flag: XattrFlag) -> Result<()> {
        let work = async {
            refuse_virtual(ino)?;
            self.check_xattr(name)?;
            match self.meta.set_xattr(caller, ino, name, value, flag).await.map_err(fail) {
                // What the process before this one has set without telling.
                Err(Errno::EEXIST)
                    if caller.again && *self.meta.get_xattr(ino, name).await.map_err(fail)? == *value => {}
                set => set?,
            }
            self.recent.inode(ino);
            self.list_changed(ino, name).await
        };
        self.observed(Op::SetXattr, caller, work, |out, _| {
            let _ = write!(out, "({ino},{},{},{flag:?})", lossy(name), value.len());
        })
        .await
    }

    /// The names of all attributes, each followed by NUL.
    pub async fn listxattr(&self, caller: &Caller, ino: Ino) -> Result<Bytes> {
        let work = async {
            self.check_xattr(b"")?;
            if ino.is_internal() {
                return Ok(Bytes::new());
            }
            let mut list = Vec::new();
            for name in self.meta.list_xattrs(ino).await.map_err(fail)? {
                list.extend_from_slice(name.as_bytes());
                list.push(0);
            }
            Ok(list.into())
        };
        self.observed(Op::ListXattr, caller, work, |out, list: Option<&Bytes>| {
            let _ = write!(out, "({ino}): ({})", list.map_or(0, Bytes::len));
        })
        .await
    }

    /// Removes an attribute.
    pub async fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<()> {
        let work = async {
            refuse_virtual(ino)?;
            self.check_xattr(name)?;
            match self.meta.remove_xattr(caller, ino, name).await.map_err(fail) {
                Err(Errno::ENODATA) if caller.again => {}
                removed => removed?,
            }
            self.recent.inode(ino);
            self.list_changed(ino, name).await
        };
        self.observed(Op::RemoveXattr, caller, work, |out, _| {
            let _ = write!(out, "({ino},{})", lossy(name));
        })
        .await
    }

    /// An access list changes the mode as well.
    async fn list_changed(&self, ino: Ino, name: &[u8]) -> Result<()> {
        match self.inodes.get(ino) {
            Some(open) if name.starts_with(b"system.posix_acl_") => self.refresh(&open).await,
            _ => Ok(()),
        }
    }

    fn check_xattr(&self, name: &[u8]) -> Result<()> {
        if !self.meta.has_xattrs() {
            return Err(Errno::ENOSYS);
        }
        if name.len() > MAX_NAME {
            return Err(Errno::ERANGE);
        }
        Ok(())
    }
}
