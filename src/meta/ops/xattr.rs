//! Extended attributes (format.md §7.4).

use bytes::Bytes;
use stead_base::Ino;

use crate::error::{Error, Result};
use crate::records::{AclRule, Key, MAX_XATTR_VALUE, Name, Record, Write, flags};
use crate::store::{Step, Txn};

use super::Meta;
use super::acl::AclType;
use super::attributes::not_permitted;
use super::context::{existing, mode_permits, not_flagged};
use super::types::{Caller, XattrFlag};

const NOT_SERVED: Error = Error::NotSupported { what: "extended attributes without the option enable-xattr" };
const NO_ACLS: Error = Error::NotSupported { what: "access control lists on a volume without EnableACL" };

impl Meta {
    /// The value of an extended attribute. `system.posix_acl_access` and `…_default` are those of the access lists.
    ///
    /// # Errors
    /// [`Error::NoXattr`]; [`Error::NotSupported`] when they are not served at all.
    pub async fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<Bytes> {
        self.serves_xattrs()?;
        let (ino, name) = (self.real(ino), Name::xattr(name)?);
        if let Some(acl) = self.acl_of(&name)? {
            return self.get_acl(ino, acl).await;
        }
        if !self.serves_xattr(&name) {
            return Err(no_xattr(ino, &name));
        }
        match self.read_one(Key::Xattr(ino, name.clone())).await? {
            Some(Record::Bytes(value)) => Ok(value),
            _ => Err(no_xattr(ino, &name)),
        }
    }

    /// Stores an extended attribute.
    ///
    /// # Errors
    /// [`Error::XattrExists`] or [`Error::NoXattr`] by `flag`; [`Error::TooLarge`]; [`Error::NotSupported`]; [`Error::Invalid`]
    /// for an access list that is none;
    /// [`Error::NotPermitted`] for `trusted.` by others than root.
    pub async fn set_xattr(&self, caller: &Caller, ino: Ino, name: &[u8], value: &[u8], flag: XattrFlag) -> Result<()> {
        self.writable()?;
        self.serves_xattrs()?;
        let (ino, name) = (self.real(ino), Name::xattr(name)?);
        if value.len() > MAX_XATTR_VALUE {
            return Err(Error::TooLarge { length: value.len(), limit: MAX_XATTR_VALUE });
        }
        if let Some(acl) = self.acl_of(&name)? {
            return self.set_acl(caller, ino, acl, AclRule::decode_xattr(value)?).await;
        }
        if !self.serves_xattr(&name) {
            return Err(Error::NotSupported { what: "this extended attribute without its mount option" });
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
        let ino = self.real(ino);
        let mut names = self.store.list_xattrs(ino).await?;
        if self.format().enable_acl
            && let Some(attr) = self.stored_attr(ino).await?
        {
            names.extend(AclType::names(&attr));
        }
        Ok(names)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// [`Error::NoXattr`], and as of [`Meta::set_xattr`].
    pub async fn remove_xattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<()> {
        self.writable()?;
        self.serves_xattrs()?;
        let (caller, ino, name) = (caller.clone(), self.real(ino), Name::xattr(name)?);
        if let Some(acl) = self.acl_of(&name)? {
            return self.set_acl(&caller, ino, acl, AclRule::empty()).await;
        }
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

    /// Whether there are extended attributes at all on this mount.
    pub fn has_xattrs(&self) -> bool {
        self.options.enable_xattr || self.format().enable_acl
    }

    fn serves_xattrs(&self) -> Result<()> {
        if self.has_xattrs() { Ok(()) } else { Err(NOT_SERVED) }
    }

    /// Attributes that the kernel or a security module acts upon are asked for at each write or exec: only on demand.
    fn serves_xattr(&self, name: &Name) -> bool {
        match name.as_bytes() {
            b"security.capability" => self.options.enable_cap,
            b"security.selinux" => self.options.enable_selinux,
            _ => true,
        }
    }

    fn acl_of(&self, name: &Name) -> Result<Option<AclType>> {
        match AclType::of(name) {
            Some(_acl) if !self.format().enable_acl => Err(NO_ACLS),
            acl => Ok(acl),
        }
    }
}

/// Who may change extended attributes: xattr(7), as far as the kernel does not decide.
fn check_change(txn: &mut Txn<'_>, caller: &Caller, ino: Ino, name: &Name) -> Step<()> {
    let attr = existing(txn, ino)?;
    not_flagged(ino, &attr, flags::IMMUTABLE | flags::APPEND)?;
    if name.as_bytes().starts_with(b"trusted.") && !caller.is_root() {
        return Err(not_permitted(ino, "only root changes trusted attributes").into());
    }
    // Whom an access list gives what, the kernel has checked.
    if caller.uid != attr.uid && attr.access_acl == 0 && !mode_permits(caller, &attr, 2) {
        return Err(Error::AccessDenied { ino, why: "the caller may not write it" }.into());
    }
    Ok(())
}

fn no_xattr(ino: Ino, name: &Name) -> Error {
    Error::NoXattr { ino, name: name.to_string() }
}
