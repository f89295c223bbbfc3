//! JSON Schemas of the wire types, for programs in other languages.

use serde_json::Value;

use crate::audit::AuditEntry;
use crate::envelope::Envelope;
use crate::inputs::JobInput;
use crate::record::Record;
use crate::schedule::Schedule;
use crate::scheduler::SchedulerInfo;
use crate::schema_conditions as conditions;
use crate::worker::WorkerInfo;

/// The names that [`schema`] accepts, in the order in which users see them.
pub const SCHEMAS: [&str; 7] = [
    "envelope",
    "record",
    "input",
    "schedule",
    "worker",
    "scheduler",
    "audit",
];

/// The JSON Schema of a wire type by its name, as indented JSON with a final newline: the same bytes
/// as in `schemas/`. `None` if the name is not in [`SCHEMAS`].
#[must_use]
pub fn schema(name: &str) -> Option<String> {
    let (schema, add_conditions): (_, fn(&mut Value)) = match name {
        "envelope" => (schemars::schema_for!(Envelope), conditions::of_envelope),
        "record" => (schemars::schema_for!(Record), conditions::of_record),
        "input" => (schemars::schema_for!(JobInput), |_| {}),
        "schedule" => (schemars::schema_for!(Schedule), conditions::of_schedule),
        "worker" => (schemars::schema_for!(WorkerInfo), conditions::of_worker),
        "scheduler" => (schemars::schema_for!(SchedulerInfo), |_| {}),
        "audit" => (schemars::schema_for!(AuditEntry), conditions::of_audit),
        _ => return None,
    };
    let mut schema = schema.to_value();
    conditions::complete_integers(&mut schema);
    add_conditions(&mut schema);
    let mut text = format!("{schema:#}");
    text.push('\n');
    Some(text)
}
