//! Test records in any state, made of bytes as the store would return them.

use naq_protocol::{JobId, Phase, QueueName, Record, State, Timestamp};

/// A copy of a record with other fields, as a store might hold it.
pub(crate) fn with_fields(record: &Record, fields: &serde_json::Value) -> Record {
    let mut stored = serde_json::to_value(record).unwrap();
    for (name, value) in fields.as_object().unwrap() {
        stored[name] = value.clone();
    }
    serde_json::from_str(&stored.to_string()).unwrap()
}

/// A record in this state, without the fields that belong to the state.
pub(crate) fn stored_record(state: State) -> Record {
    let queued = Record::new(
        JobId::new("j").unwrap(),
        QueueName::new("q").unwrap(),
        Phase::Queued,
        Timestamp::from_unix_ms(0).unwrap(),
    );
    with_fields(&queued, &serde_json::json!({"state": state}))
}
