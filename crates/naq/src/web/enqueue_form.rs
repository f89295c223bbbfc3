//! The form that enqueues a job: its fields become an envelope, and an envelope its fields.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::hidden_values::restore_values;
use super::problem::FieldProblem;
use naq_protocol::command_line;

/// The fields of an envelope, as they are written.
pub(super) type Fields = BTreeMap<String, Box<RawValue>>;

/// The form as a browser sends it. An empty field means that nothing was entered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct EnqueueForm {
    /// The job that is edited and run again.
    pub(super) from: String,
    pub(super) queue: String,
    /// The id that the job gets unless the user chooses one, so that a form that is sent twice makes one job.
    pub(super) fresh_id: String,
    /// The id that the user has chosen.
    pub(super) job_id: String,
    /// The program and its arguments, with the quotes of a shell.
    pub(super) command: String,
    /// Source code.
    pub(super) script: String,
    /// A line for each variable: `NAME=VALUE`.
    pub(super) env: String,
    /// A line for each label: `KEY=VALUE`.
    pub(super) labels: String,
    pub(super) timeout: String,
    pub(super) max_retries: String,
    /// A time, or a duration from now.
    pub(super) start: String,
    /// A JSON object with all other fields.
    pub(super) json: String,
    /// The button: `check`, or `enqueue`.
    pub(super) action: String,
}

impl EnqueueForm {
    /// The envelope that the form describes.
    ///
    /// # Errors
    /// Returns the entries that cannot be read, each with the field of the envelope that it is for.
    pub(super) fn envelope(&self) -> Result<Fields, Vec<FieldProblem>> {
        let mut problems = Vec::new();
        let mut fields = self.json_fields().unwrap_or_else(|problem| {
            problems.push(problem);
            Fields::new()
        });
        let entries = [
            self.command_fields(),
            Ok(text_field("script", &unix_lines(&self.script))),
            pairs("env", &self.env),
            pairs("labels", &self.labels),
            Ok(number_or_text("timeout", &self.timeout)),
            Ok(number_or_text("max_retries", &self.max_retries)),
            Ok(text_field("job_id", self.job_id.trim())),
        ];
        for entry in entries {
            match entry {
                Ok(entered) => {
                    for (name, value) in entered {
                        if fields.insert(name.to_owned(), value).is_some() {
                            let detail = "it is in the form and in the JSON; remove one of them";
                            problems.push(problem(name, detail));
                        }
                    }
                }
                Err(problem) => problems.push(problem),
            }
        }
        match problems.is_empty() {
            true => Ok(fields),
            false => Err(problems),
        }
    }

    fn json_fields(&self) -> Result<Fields, FieldProblem> {
        match self.json.trim() {
            "" => Ok(Fields::new()),
            text => serde_json::from_str(text)
                .map_err(|error| problem("", &format!("the JSON is not an object: {error}"))),
        }
    }

    fn command_fields(&self) -> Result<Vec<(&'static str, Box<RawValue>)>, FieldProblem> {
        let text = self.command.trim();
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let mut words = shlex::split(text)
            .ok_or_else(|| problem("command", "a quote has no end"))?
            .into_iter();
        // a comment has no words
        let Some(program) = words.next() else {
            return Err(problem("command", "it names no program"));
        };
        let args: Vec<String> = words.collect();
        let mut fields = raw_field("command", &program);
        if !args.is_empty() {
            fields.extend(to_raw_value(&args).ok().map(|args| ("args", args)));
        }
        Ok(fields)
    }

    /// The form that describes an envelope. What it has no entry for is JSON.
    pub(super) fn of_envelope(mut fields: Fields) -> EnqueueForm {
        let mut form = EnqueueForm::default();
        if let Some(command) = command_of(&fields) {
            form.command = command;
            fields.remove("command");
            fields.remove("args");
        }
        for (name, entry) in [("script", &mut form.script), ("timeout", &mut form.timeout)] {
            // a browser would send other line ends, and what is blank is no entry
            let is_kept = |text: &String| {
                !text.trim().is_empty() && !text.contains('\r') && !is_number(text.trim())
            };
            if let Some(text) = string_of(&fields, name).filter(is_kept) {
                *entry = text;
                fields.remove(name);
            }
        }
        for (name, entry) in [("env", &mut form.env), ("labels", &mut form.labels)] {
            if let Some(lines) = lines_of(&fields, name) {
                *entry = lines;
                fields.remove(name);
            }
        }
        let numbers = [
            ("timeout", &mut form.timeout),
            ("max_retries", &mut form.max_retries),
        ];
        for (name, entry) in numbers {
            let text = fields.get(name).map(|number| number.get());
            if let Some(text) = text.filter(|text| is_number(text)) {
                *entry = text.to_owned();
                fields.remove(name);
            }
        }
        if !fields.is_empty() {
            form.json = pretty(&fields);
        }
        form
    }
}

/// The envelope with a field in each line.
pub(super) fn pretty(fields: &Fields) -> String {
    let lines: Vec<String> = fields
        .iter()
        .map(|(name, value)| {
            let name = serde_json::to_string(name).unwrap_or_default();
            format!("  {name}: {}", value.get())
        })
        .collect();
    match lines.as_slice() {
        [] => "{}".to_owned(),
        lines => format!("{{\n{}\n}}", lines.join(",\n")),
    }
}

/// Puts the values of variables into an edited envelope that were hidden when it was shown. `original` is the envelope
/// that was edited.
///
/// # Errors
/// Returns the variables of which no value is known.
pub(super) fn restore_env(
    fields: &mut Fields,
    original: Option<&Fields>,
) -> Result<(), Vec<FieldProblem>> {
    let env_of = |fields: &Fields| -> Option<BTreeMap<String, String>> {
        serde_json::from_str(fields.get("env")?.get()).ok()
    };
    // the check of the envelope explains what is wrong with other values
    let Some(mut env) = env_of(fields) else {
        return Ok(());
    };
    let known = original.and_then(env_of).unwrap_or_default();
    restore_values(&mut env, &known, "")?;
    fields.extend(to_raw_value(&env).ok().map(|env| ("env".to_owned(), env)));
    Ok(())
}

/// A browser sends the end of a line as CR and LF, and a `#!` line that ends with CR names no program.
fn unix_lines(text: &str) -> String {
    text.replace("\r\n", "\n")
}

fn problem(field: &str, detail: &str) -> FieldProblem {
    FieldProblem {
        pointer: match field {
            "" => String::new(),
            field => format!("/{field}"),
        },
        detail: detail.to_owned(),
    }
}

/// A field with this value, unless it is empty.
fn text_field(name: &'static str, text: &str) -> Vec<(&'static str, Box<RawValue>)> {
    match text.trim().is_empty() {
        true => Vec::new(),
        false => raw_field(name, text),
    }
}

fn is_number(text: &str) -> bool {
    serde_json::from_str::<serde_json::Number>(text).is_ok()
}

/// A field whose value may be a number, unless it is empty. The check of the envelope explains what is wrong with
/// another text.
fn number_or_text(name: &'static str, text: &str) -> Vec<(&'static str, Box<RawValue>)> {
    let text = text.trim();
    match RawValue::from_string(text.to_owned()) {
        Ok(number) if is_number(text) => vec![(name, number)],
        _ => text_field(name, text),
    }
}

fn raw_field<T: Serialize + ?Sized>(
    name: &'static str,
    value: &T,
) -> Vec<(&'static str, Box<RawValue>)> {
    let value = to_raw_value(value).ok();
    value.map(|value| (name, value)).into_iter().collect()
}

/// An object from lines of the form `NAME=VALUE`.
fn pairs(
    name: &'static str,
    text: &str,
) -> Result<Vec<(&'static str, Box<RawValue>)>, FieldProblem> {
    let text = unix_lines(text);
    let mut pairs = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| problem(name, &format!("the line `{line}` has no `=`")))?;
        if pairs.insert(key.trim(), value).is_some() {
            let detail = format!("two lines begin with `{}=`", key.trim());
            return Err(problem(name, &detail));
        }
    }
    Ok(match pairs.is_empty() {
        true => Vec::new(),
        false => raw_field(name, &pairs),
    })
}

fn string_of(fields: &Fields, name: &str) -> Option<String> {
    serde_json::from_str(fields.get(name)?.get()).ok()
}

/// The command line of an envelope. `None` if it has no command, or other arguments than texts.
fn command_of(fields: &Fields) -> Option<String> {
    let command = string_of(fields, "command")?;
    let args: Vec<String> = match fields.get("args") {
        Some(args) => serde_json::from_str(args.get()).ok()?,
        None => Vec::new(),
    };
    let words = std::iter::once(command.as_str()).chain(args.iter().map(String::as_str));
    let line = command_line(words);
    // a field of one line has no room for line breaks
    (!line.contains(['\n', '\r', '\0'])).then_some(line)
}

/// The lines for an object of texts. `None` if they would mean something else.
fn lines_of(fields: &Fields, name: &'static str) -> Option<String> {
    let pairs_of: BTreeMap<String, String> = serde_json::from_str(fields.get(name)?.get()).ok()?;
    let lines: Vec<String> = pairs_of
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let lines = lines.join("\n");
    let again = pairs(name, &lines).ok()?;
    let again: BTreeMap<String, String> = match again.first() {
        Some((_, value)) => serde_json::from_str(value.get()).ok()?,
        None => BTreeMap::new(),
    };
    (again == pairs_of).then_some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(text: &str) -> Fields {
        serde_json::from_str(text).unwrap()
    }

    fn json(form: &EnqueueForm) -> String {
        serde_json::to_string(&form.envelope().unwrap()).unwrap()
    }

    fn problems(form: &EnqueueForm) -> Vec<String> {
        let problems = form.envelope().unwrap_err().into_iter();
        problems
            .map(|problem| format!("{}: {}", problem.pointer, problem.detail))
            .collect()
    }

    #[test]
    fn the_entries_of_a_form_become_an_envelope() {
        let form = EnqueueForm {
            command: " ./backup.sh --full 'two words' ".to_owned(),
            env: "LEVEL=3\r\nPATTERN=a=b \r\n".to_owned(),
            labels: "team=x".to_owned(),
            timeout: "90s".to_owned(),
            max_retries: "2".to_owned(),
            json: r#"{"limits": {"memory": "1GiB"}}"#.to_owned(),
            ..EnqueueForm::default()
        };
        assert_eq!(
            json(&form),
            concat!(
                r#"{"args":["--full","two words"],"command":"./backup.sh","#,
                r#""env":{"LEVEL":"3","PATTERN":"a=b "},"labels":{"team":"x"},"#,
                r#""limits":{"memory": "1GiB"},"max_retries":2,"timeout":"90s"}"#
            )
        );
        let script = EnqueueForm {
            script: "#!/bin/sh\r\necho a\r\n".to_owned(),
            ..EnqueueForm::default()
        };
        assert_eq!(json(&script), r##"{"script":"#!/bin/sh\necho a\n"}"##);
        assert_eq!(json(&EnqueueForm::default()), "{}");
    }

    #[test]
    fn each_entry_that_cannot_be_read_is_named() {
        let form = EnqueueForm {
            command: "echo 'a".to_owned(),
            env: "A".to_owned(),
            labels: "a=1\na=2".to_owned(),
            json: "[]".to_owned(),
            ..EnqueueForm::default()
        };
        let found = problems(&form);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].starts_with(": the JSON is not an object"));
        assert_eq!(found[1], "/command: a quote has no end");
        assert_eq!(found[2], "/env: the line `A` has no `=`");
        assert_eq!(found[3], "/labels: two lines begin with `a=`");
        let twice = EnqueueForm {
            command: "true".to_owned(),
            json: r#"{"command":"false"}"#.to_owned(),
            ..EnqueueForm::default()
        };
        let found = problems(&twice);
        assert!(
            found[0].starts_with("/command: it is in the form and"),
            "{found:?}"
        );
        let comment = EnqueueForm {
            command: "# nothing".to_owned(),
            ..EnqueueForm::default()
        };
        assert_eq!(problems(&comment), ["/command: it names no program"]);
    }

    #[test]
    fn what_the_form_has_no_entry_for_stays_json() {
        let form = EnqueueForm::of_envelope(fields(
            r#"{"command":"echo","args":["it's",1],"env":{"A":"two\nlines"},"labels":{"team":"x"},
                "timeout":90,"max_retries":3,"big":12345678901234567890123}"#,
        ));
        // a number is not the text that would be made of it
        assert_eq!(form.command, "");
        assert_eq!(form.labels, "team=x");
        assert_eq!(
            (form.timeout.as_str(), form.max_retries.as_str()),
            ("90", "3")
        );
        assert!(form.json.contains(r#""args": ["it's",1]"#), "{}", form.json);
        assert!(form.json.contains("12345678901234567890123"));
        assert!(form.json.contains(r#""env": {"A":"two\nlines"}"#));
    }

    #[test]
    fn an_edited_envelope_gets_its_hidden_values_back() {
        let original = fields(r#"{"env":{"TOKEN":"hunter2"}}"#);
        let mut edited = fields(r#"{"env":{"TOKEN":"***","LEVEL":"2"}}"#);
        restore_env(&mut edited, Some(&original)).unwrap();
        assert_eq!(edited["env"].get(), r#"{"LEVEL":"2","TOKEN":"hunter2"}"#);
        assert!(restore_env(&mut fields(r#"{"env":{"A":"***"}}"#), None).is_err());
        assert!(restore_env(&mut fields(r#"{"env":3}"#), None).is_ok());
    }

    proptest! {
        #[test]
        fn a_form_of_an_envelope_describes_the_same_envelope(
            words in proptest::collection::vec("\\PC{0,8}", 0..4),
            env in proptest::collection::btree_map("[A-Z ]{1,3}", "(?s).{0,6}", 0..3),
            script in proptest::option::of("(?s)[a-z \n\r]{0,9}"),
            retries in proptest::option::of(any::<u32>()),
        ) {
            let mut envelope = Fields::new();
            let mut add = |name: &str, value: Box<RawValue>| envelope.insert(name.to_owned(), value);
            if let Some((program, args)) = words.split_first() {
                add("command", to_raw_value(program).unwrap());
                if !args.is_empty() {
                    add("args", to_raw_value(args).unwrap());
                }
            }
            if !env.is_empty() {
                add("env", to_raw_value(&env).unwrap());
            }
            if let Some(script) = script {
                add("script", to_raw_value(&script).unwrap());
            }
            if let Some(retries) = retries {
                add("max_retries", to_raw_value(&retries).unwrap());
            }
            let form = EnqueueForm::of_envelope(envelope.clone());
            let again = form.envelope().unwrap();
            let text = |fields: &Fields| serde_json::from_str::<serde_json::Value>(&pretty(fields)).unwrap();
            prop_assert_eq!(text(&again), text(&envelope), "{:?}", form);
        }
    }
}
