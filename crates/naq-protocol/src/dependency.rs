//! Dependencies: the jobs that a job waits for, and how they must finish.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use crate::names::JobId;
use crate::text::excerpt;

/// The most dependencies of one job.
pub const DEPENDENCIES_MAX: usize = 10_000;

/// How a dependency must finish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DependencyCondition {
    /// Successfully.
    #[default]
    Success,
    /// In any state but `succeeded`.
    Failure,
    /// In any terminal state.
    Finished,
}

impl DependencyCondition {
    /// The name in envelopes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            DependencyCondition::Success => "success",
            DependencyCondition::Failure => "failure",
            DependencyCondition::Finished => "finished",
        }
    }
}

impl fmt::Display for DependencyCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for DependencyCondition {
    type Err = String;
    fn from_str(text: &str) -> Result<DependencyCondition, String> {
        [
            DependencyCondition::Success,
            DependencyCondition::Failure,
            DependencyCondition::Finished,
        ]
        .into_iter()
        .find(|condition| condition.as_str() == text)
        .ok_or_else(|| {
            format!(
                "`{}` is not a condition; use one of success, failure, finished",
                excerpt(text)
            )
        })
    }
}

/// A job that must finish before another one starts. On the wire it is the job's id, or an object
/// with `job` and `on`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dependency {
    /// The id of the job.
    pub job: JobId,
    /// How the job must finish.
    pub on: DependencyCondition,
}

impl Serialize for Dependency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.on == DependencyCondition::Success {
            return self.job.serialize(serializer);
        }
        let mut object = serializer.serialize_struct("Dependency", 2)?;
        object.serialize_field("job", &self.job)?;
        object.serialize_field("on", &self.on)?;
        object.end()
    }
}

impl<'de> Deserialize<'de> for Dependency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Dependency, D::Error> {
        struct DependencyVisitor;
        impl<'de> Visitor<'de> for DependencyVisitor {
            type Value = Dependency;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a job id, or an object with `job` and `on`")
            }
            fn visit_str<E: de::Error>(self, id: &str) -> Result<Dependency, E> {
                Ok(Dependency {
                    job: JobId::new(id).map_err(E::custom)?,
                    on: DependencyCondition::default(),
                })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Dependency, A::Error> {
                #[derive(Deserialize)]
                struct Object {
                    job: JobId,
                    #[serde(default)]
                    on: DependencyCondition,
                }
                let object = Object::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Dependency {
                    job: object.job,
                    on: object.on,
                })
            }
        }
        deserializer.deserialize_any(DependencyVisitor)
    }
}

impl JsonSchema for Dependency {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Dependency".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let job = generator.subschema_for::<JobId>();
        schemars::json_schema!({"anyOf": [job, {
            "type": "object",
            "properties": {"job": job, "on": {"enum": ["success", "failure", "finished"]}},
            "required": ["job"]
        }]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependency_is_read_in_both_forms_and_written_in_the_shorter() {
        let read: Vec<Dependency> = serde_json::from_str(
            r#"["a", {"job": "b"}, {"job": "c", "on": "failure"}, {"job": "d", "on": "finished"}]"#,
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
            r#"["a","b",{"job":"c","on":"failure"},{"job":"d","on":"finished"}]"#
        );
    }

    #[test]
    fn invalid_dependency_is_refused() {
        for text in [
            r#"3"#,
            r#"{"on":"success"}"#,
            r#"{"job":"a","on":"soon"}"#,
            r#""a.b""#,
        ] {
            assert!(serde_json::from_str::<Dependency>(text).is_err(), "{text}");
        }
    }
}
