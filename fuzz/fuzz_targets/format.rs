#![no_main]

use libfuzzer_sys::fuzz_target;
use stead_meta::format::Format;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(format) = Format::parse(bytes) {
        let stored = format.encode();
        let again = Format::parse(&stored).expect("what we write");
        assert_eq!(again.encode(), stored);
    }
});
