//! The envelope of a rerun: a finished job, run again as a new job.

use crate::dependency::{Dependency, DependencyCondition};
use crate::envelope::Envelope;
use crate::error::{EnvelopeError, RejectReason};
use crate::json;
use crate::names::JobId;
use crate::ordered_object::OrderedObject;

/// The fields that apply only to the finished job and not to its rerun: its id, its expiry, and its
/// dependencies.
const OMITTED_FIELDS: &[&str] = &[
    "job_id",
    "expires_at",
    "depends_on",
    "dependency_timeout",
    "rerun_of",
];

/// The envelope of a job that reruns the job `of`, made from the envelope of `of`: with `rerun_of`,
/// and without the fields that apply only to the finished job. All other fields, including unknown
/// ones, keep their order and text.
///
/// A job that gets outputs of its dependencies still gets them: these dependencies stay, whatever their end.
/// They have ended, so one that does not exist any more is not waited for.
///
/// # Errors
/// Returns [`EnvelopeError`] if the stored envelope is invalid, so that the job cannot be rerun.
pub fn rerun_envelope(bytes: &[u8], of: &JobId) -> Result<Vec<u8>, EnvelopeError> {
    let envelope = Envelope::parse(bytes)?;
    let text = json::check_object(bytes, Envelope::field_names())?;
    let mut fields: OrderedObject = serde_json::from_str(text)
        .map_err(|error| EnvelopeError::new(RejectReason::Invalid, "", error.to_string()))?;
    for name in OMITTED_FIELDS {
        fields.remove(name);
    }
    let inputs: Vec<Dependency> = envelope
        .input_sources()
        .map(|source| Dependency {
            on: DependencyCondition::Finished,
            ..envelope.depends_on[source.index].clone()
        })
        .collect();
    if !inputs.is_empty() {
        fields.set("depends_on", &inputs)?;
        fields.set("dependency_timeout", &0)?;
    }
    fields.set("rerun_of", of)?;
    fields.to_json().map(String::into_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rerun(text: &str, of: &str) -> String {
        let of = JobId::new(of).unwrap();
        String::from_utf8(rerun_envelope(text.as_bytes(), &of).unwrap()).unwrap()
    }

    #[test]
    fn rerun_keeps_the_order_and_text_of_fields() {
        assert_eq!(
            rerun(
                r#" { "colour" : "red", "job_id":"a", "input": {"b":1.50,"a":[ ]},
                    "expires_at":"2026-12-24T18:00:00Z", "command":"x", "args":["\u00e4", 1e3],
                    "depends_on":["b"], "dependency_timeout": 5, "rerun_of": "older" } "#,
                "old"
            ),
            r#"{"colour":"red","input":{"b":1.50,"a":[ ]},"command":"x","args":["\u00e4", 1e3],"rerun_of":"old"}"#
        );
    }

    #[test]
    fn rerun_gets_the_outputs_that_the_job_got() {
        assert_eq!(
            rerun(
                r#"{"command":"x","depends_on":["a",{"job":"b","as":"fetch"}],"dependency_timeout":5}"#,
                "old"
            ),
            r#"{"command":"x","depends_on":[{"job":"b","on":"finished","as":"fetch"}],"dependency_timeout":0,"rerun_of":"old"}"#
        );
    }

    #[test]
    fn invalid_envelope_cannot_be_rerun() {
        let of = JobId::new("old").unwrap();
        for text in ["", "[]", r#"{"args":[]}"#, r#"{"version":2,"command":"x"}"#] {
            assert!(rerun_envelope(text.as_bytes(), &of).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn rerun_changes_no_other_field(
            args in proptest::collection::vec("[^\0]{0,20}", 0..4),
            labels in proptest::collection::btree_map("\\PC{0,8}", "\\PC{0,8}", 0..4),
            unknown in "[a-z\"\\\\\u{e4}]{3,6}",
            value in "\\PC{0,10}",
            has_id in any::<bool>(),
            first in "[A-Za-z0-9_-]{1,64}",
            second in "[A-Za-z0-9_-]{1,64}",
        ) {
            prop_assume!(serde_json::to_value(Envelope::command("x", ["y"])).unwrap().get(&unknown).is_none());
            prop_assume!(!unknown.starts_with("env") && !unknown.starts_with("cwd"));
            let mut envelope = Envelope::command("x", args);
            envelope.labels = labels;
            envelope.job_id = has_id.then(|| JobId::new("mine").unwrap());
            envelope.expires_at = "2026-12-24T18:00:00Z".parse().ok();
            let mut object = serde_json::to_value(&envelope).unwrap();
            let known = ["meta", "stdin", "input", "script", "runner", "limits", "secrets", "kwargs", "timeout"];
            let planned = ["rate", "share", "batch", "need", "unique", "on_end", "record"];
            prop_assume!(!planned.contains(&unknown.as_str()));
            prop_assume!(!known.contains(&unknown.as_str()));
            object[&unknown] = serde_json::Value::String(value);
            let bytes = serde_json::to_vec(&object).unwrap();
            let once = rerun_envelope(&bytes, &JobId::new(&first).unwrap()).unwrap();

            let read: serde_json::Value = serde_json::from_slice(&once).unwrap();
            let rest = object.as_object_mut().unwrap();
            rest.remove("job_id");
            rest.remove("expires_at");
            rest.insert("rerun_of".to_owned(), serde_json::Value::String(first.clone()));
            prop_assert_eq!(&read, &object);
            let parsed = Envelope::parse(&once).unwrap();
            prop_assert_eq!(parsed.rerun_of, Some(JobId::new(&first).unwrap()));
            prop_assert_eq!(parsed.job_id, None);

            // The rerun of a rerun names the job that it reruns, and is no longer.
            let twice = rerun_envelope(&once, &JobId::new(&second).unwrap()).unwrap();
            prop_assert_eq!(twice.len() + first.len(), once.len() + second.len());
        }

        #[test]
        fn rerunning_an_envelope_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = rerun_envelope(&bytes, &JobId::new("old").unwrap());
        }
    }
}
