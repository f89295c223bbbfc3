//! Enums that are one word on the wire, and that a later version may extend.
//!
//! A word that this version does not define is kept as `Unknown(…)`: it is shown as it is, and
//! written back as it was read, so that reading the data of a later version never fails.

use std::fmt;

/// The longest unknown name that is kept whole, in bytes.
const BYTES_MAX: usize = 39;

/// A name that this version of naq does not define. A name over 39 bytes is cut.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnknownName {
    // Inline, so that the enums around it stay `Copy`. The bytes after `len` are 0.
    bytes: [u8; BYTES_MAX],
    len: u8,
}

impl UnknownName {
    pub(crate) fn new(name: &str) -> UnknownName {
        let mut end = name.len().min(BYTES_MAX);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        let mut bytes = [0; BYTES_MAX];
        bytes[..end].copy_from_slice(&name.as_bytes()[..end]);
        UnknownName {
            bytes,
            len: u8::try_from(end).unwrap_or(0),
        }
    }

    /// The name as it was read.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Debug for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// What is wrong with a name that this version does not define, and which names it defines.
pub(crate) fn not_known(name: &str, what: &str, known: &[&str]) -> String {
    let name = crate::text::escape(&crate::text::excerpt(name));
    format!("`{name}` is not {what}; use one of {}", known.join(", "))
}

/// Gives an enum with an `Unknown(UnknownName)` variant its names: `as_str`, `as_static`, `from_name`, `known`,
/// `Display`, `Serialize`, `Deserialize` and `FromStr`. Only `FromStr` and `known`, for what a user sets,
/// refuse a name that this version does not define.
macro_rules! wire_name {
    ($type:ident, $what:literal, { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// The name on the wire.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $($type::$variant => $name,)+
                    $type::Unknown(name) => name.as_str(),
                }
            }

            /// The name on the wire, or `unknown` for one that only a later version of naq defines.
            #[must_use]
            pub fn as_static(&self) -> &'static str {
                match self {
                    $($type::$variant => $name,)+
                    $type::Unknown(_) => "unknown",
                }
            }

            /// The value with this name on the wire, which is [`Self::Unknown`] for a name that only
            /// a later version of naq defines.
            #[must_use]
            pub fn from_name(name: &str) -> Self {
                match name {
                    $($name => $type::$variant,)+
                    other => $type::Unknown($crate::wire_name::UnknownName::new(other)),
                }
            }

            /// The value itself, if this version of naq defines it.
            ///
            /// # Errors
            /// Returns what is wrong with a name that it does not define, and the names that it does.
            pub fn known(self) -> Result<$type, String> {
                match self {
                    $type::Unknown(name) => Err($crate::wire_name::not_known(
                        name.as_str(),
                        $what,
                        &[$($name),+],
                    )),
                    known => Ok(known),
                }
            }
        }

        impl std::str::FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<$type, String> {
                match text {
                    $($name => Ok($type::$variant),)+
                    other => Err($crate::wire_name::not_known(other, $what, &[$($name),+])),
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    // It is foreign text, and may be shown in a terminal.
                    $type::Unknown(name) => f.pad(&$crate::text::escape(name.as_str())),
                    known => f.pad(known.as_str()),
                }
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                struct NameVisitor;
                impl serde::de::Visitor<'_> for NameVisitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($what)
                    }
                    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<$type, E> {
                        Ok($type::from_name(name))
                    }
                }
                deserializer.deserialize_str(NameVisitor)
            }
        }
    };
}

pub(crate) use wire_name;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unknown_name_is_kept_up_to_its_limit(name in "\\PC{0,60}") {
            let kept = UnknownName::new(&name);
            prop_assert!(name.starts_with(kept.as_str()));
            prop_assert!(name.len() > BYTES_MAX || kept.as_str() == name);
        }
    }
}
