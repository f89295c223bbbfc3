//! Any text as a duration, a size, and a text for a terminal.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| naq_protocol::fuzz::units(bytes));
