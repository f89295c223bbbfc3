//! Any bytes as a flow.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| naq_protocol::fuzz::flow(bytes));
