//! JSON Schemas of the wire types, for programs in other languages.

use crate::audit::AuditEntry;
use crate::envelope::Envelope;
use crate::record::Record;
use crate::schedule::Schedule;
use crate::scheduler::SchedulerInfo;
use crate::worker::WorkerInfo;

/// The names that [`schema`] accepts, in the order in which users see them.
pub const SCHEMAS: [&str; 6] = [
    "envelope",
    "record",
    "schedule",
    "worker",
    "scheduler",
    "audit",
];

/// The JSON Schema of a wire type by its name, as indented JSON with a final newline: the same bytes
/// as in `schemas/`. `None` if the name is not in [`SCHEMAS`].
#[must_use]
pub fn schema(name: &str) -> Option<String> {
    let schema = match name {
        "envelope" => schemars::schema_for!(Envelope),
        "record" => schemars::schema_for!(Record),
        "schedule" => schemars::schema_for!(Schedule),
        "worker" => schemars::schema_for!(WorkerInfo),
        "scheduler" => schemars::schema_for!(SchedulerInfo),
        "audit" => schemars::schema_for!(AuditEntry),
        _ => return None,
    };
    let mut text = format!("{:#}", schema.as_value());
    text.push('\n');
    Some(text)
}
