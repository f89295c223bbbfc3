//! Every fenced block of every page is run, checked in another way, or listed here with the reason.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::{Path, PathBuf};

use super::blocks::{Fence, fences};
use super::examples::verbs;
use super::sources::CHECKERS;
use super::{pages, text_of};
use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

/// A block that the test of its page does not run.
struct Listed {
    page: &'static str,
    /// The first line of the block.
    first: &'static str,
    why: &'static str,
    /// What runs its substance: a file of the repository, and a part of its text. `None` if nothing does.
    by: Option<(&'static str, &'static str)>,
}

const fn listed(
    page: &'static str,
    first: &'static str,
    why: &'static str,
    by: (&'static str, &'static str),
) -> Listed {
    Listed {
        page,
        first,
        why,
        by: Some(by),
    }
}

/// A block whose substance nothing runs: only its verbs, options and files are checked.
const fn only_listed(page: &'static str, first: &'static str, why: &'static str) -> Listed {
    Listed {
        page,
        first,
        why,
        by: None,
    }
}

const PUBLISHED: (&str, &str) = (
    "tests/readme/published.rs",
    "fn what_the_pages_publish_is_a_job",
);
const NATS_CLI: &str = "the program `nats` is in no package registry that the tests use";
const PACKAGES: &str = "it installs a package, which the tests of packages build";
const TESTS_THEMSELVES: &str = "it runs these tests";
const TAKES_MINUTES: &str = "it measures this machine, for minutes";
const CLIENT: &str = "it needs the environment of the client, whose tests run it";

/// Commands that the test of their page does not run.
const COMMANDS: &[Listed] = &[
    listed(
        "CONTRIBUTING.md",
        "cargo test                       # unit, integration and doc tests; builds the examples",
        TESTS_THEMSELVES,
        (".ci/run", "step cargo test\n"),
    ),
    only_listed(
        "CONTRIBUTING.md",
        "cargo nextest run -p naq-core                                   # one crate",
        TESTS_THEMSELVES,
    ),
    listed(
        "README.md",
        "$ uvx --from ./dist/naq-*.whl naq run -- echo hello",
        PACKAGES,
        (".ci/packages", "packaging/check \"$folder/dist\"\n"),
    ),
    listed(
        "README.md",
        "cargo test",
        TESTS_THEMSELVES,
        (".ci/run", "step cargo test\n"),
    ),
    listed(
        "README.md",
        r#"nats pub naq.queue.build '{"command": "./script.sh", "args": ["arg"]}'"#,
        NATS_CLI,
        PUBLISHED,
    ),
    listed(
        "docs/promises.md",
        "$ examples/archive-docs/archive-docs.py",
        "it compresses all of /usr/share/doc, and its output has times",
        (
            "tests/examples/mod.rs",
            "example(\"archive-docs/archive-docs.py\")",
        ),
    ),
    only_listed(
        "benches/README.md",
        "cargo build --release && just figures",
        TAKES_MINUTES,
    ),
    only_listed(
        "benches/README.md",
        "benches/peers/run.py --install",
        TAKES_MINUTES,
    ),
    only_listed(
        "benches/README.md",
        "benches/peers/run.py --slots 4 --rounds 1 --seconds 0.5 --calls 10",
        TAKES_MINUTES,
    ),
    listed(
        "clients/node/README.md",
        "npm install ./clients/node              # the package is `@naq/client`",
        CLIENT,
        ("clients/node/test/package.test.mjs", "\"npm\", [\"pack\""),
    ),
    listed(
        "clients/python/README.md",
        "pip install ./clients/python            # the distribution is `naq-client`, the package is `naq`",
        CLIENT,
        (
            "clients/python/tests/test_pages.py",
            "pip install ./clients/python",
        ),
    ),
    only_listed(
        "docs/containment.md",
        "for round in 1 2 3 4 5; do",
        TAKES_MINUTES,
    ),
    listed(
        "docs/from-bullmq.md",
        "naq worker img --warm node --preload ./resize.mjs      # in the folder of resize.mjs",
        CLIENT,
        ("clients/node/test/package.test.mjs", "naq worker img"),
    ),
    listed(
        "docs/from-celery.md",
        "naq worker mail --warm celery --preload proj.celery --preload proj.tasks   # in the folder above proj/",
        CLIENT,
        ("clients/python/tests/test_pages.py", "naq worker mail"),
    ),
    listed(
        "docs/from-naq-python.md",
        "pip uninstall naq && pip install ./clients/python      # the distribution is now `naq-client`",
        CLIENT,
        ("clients/python/tests/test_pages.py", "from-naq-python.md"),
    ),
    listed(
        "docs/hardening.md",
        "nats-server -js -sd store -c fleet/nats.conf --tlscert server.pem --tlskey server.key --tlscacert ca.pem --tlsverify",
        "it needs a machine with that name, and the server of the page runs",
        ("tests/permissions/logins.rs", "\"--tlsverify\""),
    ),
    listed(
        "docs/hardening.md",
        "nats --server nats://127.0.0.1:4222 --nkey ~/.local/share/naq/server/client.nk \\",
        NATS_CLI,
        PUBLISHED,
    ),
    listed(
        "docs/hardening.md",
        "systemctl enable --now naq-worker@build naq-scheduler naq-dashboard",
        "it needs systemd as the first process, and the units installed",
        ("tests/packaging/systemd.rs", "systemd-analyze"),
    ),
    only_listed(
        "docs/install.md",
        "cargo install --path crates/naq",
        "it builds for ten minutes what the tests have built",
    ),
    listed(
        "docs/operate.md",
        "for verb in jobs enqueue latency schedule memory growth functions web; do naq bench --json $verb; done > figures.ndjson",
        TAKES_MINUTES,
        ("tests/bench/mod.rs", "\"--json\", \"bench\""),
    ),
    listed(
        "docs/packages.md",
        "uvx --from ./dist/naq-*.whl naq run -- echo hello",
        PACKAGES,
        (".ci/packages", "packaging/check \"$folder/dist\"\n"),
    ),
    listed(
        "docs/producers.md",
        r#"nats pub naq.queue.build '{"command": "./script.sh", "args": ["arg"]}'"#,
        NATS_CLI,
        PUBLISHED,
    ),
    listed(
        "docs/traces.md",
        "cargo install --path crates/naq --features otel",
        "it builds another program, for ten minutes",
        (".ci/run", "--features naq/otel traces"),
    ),
    listed(
        "packaging/npm/README.md",
        "npx naq run -- echo hello",
        PACKAGES,
        (".ci/packages", "packaging/check \"$folder/dist\"\n"),
    ),
    listed(
        "runners/README.md",
        "#!/bin/sh",
        "it is a file; the fixture of the page writes it, and the check of the page calls it",
        ("tests/readme/pages.rs", "my-runners/shell/shim.sh"),
    ),
    listed(
        "runners/README.md",
        "python3 runners/conformance/run.py ruby",
        "it needs Ruby",
        (".ci/run", "runners/conformance/run.py --all"),
    ),
    listed(
        "runners/conformance/README.md",
        "python3 runners/conformance/run.py ruby                       # cold, and each warm mode of the manifest",
        "it needs Ruby, another Python, and all languages",
        (".ci/run", "runners/conformance/run.py --all"),
    ),
];

/// Programs and settings, by their page and info string, that sources.rs does not check: a file that does, and a part
/// of its text.
const SOURCES: &[(&str, &str, (&str, &str))] = &[
    (
        "clients/node/README.md",
        "ts run",
        ("clients/node/test/package.test.mjs", "^```ts run"),
    ),
    (
        "clients/node/README.md",
        "ts",
        ("clients/node/test/package.test.mjs", "transpileModule"),
    ),
    (
        "docs/from-bullmq.md",
        "ts",
        (
            "clients/node/test/package.test.mjs",
            "../../docs/from-bullmq.md",
        ),
    ),
    (
        "docs/producers.md",
        "ts",
        (
            "clients/node/test/package.test.mjs",
            "../../docs/producers.md",
        ),
    ),
    // it has the same calls, and cargo builds it
    (
        "docs/producers.md",
        "rust",
        ("examples/enqueue.rs", "Client::from_env()"),
    ),
    // the help of each verb, whose examples that test runs
    (
        "docs/verbs.md",
        "text",
        ("tests/readme/examples.rs", "fn all_examples("),
    ),
    (
        "docs/reverse-proxy.md",
        "nginx",
        ("tests/web/proxy.rs", "fn snippets()"),
    ),
];

/// Languages of commands.
const SHELLS: &[&str] = &[
    "sh",
    "console",
    "bash",
    "shell",
    "zsh",
    "shell-session",
    "terminal",
];

/// A part of the docs that is a file of its own, and the page that has it.
const PARTS: &[(&str, &str)] = &[(
    "crates/naq/src/metrics/page_introduction.md",
    "docs/metrics.md",
)];

/// Folders that hold no pages of the project.
const NOT_OURS: &[&str] = &["target", "node_modules", "dist", "__pycache__"];

/// The page in whose place a file is run.
pub(super) fn page_of(file: &str) -> &str {
    let part = PARTS.iter().find(|(part, _)| *part == file);
    part.map_or(file, |(_, page)| page)
}

/// The pages of the project below a folder.
fn find_pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !NOT_OURS.contains(&name.as_str()) && !name.starts_with('.') {
                find_pages(&path, found);
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// Every block of every page, by the path of its page from the root.
pub(super) fn blocks() -> Vec<(String, Fence)> {
    let root = Path::new(crate::ROOT).canonicalize().unwrap();
    let mut files = Vec::new();
    find_pages(&root, &mut files);
    assert!(files.len() > 50, "{files:?}");
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let page = file
            .strip_prefix(&root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let blocks = fences(&text_of(Path::new(&page)));
        found.extend(blocks.into_iter().map(|block| (page.clone(), block)));
    }
    found
}

/// The row of a block of commands. `None` if its page's test runs it.
pub(super) fn find_row(page: &str, block: &Fence) -> Option<usize> {
    let mut rows = COMMANDS.iter();
    rows.position(|row| row.page == page && row.first == block.first_line())
}

/// What is wrong with a block. `None` if it is run, checked or listed.
fn objection(page: &str, block: &Fence, rows_used: &mut [bool]) -> Option<String> {
    let language = block.language();
    if SHELLS.contains(&language.as_str()) {
        if block.mode().is_some() {
            let is_run = pages::all().any(|one| one.path == page_of(page));
            return (!is_run).then(|| "add the page to tests/readme/pages.rs".to_owned());
        }
        let Some(row) = find_row(page, block) else {
            return Some("write `console run`, or list it in tests/readme/not_run.rs".to_owned());
        };
        rows_used[row] = true;
        return None;
    }
    let is_checked = ["json", "toml", "yaml"].contains(&language.as_str())
        || CHECKERS.iter().any(|(of, ..)| *of == language)
        || SOURCES
            .iter()
            .any(|(of, info, _)| *of == page && *info == block.info);
    if is_checked {
        return None;
    }
    if language != "text" {
        return Some(format!("nothing checks `{}`", block.info));
    }
    let is_command = block
        .lines
        .iter()
        .any(|line| line.trim_start().starts_with("$ "));
    is_command.then(|| "commands are no text: write `console run`".to_owned())
}

#[test]
fn every_block_of_every_page_is_run_checked_or_listed() {
    let mut rows_used = vec![false; COMMANDS.len()];
    let mut wrong = Vec::new();
    for (page, block) in blocks() {
        if let Some(why) = objection(&page, &block, &mut rows_used) {
            wrong.push(format!("{page}:{}: {why}", block.line));
        }
    }
    for (row, is_used) in COMMANDS.iter().zip(rows_used) {
        if !is_used {
            wrong.push(format!(
                "{} has no block `{}`: remove the row",
                row.page, row.first
            ));
        }
    }
    let checks = COMMANDS.iter().filter_map(|row| Some((row.page, row.by?)));
    for (page, (file, part)) in checks.chain(SOURCES.iter().map(|(page, _, by)| (*page, *by))) {
        if !text_of(Path::new(file)).contains(part) {
            wrong.push(format!(
                "{file} does not contain `{part}`, which a block of {page} relies on"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (part, page) in PARTS {
        assert!(
            text_of(Path::new(page)).contains(&text_of(Path::new(part))),
            "{page}"
        );
    }
    assert!(COMMANDS.iter().all(|row| !row.why.is_empty()));
}

#[test]
fn a_block_that_nothing_runs_is_found() {
    let find = |text: &str| {
        let blocks = fences(text);
        assert_eq!(blocks.len(), 1, "{text}");
        objection(
            "docs/flows.md",
            &blocks[0],
            &mut vec![false; COMMANDS.len()],
        )
    };
    for text in [
        "```sh\nnaq dev\n```\n",
        "```bash\nnaq dev\n```\n",
        "```console\n$ naq dev\n```\n",
        "```console shown\n$ naq dev\n```\n",
        "```console  run\n$ naq dev\n```\n",
        "```Shell,ignore\nnaq dev\n```\n",
        "```{.sh}\nnaq dev\n```\n",
        "~~~sh\nnaq dev\n~~~\n",
        "- a list\n\n  ````sh\n  naq dev\n  ````\n",
        "> ```sh\n> naq dev\n> ```\n",
        "```\nnaq dev\n```\n",
        "```text\n$ naq dev\n```\n",
        "```cobol\nSTOP RUN.\n```\n",
    ] {
        assert!(find(text).is_some(), "{text}");
    }
    for text in [
        "```console run\n$ naq dev\n```\n",
        "```text\nworker  slots 2\n```\n",
        "```json envelope\n{}\n```\n",
    ] {
        assert_eq!(find(text), None, "{text}");
    }
    let unknown = &fences("```console run\n$ naq dev\n```\n")[0];
    assert!(objection("docs/no-such-page.md", unknown, &mut []).is_some());
}

/// The words after each `naq` of the listed blocks, line by line.
fn listed_command_lines() -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for (page, block) in blocks() {
        if block.mode().is_some() || find_row(&page, &block).is_none() {
            continue;
        }
        let is_console = block.language() == "console";
        for line in block.lines.join("\n").replace("\\\n", " ").lines() {
            if is_console && !line.starts_with("$ ") {
                continue;
            }
            let (line, _) = line.split_once(" # ").unwrap_or((line, ""));
            let mut words = shlex::split(line.trim_start_matches("$ ")).unwrap_or_default();
            // not the crate: `cargo test -p naq`, `pip uninstall naq`
            let is_program = |(at, word): (usize, &String)| {
                let before = at
                    .checked_sub(1)
                    .map_or("", |before| words[before].as_str());
                word == "naq" && before != "uninstall" && !before.starts_with('-')
            };
            if let Some(at) = words.iter().enumerate().position(is_program) {
                found.push((page.clone(), words.split_off(at + 1)));
            }
        }
    }
    found
}

/// Checks that the verbs and the options of a command line exist.
fn assert_exists(naq: &Naq, page: &str, words: &[String]) {
    let help = |verb: &[&str]| {
        let words = verb.iter().copied().chain(["--help"]);
        naq.cli(words).run().succeeds().stdout
    };
    let mut verb: Vec<&str> = Vec::new();
    let mut texts = vec![help(&verb)];
    let options = words.iter().take_while(|word| *word != "--");
    for word in options.clone() {
        if verbs(texts.last().unwrap()).contains(word) {
            verb.push(word);
            texts.push(help(&verb));
        }
    }
    assert!(!verb.is_empty(), "{page}: naq {words:?} names no verb");
    for option in options.filter(|word| word.starts_with('-')) {
        let (name, _) = option.split_once('=').unwrap_or((option, ""));
        let mut listed = texts.iter().flat_map(|text| text.split([' ', ',', '\n']));
        assert!(
            listed.any(|word| word == name),
            "{page}: naq {} has no option {name}",
            verb.join(" ")
        );
    }
}

#[test]
fn a_listed_command_line_has_verbs_and_options_that_exist() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let lines = listed_command_lines();
    assert!(lines.len() > 6, "{lines:?}");
    for (page, words) in &lines {
        assert_exists(&naq, page, words);
    }
}

/// A listed block of development names recipes and files that exist.
#[test]
fn a_listed_block_names_recipes_and_programs_that_exist() {
    let justfile = text_of(Path::new("justfile"));
    for (page, block) in blocks() {
        if block.mode().is_some() || find_row(&page, &block).is_none() {
            continue;
        }
        for line in block.lines.iter().flat_map(|line| line.split("&&")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["just", recipe, ..] => {
                    let mut recipes = justfile.lines();
                    let is_recipe = |line: &str| {
                        let rest = line.strip_prefix(recipe);
                        rest.is_some_and(|rest| rest.starts_with([' ', ':']))
                    };
                    assert!(recipes.any(is_recipe), "{page}: just {recipe}");
                }
                ["python3", file, ..] | [file, ..]
                    if [".ci/", "benches/", "runners/"]
                        .iter()
                        .any(|folder| file.starts_with(folder)) =>
                {
                    assert!(
                        Path::new(crate::ROOT).join(file).is_file(),
                        "{page}: {file}"
                    );
                }
                _ => {}
            }
        }
    }
}
