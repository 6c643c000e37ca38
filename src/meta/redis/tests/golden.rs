//! Every key, field and value of a volume that the Go client wrote, decoded and encoded again: the same bytes.

use std::cell::RefCell;
use std::collections::BTreeSet;

use bytes::Bytes;
use stead_base::SessionId;

use super::*;
use crate::codec;
use crate::golden::{Sample, each};
use crate::records::Job;
use crate::redis::keys::{self, Keys};

/// What the change log holds; we do not write it, so there is nothing to decode.
const NOT_OURS: &str = "txnLog";
/// Hashes whose fields are decimal numbers.
const NUMBERED: [&str; 10] = [
    "p",
    "dirDataLength",
    "dirUsedSpace",
    "dirUsedInodes",
    "userQuota",
    "userQuotaUsedSpace",
    "userQuotaUsedInodes",
    "groupQuota",
    "groupQuotaUsedSpace",
    "groupQuotaUsedInodes",
];

#[test]
fn every_kind_of_record_comes_back_byte_for_byte() {
    let kinds = RefCell::new(BTreeSet::new());
    each(
        |sample| sample.engine == "redis" && kind(&sample.key) != NOT_OURS,
        |sample| {
            let kind = kind(&sample.key);
            let (field, values) = again(&kind, sample);
            assert_eq!((&field, &values), (&sample.field, &sample.values), "{}", sample.key);
            kinds.borrow_mut().insert(kind);
        },
    );
    assert!(kinds.borrow().len() >= 28, "{kinds:?}");
}

/// The key without its numbers.
fn kind(key: &str) -> String {
    key.chars().filter(|char| !char.is_ascii_digit()).collect()
}

/// The first number in a key.
fn of(key: &str) -> u64 {
    let digits = key.chars().skip_while(|char| !char.is_ascii_digit()).take_while(char::is_ascii_digit);
    digits.collect::<String>().parse().expect("a numbered key")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// Field and values, decoded and encoded again.
fn again(kind: &str, sample: &Sample) -> (String, Vec<Vec<u8>>) {
    let (ino, field) = (|| Ino(of(&sample.key)), sample.field.clone());
    let key = match kind {
        "i" => Key::Attr(ino()),
        "d" => Key::Entry(ino(), name(&field)),
        "c_" => Key::Chunk(ino(), sample.key.split_once('_').expect("an index").1.parse().expect("an index")),
        "s" => Key::Symlink(ino()),
        "x" => Key::Xattr(ino(), name(&field)),
        "acl" => Key::Acl(field.parse().expect("an id")),
        "sliceRef" => {
            let (id, size) = keys::parse_slice_field(field.as_bytes()).expect("a slice");
            Key::SliceRef(id, size)
        }
        "lockf" | "lockp" => return lock(kind, sample),
        "delSlices" => return delayed(sample),
        _ => return (number_field(kind, sample), vec![small(kind, sample)]),
    };
    let (names, raw) = (Keys::default(), Bytes::from(sample.values.concat()));
    let place = names.place(&key);
    let record = keys::decode(&names, &key, Some(&raw)).expect("it decodes").expect("it is there");
    assert_eq!(text(&place.key), sample.key);
    (text(&place.field).to_owned(), encoded(record))
}

fn encoded(record: Record) -> Vec<Vec<u8>> {
    match record {
        Record::Attr(attr) => vec![codec::encode_attr(&attr)],
        Record::Entry(entry) => vec![codec::encode_entry(entry).to_vec()],
        Record::Slices(slices) => slices.into_iter().map(|slice| codec::encode_slice(slice).to_vec()).collect(),
        Record::Bytes(bytes) => vec![bytes.to_vec()],
        Record::Acl(rule) => vec![codec::encode_acl(&rule)],
        // Absent means one reference (format.md §2.6).
        Record::Number(references) => vec![(references - 1).to_string().into()],
        other => panic!("{other:?} is not one value"),
    }
}

fn lock(kind: &str, sample: &Sample) -> (String, Vec<Vec<u8>>) {
    let owner = codec::decode_lock_owner(&sample.key, sample.field.as_bytes()).expect("an owner");
    let value = &sample.values[0];
    let value = match kind {
        "lockf" => codec::encode_flock(codec::decode_flock(&sample.key, value).expect("a lock")).to_vec(),
        _ => codec::encode_plocks(&codec::decode_plocks(&sample.key, value).expect("locks")),
    };
    (codec::encode_lock_owner(owner), vec![value])
}

fn delayed(sample: &Sample) -> (String, Vec<Vec<u8>>) {
    let (id, since) = keys::parse_delayed_field(sample.field.as_bytes()).expect("a slice and a time");
    let slices = codec::decode_delayed(&sample.key, &sample.values[0]).expect("slices");
    (keys::delayed_field(id, since), vec![codec::encode_delayed(&slices)])
}

fn number_field(kind: &str, sample: &Sample) -> String {
    if NUMBERED.contains(&kind) {
        codec::decode_number(&sample.key, sample.field.as_bytes()).expect("a number").to_string()
    } else {
        sample.field.clone()
    }
}

/// Limits, members of sets, numbers.
fn small(kind: &str, sample: &Sample) -> Vec<u8> {
    let (names, value) = (Keys::default(), &sample.values[0]);
    match kind {
        "userQuota" | "groupQuota" | "dirQuota" => {
            codec::encode_quota_limits(codec::decode_quota_limits(&sample.key, value).expect("limits")).to_vec()
        }
        "locked" => {
            assert_eq!(text(&names.locked(SessionId(of(&sample.key)))), sample.key);
            let (table, ino) = names.parse_locks(value).expect("a lock of ours");
            names.locks(table, ino)
        }
        "delfiles" => {
            let (ino, length) = keys::parse_deleted_member(value).expect("an inode and a length");
            keys::deleted_member(ino, length).into()
        }
        _ => {
            assert!(is_number(kind, &names), "{}: no codec for records of kind {kind:?}", sample.key);
            codec::decode_number(&sample.key, value).expect("a number").to_string().into()
        }
    }
}

/// Whether what is kept there is a decimal number: one of our counters and stamps, a member of a set of numbers, or the
/// value of a hash of numbers.
fn is_number(kind: &str, names: &Keys) -> bool {
    let counters = [
        Counter::NextInode,
        Counter::NextChunk,
        Counter::NextSession,
        Counter::NextTrash,
        Counter::UsedSpace,
        Counter::TotalInodes,
        Counter::AclMaxId,
    ];
    let jobs = [Job::CleanupSessions, Job::CleanupFiles, Job::CleanupSlices, Job::CleanupTrash];
    let ours = counters.map(|counter| names.counter(counter)).into_iter().chain(jobs.map(|job| names.job(job).key));
    NUMBERED.contains(&kind)
        || ["allSessions", "session", "detachedNodes"].contains(&kind)
        || ours.into_iter().any(|key| key == kind.as_bytes())
}

proptest::proptest! {
    /// What a reader of `lua/lib.lua` could never give decodes, or is called corrupt.
    #[test]
    fn any_bytes_decode_or_are_called_corrupt(raw in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
        let (names, raw) = (Keys::default(), Bytes::from(raw));
        let of = crate::records::Principal::User(7);
        for key in [
            Key::Attr(Ino(7)),
            Key::Entry(Ino(7), name("n")),
            Key::Chunk(Ino(7), 0),
            Key::Parents(Ino(7)),
            Key::Counter(Counter::UsedSpace),
            Key::SliceRef(stead_base::SliceId(7), 1),
            Key::DirStat(Ino(7)),
            Key::DirQuota(Ino(7)),
            Key::OwnerQuota(of),
            Key::Flocks(Ino(7)),
            Key::Plocks(Ino(7)),
            Key::Acl(7),
        ] {
            let decoded = keys::decode(&names, &key, Some(&raw));
            proptest::prop_assert!(matches!(decoded, Ok(_) | Err(Error::Corrupt { .. })), "{:?}", decoded);
        }
        keys::parse_slice_field(&raw);
        keys::parse_deleted_member(&raw);
        keys::parse_delayed_field(&raw);
        names.parse_locks(&raw);
        keys::is_ours(&raw);
    }
}
