//! Access control lists of inodes (format.md §7.5): attributes carry the id of a rule. Rules are never changed or
//! removed, so what was read of them once holds for ever. A new rule is stored before an inode refers to it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use stead_base::Ino;

use crate::error::{Error, Result};
use crate::records::{AclRule, Attr, Counter, Key, Name, NodeType, Record, Write, flags};
use crate::store::{Step, Txn};

use super::Meta;
use super::attributes::not_permitted;
use super::context::{Context, existing, not_flagged};
use super::types::{Caller, NewNode};

/// The two lists of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AclType {
    /// Who may do what with it.
    Access,
    /// What the things made in a directory begin with.
    Default,
}

impl AclType {
    /// The list that an extended attribute stands for.
    pub(super) fn of(name: &Name) -> Option<Self> {
        [Self::Access, Self::Default].into_iter().find(|acl| name.as_bytes() == acl.name().as_bytes())
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Access => "system.posix_acl_access",
            Self::Default => "system.posix_acl_default",
        }
    }

    const fn id(self, attr: &Attr) -> u32 {
        match self {
            Self::Access => attr.access_acl,
            Self::Default => attr.default_acl,
        }
    }

    const fn set_id(self, attr: &mut Attr, id: u32) {
        match self {
            Self::Access => attr.access_acl = id,
            Self::Default => attr.default_acl = id,
        }
    }

    /// The extended attributes that stand for the lists of an inode.
    pub(super) fn names(attr: &Attr) -> impl Iterator<Item = Name> {
        let set = [Self::Access, Self::Default].into_iter().filter(|acl| acl.id(attr) != 0);
        set.map(|acl| Name::stored(Bytes::from_static(acl.name().as_bytes())))
    }
}

/// Rules by id, and ids by rule.
#[derive(Debug, Default)]
pub(super) struct Acls(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    rules: HashMap<u32, Arc<AclRule>>,
    ids: HashMap<Arc<AclRule>, u32>,
}

impl Acls {
    fn insert(&self, id: u32, rule: AclRule) -> Arc<AclRule> {
        let rule = Arc::new(rule);
        let mut known = self.0.write();
        known.ids.entry(Arc::clone(&rule)).or_insert(id);
        known.rules.insert(id, Arc::clone(&rule));
        rule
    }

    fn get(&self, id: u32) -> Option<Arc<AclRule>> {
        self.0.read().rules.get(&id).map(Arc::clone)
    }

    /// The id of a rule that is stored already.
    pub(super) fn id(&self, rule: &AclRule) -> Option<u32> {
        self.0.read().ids.get(rule).copied()
    }
}

/// What a body comes to.
pub(super) enum Ruled<T> {
    Done(T),
    /// This rule has no id yet: it is to be stored first. Nothing was written.
    Needs(AclRule),
}

impl Meta {
    /// Runs a body whose outcome may refer to a rule that is not stored yet.
    pub(super) async fn transact_ruled<T: Send + 'static>(
        &self,
        body: impl FnMut(&mut Txn<'_>) -> Step<Ruled<T>> + Clone + Send + 'static,
    ) -> Result<T> {
        loop {
            match self.transact(body.clone()).await? {
                Ruled::Done(done) => return Ok(done),
                Ruled::Needs(rule) => self.store_rule(rule).await?,
            }
        }
    }

    /// Gives a rule an id, unless another client has done so meanwhile.
    async fn store_rule(&self, rule: AclRule) -> Result<()> {
        self.load_acls().await?;
        if self.acls.id(&rule).is_some() {
            return Ok(());
        }
        let number = self.store.allocate(Counter::AclMaxId, 1).await?;
        let id = u32::try_from(number).map_err(|_too_large| Error::Corrupt {
            key: "aclMaxId".to_owned(),
            why: format!("{number}, expected a number of 32 bits"),
        })?;
        let stored = rule.clone();
        self.transact(move |txn| {
            txn.write(Write::SetAcl(id, stored.clone()));
            Ok(())
        })
        .await?;
        self.acls.insert(id, rule);
        Ok(())
    }

    pub(super) async fn load_acls(&self) -> Result<()> {
        for (id, rule) in self.store.list_acls().await? {
            self.acls.insert(id, rule);
        }
        Ok(())
    }

    /// The rule of an id that an inode refers to.
    pub(super) async fn acl_rule(&self, id: u32) -> Result<Arc<AclRule>> {
        if let Some(rule) = self.acls.get(id) {
            return Ok(rule);
        }
        match self.read_one(Key::Acl(id)).await? {
            Some(Record::Acl(rule)) => Ok(self.acls.insert(id, rule)),
            _ => Err(missing(id)),
        }
    }

    pub(super) async fn get_acl(&self, ino: Ino, acl: AclType) -> Result<Bytes> {
        let attr = self.stored_attr(ino).await?.ok_or(Error::NoInode { ino })?;
        match acl.id(&attr) {
            0 => Err(Error::NoXattr { ino, name: acl.name().to_owned() }),
            id => Ok(self.acl_rule(id).await?.encode_xattr().into()),
        }
    }

    /// Replaces a list; an empty rule removes it.
    pub(super) async fn set_acl(&self, caller: &Caller, ino: Ino, acl: AclType, rule: AclRule) -> Result<()> {
        let (ctx, caller) = (self.context(), caller.clone());
        self.transact_ruled(move |txn| set_acl(txn, &ctx, &caller, ino, acl, rule.clone())).await
    }
}

pub(super) fn missing(id: u32) -> Error {
    Error::Corrupt {
        key: format!("access control list {id}"),
        why: "an inode refers to it and it is missing".to_owned(),
    }
}

fn rule(txn: &mut Txn<'_>, ctx: &Context, id: u32) -> Step<Arc<AclRule>> {
    if let Some(rule) = ctx.acls.get(id) {
        return Ok(rule);
    }
    let stored = txn.acl(id)?.ok_or_else(|| missing(id))?;
    Ok(ctx.acls.insert(id, stored))
}

fn set_acl(
    txn: &mut Txn<'_>,
    ctx: &Context,
    caller: &Caller,
    ino: Ino,
    acl: AclType,
    mut rule: AclRule,
) -> Step<Ruled<()>> {
    let old = existing(txn, ino)?;
    if !caller.is_root() && caller.uid != old.uid {
        return Err(not_permitted(ino, "it belongs to somebody else").into());
    }
    not_flagged(ino, &old, flags::IMMUTABLE | flags::APPEND)?;
    if old.parent.0 > Ino::TRASH.0 {
        return Err(not_permitted(ino, "it lies in the trash").into());
    }
    if acl == AclType::Default && !old.is_dir() && !rule.is_empty() {
        return Err(Error::AccessDenied { ino, why: "only directories have a default access control list" }.into());
    }
    let mut new = old.clone();
    if !caller.is_root() && !caller.in_group(old.gid) {
        new.mode &= !0o2000;
    }
    let id = if rule.is_empty() {
        0
    } else if acl == AclType::Access && rule.is_minimal() {
        rule.fill_from(old.mode);
        new.mode = new.mode & 0o7000 | rule.mode();
        0
    } else {
        rule.fill_from(old.mode);
        let Some(id) = ctx.acls.id(&rule) else { return Ok(Ruled::Needs(rule)) };
        if acl == AclType::Access {
            new.mode = new.mode & 0o7000 | rule.mode();
        }
        id
    };
    acl.set_id(&mut new, id);
    if new != old {
        new.ctime = ctx.now;
        txn.write(Write::SetAttr(ino, new));
    }
    Ok(Ruled::Done(()))
}

/// What chmod(2) does to an inode with an access list. `Some`: this rule has no id yet.
pub(super) fn change_mode(txn: &mut Txn<'_>, ctx: &Context, attr: &mut Attr) -> Step<Option<AclRule>> {
    if attr.access_acl == 0 {
        return Ok(None);
    }
    let mut changed = AclRule::clone(&*rule(txn, ctx, attr.access_acl)?);
    changed.set_mode(attr.mode);
    let Some(id) = ctx.acls.id(&changed) else { return Ok(Some(changed)) };
    attr.access_acl = id;
    Ok(None)
}

/// What the default list of `dir` makes of something new in it. `Some`: this rule has no id yet.
pub(super) fn inherit(
    txn: &mut Txn<'_>,
    ctx: &Context,
    dir: &Attr,
    new: &NewNode,
    attr: &mut Attr,
) -> Step<Option<AclRule>> {
    if dir.default_acl == 0 || new.kind == NodeType::Symlink {
        return Ok(None);
    }
    if attr.is_dir() {
        attr.default_acl = dir.default_acl;
    }
    let inherited = rule(txn, ctx, dir.default_acl)?;
    let others = attr.mode & 0o7000;
    if inherited.is_minimal() {
        attr.mode = others | new.mode & inherited.mode();
        return Ok(None);
    }
    let child = inherited.child(new.mode);
    attr.mode = others | child.mode();
    let Some(id) = ctx.acls.id(&child) else { return Ok(Some(child)) };
    attr.access_acl = id;
    Ok(None)
}
