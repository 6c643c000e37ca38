//! The stored bytes of the Go client against our codecs: every sample decodes to what the format says and encodes to
//! the same bytes. The samples of Redis are gone through once more, kind by kind, beside the names of its keys.

use serde_json::Value;

use crate::codec;
use crate::records::{Attr, Slice};

const GOLDEN: &str = include_str!("testdata/golden.json");

pub(crate) struct Sample {
    pub(crate) engine: String,
    pub(crate) key: String,
    /// The field of a hash.
    pub(crate) field: String,
    meaning: String,
    pub(crate) values: Vec<Vec<u8>>,
    decoded: Value,
}

impl Sample {
    fn read(sample: &Value) -> Self {
        let text = |member: &str| sample[member].as_str().unwrap_or_default().to_owned();
        let values = match &sample["hex"] {
            Value::Array(values) => values.iter().map(|value| unhex(value.as_str().unwrap())).collect(),
            value => vec![unhex(value.as_str().unwrap())],
        };
        Self {
            engine: text("engine"),
            key: text("key"),
            field: text("field"),
            meaning: text("meaning"),
            values,
            decoded: sample["decoded"].clone(),
        }
    }

    fn number(&self, member: &str) -> i64 {
        self.decoded[member].as_i64().unwrap_or_else(|| panic!("{}: no number {member}", self.key))
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// Checks all samples that `wanted` picks and says how many there were.
pub(crate) fn each(wanted: impl Fn(&Sample) -> bool, check: impl Fn(&Sample)) -> usize {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let samples = golden["samples"].as_array().unwrap().iter().map(Sample::read);
    samples.filter(|sample| wanted(sample)).map(|sample| check(&sample)).count()
}

fn attr_fields(attr: &Attr) -> [(&'static str, i64); 13] {
    [
        ("flags", attr.flags.into()),
        ("type", attr.kind as i64),
        ("uid", attr.uid.into()),
        ("gid", attr.gid.into()),
        ("atime", attr.atime.secs),
        ("atimensec", attr.atime.nanos.into()),
        ("mtime", attr.mtime.secs),
        ("mtimensec", attr.mtime.nanos.into()),
        ("ctime", attr.ctime.secs),
        ("ctimensec", attr.ctime.nanos.into()),
        ("nlink", attr.nlink.into()),
        ("length", attr.length.cast_signed()),
        ("rdev", attr.rdev.into()),
    ]
}

#[test]
fn attributes() {
    let count = each(
        |sample| sample.meaning.ends_with("attribute"),
        |sample| {
            let attr = codec::decode_attr(&sample.key, &sample.values[0]).unwrap();
            for (member, value) in attr_fields(&attr) {
                assert_eq!(value, sample.number(member), "{} {member}", sample.key);
            }
            assert_eq!(format!("0o{:o}", attr.mode), sample.decoded["mode"].as_str().unwrap(), "{}", sample.key);
            assert_eq!(attr.parent.0, sample.decoded["parent"].as_u64().unwrap(), "{}", sample.key);
            assert_eq!(i64::from(attr.tier), sample.number("tier"), "{}", sample.key);
            let acl = |member: &str| sample.decoded[member].as_u64().unwrap_or(0);
            assert_eq!(u64::from(attr.access_acl), acl("access_acl"), "{}", sample.key);
            assert_eq!(u64::from(attr.default_acl), acl("default_acl"), "{}", sample.key);
            assert_eq!(codec::encode_attr(&attr), sample.values[0], "{}", sample.key);
        },
    );
    assert_eq!(count, 36);
}

#[test]
fn entries() {
    let count = each(
        |sample| sample.meaning.contains("entry"),
        |sample| {
            let entry = codec::decode_entry(&sample.key, &sample.values[0]).unwrap();
            assert_eq!(entry.kind as i64, sample.number("type"));
            assert_eq!(entry.ino.0, sample.decoded["inode"].as_u64().unwrap());
            assert_eq!(codec::encode_entry(entry).as_slice(), sample.values[0]);
        },
    );
    assert_eq!(count, 64);
}

#[test]
fn slice_lists() {
    let count = each(
        |sample| sample.decoded[0].get("pos").is_some(),
        |sample| {
            let slices = if sample.engine == "redis" {
                let one = |value: &Vec<u8>| codec::decode_slice(&sample.key, value).unwrap();
                sample.values.iter().map(one).collect()
            } else {
                codec::decode_slices(&sample.key, &sample.values[0]).unwrap()
            };
            assert_eq!(Value::from_iter(slices.iter().map(slice_json)), sample.decoded, "{}", sample.key);
            assert_eq!(codec::encode_slices(&slices), sample.values.concat(), "{}", sample.key);
        },
    );
    assert_eq!(count, 19);
}

fn slice_json(slice: &Slice) -> Value {
    serde_json::json!({
        "pos": slice.pos, "id": slice.id, "size": slice.size, "off": slice.off, "len": slice.len,
    })
}

#[test]
fn delayed_slices() {
    let count = each(
        |sample| sample.meaning.starts_with("delayed slices"),
        |sample| {
            let slices = codec::decode_delayed(&sample.key, &sample.values[0]).unwrap();
            let json = slices.iter().map(|(id, size)| serde_json::json!({"id": id, "size": size}));
            assert_eq!(Value::from_iter(json), sample.decoded);
            assert_eq!(codec::encode_delayed(&slices), sample.values[0]);
        },
    );
    assert_eq!(count, 1);
}

#[test]
fn quotas() {
    let count = each(
        |sample| sample.decoded.get("max_space").is_some(),
        |sample| {
            let bytes = &sample.values[0];
            let quota = if bytes.len() == 16 {
                let limits = codec::decode_quota_limits(&sample.key, bytes).unwrap();
                assert_eq!(codec::encode_quota_limits(limits).as_slice(), bytes);
                limits
            } else {
                let quota = codec::decode_quota(&sample.key, bytes).unwrap();
                assert_eq!(codec::encode_quota(quota).as_slice(), bytes);
                assert_eq!(quota.used_space, sample.number("used_space"));
                assert_eq!(quota.used_inodes, sample.number("used_inodes"));
                quota
            };
            assert_eq!(quota.max_space, sample.number("max_space"));
            assert_eq!(quota.max_inodes, sample.number("max_inodes"));
        },
    );
    assert_eq!(count, 9);
}

#[test]
fn dir_stats() {
    let count = each(
        |sample| sample.meaning.starts_with("dir stat of"),
        |sample| {
            let stat = codec::decode_dir_stat(&sample.key, &sample.values[0]).unwrap();
            assert_eq!(stat.length, sample.number("length"));
            assert_eq!(stat.space, sample.number("space"));
            assert_eq!(stat.inodes, sample.number("inodes"));
            assert_eq!(codec::encode_dir_stat(stat).as_slice(), sample.values[0]);
        },
    );
    assert_eq!(count, 4);
}

#[test]
fn decimal_numbers() {
    let is_number = |sample: &Sample| {
        sample.engine == "redis"
            && sample.meaning.ends_with("(text)")
            && !["lockf", "x", "s24"].iter().any(|text| sample.key.starts_with(text))
    };
    let count = each(is_number, |sample| {
        let number = codec::decode_number(&sample.key, &sample.values[0]).unwrap();
        assert_eq!(Some(number.to_string().as_str()), sample.decoded.as_str(), "{}", sample.key);
        assert_eq!(number.to_string().as_bytes(), sample.values[0]);
    });
    assert!(count > 60, "only {count}");
}
