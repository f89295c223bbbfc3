//! Any bytes on the control channel of a job, in any pieces.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| naq_runner::fuzz::control(bytes));
