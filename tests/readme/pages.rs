//! The pages with commands, and what each assumes.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::Path;

use super::blocks::read;
use super::place::{Page, Place, free_port, page};
use super::text_of;
use crate::harness::find_program;
use crate::harness::naq::ALLOW_ROOT;

/// Short pages whose commands run one after another.
pub(super) const GUIDES: &[Page] = &[
    page("docs/retries.md", 5),
    page("docs/flows.md", 4),
    page("docs/limits.md", 6),
    page("docs/secrets.md", 2),
    page("docs/failed-jobs.md", 5),
    page("docs/repeatable-jobs.md", 2),
    page("docs/testing-jobs.md", 3),
    page("docs/from-systemd-timers.md", 7),
    page("docs/from-pueue.md", 16),
    Page {
        fixture: MAIL,
        check: "naq enqueue --id again -- false
            timeout 60 sh -c \"until grep -q 'again failed' letters; do sleep 0.05; done\"",
        ..page("docs/events.md", 6)
    },
    Page {
        other_terminal: Some("naq dev"),
        ..page("docs/files.md", 6)
    },
];

/// A program that keeps the words of each letter in a file.
const MAIL: &str = r#"mkdir bin
printf '#!/bin/sh\necho "$@" >> "$HOME/letters"\n' > bin/mail
chmod +x bin/mail"#;

/// A user's crontab.
const CRONTAB: &str = r#"mkdir bin
cat > bin/crontab <<'EOF'
#!/bin/sh
[ "$1" = -l ] || exit 2
echo '30 2 * * * /opt/backup.sh --all'
echo '*/10 8-18 * * MON-FRI /opt/report.sh'
EOF
chmod +x bin/crontab
"#;

/// Pages about schedules, in the time zone that they show.
const SCHEDULES: &[Page] = &[
    Page {
        other_terminal: Some("naq dev"),
        variables: &[("TZ", "Europe/Berlin")],
        fixture: CRONTAB,
        ..page("docs/from-cron.md", 3)
    },
    Page {
        other_terminal: Some("naq dev"),
        variables: &[("TZ", "Europe/Berlin")],
        // the page's file of schedules is the block that it shows
        fixture: "sed -n '/^```toml/,/^```/{/^```/!p}' \"$PAGE\" > schedules.toml
            mkdir bin
            printf '#!/bin/sh\\necho \"30 2 * * * /opt/backup.sh --all\"\\n' > bin/crontab
            chmod +x bin/crontab",
        ..page("docs/schedules.md", 10)
    },
];

/// Pages about processes that keep running.
const SERVICES: &[Page] = &[
    Page {
        other_terminal: Some("naq dev"),
        addresses: &["127.0.0.1:9464", "127.0.0.1:9465"],
        programs: &["curl"],
        ..page("docs/metrics.md", 5)
    },
    Page {
        other_terminal: Some("naq dev"),
        ..page("docs/dashboard.md", 2)
    },
    Page {
        other_terminal: Some("naq dev"),
        ..page("docs/reverse-proxy.md", 2)
    },
];

/// Pages about the program and its installation.
const INSTALLED: &[Page] = &[
    Page {
        // the completions are those of this shell
        shell: "bash",
        programs: &["bash"],
        check: "test -s .local/share/man/man1/naq-enqueue.1
            eval \"$(naq completions bash)\"
            complete -p naq",
        ..page("docs/install.md", 3)
    },
    Page {
        programs: &["ssh-keygen", "sha256sum"],
        // a release and its signature, as `packaging/release` makes them
        fixture: "ssh-keygen -q -t ed25519 -N '' -f key
            echo \"release $(cut -d ' ' -f 1,2 key.pub)\" > signers
            echo program > naq-0.1.0-x86_64-linux.tar.gz
            sha256sum naq-0.1.0-x86_64-linux.tar.gz > SHA256SUMS
            ssh-keygen -q -Y sign -f key -n naq-release SHA256SUMS",
        ..page("docs/packages.md", 2)
    },
];

/// Pages about scripts and functions.
const LANGUAGES: &[Page] = &[
    Page {
        other_terminal: Some("naq dev"),
        programs: &["node"],
        ..page("docs/languages.md", 7)
    },
    Page {
        other_terminal: Some("naq dev"),
        programs: &["jq", "mawk"],
        // the manifest and the shim are the blocks that the page shows; another manifest has the shim
        fixture: "printf 'import sys\\nprint(\"report of\", *sys.argv[1:])\\n' > report.py
            printf 'def count_words(text, min=1):\\n    return len(text.split())\\n' > tasks.py
            mkdir -p my-runners/awk my-runners/shell
            sed -n '/^```toml/,/^```/{/^```/!p}' \"$PAGE\" > my-runners/awk/runner.toml
            sed -n '/^#!/,/^```/{/^```/!p}' \"$PAGE\" > my-runners/shell/shim.sh
            cat > my-runners/shell/runner.toml <<'EOF'
manifest = 1
name = \"shell\"
program = [\"sh\"]
[probe]
argv = [\"{program}\", \"-c\", \"exit 0\"]
[function]
argv = [\"{program}\", \"{shim}\"]
EOF
            printf 'hello() { echo \"hello $1\"; }\\n' > job.sh",
        check: "naq worker shell --runners-dir my-runners > worker.log 2>&1 &
            trap \"kill $!\" EXIT
            naq enqueue --queue shell --id shim --wait --runner shell --call ./job.sh:hello -- '\"you\"'
            naq status shim --json | jq -r .result | grep -qx 'hello you'",
        ..page("runners/README.md", 5)
    },
    Page {
        fixture: "ln -s \"$ROOT/runners\" runners",
        ..page("runners/conformance/README.md", 1)
    },
    Page {
        other_terminal: Some("naq dev build"),
        programs: &["curl", "jq"],
        python: Some(("python-producers", "examples/producers/requirements.txt")),
        fixture: "cp \"$ROOT\"/examples/producers/producer.* .",
        ..page("examples/producers/README.md", 7)
    },
];

/// Pages with a test of their own.
const OTHERS: &[Page] = &[
    page("README.md", 5),
    page("docs/first-job.md", 28),
    page("docs/hardening.md", 10),
    page("docs/http.md", 20),
    page("docs/troubleshooting.md", 30),
];

/// Every page whose commands are run.
pub(super) fn all() -> impl Iterator<Item = &'static Page> {
    [GUIDES, SCHEDULES, SERVICES, INSTALLED, LANGUAGES, OTHERS]
        .into_iter()
        .flatten()
}

fn check_text(page: &Page, text: &str) {
    let without = format!("no command of {} is run", page.path);
    for program in page.programs {
        if find_program(program, &without).is_none() {
            return;
        }
    }
    let mut place = Place::of(*page);
    place.set_up();
    let mut commands = 0;
    for block in &read(text) {
        place.run_block(block);
        commands += block.steps.len();
    }
    place.finish();
    assert!(
        commands >= page.commands_min,
        "only {commands} commands of {} were run",
        page.path
    );
}

fn check_page(page: &Page) {
    check_text(page, &text_of(Path::new(page.path)));
}

fn check_path(path: &str) {
    check_page(all().find(|page| page.path == path).unwrap());
}

#[test]
fn the_commands_of_the_readme_do_what_it_shows() {
    check_path("README.md");
}

#[test]
fn the_commands_of_the_first_job_do_what_the_page_shows() {
    check_path("docs/first-job.md");
}

#[test]
fn the_commands_of_the_guides_do_what_they_show() {
    GUIDES.iter().for_each(check_page);
}

#[test]
fn the_commands_of_the_pages_about_schedules_do_what_they_show() {
    SCHEDULES.iter().for_each(check_page);
}

#[test]
fn the_commands_of_the_pages_about_services_do_what_they_show() {
    SERVICES.iter().for_each(check_page);
}

#[test]
fn the_commands_of_the_pages_about_installation_do_what_they_show() {
    INSTALLED.iter().for_each(check_page);
}

#[test]
fn the_commands_of_the_pages_about_languages_do_what_they_show() {
    LANGUAGES.iter().for_each(check_page);
}

#[test]
fn the_commands_of_the_troubleshooting_page_print_what_it_shows() {
    check_path("docs/troubleshooting.md");
}

#[test]
fn the_commands_of_the_hardening_page_lock_a_fleet_down() {
    let hardening = Page {
        // the tests may run as root, which a worker of a fleet refuses
        variables: &[(ALLOW_ROOT, "1")],
        ..page("docs/hardening.md", 10)
    };
    // the page's port may be another server's
    let text = text_of(Path::new(hardening.path)).replace("4333", &free_port());
    check_text(&hardening, &text);
}

#[test]
fn the_commands_of_the_http_page_do_what_it_shows() {
    let http = Page {
        programs: &["curl", "jq"],
        ..page("docs/http.md", 20)
    };
    // the page's port may be another program's
    let text = text_of(Path::new(http.path)).replace("8080", &free_port());
    check_text(&http, &text);
}
