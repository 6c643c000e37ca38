use super::*;

/// Written by the Go client 1.4.2: `format` with every option, then `config` for limits, tiers, quotas, change log.
const FULL: &[u8] = include_bytes!("testdata/full.json");
/// Written by the Go client 1.4.2: `format` of a directory with defaults.
const PLAIN: &[u8] = include_bytes!("testdata/plain.json");

fn plain() -> Format {
    Format::parse(PLAIN).unwrap()
}

fn full() -> Format {
    Format::parse(FULL).unwrap()
}

/// The Format of `PLAIN` with some members replaced.
fn with(members: serde_json::Value) -> Result<Format> {
    let mut json: serde_json::Value = serde_json::from_slice(PLAIN).unwrap();
    for (name, value) in members.as_object().unwrap() {
        json[name] = value.clone();
    }
    Format::parse(json.to_string().as_bytes())
}

#[test]
fn what_the_go_client_wrote_is_written_the_same() {
    for stored in [FULL, PLAIN] {
        let format = Format::parse(stored).unwrap();
        assert_eq!(String::from_utf8(format.encode()).unwrap(), String::from_utf8_lossy(stored));
    }
}

#[test]
fn a_new_format_has_the_defaults_of_the_go_client() {
    let mut new = Format::new("plainvol", "file", "/var/data/");
    assert_ne!(new.uuid, Format::new("plainvol", "file", "/var/data/").uuid);
    new.uuid = plain().uuid;
    assert_eq!(new.encode(), PLAIN);
    new.validate().unwrap();
}

#[test]
fn every_member_is_read() {
    let format = full();
    assert_eq!((format.name.as_str(), format.storage.as_str()), ("fullvol", "s3"));
    assert_eq!(format.bucket, "http://127.0.0.1:1/buck%d?a=1&b=<2>");
    assert_eq!((format.block_size, format.shards, format.trash_days), (512, 3, 7));
    assert_eq!((format.capacity, format.inodes), (10 << 30, 1000));
    assert_eq!((format.upload_limit, format.download_limit), (100, 200));
    assert_eq!(format.upload_bytes_per_second(), 12_500_000);
    assert_eq!((format.hash_prefix, format.enable_acl, format.user_group_quota), (true, true, true));
    assert_eq!((format.tiers[&1].storage_class.as_str(), format.tiers[&1].tag.as_str()), ("GLACIER", "a=b"));
    assert_eq!((format.change_log, format.change_log_max_age), (true, 7200));
    assert_eq!(format.default_storage_class(), "STANDARD_IA");
    format.validate().unwrap();
}

#[test]
fn unknown_members_are_kept_in_order_also_in_tiers() {
    let tiers = serde_json::json!({"0": {"ID": 0, "StorageClass": "", "Tag": "", "Later": [1, {}]}});
    let format = with(serde_json::json!({"Zeta": {"b": 1, "a": [true]}, "Alpha": null, "Tiers": tiers})).unwrap();
    let text = String::from_utf8(format.encode()).unwrap();
    assert!(text.ends_with("\"Zeta\": {\n\"b\": 1,\n\"a\": [\ntrue\n]\n},\n\"Alpha\": null\n}"), "{text}");
    assert!(text.contains("\"Tag\": \"\",\n\"Later\": [\n1,\n{}\n]\n"), "{text}");
    assert_eq!(Format::parse(&format.encode()).unwrap(), format);
}

#[test]
fn missing_tiers_follow_from_the_storage_class() {
    let format = with(serde_json::json!({"Tiers": null, "StorageClass": "GLACIER"})).unwrap();
    assert_eq!(format.tiers[&0].storage_class, "GLACIER");
    assert_eq!(format.default_storage_class(), "GLACIER");
}

#[test]
fn a_member_of_the_wrong_type_is_named() {
    for (members, text) in [
        (serde_json::json!({"TrashDays": -1}), "Format member TrashDays: -1: expected a whole number from 0"),
        (serde_json::json!({"DirStats": "yes"}), "Format member DirStats: \"yes\": expected true or false"),
        (serde_json::json!({"Tiers": {"x": {}}}), "Format member Tiers: {\"x\":{}}: expected tiers such as"),
        (serde_json::json!({"UUID": ""}), "Format member UUID: \"\": expected the UUID"),
        (serde_json::json!({"BlockSize": 100}), "Format member BlockSize: 100: expected KiB, a power of two"),
        (serde_json::json!({"SecretKey": 5}), "Format member SecretKey: removed: expected a text"),
    ] {
        let error = with(members).unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    }
    for json in ["", "[]", "{\"Name\":", "7"] {
        assert!(matches!(Format::parse(json.as_bytes()), Err(Error::Format { member: "setting", .. })), "{json}");
    }
}

#[test]
fn validation_names_member_value_and_what_is_right() {
    type Change = fn(&mut Format);
    let cases: [(Change, &str); 14] = [
        (|f| f.name = "Bad_Name".into(), "Name: Bad_Name: expected 3 to 63"),
        (|f| f.name = "-ab".into(), "Name: -ab: expected"),
        (|f| f.name = "a".repeat(64), "Name: aaa"),
        (|f| f.uuid = "no".into(), "UUID: no: expected a UUID"),
        (|f| f.block_size = 32, "BlockSize: 32: expected KiB"),
        (|f| f.compression = "gzip".into(), "Compression: gzip: expected none, lz4 or zstd"),
        (|f| f.shards = 300, "Shards: 300: expected 256 at most"),
        (|f| f.shards = 2, "Bucket: /var/data/: expected one %d"),
        (|f| f.bucket = "data".into(), "Bucket: data: expected an absolute directory"),
        (|f| f.encrypt_algo = "rot13".into(), "EncryptAlgo: rot13: expected aes256gcm-rsa"),
        (|f| f.encrypt_key = "hunter2".into(), "EncryptKey: removed: expected the PEM"),
        (|f| f.capacity = u64::MAX, "Capacity: 18446744073709551615: expected bytes"),
        (|f| f.max_client_version = "1.0".into(), "MaxClientVersion: 1.0: expected a version not below"),
        (|f| f.meta_version = 2, "MetaVersion: 2: expected 1 at most"),
    ];
    for (change, text) in cases {
        let mut format = plain();
        change(&mut format);
        let error = format.validate().unwrap_err().to_string();
        assert!(error.starts_with(&format!("Format member {text}")), "{error}");
    }
}

#[test]
fn block_sizes_become_powers_of_two_in_range() {
    for (wish, size) in [(0, 64), (64, 64), (1000, 512), (4096, 4096), (100_000, 16384)] {
        assert_eq!(Format::clamp_block_size(wish), size, "{wish}");
    }
}

#[test]
fn versions_compare_as_the_format_says() {
    let version = |text: &str| text.parse::<Version>().unwrap();
    for (older, newer) in
        [("1.1.0-A", "1.1.0"), ("1.1.0", "1.2.0-A"), ("1.4.0-A", "1.4.0-beta1"), ("1.9.0", "1.10.0"), ("1.4", "1.4.1")]
    {
        assert!(version(older) < version(newer), "{older} < {newer}");
    }
    assert_eq!(version("1.4.2+2026-10-26.abc"), version("1.4.2"));
    for text in ["", "one", "1.2.3.4", "1..2", "-A"] {
        assert!(text.parse::<Version>().is_err(), "{text}");
    }
}

#[test]
fn clients_outside_of_the_range_are_refused() {
    let format = full();
    format.check_version("1.4.0").unwrap();
    format.check_version("2.0.0").unwrap();
    let old = format.check_version("1.3.9").unwrap_err().to_string();
    assert!(old.contains("MinClientVersion: 1.4.0-A") && old.contains("1.3.9"), "{old}");
    let new = format.check_version("2.0.1").unwrap_err().to_string();
    assert!(new.contains("MaxClientVersion: 2.0") && new.contains("too new"), "{new}");
    let later = with(serde_json::json!({"MetaVersion": 2})).unwrap();
    assert!(later.check_version("1.4.0").unwrap_err().to_string().contains("MetaVersion: 2"));
}

#[test]
fn features_raise_the_oldest_client() {
    let raised = |change: fn(&mut Format)| {
        let mut format = plain();
        change(&mut format);
        format.raise_min_client_version();
        format.min_client_version
    };
    assert_eq!(raised(|_| ()), "1.1.0-A");
    assert_eq!(raised(|f| f.enable_acl = true), "1.2.0-A");
    assert_eq!(raised(|f| f.ranger_service = "r".into()), "1.3.0-A");
    assert_eq!(raised(|f| f.tiers.extend([(1, Tier::default())])), "1.4.0-A");
    assert_eq!(raised(|f| f.min_client_version = "1.9.0".into()), "1.9.0");
}

#[test]
fn secrets_of_the_go_client_decrypt() {
    let mut format = full();
    format.decrypt_secrets().unwrap();
    assert_eq!((format.secret_key.as_str(), format.session_token.as_str()), ("se<c>r&et", "tok"));
    assert!(!format.key_encrypted && format.encrypt_key.is_empty());
    let mut again = format.clone();
    again.encrypt_secrets().unwrap();
    assert!(again.key_encrypted && again.secret_key != full().secret_key, "each nonce is fresh");
    again.decrypt_secrets().unwrap();
    assert_eq!(again, format);
}

#[test]
fn without_secrets_nothing_is_encrypted() {
    let mut format = plain();
    format.encrypt_secrets().unwrap();
    assert_eq!(format, plain());
}

#[test]
fn lost_or_foreign_secrets_are_named_and_leave_the_format_as_it_was() {
    let mut lost = full().redacted();
    assert!(lost.decrypt_secrets().unwrap_err().to_string().contains("SecretKey: removed: the secret was removed"));
    let mut foreign = full();
    foreign.uuid = plain().uuid;
    let before = foreign.clone();
    assert!(foreign.decrypt_secrets().unwrap_err().to_string().contains("does not decrypt"));
    assert_eq!(foreign, before);
    foreign.session_token = "tok".into();
    foreign.secret_key = String::new();
    assert!(foreign.decrypt_secrets().unwrap_err().to_string().contains("SessionToken"));
}

#[test]
fn no_secret_is_printed() {
    let mut format = full();
    format.decrypt_secrets().unwrap();
    let shown = format!("{format:?}");
    assert!(!shown.contains("se<c>r&et") && !shown.contains("tok\""), "{shown}");
    assert!(shown.contains("\"SecretKey\":\"removed\"") && !shown.contains("EncryptKey"), "{shown}");
}

#[test]
fn what_the_data_depends_on_cannot_change() {
    type Change = fn(&mut Format);
    let cases: [(Change, &str); 7] = [
        (|f| f.name = "other".into(), "Name: other: cannot be changed, it is fullvol"),
        (|f| f.block_size = 64, "BlockSize: 64: cannot be changed, it is 512"),
        (|f| f.compression = String::new(), "Compression: none: cannot be changed, it is lz4"),
        (|f| f.shards = 2, "Shards: 2: cannot"),
        (|f| f.hash_prefix = false, "HashPrefix: false: cannot"),
        (|f| f.meta_version = 0, "MetaVersion: 0: cannot"),
        (|f| f.enable_acl = false, "EnableACL: false: cannot be turned off"),
    ];
    for (change, text) in cases {
        let mut format = full();
        change(&mut format);
        let error = format.replacing(&full()).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn a_replacement_keeps_uuid_and_unknown_members_and_readable_secrets() {
    let mut old = plain();
    old.unknown.insert("Later".into(), 5.into());
    let mut new = Format::new("plainvol", "file", "/elsewhere/");
    new.secret_key = "s3cret".into();
    new.encrypt_secrets().unwrap();
    let mut replaced = new.replacing(&old).unwrap();
    assert_eq!((&replaced.uuid, replaced.bucket.as_str()), (&old.uuid, "/elsewhere/"));
    assert_eq!(replaced.unknown["Later"], 5);
    replaced.decrypt_secrets().unwrap();
    assert_eq!(replaced.secret_key, "s3cret");
}

proptest::proptest! {
    #[test]
    fn any_text_parses_or_is_an_error(text in ".*") {
        let _ = Format::parse(text.as_bytes());
    }

    /// A Format that is nearly right: some bytes of a good one changed.
    #[test]
    fn a_spoiled_format_parses_to_what_can_be_stored_or_is_an_error(
        changes in proptest::collection::vec((0..FULL.len(), proptest::prelude::any::<u8>()), 1..4),
    ) {
        let mut bytes = FULL.to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if let Ok(format) = Format::parse(&bytes) {
            proptest::prop_assert_eq!(Format::parse(&format.encode()).unwrap(), format);
        }
    }

    #[test]
    fn any_bucket_comes_back(bucket in ".+") {
        let format = Format { bucket, ..plain() };
        proptest::prop_assert_eq!(Format::parse(&format.encode()).unwrap(), format);
    }
}
