//! One inode as a dump has it, up to its entries.

use bytes::Bytes;
use stead_base::{Ino, SliceId, Timestamp};
use stead_meta::records::{
    AclRule, Attr, CHUNK_SIZE, MAX_FILE_SIZE, MAX_SYMLINK, MAX_XATTR_VALUE, Name, NodeType, Slice,
};

use super::json::Source;
use crate::dump::KINDS;
use crate::error::Result;
use crate::escape::unescape;

/// An inode with what belongs to it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) ino: Ino,
    pub(super) attr: Attr,
    pub(super) symlink: Option<Bytes>,
    pub(super) xattrs: Vec<(Name, Bytes)>,
    pub(super) access_acl: Option<AclRule>,
    pub(super) default_acl: Option<AclRule>,
    pub(super) chunks: Vec<(u32, Vec<Slice>)>,
}

/// Reads the members of an inode that was entered: up to its entries, whose object has then been entered (true), or up to
/// its end (false).
pub(super) fn read(source: &mut Source) -> Result<(Node, bool)> {
    let mut inode = None;
    let (mut symlink, mut xattrs, mut chunks) = (None, Vec::new(), Vec::new());
    let (mut access_acl, mut default_acl) = (None, None);
    let mut has_entries = false;
    while let Some(member) = source.member()? {
        match member.as_str() {
            "attr" => inode = Some(attr(source)?),
            "symlink" => symlink = Some(target(source)?),
            "xattrs" => xattrs = read_xattrs(source)?,
            "posix_acl_access" => access_acl = acl(source)?,
            "posix_acl_default" => default_acl = acl(source)?,
            "chunks" => chunks = read_chunks(source)?,
            "entries" => {
                has_entries = true;
                source.begin()?;
                break;
            }
            _ => source.skip()?,
        }
    }
    let Some((ino, mut attr)) = inode else { return Err(source.wrong("an inode without attr before its entries")) };
    check(source, &attr, has_entries, symlink.is_some(), &chunks)?;
    match (attr.kind, &symlink) {
        (NodeType::Directory, _) => attr.length = 4096,
        (NodeType::Symlink, Some(target)) => attr.length = target.len() as u64,
        _ => {}
    }
    Ok((Node { ino, attr, symlink, xattrs, access_acl, default_acl, chunks }, has_entries))
}

fn check(source: &Source, attr: &Attr, entries: bool, symlink: bool, chunks: &[(u32, Vec<Slice>)]) -> Result<()> {
    let wrong = |why| Err(source.wrong(why));
    match attr.kind {
        NodeType::Directory => {}
        _ if entries => return wrong("entries of something that is no directory"),
        NodeType::Symlink if !symlink => return wrong("a symbolic link without symlink"),
        _ => {}
    }
    if symlink && attr.kind != NodeType::Symlink {
        return wrong("symlink of something that is no symbolic link");
    }
    if !chunks.is_empty() && attr.kind != NodeType::File {
        return wrong("chunks of something that is no regular file");
    }
    if attr.length >= MAX_FILE_SIZE {
        return wrong("length is larger than any file");
    }
    Ok(())
}

fn attr(source: &mut Source) -> Result<(Ino, Attr)> {
    let (mut ino, mut kind) = (0_u64, None);
    let mut attr = Attr {
        flags: 0,
        kind: NodeType::File,
        mode: 0,
        uid: 0,
        gid: 0,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        nlink: 1,
        length: 0,
        rdev: 0,
        parent: Ino(0),
        access_acl: 0,
        default_acl: 0,
        tier: 0,
    };
    source.begin()?;
    while let Some(member) = source.member()? {
        match member.as_str() {
            "inode" => ino = source.number()?,
            "type" => kind = Some(read_kind(source)?),
            "flags" => attr.flags = source.number()?,
            "mode" => attr.mode = source.number::<u16>()? & 0o7777,
            "uid" => attr.uid = source.number()?,
            "gid" => attr.gid = source.number()?,
            "atime" => attr.atime.secs = source.number()?,
            "mtime" => attr.mtime.secs = source.number()?,
            "ctime" => attr.ctime.secs = source.number()?,
            "atimensec" => attr.atime.nanos = nanos(source)?,
            "mtimensec" => attr.mtime.nanos = nanos(source)?,
            "ctimensec" => attr.ctime.nanos = nanos(source)?,
            "nlink" => attr.nlink = source.number()?,
            "length" => attr.length = source.number()?,
            "rdev" => attr.rdev = source.number()?,
            "tier" => attr.tier = source.number()?,
            _ => source.skip()?,
        }
    }
    if ino == 0 {
        return Err(source.wrong("attr without an inode number"));
    }
    attr.kind = kind.ok_or_else(|| source.wrong("attr without a type"))?;
    Ok((Ino(ino), attr))
}

fn read_kind(source: &mut Source) -> Result<NodeType> {
    let word = source.text()?;
    let known = KINDS.iter().find(|(_, known)| *known == word).map(|(kind, _)| *kind);
    known.ok_or_else(|| source.wrong(format_args!("unknown type {word:?}")))
}

fn nanos(source: &mut Source) -> Result<u32> {
    match source.number()? {
        nanos @ ..=999_999_999 => Ok(nanos),
        more => Err(source.wrong(format_args!("{more} nanoseconds are more than a second"))),
    }
}

fn target(source: &mut Source) -> Result<Bytes> {
    let target = unescape(&source.text()?);
    let right = (1..=MAX_SYMLINK).contains(&target.len()) && !target.contains(&0);
    if right { Ok(target.into()) } else { Err(source.wrong("a target of a symbolic link has 1 to 4096 bytes")) }
}

/// A name of an entry, as it is escaped.
pub(super) fn entry_name(source: &Source, escaped: &str) -> Result<Name> {
    Name::entry(&unescape(escaped)).map_err(|error| source.wrong(error))
}

fn read_xattrs(source: &mut Source) -> Result<Vec<(Name, Bytes)>> {
    let mut xattrs = Vec::new();
    source.elements(|source| {
        let (mut name, mut value) = (None, Bytes::new());
        source.begin()?;
        while let Some(member) = source.member()? {
            match member.as_str() {
                "name" => {
                    let text = source.text()?;
                    name = Some(Name::xattr(&unescape(&text)).map_err(|error| source.wrong(error))?);
                }
                "value" => value = unescape(&source.text()?).into(),
                _ => source.skip()?,
            }
        }
        if value.len() > MAX_XATTR_VALUE {
            return Err(source.wrong("an extended attribute has 65536 bytes at most"));
        }
        xattrs.push((name.ok_or_else(|| source.wrong("an extended attribute without a name"))?, value));
        Ok(())
    })?;
    Ok(xattrs)
}

fn acl(source: &mut Source) -> Result<Option<AclRule>> {
    if source.null()? {
        return Ok(None);
    }
    let unset = AclRule::UNSET;
    let mut rule =
        AclRule { owner: unset, group: unset, mask: unset, other: unset, users: Vec::new(), groups: Vec::new() };
    source.begin()?;
    while let Some(member) = source.member()? {
        match member.as_str() {
            "owner" => rule.owner = source.number()?,
            "group" => rule.group = source.number()?,
            "mask" => rule.mask = source.number()?,
            "other" => rule.other = source.number()?,
            "users" => rule.users = named(source)?,
            "groups" => rule.groups = named(source)?,
            _ => source.skip()?,
        }
    }
    Ok(Some(rule))
}

fn named(source: &mut Source) -> Result<Vec<(u32, u16)>> {
    let mut all = Vec::new();
    source.elements(|source| {
        let (mut id, mut perm) = (0, 0);
        source.begin()?;
        while let Some(member) = source.member()? {
            match member.as_str() {
                "id" => id = source.number()?,
                "perm" => perm = source.number()?,
                _ => source.skip()?,
            }
        }
        all.push((id, perm));
        Ok(())
    })?;
    Ok(all)
}

fn read_chunks(source: &mut Source) -> Result<Vec<(u32, Vec<Slice>)>> {
    let mut chunks: Vec<(u32, Vec<Slice>)> = Vec::new();
    source.elements(|source| {
        let (mut index, mut slices) = (0, Vec::new());
        source.begin()?;
        while let Some(member) = source.member()? {
            match member.as_str() {
                "index" => index = source.number()?,
                "slices" => source.elements(|source| {
                    slices.push(slice(source)?);
                    Ok(())
                })?,
                _ => source.skip()?,
            }
        }
        chunks.push((index, slices));
        Ok(())
    })?;
    Ok(chunks)
}

fn slice(source: &mut Source) -> Result<Slice> {
    let mut slice = Slice { pos: 0, id: SliceId::HOLE, size: 0, off: 0, len: 0 };
    source.begin()?;
    while let Some(member) = source.member()? {
        match member.as_str() {
            "id" => slice.id = SliceId(source.number()?),
            "pos" => slice.pos = source.number()?,
            "size" => slice.size = source.number()?,
            "off" => slice.off = source.number()?,
            "len" => slice.len = source.number()?,
            _ => source.skip()?,
        }
    }
    let end = u64::from(slice.pos) + u64::from(slice.len);
    let inside = slice.id.is_hole() || u64::from(slice.off) + u64::from(slice.len) <= u64::from(slice.size);
    if end > CHUNK_SIZE || u64::from(slice.size) > CHUNK_SIZE || !inside {
        return Err(source.wrong(format_args!("{slice:?} does not fit into a chunk or into itself")));
    }
    Ok(slice)
}
