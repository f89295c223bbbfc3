//! The commands that README.md and the pages of docs/ show do what they show, and their links lead somewhere.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod blocks;
mod examples;
mod links;
mod not_run;
mod pages;
mod place;
mod published;
mod sources;
mod verbs;

use std::path::Path;

use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;
use blocks::{read, settled};
use pages::GUIDES;
use place::{Place, page as plain_page};

/// A page, by its path from the root.
fn text_of(page: &Path) -> String {
    let path = Path::new(crate::ROOT).join(page);
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

fn page() -> String {
    text_of(Path::new("README.md"))
}

#[test]
fn the_readme_begins_with_two_commands() {
    let page = page();
    assert!(
        page.contains("$ cargo run --release -- run -- echo \"hello from naq\"\nhello from naq\n")
    );
    assert!(page.contains("```sh\ncargo test\n```"));
    for number in 0..=7 {
        assert!(
            text_of(Path::new("docs/cli.md")).contains(&format!("\n| {number} | ")),
            "exit code {number}"
        );
    }
}

/// The page's one line for a crontab, as a user with a crontab types it.
#[test]
fn the_crontab_line_of_the_first_job_imports_a_crontab() {
    const LINE: &str = "crontab -l | naq schedule apply -";
    assert!(text_of(Path::new("docs/first-job.md")).contains(&format!("`{LINE}`")));
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let crontab = naq.file(
        "crontab",
        "#!/bin/sh\n[ \"$1\" = -l ] && echo '0 5 * * * ./backup.sh'\n",
    );
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(crontab, mode).unwrap();
    let place = Place::of(plain_page("README.md", 0));
    let mut shell = place.shell(&format!("PATH={}:$PATH; {LINE}", naq.home().display()));
    let settings = naq
        .environment()
        .into_iter()
        .filter(|(name, _)| name != "PATH");
    let applied = shell.envs(settings).output().unwrap();
    let printed = String::from_utf8(applied.stdout).unwrap();
    assert!(
        applied.status.success(),
        "{}",
        String::from_utf8_lossy(&applied.stderr)
    );
    assert!(
        printed.contains("backup-sh-") && printed.contains("created"),
        "{printed}"
    );
}

/// Every variable that these pages name is one that naq reads or a job is given.
#[test]
fn the_readme_names_variables_that_there_are() {
    const OF_A_JOB: &[&str] = &[
        "NAQ_ATTEMPT",
        "NAQ_CHECKPOINT",
        "NAQ_CHECKPOINT_FILE",
        "NAQ_FENCE",
        "NAQ_INPUTS",
        "NAQ_JOB_ID",
        "NAQ_QUEUE",
        "NAQ_WORK_DIR",
    ];
    let guides = GUIDES.iter().map(|page| page.path);
    let pages = [
        "README.md",
        "docs/first-job.md",
        "docs/install.md",
        "docs/operate.md",
    ];
    let texts: Vec<String> = pages
        .into_iter()
        .chain(guides)
        .map(|page| text_of(Path::new(page)))
        .collect();
    let page = texts.concat();
    let named: std::collections::BTreeSet<&str> = page
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("NAQ_") && word.len() > "NAQ_".len())
        .collect();
    assert!(named.len() > 8, "{named:?}");
    for name in named {
        assert!(
            OF_A_JOB.contains(&name)
                || naq_client::config::SETTINGS
                    .iter()
                    .any(|setting| setting.variable == name),
            "a page names {name}"
        );
    }
}

#[test]
fn a_page_that_shows_something_else_is_found_out() {
    let place = Place::of(plain_page("README.md", 0));
    for (page, word) in [
        ("```console run\n$ echo a\nb\n```\n", "left"),
        ("```console run\n$ echo a\na\nb\n```\n", "left"),
        ("```console run\n$ echo a\n```\n", "left"),
        ("```console run\n$ false\n```\n", "exited 1"),
        ("```console run\n$ no-such-naq\n```\n", "exited 127"),
    ] {
        let blocks = read(page);
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            place.run(&blocks[0]);
        }))
        .expect_err(page);
        let message = found.downcast_ref::<String>().unwrap();
        assert!(message.contains(word), "{page}: {message}");
    }
    place.run(&read("```console run\n$ (exit 3)\n$ echo $?\n3\n$ printf '7\\n'\n7\n```\n")[0]);
}

#[test]
fn a_background_command_that_ends_is_found_out() {
    for text in [
        "```console run background\n$ naq worker --no-such-option\n```\n",
        "```console run briefly\n$ naq dashboard --no-such-option\n```\n",
    ] {
        let found = std::panic::catch_unwind(|| {
            let mut place = Place::of(plain_page("README.md", 0));
            place.run_block(&read(text)[0]);
            place.finish();
        });
        let message = found.expect_err(text);
        let message = message.downcast_ref::<String>().unwrap();
        assert!(message.contains("ended"), "{text}: {message}");
    }
}

#[test]
fn only_what_varies_is_not_compared() {
    let is_same = |one: &str, other: &str| settled(one) == settled(other);
    assert!(is_same(
        "naq: at 2026-12-01 18:00 Europe/Berlin, in 3h",
        "naq: at 2027-01-31 18:00 Europe/Berlin, in 17h"
    ));
    assert!(is_same(
        "a  30 2 * * *  in 3h (2026-12-01T02:30:00+01:00)  -",
        "a  30 2 * * *  in 2d (2027-12-01T02:30:00+02:00)  -"
    ));
    for (one, other) in [
        (
            "naq: at 2026-12-01 18:00 Europe/Berlin, in 3h",
            "naq: at 2026-12-01 19:00 Europe/Berlin, in 3h",
        ),
        (
            "naq: from 2026-01-01 00:00 Europe/Berlin, 3d ago",
            "naq: from 2026-01-02 00:00 Europe/Berlin, 3d ago",
        ),
        ("2026-01-01T04:30:00+01:00", "2026-01-01T05:30:00+01:00"),
        ("every 3h", "every 4h"),
    ] {
        assert!(!is_same(one, other), "{one}");
    }
}
