//! Durations and sizes, as people and programs write them.
//!
//! On the wire a duration is a number of seconds or a text such as `250ms` or `5m`; a size is a
//! number of bytes or a text such as `64K` (powers of 1024). Both have a maximum, so that later
//! arithmetic on them cannot overflow.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

pub use crate::text::excerpt;

/// The longest duration accepted anywhere: 100 years of 365 days.
pub const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The largest size accepted anywhere: 1 EiB.
pub const SIZE_BYTES_MAX: u64 = 1 << 60;

/// A number in a text, as a regular expression for a schema.
const NUMBER: &str = r"([0-9]+\.?[0-9]*|\.[0-9]+)";

/// Units of a duration, in seconds.
const DURATION_UNITS: [(&str, f64); 7] = [
    ("ms", 1e-3),
    ("us", 1e-6),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3_600.0),
    ("d", 86_400.0),
    ("w", 604_800.0),
];

/// Reads a duration: a plain number of seconds (`90`, `0.5`) or numbers with units, one after
/// another (`250ms`, `90s`, `5m`, `1h30m`, `7d`).
///
/// # Errors
/// Returns a message that quotes the text and says what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || {
        format!(
            "`{}` is not a duration; write seconds or a unit: 250ms, 90s, 5m, 2h, 7d",
            excerpt(text)
        )
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(expected());
    }
    if rest.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return duration_from_seconds(rest.parse().map_err(|_| expected())?);
    }
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest
            .bytes()
            .take_while(|b| b.is_ascii_digit() || *b == b'.')
            .count();
        let number: f64 = rest[..digits].parse().map_err(|_| expected())?;
        rest = rest[digits..].trim_start();
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (_, unit_seconds) = DURATION_UNITS
            .iter()
            .find(|(name, _)| *name == &rest[..letters])
            .ok_or_else(expected)?;
        seconds += number * unit_seconds;
        rest = rest[letters..].trim_start();
    }
    duration_from_seconds(seconds)
}

/// A duration from a number of seconds.
///
/// # Errors
/// Returns a message if the number is negative, not finite, or over [`DURATION_MAX`].
pub fn duration_from_seconds(seconds: f64) -> Result<Duration, String> {
    if !seconds.is_finite() || seconds < 0.0 {
        return Err(format!(
            "{seconds} is not a duration; it must be 0 seconds or more"
        ));
    }
    if seconds > DURATION_MAX.as_secs_f64() {
        return Err(format!(
            "{seconds} seconds is out of range; the longest duration is 100 years"
        ));
    }
    // Rounded to microseconds: finer than anything in naq acts on, and free of rounding errors of
    // the sum.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range is checked above"
    )]
    let micros = (seconds * 1e6).round() as u64;
    Ok(Duration::from_micros(micros))
}

/// Reads a size: a number of bytes (`4096`) or one with a unit (`64K`, `256M`, `2G`, `1.5GiB`),
/// in powers of 1024.
///
/// # Errors
/// Returns a message that quotes the text and says what was expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let expected = || {
        format!(
            "`{}` is not a size; write bytes or a unit: 64K, 256M, 2G",
            excerpt(text)
        )
    };
    let trimmed = text.trim();
    let digits = trimmed
        .bytes()
        .take_while(|b| b.is_ascii_digit() || *b == b'.')
        .count();
    let unit = trimmed[digits..].trim_start();
    let factor: u64 = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        "T" | "TB" | "TIB" => 1 << 40,
        _ => return Err(expected()),
    };
    let number = &trimmed[..digits];
    if let Ok(whole) = number.parse::<u64>() {
        return whole
            .checked_mul(factor)
            .filter(|bytes| *bytes <= SIZE_BYTES_MAX)
            .ok_or_else(|| {
                format!(
                    "`{}` is out of range; the largest size is 1 EiB",
                    excerpt(text)
                )
            });
    }
    let number: f64 = number.parse().map_err(|_| expected())?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a fractional size is approximate by nature"
    )]
    let bytes = number * factor as f64;
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range is checked on this line"
    )]
    (bytes.is_finite() && bytes <= SIZE_BYTES_MAX as f64)
        .then_some(bytes as u64)
        .ok_or_else(|| {
            format!(
                "`{}` is out of range; the largest size is 1 EiB",
                excerpt(text)
            )
        })
}

/// A duration in the shortest exact form that [`parse_duration`] reads back: `250ms`, `90s`, `5m`, `7d`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if !duration.subsec_nanos().is_multiple_of(1_000_000) {
        return format!("{}", duration.as_secs_f64());
    }
    if millis == 0 {
        return "0s".to_owned();
    }
    for (name, unit_millis) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
    ] {
        if millis.is_multiple_of(unit_millis) {
            return format!("{}{name}", millis / unit_millis);
        }
    }
    format!("{millis}ms")
}

/// A size in the shortest exact form that [`parse_size`] reads back: `64K`, `256M`, `1000`.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    for (name, shift) in [("T", 40), ("G", 30), ("M", 20), ("K", 10)] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{name}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// A duration on the wire: a number of seconds, or a text with a unit. Written as seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct WireDuration(pub Duration);

impl WireDuration {
    /// A duration of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> WireDuration {
        WireDuration(Duration::from_secs(seconds))
    }
}

impl From<Duration> for WireDuration {
    fn from(duration: Duration) -> WireDuration {
        WireDuration(duration)
    }
}

impl fmt::Display for WireDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_duration(self.0))
    }
}

impl std::str::FromStr for WireDuration {
    type Err = String;
    fn from_str(text: &str) -> Result<WireDuration, String> {
        parse_duration(text).map(WireDuration)
    }
}

impl Serialize for WireDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.subsec_nanos() == 0 {
            serializer.serialize_u64(self.0.as_secs())
        } else {
            serializer.serialize_f64(self.0.as_secs_f64())
        }
    }
}

impl<'de> Deserialize<'de> for WireDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WireDuration, D::Error> {
        struct DurationVisitor;
        #[expect(
            clippy::cast_precision_loss,
            reason = "seconds beyond 2^53 are out of range anyway"
        )]
        impl Visitor<'_> for DurationVisitor {
            type Value = WireDuration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds, or text such as 250ms, 90s, 5m, 2h, 7d")
            }
            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<WireDuration, E> {
                duration_from_seconds(seconds as f64)
                    .map(WireDuration)
                    .map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<WireDuration, E> {
                duration_from_seconds(seconds as f64)
                    .map(WireDuration)
                    .map_err(E::custom)
            }
            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<WireDuration, E> {
                duration_from_seconds(seconds)
                    .map(WireDuration)
                    .map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<WireDuration, E> {
                parse_duration(text).map(WireDuration).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(DurationVisitor)
    }
}

impl schemars::JsonSchema for WireDuration {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": DURATION_MAX.as_secs()},
                {"type": "string", "pattern": format!(r"^\s*({NUMBER}|({NUMBER}\s*(ms|us|s|m|h|d|w)\s*)+)\s*$")}
            ]
        })
    }
}

/// A size on the wire: a number of bytes, or a text with a unit. Written as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ByteSize(pub u64);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_size(self.0))
    }
}

impl std::str::FromStr for ByteSize {
    type Err = String;
    fn from_str(text: &str) -> Result<ByteSize, String> {
        parse_size(text).map(ByteSize)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or text such as 64K, 256M, 2G")
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                if bytes > SIZE_BYTES_MAX {
                    return Err(E::custom(format!(
                        "{bytes} is out of range; the largest size is 1 EiB"
                    )));
                }
                Ok(ByteSize(bytes))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                Err(E::custom(format!(
                    "{bytes} is not a size; it must be 0 bytes or more"
                )))
            }
            fn visit_f64<E: de::Error>(self, bytes: f64) -> Result<ByteSize, E> {
                crate::lenient::whole(bytes)
                    .and_then(|whole| u64::try_from(whole).ok())
                    .map(ByteSize)
                    .ok_or_else(|| {
                        E::custom(format!("{bytes} is not a whole number of bytes in range"))
                    })
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                parse_size(text).map(ByteSize).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

impl schemars::JsonSchema for ByteSize {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": SIZE_BYTES_MAX},
                {"type": "string", "pattern": format!(r"^\s*{NUMBER}\s*([KkMmGgTt]([Ii]?[Bb])?|[Bb])?\s*$")}
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_parse() {
        for (text, millis) in [
            ("250ms", 250),
            ("90s", 90_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("7d", 604_800_000),
            ("1h30m", 5_400_000),
            ("0.5", 500),
            ("10", 10_000),
            (" 5 m ", 300_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in [
            "",
            "5 parsecs",
            "-1",
            "-1s",
            "1e20",
            "NaN",
            "inf",
            "m",
            "1.2.3s",
            "5m5",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_parse() {
        for (text, bytes) in [
            ("64K", 65_536),
            ("256M", 268_435_456),
            ("2GiB", 2_147_483_648),
            ("12", 12),
            ("1.5k", 1_536),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "-1", "5 parsecs", "1e9", "99999999999G", "K"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn formatted_durations_and_sizes_parse_back(millis in 0_u64..10_000_000_000, bytes in 0_u64..SIZE_BYTES_MAX) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn parsing_a_duration_or_size_never_panics(text in "\\PC*") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
