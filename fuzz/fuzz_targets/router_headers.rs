#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloudkv_common::fuzzing::router_headers(data));
