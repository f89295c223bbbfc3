//! Any bytes as a schedule.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| naq_protocol::fuzz::schedule(bytes));
