//! Any bytes as a crontab.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| naq::cli::fuzz::crontab(bytes));
