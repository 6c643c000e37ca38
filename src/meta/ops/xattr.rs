//! Extended attributes (format.md §7.4).

use bytes::Bytes;
use stead_base::Ino;

use crate::error::{Error, Result};
use crate::records::{Key, MAX_XATTR_VALUE, Name, Record, Write, flags};
use crate::store::{Step, Txn};

use super::Meta;
use super::attributes::not_permitted;
use super::context::{existing, not_flagged, permits};
use super::types::{Caller, XattrFlag};

const NOT_SERVED: Error = Error::NotSupported { what: "extended attributes without the option enable-xattr" };
/// These need more than a stored value, and are not offered.
const SPECIAL: [&[u8]; 4] =
    [b"security.capability", b"security.selinux", b"system.posix_acl_access", b"system.posix_acl_default"];

impl Meta {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// [`Error::NoXattr`]; [`Error::NotSupported`] when they are not served at all.
    pub async fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<Bytes> {
        self.serves_xattrs()?;
        let (ino, name) = (self.real(ino), Name::xattr(name)?);
        if name.as_bytes().starts_with(b"system.posix_acl_") {
            return Err(Error::NotSupported { what: "POSIX ACLs" });
        }
        match self.read_one(Key::Xattr(ino, name.clone())).await? {
            Some(Record::Bytes(value)) => Ok(value),
            _ => Err(no_xattr(ino, &name)),
        }
    }

    /// Stores an extended attribute.
    ///
    /// # Errors
    /// [`Error::XattrExists`] or [`Error::NoXattr`] by `flag`; [`Error::TooLarge`]; [`Error::NotSupported`];
    /// [`Error::NotPermitted`] for `trusted.` by others than root.
    pub async fn set_xattr(&self, caller: &Caller, ino: Ino, name: &[u8], value: &[u8], flag: XattrFlag) -> Result<()> {
        self.writable()?;
        self.serves_xattrs()?;
        let (ino, name) = (self.real(ino), Name::xattr(name)?);
        if SPECIAL.contains(&name.as_bytes()) {
            return Err(Error::NotSupported { what: "this extended attribute" });
        }
        if value.len() > MAX_XATTR_VALUE {
            return Err(Error::TooLarge { length: value.len(), limit: MAX_XATTR_VALUE });
        }
        let (caller, value) = (caller.clone(), Bytes::copy_from_slice(value));
        self.transact(move |txn| {
            txn.prime(&[Key::Attr(ino), Key::Xattr(ino, name.clone())])?;
            check_change(txn, &caller, ino, &name)?;
            match (flag, txn.xattr(ino, &name)?) {
                (XattrFlag::Create, Some(_)) => {
                    let name = name.to_string();
                    return Err(Error::XattrExists { ino, name }.into());
                }
                (XattrFlag::Replace, None) => return Err(no_xattr(ino, &name).into()),
                _ => {}
            }
            txn.write(Write::SetXattr(ino, name.clone(), value.clone()));
            Ok(())
        })
        .await
    }

    /// The names of all extended attributes.
    ///
    /// # Errors
    /// [`Error::NotSupported`] when they are not served at all.
    pub async fn list_xattrs(&self, ino: Ino) -> Result<Vec<Name>> {
        self.serves_xattrs()?;
        self.store.list_xattrs(self.real(ino)).await
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// [`Error::NoXattr`], and as of [`Meta::set_xattr`].
    pub async fn remove_xattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<()> {
        self.writable()?;
        self.serves_xattrs()?;
        let (caller, ino, name) = (caller.clone(), self.real(ino), Name::xattr(name)?);
        self.transact(move |txn| {
            txn.prime(&[Key::Attr(ino), Key::Xattr(ino, name.clone())])?;
            check_change(txn, &caller, ino, &name)?;
            if txn.xattr(ino, &name)?.is_none() {
                return Err(no_xattr(ino, &name).into());
            }
            txn.write(Write::DelXattr(ino, name.clone()));
            Ok(())
        })
        .await
    }

    fn serves_xattrs(&self) -> Result<()> {
        if self.options.enable_xattr || self.format().enable_acl { Ok(()) } else { Err(NOT_SERVED) }
    }
}

/// Who may change extended attributes: xattr(7), as far as the kernel does not decide.
fn check_change(txn: &mut Txn<'_>, caller: &Caller, ino: Ino, name: &Name) -> Step<()> {
    let attr = existing(txn, ino)?;
    not_flagged(ino, &attr, flags::IMMUTABLE)?;
    if name.as_bytes().starts_with(b"trusted.") && !caller.is_root() {
        return Err(not_permitted(ino, "only root changes trusted attributes").into());
    }
    if caller.uid != attr.uid && !permits(caller, &attr, 2) {
        return Err(Error::AccessDenied { ino, why: "the caller may not write it" }.into());
    }
    Ok(())
}

fn no_xattr(ino: Ino, name: &Name) -> Error {
    Error::NoXattr { ino, name: name.to_string() }
}
