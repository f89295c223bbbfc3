//! The waits before retries.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use crate::units::WireDuration;
use crate::wire_name::{UnknownName, wire_name};

/// How the wait before a retry grows.
// Exhaustive on purpose, see `State`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Backoff {
    /// Always `retry_delay`.
    #[default]
    Fixed,
    /// `retry_delay` times the number of the retry.
    Linear,
    /// `retry_delay` doubled with each retry.
    Exponential,
    /// A strategy that only a later version of naq defines. [`Envelope::parse`] refuses it.
    ///
    /// [`Envelope::parse`]: crate::Envelope::parse
    #[schemars(skip)]
    Unknown(UnknownName),
}

wire_name!(Backoff, "a retry strategy", {
    Fixed => "fixed",
    Linear => "linear",
    Exponential => "exponential",
});

/// The waits before retries, as the envelope sets them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryDelay {
    /// One wait, which grows by the strategy.
    Single(WireDuration),
    /// One wait for each retry. The last one applies to all later retries.
    PerRetry(Vec<WireDuration>),
}

impl Serialize for RetryDelay {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            RetryDelay::Single(span) => span.serialize(serializer),
            RetryDelay::PerRetry(spans) => spans.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for RetryDelay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RetryDelay, D::Error> {
        struct DelaysVisitor;
        impl<'de> Visitor<'de> for DelaysVisitor {
            type Value = RetryDelay;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration or a list of durations")
            }
            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<RetryDelay, E> {
                WireDuration::deserialize(de::value::U64Deserializer::new(seconds))
                    .map(RetryDelay::Single)
            }
            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<RetryDelay, E> {
                WireDuration::deserialize(de::value::I64Deserializer::new(seconds))
                    .map(RetryDelay::Single)
            }
            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<RetryDelay, E> {
                WireDuration::deserialize(de::value::F64Deserializer::new(seconds))
                    .map(RetryDelay::Single)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RetryDelay, E> {
                text.parse().map(RetryDelay::Single).map_err(E::custom)
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, items: A) -> Result<RetryDelay, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(items))
                    .map(RetryDelay::PerRetry)
            }
        }
        deserializer.deserialize_any(DelaysVisitor)
    }
}

impl JsonSchema for RetryDelay {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Delays".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let one = generator.subschema_for::<WireDuration>();
        schemars::json_schema!({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]})
    }
}
