//! Times on the wire.

use std::fmt;

use chrono::Timelike;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::excerpt;

/// A time. On the wire it is RFC 3339; naq writes UTC with milliseconds and reads any offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub chrono::DateTime<chrono::Utc>);

impl Timestamp {
    /// The time at a number of milliseconds since the Unix epoch. `None` if it is out of range.
    #[must_use]
    pub fn from_unix_ms(unix_ms: i64) -> Option<Timestamp> {
        chrono::DateTime::from_timestamp_millis(unix_ms).map(Timestamp)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn unix_ms(self) -> i64 {
        self.0.timestamp_millis()
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Timestamp {
        Timestamp(time.into())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
    }
}

fn not_a_time(text: &str) -> String {
    format!(
        "`{}` is not an RFC 3339 time such as 2026-12-24T18:00:00+01:00",
        excerpt(text)
    )
}

impl std::str::FromStr for Timestamp {
    type Err = String;
    fn from_str(text: &str) -> Result<Timestamp, String> {
        chrono::DateTime::parse_from_rfc3339(text)
            .map(|time| Timestamp(time.to_utc()))
            .map_err(|_| not_a_time(text))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        // The library also reads a space for the T, and other signs for the minus, which other readers do not.
        let has_t = matches!(text.as_bytes().get(10), Some(b'T' | b't'));
        if !has_t || !text.is_ascii() {
            return Err(serde::de::Error::custom(not_a_time(&text)));
        }
        let time: Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        // A leap second is the last of a day in UTC. The library reads one in every minute.
        let is_leap = time.0.nanosecond() >= 1_000_000_000;
        if is_leap && (time.0.hour(), time.0.minute()) != (23, 59) {
            return Err(serde::de::Error::custom(not_a_time(&text)));
        }
        Ok(time)
    }
}

impl JsonSchema for Timestamp {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        // the pattern is for validators that do not check formats
        schemars::json_schema!({
            "type": "string",
            "format": "date-time",
            "pattern": r"^[0-9]{4}(-[0-9]{2}){2}[Tt]([0-9]{2}:){2}[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
        })
    }
}
