use proptest::prelude::*;

use super::*;

fn times() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
}

fn kinds() -> impl Strategy<Value = NodeType> {
    (1..=7u8).prop_map(|number| NodeType::try_from(number).unwrap())
}

prop_compose! {
    fn attrs()(
        (flags, kind, mode, tier) in (any::<u8>(), kinds(), 0..=0o7777u16, any::<u8>()),
        (uid, gid, nlink, rdev) in any::<(u32, u32, u32, u32)>(),
        (atime, mtime, ctime) in (times(), times(), times()),
        (length, parent) in any::<(u64, u64)>(),
        (access_acl, default_acl) in any::<(u32, u32)>(),
    ) -> Attr {
        Attr { flags, kind, mode, uid, gid, atime, mtime, ctime, nlink, length, rdev, parent: Ino(parent),
               access_acl, default_acl, tier }
    }
}

prop_compose! {
    fn slices()(pos in any::<u32>(), id in any::<u64>(), size in any::<u32>(), off in any::<u32>(), len in any::<u32>())
        -> Slice {
        Slice { pos, id: SliceId(id), size, off, len }
    }
}

proptest! {
    #[test]
    fn attributes_come_back_as_they_were(attr in attrs()) {
        prop_assert_eq!(decode_attr(&"i1", &encode_attr(&attr)).unwrap(), attr);
    }

    #[test]
    fn attributes_have_the_length_that_their_fields_ask_for(
        mut attr in attrs(), acl in any::<bool>(), tier in any::<bool>()
    ) {
        attr.access_acl = 0;
        attr.default_acl = u32::from(acl);
        attr.tier = u8::from(tier) * 3;
        let expected = 72 + if acl { 8 } else { 0 } + usize::from(tier);
        let bytes = encode_attr(&attr);
        prop_assert_eq!(bytes.len(), expected);
        prop_assert_eq!(bytes.last(), Some(&0));
    }

    #[test]
    fn slice_lists_come_back_as_they_were(list in prop::collection::vec(slices(), 0..20)) {
        prop_assert_eq!(decode_slices(&"c1_0", &encode_slices(&list)).unwrap(), list);
    }

    #[test]
    fn small_records_come_back_as_they_were(
        kind in kinds(), ino in any::<u64>(), numbers in any::<[i64; 4]>(),
        delayed in prop::collection::vec((any::<u64>().prop_map(SliceId), any::<u32>()), 0..9),
    ) {
        let entry = Entry { kind, ino: Ino(ino) };
        prop_assert_eq!(decode_entry(&"d1", &encode_entry(entry)).unwrap(), entry);
        let [max_space, max_inodes, used_space, used_inodes] = numbers;
        let quota = Quota { max_space, max_inodes, used_space, used_inodes };
        prop_assert_eq!(decode_quota(&"QD", &encode_quota(quota)).unwrap(), quota);
        let limits = Quota { used_space: 0, used_inodes: 0, ..quota };
        prop_assert_eq!(decode_quota_limits(&"dirQuota", &encode_quota_limits(quota)).unwrap(), limits);
        let stat = DirStat { length: max_space, space: max_inodes, inodes: used_space };
        prop_assert_eq!(decode_dir_stat(&"U", &encode_dir_stat(stat)).unwrap(), stat);
        prop_assert_eq!(decode_delayed(&"L", &encode_delayed(&delayed)).unwrap(), delayed);
        prop_assert_eq!(decode_number(&"usedSpace", used_space.to_string().as_bytes()).unwrap(), used_space);
    }

    #[test]
    fn locks_and_access_lists_come_back_as_they_were(
        (sid, owner) in any::<(u64, u64)>(), write in any::<bool>(),
        ranges in prop::collection::vec(any::<(bool, u32, u64, u64)>(), 0..9),
        (owner_bits, group, mask, other) in any::<(u16, u16, u16, u16)>(),
        users in prop::collection::vec(any::<(u32, u16)>(), 0..9),
        groups in prop::collection::vec(any::<(u32, u16)>(), 0..9),
    ) {
        let kind = |write| if write { LockKind::Write } else { LockKind::Read };
        prop_assert_eq!(decode_flock(&"lockf1", &encode_flock(kind(write))).unwrap(), kind(write));
        let holder = LockOwner { sid: SessionId(sid), owner };
        prop_assert_eq!(decode_lock_owner(&"lockf1", encode_lock_owner(holder).as_bytes()).unwrap(), holder);
        let ranges: Vec<LockRange> = ranges.into_iter()
            .map(|(write, pid, start, end)| LockRange { kind: kind(write), pid, start, end }).collect();
        prop_assert_eq!(decode_plocks(&"lockp1", &encode_plocks(&ranges)).unwrap(), ranges);
        prop_assert_eq!(decode_acl_entries(&"acl", &encode_acl_entries(&users)).unwrap(), users.clone());
        let rule = AclRule { owner: owner_bits, group, mask, other, users, groups };
        prop_assert_eq!(decode_acl(&"acl 1", &encode_acl(&rule)).unwrap(), rule);
    }

    /// Attributes and lists that are nearly right: some bytes of good ones changed, some cut off.
    #[test]
    fn spoiled_records_decode_or_are_called_corrupt(
        attr in attrs(), list in prop::collection::vec(slices(), 1..5),
        (at, byte, cut) in (any::<prop::sample::Index>(), any::<u8>(), any::<prop::sample::Index>()),
    ) {
        let rule = AclRule { owner: 7, group: 7, mask: 7, other: 7, users: vec![(1, 2); 3], groups: vec![(3, 4)] };
        for mut bytes in [encode_attr(&attr), encode_slices(&list), encode_acl(&rule)] {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(cut.index(bytes.len()) + 1);
            for outcome in [
                decode_attr(&"i7", &bytes).err(),
                decode_slices(&"i7", &bytes).err(),
                decode_acl(&"i7", &bytes).err(),
            ].into_iter().flatten() {
                prop_assert!(matches!(&outcome, Error::Corrupt { key, .. } if key == "i7"), "{}", outcome);
            }
        }
    }

    #[test]
    fn any_bytes_decode_or_are_called_corrupt(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let key = "i7";
        for outcome in [
            decode_attr(&key, &bytes).err(),
            decode_entry(&key, &bytes).err(),
            decode_slice(&key, &bytes).err(),
            decode_slices(&key, &bytes).err(),
            decode_delayed(&key, &bytes).err(),
            decode_quota(&key, &bytes).err(),
            decode_quota_limits(&key, &bytes).err(),
            decode_dir_stat(&key, &bytes).err(),
            decode_number(&key, &bytes).err(),
            decode_flock(&key, &bytes).err(),
            decode_plocks(&key, &bytes).err(),
            decode_lock_owner(&key, &bytes).err(),
            decode_acl(&key, &bytes).err(),
            decode_acl_entries(&key, &bytes).err(),
        ].into_iter().flatten() {
            prop_assert!(matches!(&outcome, Error::Corrupt { key, .. } if key == "i7"), "{}", outcome);
        }
    }
}

#[test]
fn very_old_attributes_end_after_rdev_or_parent() {
    let mut attr = decode_attr(&"i1", &[[0, 0x11, 0xa4].as_slice(), &[0; 60]].concat()).unwrap();
    assert_eq!((attr.kind, attr.mode, attr.parent), (NodeType::File, 0o644, Ino(0)));
    attr.parent = Ino(9);
    assert_eq!(decode_attr(&"i1", &encode_attr(&attr)[..71]).unwrap(), attr);
}

#[test]
fn what_is_too_short_or_has_no_type_is_named() {
    let short = decode_attr(&"i12", &[0; 5]).unwrap_err();
    assert_eq!(short.to_string(), "corrupt record i12: node type 0, expected 1 to 7");
    let short = decode_attr(&"i12", &[0, 0x11, 0xa4, 0, 0]).unwrap_err();
    assert_eq!(short.to_string(), "corrupt record i12: it ends 2 bytes early");
    let odd = decode_slices(&"c3_0", &[0; 25]).unwrap_err();
    assert_eq!(odd.to_string(), "corrupt record c3_0: 25 bytes, expected a multiple of 24");
}

#[test]
fn a_count_beyond_the_end_is_corrupt_and_reserves_nothing() {
    let rule = [[0; 8].as_slice(), &[0xFF; 4], &[0; 12]].concat();
    let why = decode_acl(&"acl 1", &rule).unwrap_err().to_string();
    assert_eq!(why, "corrupt record acl 1: 4294967295 named entries in 12 bytes");
    let long = decode_acl(&"acl 1", &[0; 17]).unwrap_err().to_string();
    assert_eq!(long, "corrupt record acl 1: 1 bytes too many");
    let kind = decode_plocks(&"lockp1", &[[0, 0, 0, 2].as_slice(), &[0; 20]].concat()).unwrap_err().to_string();
    assert_eq!(kind, "corrupt record lockp1: lock kind 2, expected 0 or 1");
}
