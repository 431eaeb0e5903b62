#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloudkv_node::fuzzing::watch_requests(data));
