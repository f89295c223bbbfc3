//! A runner's manifest, `runner.toml`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::template;
use naq_protocol::units::{ByteSize, WireDuration};
use naq_runner::WarmMode;

/// The version of the manifest's format that this version of naq reads.
const VERSION: u32 = 1;

/// How long a probe may take unless its manifest says otherwise.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the preparation of a script may take unless its manifest says otherwise.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a warm process may take to start unless its manifest says otherwise.
const BOOT_TIMEOUT: Duration = Duration::from_secs(30);

/// A manifest. Unknown keys are errors: a misspelt limit must not be ignored.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// The version of the format: 1.
    manifest: u32,
    /// The runner's name, as in `--runner`. The folder has the same.
    pub(super) name: String,
    /// The extensions of its scripts, without a dot.
    #[serde(default)]
    pub(super) extensions: Vec<String>,
    /// Where the program is looked for: the first that exists is used.
    pub(super) program: Vec<String>,
    /// The lowest and the highest version of the program with which naq's tests have run the runner.
    /// Absent if they never have.
    #[serde(default)]
    pub(super) tested: Vec<String>,
    /// What `--runner NAME:VALUE` sets, such as the image of a container.
    #[serde(default)]
    pub(super) parameter: Option<Parameter>,
    /// How to find out the version of the program.
    pub(super) probe: Probe,
    /// How to run a script. Absent if the runner runs none.
    #[serde(default)]
    pub(super) script: Option<Script>,
    /// How to call a function. Absent if the runner calls none.
    #[serde(default)]
    pub(super) function: Option<Function>,
    /// What to do once before the first run of a script.
    #[serde(default)]
    pub(super) prepare: Option<Prepare>,
    /// How to keep processes ready for functions.
    #[serde(default)]
    pub(super) warm: Option<Warm>,
}

/// The parameter of a runner.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameter {
    /// The placeholder that it fills.
    pub(super) name: String,
    /// Its value if the job gives none. Absent if the job has to.
    #[serde(default)]
    pub(super) default: Option<String>,
}

/// How to find out the version of a program.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Probe {
    /// Program and arguments. The first number with a dot in its output is the version.
    pub(super) argv: Vec<String>,
    /// The lowest version that the runner needs.
    #[serde(default)]
    pub(super) at_least: Option<String>,
    #[serde(default)]
    timeout: Option<WireDuration>,
}

impl Probe {
    /// How long the probe may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout.map_or(PROBE_TIMEOUT, |timeout| timeout.0)
    }
}

/// How to run a script.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Script {
    /// Program and arguments.
    pub(super) argv: Vec<String>,
    /// Variables of the job, unless the job sets them.
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    /// The name of the script's file. By default `script` with the first extension.
    #[serde(default)]
    pub(super) file: Option<String>,
}

/// How to call a function.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Function {
    /// Program and arguments.
    pub(super) argv: Vec<String>,
    /// Variables of the job, unless the job sets them.
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    /// The shim's file in the runner's folder, or in that of another: `../node/shim.mjs`. By default the
    /// file whose name begins with `shim.`.
    #[serde(default)]
    pub(super) shim: Option<String>,
}

/// What to do once before the first run of a script.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Prepare {
    /// What has to change for it to be done again.
    #[expect(dead_code, reason = "there is one choice only, which is checked")]
    when: PrepareWhen,
    /// `^` and a text: only a script with a line that begins with the text is prepared.
    #[serde(default, rename = "match")]
    pub(super) only_if: Option<String>,
    /// Program and arguments. `{program}` is the runner's.
    pub(super) argv: Vec<String>,
    #[serde(default)]
    timeout: Option<WireDuration>,
}

/// What has to change for a preparation to be done again.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PrepareWhen {
    /// The source text of the script.
    Script,
}

impl Prepare {
    /// How long it may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout.map_or(PREPARE_TIMEOUT, |timeout| timeout.0)
    }

    /// Whether a script is to be prepared.
    pub(super) fn applies_to(&self, source: &str) -> bool {
        self.only_if.as_deref().is_none_or(|pattern| {
            let start = pattern.trim_start_matches('^');
            source.lines().any(|line| line.starts_with(start))
        })
    }
}

/// How to keep processes ready for functions.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Warm {
    /// Program and arguments.
    pub(super) argv: Vec<String>,
    /// Variables of the process.
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    /// The shim's file. By default that of functions.
    #[serde(default)]
    pub(super) shim: Option<String>,
    /// What the shim can do, best first: `fork`, `standby` or `reuse`.
    modes: Vec<String>,
    #[serde(default)]
    boot_timeout: Option<WireDuration>,
    /// When a process is replaced.
    #[serde(default)]
    pub(super) recycle: Recycle,
}

impl Warm {
    /// What the shim can do, best first.
    pub(super) fn modes(&self) -> Vec<WarmMode> {
        self.modes.iter().flat_map(|name| name.parse()).collect()
    }

    /// How long a process may take to start.
    pub(super) fn boot_timeout(&self) -> Duration {
        self.boot_timeout.map_or(BOOT_TIMEOUT, |timeout| timeout.0)
    }
}

/// When a warm process is replaced: when the first of these is exceeded.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recycle {
    /// Number of jobs that it has run.
    #[serde(default)]
    pub(super) jobs: Option<u64>,
    /// Growth of its resident memory since the end of its first job.
    #[serde(default)]
    pub(super) growth: Option<ByteSize>,
    /// Time since its start.
    #[serde(default)]
    pub(super) age: Option<WireDuration>,
}

impl Manifest {
    /// Reads a manifest. `folder` is the name of its folder.
    ///
    /// # Errors
    /// Returns what is wrong, in one line.
    pub(super) fn parse(text: &str, folder: &str) -> Result<Manifest, String> {
        let manifest: Manifest = toml::from_str(text).map_err(|error| one_line(&error))?;
        if manifest.manifest != VERSION {
            return Err(format!(
                "manifest = {}: this version of naq reads version {VERSION}",
                manifest.manifest
            ));
        }
        if manifest.name != folder {
            return Err(format!(
                "name = {:?}: the folder has another name, `{folder}`",
                manifest.name
            ));
        }
        check_name(&manifest.name)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if self.program.is_empty() {
            return Err("program: give at least one".to_owned());
        }
        if self.script.is_none() && self.function.is_none() {
            return Err("it has neither [script] nor [function]".to_owned());
        }
        let parameter = self.parameter.as_ref().map(|known| known.name.as_str());
        let tables = [
            ("script", self.script.as_ref().map(|table| &table.argv)),
            ("function", self.function.as_ref().map(|table| &table.argv)),
            ("prepare", self.prepare.as_ref().map(|table| &table.argv)),
            ("warm", self.warm.as_ref().map(|table| &table.argv)),
            ("probe", Some(&self.probe.argv)),
        ];
        for (table, argv) in tables {
            let Some(argv) = argv else { continue };
            if argv.first().map(String::as_str) != Some("{program}") {
                return Err(format!("[{table}] argv: the first has to be {{program}}"));
            }
            for template in &argv[1..] {
                template::check(template, parameter)
                    .map_err(|error| format!("[{table}] argv: {error}"))?;
            }
        }
        let only_if = self
            .prepare
            .as_ref()
            .and_then(|table| table.only_if.as_ref());
        if let Some(pattern) = only_if.filter(|pattern| !is_line_start(pattern)) {
            return Err(format!(
                "[prepare] match: `{pattern}` is not `^` and a text without .*+?()[]{{}}|\\$"
            ));
        }
        if let Some(warm) = &self.warm {
            if warm.modes.is_empty() {
                return Err("[warm] modes: give at least one".to_owned());
            }
            for name in &warm.modes {
                name.parse::<WarmMode>()
                    .map_err(|error| format!("[warm] modes: {error}"))?;
            }
            if self.function.is_none() && warm.shim.is_none() {
                return Err("[warm] needs a shim, or [function]".to_owned());
            }
        }
        let names = [self.script.as_ref().and_then(|script| script.file.as_ref())];
        match names.into_iter().flatten().find(|name| !is_file_name(name)) {
            Some(name) => Err(format!("{name:?} is not the name of a file")),
            None => Ok(()),
        }
    }

    /// The name of the file that holds a script.
    pub(super) fn script_file(&self) -> String {
        let named = self.script.as_ref().and_then(|script| script.file.clone());
        named.unwrap_or_else(|| match self.extensions.first() {
            Some(extension) => format!("script.{extension}"),
            None => "script".to_owned(),
        })
    }
}

/// Whether a pattern of `[prepare]` says with which text a line begins, and nothing else of a regular
/// expression, which naq would take for a part of the text.
fn is_line_start(pattern: &str) -> bool {
    let text = pattern.strip_prefix('^').unwrap_or_default();
    !text.is_empty() && !text.contains(|c: char| ".*+?()[]{}|\\$^".contains(c))
}

/// Checks a runner's name.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let is_valid = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= 64
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_');
    match is_valid {
        true => Ok(()),
        false => Err(format!(
            "{name:?} is not the name of a runner: lower-case letters, digits, `-` and `_`, from a letter on"
        )),
    }
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != ".."
}

/// An error of TOML without the quoted lines, with where it is.
fn one_line(error: &toml::de::Error) -> String {
    error.message().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = r#"
        manifest = 1
        name = "sh"
        program = ["sh"]
        [probe]
        argv = ["{program}", "-c", "echo 1.0"]
        [script]
        argv = ["{program}", "{file}", "{args}"]
    "#;

    #[test]
    fn the_smallest_manifest_runs_scripts() {
        let manifest = Manifest::parse(SMALLEST, "sh").unwrap();
        assert_eq!(manifest.script_file(), "script");
        assert!(manifest.tested.is_empty());
    }

    #[test]
    fn a_mistake_is_named() {
        for (from, to, word) in [
            ("manifest = 1", "manifest = 2", "version 1"),
            ("name = \"sh\"", "name = \"x\"", "another name"),
            ("program = [\"sh\"]", "program = []", "program"),
            ("\"{file}\"", "\"{fil}\"", "{fil}"),
            ("[script]", "[script]\nlimt = 1", "limt"),
            (
                "[script]\n        argv = [\"{program}\", \"{file}\", \"{args}\"]",
                "",
                "neither",
            ),
            (
                "argv = [\"{program}\", \"{file}\"",
                "argv = [\"sh\", \"{file}\"",
                "first",
            ),
            (
                "[script]",
                "[prepare]\nwhen = \"script\"\nmatch = \"^import .*\"\nargv = [\"{program}\"]\n[script]",
                "[prepare] match",
            ),
        ] {
            let text = SMALLEST.replace(from, to);
            assert_ne!(text, SMALLEST, "{from}");
            let error = Manifest::parse(&text, "sh").unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
