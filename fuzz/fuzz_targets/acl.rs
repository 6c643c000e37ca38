#![no_main]

use libfuzzer_sys::fuzz_target;
use stead_meta::codec::{decode_acl, decode_acl_entries, encode_acl, encode_acl_entries};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(rule) = decode_acl(&"acl", bytes) {
        assert_eq!(encode_acl(&rule), bytes);
    }
    if let Ok(named) = decode_acl_entries(&"acl", bytes) {
        assert_eq!(encode_acl_entries(&named), bytes);
    }
});
