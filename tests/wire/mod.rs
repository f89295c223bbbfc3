//! The wire format, by checked-in bytes. Every version must read what version 1 wrote, and this
//! version still writes the same bytes. Lines are added to these files and never changed.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use naq_protocol::{
    Envelope, LeaderInfo, Record, Schedule, ScheduleStatus, State, WorkerInfo, WorkerState,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

const ENVELOPES: &str = include_str!("envelopes.v1.jsonl");
const RECORDS: &str = include_str!("records.v1.jsonl");
const SCHEDULES: &str = include_str!("schedules.v1.jsonl");
const WORKERS: &str = include_str!("workers.v1.jsonl");
const LEADERS: &str = include_str!("leaders.v1.jsonl");
const LATER_VERSIONS: &str = include_str!("later_versions.jsonl");

/// Reads each line, and checks that it is written back byte for byte.
fn read_and_write_back<T: Serialize + DeserializeOwned>(lines: &str) -> Vec<T> {
    let read: Vec<T> = lines
        .lines()
        .map(|line| {
            let value: T =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert_eq!(serde_json::to_string(&value).unwrap(), line);
            value
        })
        .collect();
    assert!(!read.is_empty());
    read
}

#[test]
fn wire_envelopes_of_version_1_are_read_and_written_back() {
    for line in ENVELOPES.lines() {
        Envelope::parse(line.as_bytes()).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    read_and_write_back::<Envelope>(ENVELOPES);
}

#[test]
fn wire_records_of_version_1_are_read_and_written_back() {
    let records = read_and_write_back::<Record>(RECORDS);
    for state in State::ALL {
        assert!(
            records.iter().any(|record| record.state() == state),
            "no bytes of a record that is {state}"
        );
    }
    for record in records {
        let phase = record.phase().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(phase.state(), record.state());
    }
}

#[test]
fn wire_schedules_and_heartbeats_of_version_1_are_read_and_written_back() {
    for line in SCHEDULES.lines() {
        let schedule = Schedule::parse(line.as_bytes()).unwrap();
        naq_protocol::TickEnvelope::new(&schedule).unwrap();
    }
    read_and_write_back::<Schedule>(SCHEDULES);
    read_and_write_back::<WorkerInfo>(WORKERS);
    read_and_write_back::<LeaderInfo>(LEADERS);
}

/// The lines of one kind that a later version might write.
fn of_later_versions<T: DeserializeOwned>(kind: &str) -> T {
    let line = LATER_VERSIONS
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find(|line| line["kind"] == kind)
        .unwrap();
    // From text: fields that are kept as text are read in no other way.
    serde_json::from_str(&line["data"].to_string()).unwrap()
}

#[test]
fn wire_data_of_a_later_version_is_read_and_its_unknown_names_are_shown() {
    of_later_versions::<Envelope>("envelope");
    of_later_versions::<LeaderInfo>("leader");

    let record: Record = of_later_versions("record");
    assert!(matches!(record.state(), State::Unknown(_)) && !record.state().is_terminal());
    assert_eq!(record.state().to_string(), "suspended");
    assert_eq!(record.reason().unwrap().to_string(), "moonlight");
    let written = serde_json::to_value(&record).unwrap();
    assert_eq!(written["state"], "suspended");
    assert_eq!(written["reason"], "moonlight");

    let schedule: Schedule = of_later_versions("schedule");
    assert!(matches!(schedule.status, ScheduleStatus::Unknown(_)));
    assert_eq!(schedule.status.to_string(), "hibernating");

    let worker: WorkerInfo = of_later_versions("worker");
    assert!(matches!(worker.state, WorkerState::Unknown(_)));
    assert_eq!(worker.state.to_string(), "meditating");
}

#[test]
fn wire_names_of_a_later_version_are_shown_and_written_back() {
    let schedule: Schedule = of_later_versions("schedule_with_later_policies");
    assert_eq!(schedule.misfire.to_string(), "latest");
    assert_eq!(schedule.overlap.to_string(), "limit");
    let written = serde_json::to_value(&schedule).unwrap();
    assert_eq!(
        (&written["misfire"], &written["overlap"]),
        (&"latest".into(), &"limit".into())
    );

    let record: Record = of_later_versions("record_with_later_condition");
    let written = serde_json::to_value(&record).unwrap();
    assert_eq!(written["waits"]["dependencies"][0], "b");
    assert_eq!(written["waits"]["dependencies"][1]["on"], "started");

    let envelope: Envelope = of_later_versions("envelope_with_later_names");
    assert_eq!(envelope.retry_strategy.unwrap().to_string(), "fibonacci");
    // To run the job by it would be to guess, and for a producer it is a typing error.
    let bytes = serde_json::to_vec(&envelope).unwrap();
    let refused = Envelope::parse(&bytes).unwrap_err();
    assert_eq!(refused.path, "retry_strategy");
    assert!(refused.message.contains("fixed, linear, exponential"));
    let without_strategy = br#"{"command":"x","depends_on":[{"job":"c","on":"started"}]}"#;
    let refused = Envelope::parse(without_strategy).unwrap_err();
    assert_eq!(refused.path, "depends_on[0].on");
    assert!(refused.message.contains("success, failure, finished"));
}

#[test]
fn wire_envelope_with_unknown_fields_keeps_them_when_it_is_rerun() {
    let envelope = br#"{"command":"x","colour":"red","nested":{"deep":[1, 2]}}"#;
    let of = naq_protocol::JobId::new("a").unwrap();
    let rerun = naq_protocol::rerun_envelope(envelope, &of).unwrap();
    assert_eq!(
        String::from_utf8(rerun).unwrap(),
        r#"{"command":"x","colour":"red","nested":{"deep":[1, 2]},"rerun_of":"a"}"#
    );
}
