//! JSON Schemas of the wire types, for programs in other languages.

use super::{Envelope, Record, Schedule, WorkerInfo};

/// The names [`schema`] knows, in the order they are listed to users.
pub const SCHEMAS: [&str; 4] = ["envelope", "record", "schedule", "worker"];

/// The JSON Schema of a wire type by its name (one of [`SCHEMAS`]), as pretty JSON with a final
/// newline: the very bytes checked in under `schemas/`.
#[must_use]
pub fn schema(name: &str) -> Option<String> {
    let schema = match name {
        "envelope" => schemars::schema_for!(Envelope),
        "record" => schemars::schema_for!(Record),
        "schedule" => schemars::schema_for!(Schedule),
        "worker" => schemars::schema_for!(WorkerInfo),
        _ => return None,
    };
    let mut text = format!("{:#}", schema.as_value());
    text.push('\n');
    Some(text)
}
