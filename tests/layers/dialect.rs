//! Prose in code and pages uses plain technical English: phrases of the project's old dialect do
//! not return. `docs/glossary.md` has the words to use instead.

use std::path::{Path, PathBuf};

/// Phrases without a plain use in these sources, each with what to write instead.
const PHRASES: &[(&str, &str)] = &[
    ("told", "reported, given, passed"),
    ("whoever", "name the program or person"),
    ("anew", "again"),
    ("stood still", "was suspended, was blocked"),
    ("stands still", "is suspended, is blocked"),
    ("stand still", "be suspended, block"),
    ("standing still", "suspended, blocked"),
    ("goes on", "continues"),
    ("go on", "continue"),
    ("went on", "continued"),
    ("put aside", "blocked, delayed"),
    ("puts aside", "blocks, delays"),
    ("let go", "released, discarded"),
    ("lets go", "releases, discards"),
    ("letting go", "releasing, discarding"),
    ("handed back", "returned, requeued"),
    ("hand back", "return, requeue"),
    ("hands back", "returns, requeues"),
    ("gave back", "returned, released"),
    ("gives back", "returns, releases"),
    ("handed on", "rerouted, passed"),
    ("none where", "`None` means …"),
    ("onlooker", "watcher, observer"),
    ("onlookers", "watchers, observers"),
    ("looks on", "watches"),
    ("look on", "watch"),
    (
        "knows of",
        "names the knowledge: reads, lists, has a reference to",
    ),
    ("know of", "read, list, have a reference to"),
    ("hears of", "receives, is notified of"),
    ("hear of", "receive, be notified of"),
    ("heard of", "received, was notified of"),
    ("comes true", "matches"),
    ("come true", "match"),
    ("came true", "matched"),
    ("it is there", "it exists"),
    ("bell", "recheck"),
    ("leftover", "orphan, remainder"),
    ("takes up", "continues with, accepts"),
    ("take up", "continue with, accept"),
    ("as little as it", "name what cannot be done"),
    ("now and then", "periodically"),
    ("turn about", "interleaved"),
    ("who is gone", "name the process"),
    ("is there", "exists"),
    ("are there", "exist"),
    ("was there", "existed"),
    ("where there", "if … exists, if … has"),
    ("beside", "next to, in addition to, apart from"),
    ("is said", "is printed, is reported"),
    ("somebody", "name the person or program"),
    ("as it stands", "literally, unchanged"),
    ("worked off", "processed, run"),
];

/// Findings that are right as they are: the file, the phrase, and why.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("tests/config/mod.rs", "bell", "the control character"),
    ("tests/faults/terminal.rs", "bell", "the control character"),
];

/// This file lists the phrases.
const EXEMPT: &str = "tests/layers/dialect.rs";

/// Folders and files whose prose has not been revised yet. The list only shrinks.
const NOT_YET_CLEAN: &[&str] = &[];

/// One use of a phrase.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    phrase: &'static str,
    instead: &'static str,
}

/// The text as words: comment markers, line breaks, quotes of Markdown and the underscores of
/// names become spaces, so that a phrase is found across lines and in a function's name. Second,
/// for each byte, its line.
fn normalize(source: &str) -> (String, Vec<usize>) {
    let mut text = String::new();
    let mut lines = Vec::new();
    for (index, line) in source.lines().enumerate() {
        let line = line.trim_start_matches([' ', '\t', '/', '!', '>', '*', '#']);
        let line = line.trim_end().trim_end_matches('\\');
        for word in line.split(|c: char| c.is_whitespace() || c == '_') {
            if !word.is_empty() {
                text.push_str(&word.to_lowercase());
                text.push(' ');
            }
        }
        lines.resize(text.len(), index + 1);
    }
    (text, lines)
}

fn find(source: &str) -> Vec<Finding> {
    let (text, lines) = normalize(source);
    let is_word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let mut found = Vec::new();
    for (phrase, instead) in PHRASES {
        for (at, _) in text.match_indices(phrase) {
            let before = at.checked_sub(1).and_then(|at| text.as_bytes().get(at));
            let after = &text[at + phrase.len()..];
            // the start of a variable that is called `go`
            let is_binding = *phrase == "let go" && after.starts_with(" =");
            if !is_word(before) && !is_word(after.as_bytes().first()) && !is_binding {
                let line = lines[at];
                found.push((
                    at,
                    Finding {
                        line,
                        phrase,
                        instead,
                    },
                ));
            }
        }
    }
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, finding)| finding).collect()
}

/// Every `.rs` and `.md` file of the repository, but for build output and hidden folders.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                pages(&path, found);
            }
        } else if name.ends_with(".rs") || name.ends_with(".md") {
            found.push(path);
        }
    }
}

fn is_within(file: &str, folder: &str) -> bool {
    file.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[test]
fn prose_uses_plain_english_instead_of_the_dialect() {
    let root = Path::new(crate::ROOT).canonicalize().unwrap();
    let mut files = Vec::new();
    pages(&root, &mut files);
    assert!(files.len() > 150, "{} files were read", files.len());
    files.sort();
    let mut found = Vec::new();
    let mut allowed_used = vec![false; ALLOWED.len()];
    for path in files {
        let file = path.strip_prefix(&root).unwrap().to_str().unwrap();
        if file == EXEMPT || NOT_YET_CLEAN.iter().any(|folder| is_within(file, folder)) {
            continue;
        }
        for finding in find(&std::fs::read_to_string(&path).unwrap()) {
            match ALLOWED
                .iter()
                .position(|(of, phrase, _)| *of == file && *phrase == finding.phrase)
            {
                Some(index) => allowed_used[index] = true,
                None => found.push(format!(
                    "{file}:{}: `{}`; write: {}",
                    finding.line, finding.phrase, finding.instead
                )),
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    for ((file, phrase, _), used) in ALLOWED.iter().zip(allowed_used) {
        assert!(used, "{file} does not contain `{phrase}`: remove the entry");
    }
}

#[test]
fn the_dialect_lint_finds_phrases_across_lines_and_in_names() {
    let phrases = |source: &str| -> Vec<(usize, &str)> {
        find(source)
            .iter()
            .map(|finding| (finding.line, finding.phrase))
            .collect()
    };
    assert_eq!(phrases("/// The job is Told.\nfn f() {}\n"), [(1, "told")]);
    assert_eq!(
        phrases("    // a worker that goes\n    // on after that\n"),
        [(1, "goes on")]
    );
    assert_eq!(phrases("fn a_job_goes_on() {}"), [(1, "goes on")]);
    assert_eq!(phrases("panic!(\"it lets \\\n    go\")"), [(1, "lets go")]);
    assert_eq!(
        phrases("a\n\n> nobody knows of it, none where"),
        [(3, "knows of"), (3, "none where"),]
    );
    for plain in [
        "untold stories, a label, retold",
        "let going = 1; let goal = 2; let go = 3;",
        "the category is `on`",
    ] {
        assert_eq!(phrases(plain), [], "{plain}");
    }
}
