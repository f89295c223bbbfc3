//! Any bytes as what a NATS server replies.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| naq_jetstream::fuzz::nats_reply(bytes));
