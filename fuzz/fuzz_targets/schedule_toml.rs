//! Any bytes as a TOML file of schedules.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| naq::cli::fuzz::schedule_toml(bytes));
