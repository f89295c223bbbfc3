//! The pages lead to each other: every relative link of a page has a file and a heading, and the table of contents
//! of the site has every page once.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::text_of;

/// The folders whose pages are for readers.
const FOLDERS: &[&str] = &[
    "",
    "docs",
    "clients/python",
    "clients/node",
    "examples/producers",
    "runners",
];

/// The pages of these folders, from the root.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(crate::ROOT);
    let mut pages = Vec::new();
    for folder in FOLDERS {
        let Ok(files) = std::fs::read_dir(root.join(folder)) else {
            continue;
        };
        let names = files.map(|file| Path::new(folder).join(file.unwrap().file_name()));
        pages.extend(names.filter(|name| name.extension().is_some_and(|ending| ending == "md")));
    }
    assert!(pages.len() > 30, "{pages:?}");
    pages
}

/// The text without blocks and without code in a line, where brackets are no links.
fn prose(text: &str) -> String {
    let mut prose = String::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let parts = line.split('`').enumerate();
            // a link's text may be code, so the code becomes a word
            prose.extend(parts.map(|(at, part)| if at % 2 == 0 { part } else { "code" }));
            prose.push('\n');
        }
    }
    prose
}

/// The targets of the links and pictures of a page that are no addresses.
fn relative_links(text: &str) -> Vec<String> {
    // a link may be broken between its text and its target's line
    let prose = prose(text);
    let targets = prose
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', ' ']).next());
    let targets =
        targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
    targets.map(str::to_owned).collect()
}

/// The fragments by which a page's headings are found, as GitHub and mdBook make them.
fn fragments(text: &str) -> BTreeSet<String> {
    let mut fragments = BTreeSet::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let heading = line.trim_start_matches('#');
        if fenced || heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let kept = heading.trim().to_lowercase();
        let kept = kept
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        fragments.insert(kept.collect::<String>().replace(' ', "-"));
    }
    fragments
}

/// What is wrong with a link of a page.
fn problem(page: &Path, link: &str) -> Option<String> {
    let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
    let target = match file {
        "" => page.to_owned(),
        file => page.parent().unwrap().join(file),
    };
    let path = Path::new(crate::ROOT).join(&target);
    if !path.exists() {
        return Some(format!("{}: there is nothing at `{link}`", page.display()));
    }
    let is_page = target.extension().is_some_and(|ending| ending == "md");
    let is_found =
        fragment.is_empty() || !is_page || fragments(&text_of(&target)).contains(fragment);
    (!is_found).then(|| format!("{}: no heading for `{link}`", page.display()))
}

#[test]
fn every_link_of_a_page_leads_somewhere() {
    let mut links = 0;
    let mut problems = Vec::new();
    for page in pages() {
        for link in relative_links(&text_of(&page)) {
            links += 1;
            problems.extend(problem(&page, &link));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(links > 150, "only {links} links were looked at");
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let page = Path::new("docs/cli.md");
    let text = "# A `b` c!\n[a](none.md) [`b`](#a-b-c) `[c](none.md)`\n```\n[d](none.md)\n```\n[e\nf](http://x)";
    assert_eq!(relative_links(text), ["none.md", "#a-b-c"]);
    assert!(fragments(text).contains("a-b-c"));
    assert!(problem(page, "none.md").is_some());
    assert!(problem(page, "#none").is_some());
    assert!(problem(page, "protocol.md#none").is_some());
    assert_eq!(problem(page, "protocol.md#the-envelope"), None);
}

/// The site shows what its table of contents names, and nothing else.
#[test]
fn the_contents_of_the_site_have_every_page_once() {
    let contents = text_of(Path::new("docs/SUMMARY.md"));
    let mut listed = relative_links(&contents);
    let count = listed.len();
    listed.sort();
    listed.dedup();
    assert_eq!(listed.len(), count, "a page is listed twice");
    for page in pages() {
        let Ok(name) = page.strip_prefix("docs") else {
            continue;
        };
        let name = name.to_str().unwrap();
        let is_listed = listed.iter().any(|one| one == name);
        assert!(
            is_listed || name == "SUMMARY.md",
            "docs/SUMMARY.md lacks {name}"
        );
    }
    // a page that is only linked to would be missing on the site
    let root = Path::new(crate::ROOT).canonicalize().unwrap();
    let contents = root.join("docs/SUMMARY.md");
    let target_of = |page: &Path, link: &str| {
        let (file, _) = link.split_once('#').unwrap_or((link, ""));
        match file {
            "" => page.to_owned(),
            file => page.parent().unwrap().join(file).canonicalize().unwrap(),
        }
    };
    let shown: BTreeSet<PathBuf> = listed
        .iter()
        .map(|link| target_of(&contents, link))
        .collect();
    for page in &shown {
        for link in relative_links(&text_of(page)) {
            let target = target_of(page, &link);
            let is_page = target.extension().is_some_and(|ending| ending == "md");
            assert!(
                !is_page || target == contents || shown.contains(&target),
                "docs/SUMMARY.md lacks the page of `{link}` in {}",
                page.display()
            );
        }
    }
}
