//! Any text as a cron expression, a time zone and a time.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| naq_cron::fuzz::cron(bytes));
