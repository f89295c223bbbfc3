//! The dependencies whose outputs a job gets.

use crate::envelope::Envelope;
use crate::inputs::Inputs;
use crate::names::JobId;

/// A dependency whose output a job gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSource<'e> {
    /// Its place in `depends_on`, from 0.
    pub index: usize,
    /// The dependency.
    pub job: &'e JobId,
    /// The name of its folder: its `as`, or its id.
    pub name: &'e str,
}

impl Envelope {
    /// The dependencies whose outputs the job gets, in the order of `depends_on`.
    pub fn input_sources(&self) -> impl Iterator<Item = InputSource<'_>> {
        let is_named_only = self.inputs.unwrap_or_default() == Inputs::Named;
        let sources = self.depends_on.iter().enumerate();
        sources.filter_map(move |(index, dependency)| {
            let name = match &dependency.as_name {
                Some(name) => name.as_str(),
                None if is_named_only => return None,
                None => dependency.job.as_str(),
            };
            Some(InputSource {
                index,
                job: &dependency.job,
                name,
            })
        })
    }

    /// Whether the job gets the output of a dependency.
    #[must_use]
    pub fn has_inputs(&self) -> bool {
        self.inputs == Some(Inputs::Stdin) || self.input_sources().next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<(usize, String)> {
        let envelope = Envelope::parse(text.as_bytes()).unwrap();
        let sources = envelope.input_sources();
        sources
            .map(|source| (source.index, source.name.to_owned()))
            .collect()
    }

    #[test]
    fn only_a_job_that_asks_for_outputs_gets_them() {
        let dependencies = r#""depends_on":["a",{"job":"b","as":"fetch"}]"#;
        let named = names(&format!(r#"{{"command":"x",{dependencies}}}"#));
        assert_eq!(named, [(1, "fetch".to_owned())]);
        for inputs in ["all", "stdin"] {
            let all = names(&format!(
                r#"{{"command":"x",{dependencies},"inputs":"{inputs}"}}"#
            ));
            assert_eq!(all, [(0, "a".to_owned()), (1, "fetch".to_owned())]);
        }
        let has = |text: &str| Envelope::parse(text.as_bytes()).unwrap().has_inputs();
        assert!(!has(r#"{"command":"x","depends_on":["a"]}"#));
        assert!(has(r#"{"command":"x","inputs":"stdin"}"#));
    }

    #[test]
    fn names_of_inputs_are_safe_and_unique() {
        for (text, path) in [
            (
                r#""depends_on":[{"job":"a","as":"../x"}]"#,
                "depends_on[0].as",
            ),
            (
                r#""depends_on":[{"job":"a","as":"x"},{"job":"b","as":"x"}]"#,
                "depends_on[1].as",
            ),
            (
                r#""depends_on":["b",{"job":"a","as":"b"}],"inputs":"all""#,
                "depends_on[1].as",
            ),
            (r#""inputs":"some""#, "inputs"),
            (r#""inputs":"stdin","stdin":"x""#, ""),
        ] {
            let text = format!(r#"{{"command":"x",{text}}}"#);
            let invalid = Envelope::parse(text.as_bytes()).unwrap_err();
            assert_eq!(invalid.path, path, "{invalid}");
        }
    }
}
