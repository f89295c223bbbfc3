//! `docs/glossary.md` names types and files that exist.

use std::path::Path;

/// Fewer terms than this, and the test no longer reads the page.
const TERMS_MIN: usize = 30;

/// The pairs that a page writes as `` `Type` in `path` ``.
fn references(page: &str) -> Vec<(String, String)> {
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    let pieces: Vec<&str> = page.split('`').collect();
    pieces
        .windows(3)
        .filter(|window| window[1] == " in " && window[2].starts_with("crates/"))
        .map(|window| (window[0].to_owned(), window[2].to_owned()))
        .collect()
}

/// The first file that defines a type or function of this name.
fn definition(name: &str, files: &[(String, String)]) -> String {
    let defines = |source: &str| {
        ["struct", "enum", "trait", "fn", "macro_rules!"]
            .iter()
            .any(|kind| has_definition(source, kind, name))
    };
    files
        .iter()
        .find(|(_, source)| defines(source))
        .map_or_else(|| "no file".to_owned(), |(path, _)| path.clone())
}

/// Whether the source defines `kind name`, or lists the name in a macro call that defines it.
fn has_definition(source: &str, kind: &str, name: &str) -> bool {
    source.lines().any(|line| {
        line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '!'))
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .windows(2)
            .any(|pair| pair == [kind, name])
    })
}

fn contains_word(source: &str, name: &str) -> bool {
    source
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .any(|word| word == name)
}

#[test]
fn the_glossary_names_types_in_files_that_define_them() {
    let root = Path::new(crate::ROOT);
    let page = std::fs::read_to_string(root.join("docs/glossary.md")).unwrap();
    let named = references(&page);
    let terms = page.lines().filter(|line| line.starts_with("**")).count();
    assert!(terms >= TERMS_MIN, "{terms} terms");
    assert_eq!(named.len(), terms, "each term names one type and its file");
    let files = super::crate_sources(root);
    let wrong: Vec<String> = named
        .iter()
        .filter(|(name, path)| {
            !std::fs::read_to_string(root.join(path))
                .is_ok_and(|source| contains_word(&source, name))
        })
        .map(|(name, path)| {
            let actual = definition(name, &files);
            format!("docs/glossary.md: `{name}` is not in {path}; {actual} defines it")
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn references_of_a_page_are_read_across_line_breaks() {
    assert_eq!(
        references("**A.** Text with `b`.\n`Type` in\n`crates/a.rs`. `C` in `docs/x`."),
        [("Type".to_owned(), "crates/a.rs".to_owned())]
    );
    let files = [("x.rs".to_owned(), "pub(super) struct Type<'a> {".to_owned())];
    assert_eq!(definition("Type", &files), "x.rs");
    assert_eq!(definition("Typ", &files), "no file");
}
