#![no_main]

use libfuzzer_sys::fuzz_target;
use stead_meta::codec::{decode_delayed, decode_slices, encode_delayed, encode_slices};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(slices) = decode_slices(&"c1_0", bytes) {
        assert_eq!(encode_slices(&slices), bytes);
    }
    if let Ok(delayed) = decode_delayed(&"delSlices", bytes) {
        assert_eq!(encode_delayed(&delayed), bytes);
    }
});
