//! One inode as a dump shows it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use stead_base::Ino;
use stead_meta::records::{AclRule, Attr, Name, NodeType, Slice};

use crate::escape::escape;

/// An inode with everything that belongs to it but its entries.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) ino: Ino,
    pub(super) attr: Attr,
    pub(super) symlink: Option<Bytes>,
    pub(super) xattrs: Vec<(Name, Bytes)>,
    pub(super) access_acl: Option<AclRule>,
    pub(super) default_acl: Option<AclRule>,
    pub(super) chunks: BTreeMap<u32, Vec<Slice>>,
}

/// The words for types.
pub(crate) const KINDS: [(NodeType, &str); 7] = [
    (NodeType::File, "regular"),
    (NodeType::Directory, "directory"),
    (NodeType::Symlink, "symlink"),
    (NodeType::Fifo, "fifo"),
    (NodeType::BlockDevice, "blockdev"),
    (NodeType::CharDevice, "chardev"),
    (NodeType::Socket, "socket"),
];

fn word(kind: NodeType) -> &'static str {
    KINDS.iter().find(|(known, _)| *known == kind).map_or("regular", |(_, word)| word)
}

impl Node {
    /// The members but `entries`, one per line, the last without a comma.
    pub(super) fn members(&self, indent: &str) -> String {
        let mut members = vec![("attr", self.attr())];
        if let Some(target) = &self.symlink {
            members.push(("symlink", escape(target).into()));
        }
        if !self.xattrs.is_empty() {
            let shown =
                |(name, value): &(Name, Bytes)| json!({"name": escape(name.as_bytes()), "value": escape(value)});
            members.push(("xattrs", self.xattrs.iter().map(shown).collect()));
        }
        for (member, rule) in [("posix_acl_access", &self.access_acl), ("posix_acl_default", &self.default_acl)] {
            members.extend(rule.as_ref().map(|rule| (member, acl(rule))));
        }
        if !self.chunks.is_empty() {
            members.push(("chunks", self.chunks.iter().map(|(index, slices)| chunk(*index, slices)).collect()));
        }
        let lines = members.into_iter().map(|(name, value)| format!("{indent}\"{name}\": {value}"));
        lines.collect::<Vec<_>>().join(",\n")
    }

    fn attr(&self) -> Value {
        let attr = &self.attr;
        let mut members = Map::new();
        let mut put = |name: &str, value: Value, always: bool| {
            if always || value != json!(0) {
                members.insert(name.to_owned(), value);
            }
        };
        put("inode", self.ino.0.into(), true);
        put("flags", attr.flags.into(), false);
        put("type", word(attr.kind).into(), true);
        put("mode", attr.mode.into(), true);
        put("uid", attr.uid.into(), true);
        put("gid", attr.gid.into(), true);
        put("atime", attr.atime.secs.into(), true);
        put("mtime", attr.mtime.secs.into(), true);
        put("ctime", attr.ctime.secs.into(), true);
        put("atimensec", attr.atime.nanos.into(), false);
        put("mtimensec", attr.mtime.nanos.into(), false);
        put("ctimensec", attr.ctime.nanos.into(), false);
        put("nlink", attr.nlink.into(), true);
        let length = if attr.kind == NodeType::File { attr.length } else { 0 };
        put("length", length.into(), true);
        put("rdev", attr.rdev.into(), false);
        put("tier", attr.tier.into(), false);
        Value::Object(members)
    }
}

fn acl(rule: &AclRule) -> Value {
    let named = |all: &[(u32, u16)]| match all {
        [] => Value::Null,
        all => all.iter().map(|(id, perm)| json!({"id": id, "perm": perm})).collect(),
    };
    json!({
        "owner": rule.owner,
        "group": rule.group,
        "other": rule.other,
        "mask": rule.mask,
        "users": named(&rule.users),
        "groups": named(&rule.groups),
    })
}

fn chunk(index: u32, slices: &[Slice]) -> Value {
    let shown = |slice: &Slice| {
        let mut members = Map::new();
        let mut put = |name: &str, value: u64, always: bool| {
            if always || value != 0 {
                members.insert(name.to_owned(), value.into());
            }
        };
        put("id", slice.id.0, true);
        put("pos", slice.pos.into(), false);
        put("size", slice.size.into(), true);
        put("off", slice.off.into(), false);
        put("len", slice.len.into(), true);
        Value::Object(members)
    };
    json!({"index": index, "slices": slices.iter().map(shown).collect::<Vec<_>>()})
}
