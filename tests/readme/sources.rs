//! Programs and settings on the pages, each checked by what reads its language.

use std::collections::BTreeMap;
use std::process::Command;

use super::not_run::{blocks, page_of};

/// How the blocks of a language are checked: the ending of a file, a program, and its arguments before the file.
pub(super) const CHECKERS: &[(&str, &str, &str, &[&str])] = &[
    // a page may show an `await` of an asynchronous function
    ("python", "py", "python3", &["-c", COMPILE]),
    ("js", "mjs", "node", &["--check"]),
    ("ruby", "rb", "ruby", &["-c"]),
    ("sql", "sql", "python3", &["-c", QUERY]),
];

const COMPILE: &str = "import ast, sys
compile(open(sys.argv[1]).read(), 'page', 'exec', ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)";

/// Runs a query on the table that the pages speak of.
const QUERY: &str = "import sqlite3, sys
database = sqlite3.connect(':memory:')
database.execute('CREATE TABLE account (id, balance, fence)')
database.execute(open(sys.argv[1]).read(), {'fence': 2})";

#[test]
fn the_json_and_toml_of_the_pages_parse() {
    let mut counts = BTreeMap::new();
    for (page, block) in blocks() {
        let text = block.lines.join("\n");
        let at = format!("{page}:{}", block.line);
        match block.language().as_str() {
            "json" => {
                let values = serde_json::Deserializer::from_str(&text).into_iter();
                for value in values {
                    let _: serde_json::Value =
                        value.unwrap_or_else(|error| panic!("{at}: {error}"));
                }
            }
            "toml" => {
                let table = text.parse::<toml::Table>();
                table.unwrap_or_else(|error| panic!("{at}: {error}"));
            }
            _ => continue,
        }
        *counts.entry(block.language()).or_insert(0) += 1;
    }
    assert!(counts["json"] > 10 && counts["toml"] > 2, "{counts:?}");
}

#[test]
fn the_programs_and_queries_of_the_pages_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = blocks();
    for (language, ending, program, arguments) in CHECKERS {
        let without = format!("the blocks in {language} of the pages are not checked");
        let Some(program) = crate::harness::find_program(program, &without) else {
            continue;
        };
        let of_language: Vec<_> = blocks
            .iter()
            .filter(|(_, block)| block.language() == *language)
            .collect();
        assert!(!of_language.is_empty(), "{language}");
        for (page, block) in of_language {
            let file = folder.path().join(format!("block.{ending}"));
            std::fs::write(&file, block.lines.join("\n")).unwrap();
            #[expect(
                clippy::disallowed_methods,
                reason = "the program that a reader would use"
            )]
            let mut command = Command::new(&program);
            let output = command.args(*arguments).arg(&file).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{page}:{}: {errors}", block.line);
        }
    }
}

/// The settings of Prometheus on the page about metrics, with and without the part that sends a token.
#[test]
fn prometheus_accepts_the_settings_of_the_metrics_page() {
    let without = "the settings of docs/metrics.md are not checked";
    let Some(promtool) = crate::harness::find_program("promtool", without) else {
        return;
    };
    let blocks = blocks();
    let yaml = blocks.iter().filter(|(page, block)| {
        assert!(
            block.language() != "yaml" || page_of(page) == "docs/metrics.md",
            "{page}"
        );
        page == "docs/metrics.md" && block.language() == "yaml"
    });
    let texts: Vec<String> = yaml
        .map(|(_, block)| block.lines.join("\n") + "\n")
        .collect();
    let [settings, token] = &texts[..] else {
        panic!("{texts:?}");
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yml");
    let with_token = settings.replace("rule_files:", &format!("{token}rule_files:"));
    assert_ne!(&with_token, settings);
    for text in [settings, &with_token] {
        std::fs::write(&file, text).unwrap();
        #[expect(
            clippy::disallowed_methods,
            reason = "the program that a reader would use"
        )]
        let mut command = Command::new(&promtool);
        let command = command
            .args(["check", "config", "--syntax-only"])
            .arg(&file);
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}\n{errors}");
    }
}
