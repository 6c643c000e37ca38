//! What a rule of an access control list means (acl(5), format.md §7.5), and its form in extended attributes.

use crate::error::{Error, Result};
use crate::records::AclRule;

/// The version of the form in extended attributes.
const VERSION: u8 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;
/// The id of entries that name nobody.
const NOBODY: u32 = u32::MAX;

const OWNER: u16 = 1;
const USER: u16 = 2;
const GROUP: u16 = 4;
const NAMED_GROUP: u16 = 8;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

impl AclRule {
    /// Says nothing: removes a list.
    pub const fn empty() -> Self {
        let unset = Self::UNSET;
        Self { owner: unset, group: unset, mask: unset, other: unset, users: Vec::new(), groups: Vec::new() }
    }

    /// Whether the rule says nothing.
    pub fn is_empty(&self) -> bool {
        let set = [self.owner, self.group, self.mask, self.other].iter().any(|part| *part != Self::UNSET);
        !set && self.users.is_empty() && self.groups.is_empty()
    }

    /// Whether the rule says no more than a mode does.
    pub fn is_minimal(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty() && self.mask == Self::UNSET
    }

    /// Takes what is not set, the mask apart, from a mode.
    pub fn fill_from(&mut self, mode: u16) {
        for (part, shift) in [(&mut self.owner, 6), (&mut self.group, 3), (&mut self.other, 0)] {
            if *part == Self::UNSET {
                *part = (mode >> shift) & 7;
            }
        }
    }

    /// What chmod(2) does to the rule: the group bits of a mode are the mask, if there is one.
    pub fn set_mode(&mut self, mode: u16) {
        let minimal = self.is_minimal();
        let class = if minimal { &mut self.group } else { &mut self.mask };
        for (part, shift) in [(&mut self.owner, 6), (class, 3), (&mut self.other, 0)] {
            *part = (*part & !7) | ((mode >> shift) & 7);
        }
    }

    /// The permission bits of the mode that goes with the rule.
    pub fn mode(&self) -> u16 {
        let class = if self.is_minimal() { self.group } else { self.mask };
        (self.owner & 7) << 6 | (class & 7) << 3 | self.other & 7
    }

    /// The access rule of something made with `mode` in a directory that has this default rule.
    #[must_use]
    pub fn child(&self, mode: u16) -> Self {
        Self {
            owner: mode >> 6 & 7 & self.owner,
            mask: mode >> 3 & 7 & self.mask,
            other: mode & 7 & self.other,
            ..self.clone()
        }
    }

    /// Whether somebody gets `wanted` (4 read, 2 write, 1 execute) of an inode of `owner` and `group`.
    pub fn permits(&self, uid: u32, groups: &[u32], (owner, group): (u32, u32), wanted: u16) -> bool {
        let grants = |granted: u16| granted & wanted == wanted;
        if uid == owner {
            return grants(self.owner);
        }
        let mask = if self.is_minimal() { 7 } else { self.mask };
        if let Some((_uid, granted)) = self.users.iter().find(|(user, _granted)| *user == uid) {
            return grants(granted & mask);
        }
        let named = self.groups.iter().copied().chain([(group, self.group)]);
        let mut of_caller = named.filter(|(gid, _granted)| groups.contains(gid)).peekable();
        match of_caller.peek() {
            Some(_) => of_caller.any(|(_gid, granted)| grants(granted & mask)),
            None => grants(self.other),
        }
    }

    /// Reads the value of `system.posix_acl_access` or `…_default`: version, then (tag, permissions, id) in the
    /// machine's byte order (acl(5), `linux/posix_acl_xattr.h`).
    ///
    /// # Errors
    /// [`Error::Invalid`] says what is wrong with it.
    pub fn decode_xattr(value: &[u8]) -> Result<Self> {
        let wrong =
            |expected| Error::Invalid { field: "access control list", value: format!("{value:02x?}"), expected };
        let Some((header, entries)) = value.split_at_checked(HEADER) else {
            return Err(wrong("a header of 4 bytes"));
        };
        if header[0] != VERSION || !entries.len().is_multiple_of(ENTRY) {
            return Err(wrong("version 2 and entries of 8 bytes"));
        }
        let mut rule = Self::empty();
        for entry in entries.chunks_exact(ENTRY) {
            let half = |at: usize| u16::from_ne_bytes([entry[at], entry[at + 1]]);
            let (tag, granted) = (half(0), half(2));
            let id = u32::from_ne_bytes([entry[4], entry[5], entry[6], entry[7]]);
            if granted > 7 {
                return Err(wrong("permissions of 0 to 7"));
            }
            let part = match tag {
                USER => {
                    rule.users.push((id, granted));
                    continue;
                }
                NAMED_GROUP => {
                    rule.groups.push((id, granted));
                    continue;
                }
                OWNER => &mut rule.owner,
                GROUP => &mut rule.group,
                MASK => &mut rule.mask,
                OTHER => &mut rule.other,
                _ => return Err(wrong("tags of acl(5)")),
            };
            if *part != Self::UNSET {
                return Err(wrong("owner, group, mask and others once each"));
            }
            *part = granted;
        }
        if rule.mask == Self::UNSET && !rule.is_minimal() {
            return Err(wrong("a mask beside named users and groups"));
        }
        Ok(rule)
    }

    /// The value that [`AclRule::decode_xattr`] reads.
    pub fn encode_xattr(&self) -> Vec<u8> {
        let mut out = vec![VERSION, 0, 0, 0];
        let mut put = |tag: u16, granted: u16, id: u32| {
            out.extend_from_slice(&tag.to_ne_bytes());
            out.extend_from_slice(&granted.to_ne_bytes());
            out.extend_from_slice(&id.to_ne_bytes());
        };
        put(OWNER, self.owner, NOBODY);
        self.users.iter().for_each(|(uid, granted)| put(USER, *granted, *uid));
        put(GROUP, self.group, NOBODY);
        self.groups.iter().for_each(|(gid, granted)| put(NAMED_GROUP, *granted, *gid));
        if self.mask != Self::UNSET {
            put(MASK, self.mask, NOBODY);
        }
        put(OTHER, self.other, NOBODY);
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule() -> AclRule {
        AclRule { owner: 7, group: 5, mask: 6, other: 4, users: vec![(1000, 7)], groups: vec![(2000, 3)] }
    }

    #[test]
    fn a_rule_has_the_bytes_of_the_kernel() {
        let expected: Vec<u8> = [
            [2, 0, 0, 0].to_vec(),
            [1, 0, 7, 0, 255, 255, 255, 255].to_vec(),
            [2, 0, 7, 0, 0xE8, 3, 0, 0].to_vec(),
            [4, 0, 5, 0, 255, 255, 255, 255].to_vec(),
            [8, 0, 3, 0, 0xD0, 7, 0, 0].to_vec(),
            [0x10, 0, 6, 0, 255, 255, 255, 255].to_vec(),
            [0x20, 0, 4, 0, 255, 255, 255, 255].to_vec(),
        ]
        .concat();
        assert!(cfg!(target_endian = "big") || rule().encode_xattr() == expected);
        assert_eq!(AclRule::decode_xattr(&rule().encode_xattr()).expect("valid"), rule());
    }

    #[test]
    fn a_list_without_entries_is_empty_and_one_without_mask_is_minimal() {
        let empty = AclRule::decode_xattr(&[2, 0, 0, 0]).expect("valid");
        assert!(empty.is_empty() && empty.is_minimal());
        let minimal = AclRule { mask: AclRule::UNSET, users: Vec::new(), groups: Vec::new(), ..rule() };
        assert!(minimal.is_minimal() && !minimal.is_empty());
        assert_eq!(minimal.mode(), 0o754);
        assert_eq!(rule().mode(), 0o764);
    }

    #[test]
    fn lists_that_say_something_twice_or_nothing_sensible_are_refused() {
        let entry = |tag: u16, granted: u16| [tag.to_ne_bytes(), granted.to_ne_bytes(), [0, 0], [0, 0]].concat();
        let list = |entries: &[Vec<u8>]| [vec![2, 0, 0, 0], entries.concat()].concat();
        for wrong in [
            Vec::new(),
            vec![1, 0, 0, 0],
            vec![2, 0, 0, 0, 0],
            list(&[entry(OWNER, 7), entry(OWNER, 7)]),
            list(&[entry(OWNER, 8)]),
            list(&[entry(3, 7)]),
            list(&[entry(USER, 7)]),
        ] {
            assert!(AclRule::decode_xattr(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_rule_permits_as_acl_5_says() {
        let rule = rule();
        let of = (1, 2);
        assert!(rule.permits(1, &[], of, 7), "the owner, whatever the mask");
        assert!(rule.permits(1000, &[], of, 6) && !rule.permits(1000, &[], of, 1), "a named user, up to the mask");
        assert!(rule.permits(9, &[2], of, 4) && !rule.permits(9, &[2], of, 2), "the group, up to the mask");
        assert!(rule.permits(9, &[2, 2000], of, 2) && !rule.permits(9, &[2, 2000], of, 6), "one entry must give all");
        assert!(rule.permits(9, &[3], of, 4) && !rule.permits(9, &[3], of, 2), "others");
    }

    proptest! {
        #[test]
        fn no_value_makes_the_decoder_panic(value in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = AclRule::decode_xattr(&value);
        }
    }
}
