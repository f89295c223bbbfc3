//! Any bytes as `naq.toml`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| naq_client::fuzz::config(bytes));
