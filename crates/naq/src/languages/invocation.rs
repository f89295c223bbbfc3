//! From a job to what the runner crate starts.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::catalog::{Language, Languages};
use super::template::{self, Placeholders};
use naq_protocol::{Argument, Envelope};
use naq_runner::{JobFile, Program, SourceArgument, SourceProgram};

/// The variable that holds the path of the file with the call of a function.
const CALL_FILE_VARIABLE: &str = "NAQ_CALL_FILE";

/// The name of that file in the scratch folder.
const CALL_FILE: &str = ".naq-call.json";

/// A runner's name in an envelope: `python`, or `podman:IMAGE` with the runner's parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunnerName<'a> {
    /// The name of the runner.
    pub name: &'a str,
    /// The value of its parameter. `None` means its default.
    pub parameter: Option<&'a str>,
}

impl<'a> RunnerName<'a> {
    /// Splits the text of an envelope.
    pub fn parse(text: &'a str) -> RunnerName<'a> {
        match text.split_once(':') {
            Some((name, parameter)) => RunnerName {
                name,
                parameter: Some(parameter),
            },
            None => RunnerName {
                name: text,
                parameter: None,
            },
        }
    }
}

/// A job cannot be run by a runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerProblem {
    /// The field of the envelope at fault.
    pub field: &'static str,
    /// Why, in one line.
    pub message: String,
}

fn problem<T>(field: &'static str, message: String) -> Result<T, RunnerProblem> {
    Err(RunnerProblem { field, message })
}

/// What the runner crate starts for a script or a function.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The program.
    pub program: Program,
    /// Variables of the job that its envelope may override.
    pub env: Vec<(String, String)>,
    /// The call of a function.
    pub call: Option<JobFile>,
}

/// The call of a function, as a shim reads it.
#[derive(serde::Serialize)]
pub struct FunctionCall<'a> {
    /// `module:name`.
    pub call: &'a str,
    /// The arguments.
    pub args: &'a [Argument],
    /// The named arguments.
    pub kwargs: &'a serde_json::Map<String, serde_json::Value>,
    /// Where modules are looked for first.
    pub module_path: &'a [String],
}

impl<'a> FunctionCall<'a> {
    /// The call that an envelope describes. `None` if it describes none.
    pub fn of(envelope: &'a Envelope) -> Option<FunctionCall<'a>> {
        Some(FunctionCall {
            call: envelope.function.as_deref()?,
            args: &envelope.args,
            kwargs: &envelope.kwargs,
            module_path: &envelope.module_path,
        })
    }
}

/// What to do once before a script runs.
#[derive(Clone, Debug)]
pub struct ScriptPreparation {
    /// The program.
    pub program: Program,
    /// How long it may take.
    pub timeout: Duration,
}

impl Languages {
    /// What to do before the script of a job runs. `None` if there is nothing to do.
    pub fn preparation(&self, envelope: &Envelope) -> Option<ScriptPreparation> {
        let source = envelope.script.as_ref()?;
        let (language, _) = self.language_of(envelope).ok()??;
        let prepare = language.manifest.prepare.as_ref()?;
        if !prepare.applies_to(source) {
            return None;
        }
        Some(ScriptPreparation {
            program: Program::Source(SourceProgram {
                file_name: language.manifest.script_file(),
                source: Bytes::copy_from_slice(source.as_bytes()),
                programs: language.programs_to_try(self.variables()),
                args: arguments(&prepare.argv, &Placeholders::default()),
            }),
            timeout: prepare.timeout(),
        })
    }

    /// Checks that a job's runner exists and can run the job.
    ///
    /// # Errors
    /// Returns which field of the envelope is at fault, and why.
    pub fn check(&self, envelope: &Envelope) -> Result<(), RunnerProblem> {
        self.language_of(envelope).map(drop)
    }

    /// What to start for a job. `None` if its envelope names no runner, or if a `#!` line says what
    /// runs its script.
    ///
    /// # Errors
    /// As [`Languages::check`].
    pub fn invocation(&self, envelope: &Envelope) -> Result<Option<Invocation>, RunnerProblem> {
        let Some((language, runner)) = self.language_of(envelope)? else {
            return Ok(None);
        };
        let programs = language.programs_to_try(self.variables());
        let parameter = language.parameter(runner)?;
        let module_path = envelope.module_path.join(":");
        let args = envelope.script.as_ref().map(|_| envelope.command_args());
        let values = Placeholders {
            args: args.as_deref().unwrap_or_default(),
            module_path: &module_path,
            parameter,
        };
        let invocation = match &envelope.script {
            Some(source) => language.script(source, programs, &values),
            None => FunctionCall::of(envelope)
                .and_then(|call| language.function(&call, programs, &values)),
        };
        Ok(invocation)
    }

    /// The runner of a job, and its name in the envelope. `None` if the job needs none.
    fn language_of<'a>(
        &'a self,
        envelope: &'a Envelope,
    ) -> Result<Option<(&'a Language, RunnerName<'a>)>, RunnerProblem> {
        let has_line = envelope
            .script
            .as_ref()
            .is_some_and(|s| s.starts_with("#!"));
        let Some(text) = envelope.runner.as_deref().filter(|_| !has_line) else {
            return Ok(None);
        };
        let runner = RunnerName::parse(text);
        let Some(language) = self.get(runner.name) else {
            let known: Vec<&str> = self.names().collect();
            return problem(
                "runner",
                format!(
                    "this worker has no runner `{}`; it has {}",
                    runner.name,
                    known.join(", ")
                ),
            );
        };
        if envelope.function.is_some() && !language.calls_functions() {
            return problem(
                "runner",
                format!("the runner `{}` calls no functions", runner.name),
            );
        }
        if envelope.script.is_some() && !language.runs_scripts() {
            return problem(
                "runner",
                format!("the runner `{}` runs no scripts", runner.name),
            );
        }
        language.parameter(runner)?;
        Ok(Some((language, runner)))
    }
}

impl Language {
    /// The name and the value of the parameter.
    fn parameter<'a>(
        &'a self,
        runner: RunnerName<'a>,
    ) -> Result<Option<(&'a str, &'a str)>, RunnerProblem> {
        match (&self.manifest.parameter, runner.parameter) {
            (None, None) => Ok(None),
            (None, Some(_)) => problem(
                "runner",
                format!(
                    "the runner `{0}` has no parameter: write `{0}`",
                    runner.name
                ),
            ),
            (Some(known), given) => match given.or(known.default.as_deref()) {
                Some(value) if !value.is_empty() && !value.starts_with('-') => {
                    Ok(Some((&known.name, value)))
                }
                Some(_) => problem(
                    "runner",
                    format!(
                        "`{}` of the runner `{}` is empty or begins with `-`",
                        known.name, runner.name
                    ),
                ),
                None => problem(
                    "runner",
                    format!(
                        "the runner `{0}` needs its {1}: write `{0}:{2}`",
                        runner.name,
                        known.name,
                        known.name.to_uppercase()
                    ),
                ),
            },
        }
    }

    /// Where the program is looked for, in this order: the manifest's list without the variables that
    /// are not set.
    pub(super) fn programs_to_try(&self, variables: &BTreeMap<String, String>) -> Vec<String> {
        let programs = self.manifest.program.iter();
        programs
            .filter_map(|program| match program.strip_prefix("${") {
                // The job starts in its project, so a path from there on is relative.
                None => Some(program.replace("{project}", ".")),
                Some(rest) => variables.get(rest.strip_suffix('}')?).cloned(),
            })
            .collect()
    }

    fn script(
        &self,
        source: &str,
        programs: Vec<String>,
        values: &Placeholders<'_>,
    ) -> Option<Invocation> {
        let script = self.manifest.script.as_ref()?;
        Some(Invocation {
            program: Program::Source(SourceProgram {
                file_name: self.manifest.script_file(),
                source: Bytes::copy_from_slice(source.as_bytes()),
                programs,
                args: arguments(&script.argv, values),
            }),
            env: variables(&script.env, values),
            call: None,
        })
    }

    fn function(
        &self,
        call: &FunctionCall<'_>,
        programs: Vec<String>,
        values: &Placeholders<'_>,
    ) -> Option<Invocation> {
        let (function, shim) = (self.manifest.function.as_ref()?, self.shim.as_ref()?);
        Some(Invocation {
            program: Program::Source(SourceProgram {
                file_name: shim.file_name.clone(),
                source: shim.source.clone(),
                programs,
                args: arguments(&function.argv, values),
            }),
            env: variables(&function.env, values),
            call: Some(JobFile {
                name: CALL_FILE,
                variable: CALL_FILE_VARIABLE,
                content: serde_json::to_vec(call).unwrap_or_default().into(),
            }),
        })
    }
}

/// The arguments after the program.
pub(super) fn arguments(argv: &[String], values: &Placeholders<'_>) -> Vec<SourceArgument> {
    let templates = argv.iter().skip(1);
    templates
        .flat_map(|template| template::expand(template, values))
        .collect()
}

/// The variables of a table. One that would be empty is left out.
pub(super) fn variables(
    table: &BTreeMap<String, String>,
    values: &Placeholders<'_>,
) -> Vec<(String, String)> {
    table
        .iter()
        .map(|(name, text)| (name.clone(), template::expand_text(text, values)))
        .filter(|(_, text)| !text.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invocation(json: &str) -> Result<Option<Invocation>, RunnerProblem> {
        let envelope = Envelope::parse(json.as_bytes()).unwrap();
        let variable = |name: &str| (name == "NAQ_PYTHON").then_some("/opt/python");
        Languages::load(None, variable)
            .unwrap()
            .invocation(&envelope)
    }

    #[test]
    fn a_function_is_called_by_the_shim_of_its_runner() {
        let json = r#"{"function":"m:f","runner":"python","args":[1.50,{"a":[]}],"kwargs":{"k":null},"module_path":["src"]}"#;
        let call = invocation(json).unwrap().unwrap();
        let Program::Source(source) = call.program else {
            panic!("no source")
        };
        assert_eq!(
            source.programs,
            ["/opt/python", "./.venv/bin/python", "python3"]
        );
        assert!(
            call.env
                .contains(&("PYTHONPATH".to_owned(), "src".to_owned()))
        );
        assert_eq!(
            call.call.unwrap().content,
            r#"{"call":"m:f","args":[1.50,{"a":[]}],"kwargs":{"k":null},"module_path":["src"]}"#
        );
    }

    #[test]
    fn a_shebang_wins_over_the_runner() {
        let json = r##"{"script":"#!/bin/sh\n","runner":"no-such"}"##;
        assert!(invocation(json).unwrap().is_none());
        let json = r#"{"script":"print(1)","runner":"python","args":["a b",1]}"#;
        let Program::Source(source) = invocation(json).unwrap().unwrap().program else {
            panic!("no source")
        };
        assert_eq!(source.file_name, "script.py");
        assert_eq!(
            source.args[2..],
            [SourceArgument::text("a b"), SourceArgument::text("1")]
        );
    }

    #[test]
    fn what_a_runner_cannot_do_is_named() {
        for (json, words) in [
            (r#"{"script":"x","runner":"cobol"}"#, "no runner `cobol`"),
            (r#"{"function":"x","runner":"sh"}"#, "calls no functions"),
            (r#"{"script":"x","runner":"sh:3"}"#, "has no parameter"),
        ] {
            let problem = invocation(json).unwrap_err();
            assert!(problem.message.contains(words), "{}", problem.message);
            assert_eq!(problem.field, "runner");
        }
    }
}
