//! Dependencies: the jobs that a job waits for, and how they must finish.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use crate::names::{InputName, JobId};
use crate::wire_name::{UnknownName, wire_name};

/// The most dependencies of one job.
pub const DEPENDENCIES_MAX: usize = 10_000;

/// How a dependency must finish.
// Exhaustive on purpose, see `State`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum DependencyCondition {
    /// Successfully.
    #[default]
    Success,
    /// In any state but `succeeded`.
    Failure,
    /// In any terminal state.
    Finished,
    /// A condition that only a later version of naq defines. [`Envelope::parse`] refuses it, and a
    /// job that already waits fails with an explanation once the dependency has finished.
    ///
    /// [`Envelope::parse`]: crate::Envelope::parse
    #[schemars(skip)]
    Unknown(UnknownName),
}

wire_name!(DependencyCondition, "a condition", {
    Success => "success",
    Failure => "failure",
    Finished => "finished",
});

/// A job that must finish before another one starts. On the wire it is the job's id, or an object
/// with `job`, `on` and `as`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dependency {
    /// The id of the job.
    pub job: JobId,
    /// How the job must finish.
    pub on: DependencyCondition,
    /// The name under which the job that waits gets its output: `as` on the wire.
    pub as_name: Option<InputName>,
}

impl Dependency {
    /// A dependency whose output is not passed on.
    #[must_use]
    pub fn new(job: JobId, on: DependencyCondition) -> Dependency {
        Dependency {
            job,
            on,
            as_name: None,
        }
    }
}

impl Serialize for Dependency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_default = self.on == DependencyCondition::Success;
        if is_default && self.as_name.is_none() {
            return self.job.serialize(serializer);
        }
        let mut object = serializer.serialize_struct("Dependency", 3)?;
        object.serialize_field("job", &self.job)?;
        if !is_default {
            object.serialize_field("on", &self.on)?;
        }
        if let Some(name) = &self.as_name {
            object.serialize_field("as", name)?;
        }
        object.end()
    }
}

impl<'de> Deserialize<'de> for Dependency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Dependency, D::Error> {
        struct DependencyVisitor;
        impl<'de> Visitor<'de> for DependencyVisitor {
            type Value = Dependency;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a job id, or an object with `job`, `on` and `as`")
            }
            fn visit_str<E: de::Error>(self, id: &str) -> Result<Dependency, E> {
                let job = JobId::new(id).map_err(E::custom)?;
                Ok(Dependency::new(job, DependencyCondition::default()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Dependency, A::Error> {
                #[derive(Deserialize)]
                struct Object {
                    job: JobId,
                    #[serde(default, deserialize_with = "crate::lenient::or_default")]
                    on: DependencyCondition,
                    #[serde(default, rename = "as")]
                    as_name: Option<InputName>,
                }
                let object = Object::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Dependency {
                    job: object.job,
                    on: object.on,
                    as_name: object.as_name,
                })
            }
        }
        deserializer.deserialize_any(DependencyVisitor)
    }
}

impl JsonSchema for Dependency {
    fn schema_name() -> Cow<'static, str> {
        "Dependency".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let job = generator.subschema_for::<JobId>();
        let as_name = generator.subschema_for::<Option<InputName>>();
        let described = |mut schema: schemars::Schema, description: &str| {
            schema.insert("description".to_owned(), description.into());
            schema
        };
        let on = schemars::json_schema!({"enum": ["success", "failure", "finished", null]});
        schemars::json_schema!({
            "description": "A job that has to end before another one starts. The id alone stands for an object with \
                `job`.",
            "anyOf": [job, {
                "type": "object",
                "properties": {
                    "job": described(job.clone(), "The id of the job."),
                    "on": described(on, "How it has to end; `success` if absent."),
                    "as": described(as_name, "The name under which the other job gets its output.")
                },
                "required": ["job"]
            }]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependency_is_read_in_both_forms_and_written_in_the_shorter() {
        let read: Vec<Dependency> = serde_json::from_str(
            r#"["a", {"job": "b"}, {"job": "c", "on": "failure"}, {"job": "d", "on": "finished", "as": "last"}]"#,
        )
        .unwrap();
        assert_eq!(
            read.iter().map(|d| d.on).collect::<Vec<_>>(),
            [
                DependencyCondition::Success,
                DependencyCondition::Success,
                DependencyCondition::Failure,
                DependencyCondition::Finished
            ]
        );
        assert_eq!(
            serde_json::to_string(&read).unwrap(),
            r#"["a","b",{"job":"c","on":"failure"},{"job":"d","on":"finished","as":"last"}]"#
        );
    }

    #[test]
    fn condition_of_a_later_version_is_shown_and_written_back() {
        let text = r#"{"job":"a","on":"started"}"#;
        let read: Dependency = serde_json::from_str(text).unwrap();
        assert_eq!(read.on.to_string(), "started");
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert_eq!(
            read.on.known(),
            Err("`started` is not a condition; use one of success, failure, finished".to_owned())
        );
    }

    #[test]
    fn invalid_dependency_is_refused() {
        for text in [r#"3"#, r#"{"on":"success"}"#, r#""a.b""#] {
            assert!(serde_json::from_str::<Dependency>(text).is_err(), "{text}");
        }
    }
}
