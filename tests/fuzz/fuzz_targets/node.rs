#![no_main]
//! See tests/src/fuzz/targets.rs.
libfuzzer_sys::fuzz_target!(|data: &[u8]| ccd_tests::fuzz::run("node", data));
