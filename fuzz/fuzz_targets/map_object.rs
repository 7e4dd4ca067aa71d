#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvps_fuzz::map_object::run(data));
