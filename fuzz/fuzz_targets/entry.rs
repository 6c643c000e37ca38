#![no_main]

use libfuzzer_sys::fuzz_target;
use stead_meta::codec::{
    decode_dir_stat, decode_entry, decode_number, decode_quota, decode_quota_limits, encode_dir_stat, encode_entry,
    encode_quota, encode_quota_limits,
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(entry) = decode_entry(&"d1", bytes) {
        assert_eq!(encode_entry(entry).as_slice(), bytes);
    }
    if let Ok(quota) = decode_quota(&"QD", bytes) {
        assert_eq!(encode_quota(quota).as_slice(), bytes);
    }
    if let Ok(limits) = decode_quota_limits(&"dirQuota", bytes) {
        assert_eq!(encode_quota_limits(limits).as_slice(), bytes);
    }
    if let Ok(stat) = decode_dir_stat(&"U", bytes) {
        assert_eq!(encode_dir_stat(stat).as_slice(), bytes);
    }
    let _ = decode_number(&"usedSpace", bytes);
});
