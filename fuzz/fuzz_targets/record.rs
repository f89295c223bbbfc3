//! Any bytes as a job's record.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| naq_protocol::fuzz::record(bytes));
