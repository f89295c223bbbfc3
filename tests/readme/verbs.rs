//! `docs/verbs.md`: the help of every verb, as the program prints it.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;

use super::examples::verbs;
use crate::harness::generated_file::assert_is_generated;
use crate::harness::nats::naq;

const PAGE: &str = "docs/verbs.md";

const HEAD: &str = "# Verbs

<!-- Written from the help of the program by `NAQ_TEST_UPDATE=1 cargo test verbs_page`. Edit the help, not this file. -->

What `naq VERB --help` prints, most options in one line. The options of the connection and the log, which every verb has,
are [settings](settings.md). What each verb prints with `--json` is in [Command line](cli.md).
";

/// The sections of the long help that the short help has too, or that are of every verb.
const OTHER_SECTIONS: &[&str] = &[
    "Usage",
    "Arguments",
    "Options",
    "Commands",
    "Connection",
    "Log",
];

/// What the long help of a verb adds to its short help: whole sections.
fn added_sections(verb: &str) -> String {
    let help = help(verb, "--help");
    let mut added = String::new();
    let mut is_added = false;
    for line in help.lines() {
        if let Some(title) = line.strip_suffix(':')
            && line.starts_with(|first: char| first.is_ascii_uppercase())
        {
            is_added = !OTHER_SECTIONS.contains(&title);
        }
        if is_added {
            added += line;
            added.push('\n');
        }
    }
    added
}

/// The short help of a verb, or of naq, by `-h`, or the long one, by `--help`.
fn help(verb: &str, option: &str) -> String {
    let words = verb.split(' ').filter(|word| !word.is_empty());
    let output = assert_cmd::Command::new(naq())
        .args(words.chain([option]))
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn verbs_page_is_what_the_program_prints() {
    let mut sections = BTreeMap::new();
    let mut open = verbs(&help("", "-h"));
    while let Some(verb) = open.pop() {
        let help = help(&verb, "-h");
        let inner = verbs(&help);
        open.extend(inner.iter().map(|word| format!("{verb} {word}")));
        if inner.is_empty() {
            let (help, _) = help
                .split_once("\nConnection and log options")
                .unwrap_or((&help, ""));
            let added = added_sections(&verb);
            let text = format!(
                "\n## naq {verb}\n\n```text\n{}\n\n{}\n```\n",
                help.trim_end(),
                added.trim_end()
            );
            sections.insert(verb, text);
        }
    }
    let expected: String = [HEAD.to_owned()]
        .into_iter()
        .chain(sections.into_values())
        .collect();
    assert_is_generated(PAGE, &expected, "verbs_page");
}
