#![no_main]

use libfuzzer_sys::fuzz_target;
use stead_meta::codec::{
    decode_flock, decode_lock_owner, decode_plocks, encode_flock, encode_lock_owner, encode_plocks,
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(kind) = decode_flock(&"lockf1", bytes) {
        assert_eq!(encode_flock(kind).as_slice(), bytes);
    }
    if let Ok(ranges) = decode_plocks(&"lockp1", bytes) {
        assert_eq!(encode_plocks(&ranges), bytes);
    }
    if let Ok(owner) = decode_lock_owner(&"lockf1", bytes) {
        assert_eq!(decode_lock_owner(&"lockf1", encode_lock_owner(owner).as_bytes()).expect("what we write"), owner);
    }
});
