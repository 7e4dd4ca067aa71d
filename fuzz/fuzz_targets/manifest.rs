#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvps_fuzz::manifest::run(data));
