//! Files that are made without a name (`O_TMPFILE`, open(2)): from their first moment they are what an unlinked open file
//! is, kept by the session alone. link(2) can give them a name later.

use stead_base::{Ino, SessionId};

use crate::error::{Error, Result};
use crate::records::{Attr, Key, Write};
use crate::store::{Step, Txn};

use super::Meta;
use super::acl::{self, Ruled};
use super::context::{Context, directory, takes_names};
use super::create::new_attr;
use super::ledger::{Ledger, Limits};
use super::types::{Caller, NewNode};

impl Meta {
    /// Makes a regular file without a name, with the owner and the rights that it would have in `parent`, and opens it.
    /// The last [`Meta::close`] removes it, past the trash, unless [`Meta::link`] has given it a name.
    ///
    /// # Errors
    /// Those of [`Meta::mknod`]; [`Error::NoSession`] for a client that has none.
    pub async fn tmpfile(&self, caller: &Caller, parent: Ino, mode: u16, umask: u16) -> Result<(Ino, Attr)> {
        self.writable()?;
        if self.session() == SessionId::NONE {
            return Err(Error::NoSession { sid: SessionId::NONE });
        }
        let (ino, parent, new) = (self.new_inode().await?, self.real(parent), NewNode::file(mode, umask));
        let (ctx, caller) = (self.context(), caller.clone());
        let attr = self.transact_ruled(move |txn| make(txn, &ctx, &caller, parent, ino, &new)).await?;
        self.opened.open(ino);
        self.opened.lost_name(ino);
        Ok((ino, attr))
    }
}

fn make(txn: &mut Txn<'_>, ctx: &Context, caller: &Caller, parent: Ino, ino: Ino, new: &NewNode) -> Step<Ruled<Attr>> {
    ctx.prime(txn, &[Key::Attr(parent)], &[])?;
    let dir = directory(txn, parent)?;
    takes_names(parent, &dir)?;
    let mut attr = new_attr(ctx, caller, parent, &dir, new);
    attr.nlink = 0;
    if let Some(rule) = acl::inherit(txn, ctx, &dir, new, &mut attr)? {
        return Ok(Ruled::Needs(rule));
    }
    txn.write(Write::SetAttr(ino, attr.clone()));
    txn.write(Write::AddSustained(ctx.sid, ino));
    let mut ledger = Ledger::default();
    ledger.inode(1, &attr);
    ledger.settle(txn, ctx, Limits::All)?;
    Ok(Ruled::Done(attr))
}

/// Gives an inode without a name, which this session keeps, to the directory that is about to name it.
pub(super) fn name(txn: &mut Txn<'_>, ctx: &Context, ino: Ino, attr: &mut Attr, parent: Ino) -> Step<()> {
    if txn.get(&Key::Sustained(ctx.sid, ino))?.is_none() {
        return Err(Error::NoInode { ino }.into());
    }
    txn.write(Write::DelSustained(ctx.sid, ino));
    attr.parent = parent;
    attr.nlink = 1;
    Ok(())
}
