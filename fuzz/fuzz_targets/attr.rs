#![no_main]

use libfuzzer_sys::fuzz_target;
use stead_meta::codec::{decode_attr, encode_attr};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(attr) = decode_attr(&"i1", bytes) {
        assert_eq!(decode_attr(&"i1", &encode_attr(&attr)).expect("what we write"), attr);
    }
});
