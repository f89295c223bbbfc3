//! What the fuzz targets check of this crate. A target gets any bytes. It must neither panic nor take
//! long, and what it accepts must mean the same when it is written and read again. `fuzz/README.md`
//! says how they are run; the test replays the corpus.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Envelope, EnvelopeError, Flow, Record, Schedule, escape, is_equivalent, units};

/// An error text is shown to people: it is one line and quotes little of the input.
const ERROR_BYTES_MAX: usize = 4_096;

/// Any bytes as an envelope.
pub fn envelope(bytes: &[u8]) {
    match Envelope::parse(bytes) {
        Ok(envelope) => {
            let written = written(&envelope);
            let again = Envelope::parse(&written);
            let again = again.map(|envelope| self::written(&envelope));
            assert_eq!(again.as_ref().ok(), Some(&written), "an envelope changes");
            assert!(
                is_equivalent(bytes, bytes),
                "an envelope differs from itself"
            );
        }
        Err(error) => check_error(&error),
    }
}

/// Any bytes as a job's record.
pub fn record(bytes: &[u8]) {
    check_round_trip::<Record>(bytes);
}

/// Any bytes as a schedule.
pub fn schedule(bytes: &[u8]) {
    match Schedule::parse(bytes) {
        Ok(schedule) => {
            let written = written(&schedule);
            let again = Schedule::parse(&written).map(|schedule| self::written(&schedule));
            assert_eq!(again.as_ref().ok(), Some(&written), "a schedule changes");
        }
        Err(error) => check_error(&error),
    }
}

/// Any bytes as a flow.
pub fn flow(bytes: &[u8]) {
    if let Err(error) = Flow::parse(bytes) {
        check_error(&error);
    }
}

/// Any text as a duration, a size, and a text for a terminal.
pub fn units(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = units::parse_duration(&text);
    let _ = units::parse_size(&text);
    let escaped = escape(&text);
    assert!(
        !escaped.chars().any(char::is_control),
        "a control character reaches the terminal: {escaped:?}"
    );
}

fn written(value: &impl Serialize) -> Vec<u8> {
    match serde_json::to_vec(value) {
        Ok(bytes) => bytes,
        Err(error) => panic!("cannot be written: {error}"),
    }
}

fn check_round_trip<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else {
        return;
    };
    let first = written(&value);
    match serde_json::from_slice::<T>(&first) {
        Ok(again) => assert_eq!(written(&again), first, "a value changes"),
        Err(error) => panic!("cannot be read again: {error}"),
    }
}

fn check_error(error: &EnvelopeError) {
    let text = error.to_string();
    assert!(
        text.len() <= ERROR_BYTES_MAX,
        "{} bytes of error",
        text.len()
    );
    assert!(!text.contains('\n'), "an error of several lines: {text:?}");
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::corpus::replay;

    #[test]
    fn the_fuzz_corpus_holds() {
        replay("envelope", super::envelope);
        replay("record", super::record);
        replay("schedule", super::schedule);
        replay("flow", super::flow);
        replay("units", super::units);
    }
}
