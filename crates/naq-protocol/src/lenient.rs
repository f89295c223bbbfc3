//! What readers accept besides what naq writes: `null` for a field that is absent, and `1.0` for a
//! whole number. Libraries of many languages write these by default.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};

/// A field that may be absent; `null` is its default.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A whole number.
pub(crate) fn integer<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Integer,
{
    Ok(Whole::deserialize(deserializer)?.0)
}

/// A whole number that may be absent; `null` is its default.
pub(crate) fn integer_or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Integer + Default,
{
    Ok(optional_integer(deserializer)?.unwrap_or_default())
}

/// A whole number, or `null`.
pub(crate) fn optional_integer<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Integer,
{
    Ok(Option::<Whole<T>>::deserialize(deserializer)?.map(|whole| whole.0))
}

/// A list of whole numbers that may be absent; `null` is an empty one.
pub(crate) fn integers<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Integer,
{
    Ok(optional_integers(deserializer)?.unwrap_or_default())
}

/// A list of whole numbers, or `null`.
pub(crate) fn optional_integers<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Integer,
{
    let list = Option::<Vec<Whole<T>>>::deserialize(deserializer)?;
    Ok(list.map(|list| list.into_iter().map(|whole| whole.0).collect()))
}

/// The number if it is whole and a double represents it exactly.
pub(crate) fn whole(number: f64) -> Option<i64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the number is whole and its range is checked"
    )]
    (number.fract() == 0.0 && number.abs() <= EXACT_MAX).then_some(number as i64)
}

/// The integer types of wire fields.
pub(crate) trait Integer: Sized + TryFrom<i64> + TryFrom<u64> {
    /// The range, for an error.
    const RANGE: &'static str;
}

impl Integer for u8 {
    const RANGE: &'static str = "an integer from 0 to 255";
}
impl Integer for i8 {
    const RANGE: &'static str = "an integer from -128 to 127";
}
impl Integer for u32 {
    const RANGE: &'static str = "an integer from 0 to 4294967295";
}
impl Integer for i32 {
    const RANGE: &'static str = "an integer of 32 bits";
}
impl Integer for i64 {
    const RANGE: &'static str = "an integer of 64 bits";
}
impl Integer for u64 {
    const RANGE: &'static str = "an integer of 0 or more";
}

struct Whole<T>(T);

impl<'de, T: Integer> Deserialize<'de> for Whole<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Whole<T>, D::Error> {
        struct WholeVisitor<T>(PhantomData<T>);
        impl<T: Integer> Visitor<'_> for WholeVisitor<T> {
            type Value = Whole<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::RANGE)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Whole<T>, E> {
                T::try_from(number)
                    .map(Whole)
                    .map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Whole<T>, E> {
                T::try_from(number)
                    .map(Whole)
                    .map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Whole<T>, E> {
                whole(number)
                    .and_then(|number| T::try_from(number).ok())
                    .map(Whole)
                    .ok_or_else(|| E::invalid_value(Unexpected::Float(number), &self))
            }
        }
        deserializer.deserialize_any(WholeVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_read_in_every_notation() {
        for text in ["7", "7.0", "0.7e1", "7e0", "70E-1"] {
            let mut json = serde_json::Deserializer::from_str(text);
            assert_eq!(integer::<_, u8>(&mut json).unwrap(), 7, "{text}");
        }
        for text in ["7.5", "256", "-1", "1e300", "\"7\"", "true", "[7]"] {
            let mut json = serde_json::Deserializer::from_str(text);
            assert!(integer::<_, u8>(&mut json).is_err(), "{text}");
        }
        let mut json = serde_json::Deserializer::from_str("[1, 2.0]");
        assert_eq!(integers::<_, u8>(&mut json).unwrap(), [1, 2]);
        let mut json = serde_json::Deserializer::from_str("null");
        assert_eq!(optional_integer::<_, u64>(&mut json).unwrap(), None);
    }
}
