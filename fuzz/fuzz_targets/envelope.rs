//! Any bytes as an envelope.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| naq_protocol::fuzz::envelope(bytes));
