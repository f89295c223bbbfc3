use super::*;
use naq_protocol::Timestamp;
use proptest::prelude::*;

/// The accounts of the machine.
fn is_account(name: &str) -> bool {
    ["root", "www-data", "backup"].contains(&name)
}

fn read_with(text: &str, is_system: bool) -> ScheduleFile {
    let user_queues = BTreeMap::from([("root".to_owned(), QueueName::new("roots").unwrap())]);
    read(
        text,
        &CrontabOptions {
            queue: &QueueName::new("default").unwrap(),
            zone: "Europe/Berlin".parse().unwrap(),
            is_system,
            user_queues: &user_queues,
            is_account,
        },
    )
}

fn file(text: &str) -> ScheduleFile {
    read_with(text, false)
}

fn one(line: &str) -> NewSchedule {
    let file = file(line);
    assert_eq!(file.problems, [], "{line}");
    file.schedules.into_iter().next().unwrap().new
}

fn command_and_input(line: &str) -> (String, Option<String>) {
    let envelope = one(line).envelope;
    (envelope.command_args()[1].clone(), envelope.stdin)
}

fn now() -> Timestamp {
    "2026-12-24T17:00:00Z".parse().unwrap()
}

#[test]
fn crontab_is_read_as_cron_reads_it() {
    let file = file(
        r#"# m h  dom mon dow   command
SHELL=/bin/bash
PATH = /usr/local/bin:/usr/bin:/bin
  HOME="/srv/back up"
MAILTO=""
'GREETING' = ' hello '
EMPTY=

17 *	* * *   cd / && run-parts --report /etc/cron.hourly
*/10 9-17 * * MON-FRI  ./poll.sh -q   # not a comment
CRON_TZ=America/New_York
RANDOM_DELAY=15
SHELL=/bin/zsh
	@daily	backup "$GREETING" $((1 + 2))
-5 4 1 1 * quiet
"#,
    );
    assert_eq!(file.problems, []);
    assert_eq!(file.warnings, []);
    let [hourly, poll, daily, quiet] = &file.schedules[..] else {
        panic!("{file:#?}");
    };
    assert_eq!(hourly.line, 9);
    let envelope = &hourly.new.envelope;
    assert_eq!(
        envelope.summary(),
        "/bin/bash -c 'cd / && run-parts --report /etc/cron.hourly'"
    );
    assert_eq!(envelope.cwd.as_deref(), Some("/srv/back up"));
    let variables: Vec<_> = envelope
        .env
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    assert_eq!(
        variables,
        [
            ("EMPTY", ""),
            ("GREETING", " hello "),
            ("HOME", "/srv/back up"),
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
            ("SHELL", "/bin/bash"),
        ]
    );
    let cron = |expression: &str, tz: &str| Recurrence::Cron {
        expression: expression.to_owned(),
        tz: Some(tz.to_owned()),
    };
    assert_eq!(hourly.new.recurrence, cron("17 * * * *", "Europe/Berlin"));
    assert_eq!(
        poll.new.recurrence,
        cron("*/10 9-17 * * MON-FRI", "Europe/Berlin")
    );
    assert_eq!(
        poll.new.envelope.command_args()[1],
        "./poll.sh -q   # not a comment"
    );
    assert_eq!(poll.new.jitter, None);
    assert_eq!(daily.new.recurrence, cron("@daily", "America/New_York"));
    assert_eq!(daily.new.jitter, Some(Duration::from_secs(900)));
    assert_eq!(daily.new.envelope.command.as_deref(), Some("/bin/zsh"));
    assert_eq!(quiet.new.recurrence, cron("5 4 1 1 *", "America/New_York"));
    for file_schedule in &file.schedules {
        file_schedule.schedule(now()).unwrap();
    }
}

/// As `cron_do_command` has it.
#[test]
fn a_percent_sign_ends_the_command() {
    for (line, command, stdin) in [
        ("* * * * * date +\\%F", "date +%F", None),
        ("* * * * * cat%one%two", "cat", Some("one\ntwo\n")),
        ("* * * * * cat%one%", "cat", Some("one\n")),
        ("* * * * * cat%", "cat", Some("")),
        ("* * * * * cat%10\\%%a\\b\\", "cat", Some("10%\na\\b\\\n")),
        ("* * * * * echo a\\b \\\\\\%", "echo a\\b \\\\%", None),
        ("* * * * * a=b cat", "a=b cat", None),
    ] {
        let (got, input) = command_and_input(line);
        assert_eq!((got.as_str(), input.as_deref()), (command, stdin), "{line}");
    }
}

#[test]
fn every_problem_is_reported_with_its_line() {
    let file = file(
        "0 5 * * *\n@reboot x\n\n61 * * * * x\n* * * * x\nCRON_TZ=Berlin\nRANDOM_DELAY=1h\n@daily\n* * * * * %x\nMAILTO=me\nTZ=UTC\nLD_PRELOAD=x\nLOGNAME=x\n",
    );
    let mut problems: Vec<_> = file
        .problems
        .iter()
        .chain(&file.unsupported)
        .map(|one| (one.line, one.text.clone()))
        .collect();
    for file_schedule in &file.schedules {
        let problem = file_schedule.schedule(now()).unwrap_err();
        problems.push((problem.line, problem.text));
    }
    problems.sort();
    let expected = [
        (1, "no command"),
        (2, "@reboot is not supported"),
        (4, "minute (field 1)"),
        (5, "no command"),
        (6, "Europe/Berlin"),
        (7, "minutes"),
        (8, "no command"),
        (9, "before the first %"),
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for ((line, text), (expected_line, words)) in problems.iter().zip(expected) {
        assert_eq!(*line, expected_line, "{text}");
        assert!(text.contains(words), "{text}");
    }
    let warnings: Vec<_> = file
        .warnings
        .iter()
        .map(|one| (one.line, &*one.text))
        .collect();
    assert_eq!(warnings.len(), 4, "{warnings:#?}");
    assert!(warnings[0].1.contains("sends no mail") && warnings[0].0 == 10);
    assert!(warnings[1].1.contains("CRON_TZ does"));
    assert!(warnings[2].1.contains("--allow-env LD_PRELOAD"));
    assert!(warnings[3].1.contains("a crontab cannot set it"));
    assert!(warnings[3].1.contains("a crontab cannot set it"));
}

#[test]
fn lines_that_only_other_crons_accept_are_listed_apart() {
    let file = file(
        "@reboot x\n@every 5m x\n0~59 * * * * x\nH 4 * * * x\n0 5 * * * -n x\n0 5 * * * -ns x\n0 5 * * * ok\n",
    );
    assert_eq!(file.problems, []);
    assert_eq!(file.schedules.len(), 1);
    let expected = [
        (1, "naq worker --at-boot"),
        (2, "every = \"5m\""),
        (3, "a random value (~)"),
        (4, "a hashed value (H)"),
        (5, "-n before the command is a flag"),
        (6, "overlap = \"skip\""),
    ];
    assert_eq!(file.unsupported.len(), expected.len());
    for (found, (line, words)) in file.unsupported.iter().zip(expected) {
        assert_eq!(found.line, line, "{found:?}");
        assert!(found.text.contains(words), "{found:?}");
    }
}

/// The sixth field would become the first word of the command.
#[test]
fn six_time_fields_are_refused() {
    for line in [
        "*/10 * * * * * x",
        "0 0 5 * * * x --now",
        "0 0 12 * * ? x",
        "0 0 12 ? * MON-FRI x",
        "0 0 12 * * ? 2026 x",
    ] {
        let file = file(line);
        assert_eq!(file.schedules.len(), 0, "{line}");
        assert!(
            file.problems[0].text.contains("six time fields"),
            "{file:?}"
        );
    }
    for line in [
        "0 5 * * * sun --set",
        "0 5 * * * 7z a x",
        "0 5 * * * *.sh",
        "@daily 5",
    ] {
        assert_eq!(file(line).problems, [], "{line}");
    }
}

#[test]
fn a_column_of_users_is_found() {
    for (text, expected) in [
        (
            "# m h\nSHELL=/bin/sh\n17 * * * * root cd / && x\n",
            Some((3, "root")),
        ),
        ("0 5 * * * x\n@daily root x\n", Some((2, "root"))),
        (
            "0 5 * * * www-data x\n@daily backup x\n",
            Some((1, "www-data")),
        ),
        // One of the words is a command.
        ("0 5 * * * backup x\n@daily x y\n", None),
        // No word follows, so this is the command.
        ("@daily backup\n", None),
        ("0 5 * * * x y\n", None),
        ("# nothing\n", None),
    ] {
        let found = find_user_column(text, is_account);
        let expected = expected.map(|(line, user)| (line, user.to_owned()));
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn a_line_gets_the_shell_of_cron() {
    assert_eq!(one("@daily x").envelope.env["SHELL"], "/bin/sh");
    assert_eq!(
        one("SHELL=/bin/bash\n@daily x").envelope.env["SHELL"],
        "/bin/bash"
    );
}

#[test]
fn a_system_crontab_has_users() {
    let file = read_with(
        "25 6 * * * root run-parts /etc/cron.daily\n@daily www-data clean\n@daily run-parts /etc/cron.daily\n",
        true,
    );
    assert_eq!(file.schedules.len(), 1);
    assert_eq!(file.schedules[0].queue.as_str(), "roots");
    let new = &file.schedules[0].new;
    assert_eq!(new.envelope.command_args()[1], "run-parts /etc/cron.daily");
    assert_eq!(file.problems[0].line, 2);
    assert!(
        file.problems[0]
            .text
            .contains("--user-queue www-data=QUEUE")
    );
    assert!(file.problems[1].text.contains("no such account"));
}

#[test]
fn a_line_keeps_its_name_when_others_change() {
    let names = |text: &str| -> Vec<String> {
        let schedules = file(text).schedules.into_iter();
        schedules
            .map(|one| one.new.schedule_id.unwrap().to_string())
            .collect()
    };
    let both = names("0 5 * * * /opt/backup.sh --all\n0 6 * * * A=1 clean\n");
    assert!(both[0].starts_with("backup-sh-"), "{both:?}");
    assert!(both[1].starts_with("clean-"), "{both:?}");
    // other times, other lines, other variables
    let again =
        names("X=1\n0 6 * * * A=1 clean\n* * * * * more\n30 4 * * * /opt/backup.sh --all\n");
    assert_eq!([&again[2], &again[0]], [&both[0], &both[1]]);
    // the same several times
    let same = names("0 5 * * * x\n0 6 * * * x\n0 6 * * * x\n");
    assert_eq!(
        same.iter().collect::<std::collections::BTreeSet<_>>().len(),
        3
    );
    assert_eq!(names("0 5 * * * x\n0 6 * * * x\n"), same[..2]);
}

#[test]
fn no_two_lines_have_one_name() {
    let entry = entry("@daily x", false).unwrap();
    let mut taken = HashSet::new();
    let first = name(&entry, 1, &mut taken);
    // as if its digest were another's
    assert_ne!(name(&entry, 1, &mut taken), first);
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,40}", system: bool) {
        for prefix in ["", "* * * * * ", "@daily ", "A=", "'A' = '"] {
            for file_schedule in read_with(&format!("{prefix}{text}"), system).schedules {
                let _ = file_schedule.schedule(now());
            }
        }
    }

    /// What a shell is given is what was written, percent signs apart.
    #[test]
    fn command_is_taken_unchanged(text in "[A-Za-z./$(]( |[!-~]){0,30}") {
        prop_assume!(!text.contains('%') && !text.ends_with(' '));
        let (command, stdin) = command_and_input(&format!("* * * * * {text}"));
        prop_assert_eq!(command, text);
        prop_assert_eq!(stdin, None);
    }
}

/// Each command has a copy of the variables above it: of a file of a few megabytes that would be
/// gigabytes.
#[test]
fn variables_of_a_crontab_are_not_copied_without_a_limit() {
    // enough to be refused, and too few to fill the memory of the machine if they are not
    const LINES: usize = 1_500;
    let mut text = String::new();
    for at in 0..LINES {
        text.push_str(&format!("V{at}=0123456789\n"));
    }
    for at in 0..LINES {
        text.push_str(&format!("* * * * * ./run.sh {at}\n"));
    }
    let file = file(&text);
    let copied: usize = file
        .schedules
        .iter()
        .map(|schedule| schedule.new.envelope.env.len())
        .sum();
    assert!(copied < 1_000_000, "{copied} variables");
    let [problem] = &file.problems[..] else {
        panic!("{:?}", file.problems);
    };
    assert!(problem.text.contains("64 MiB"), "{problem:?}");
    assert_eq!(problem.line, LINES + file.schedules.len() + 1);
    // A variable that is set again and again is one variable.
    let again = "A=0123456789\n* * * * * ./run.sh\n".repeat(20_000);
    let file = read_with(&again, false);
    assert_eq!((file.problems.len(), file.schedules.len()), (0, 20_000));
}

#[test]
fn a_delay_that_no_clock_can_wait_for_is_refused() {
    for (delay, is_accepted) in [
        ("0", true),
        ("52560000", true),
        ("52560001", false),
        ("307445734561825861", false),
        ("18446744073709551615", false),
        ("99999999999999999999", false),
        ("-1", false),
    ] {
        let file = file(&format!("RANDOM_DELAY={delay}\n@daily ./run.sh\n"));
        assert_eq!(file.problems.is_empty(), is_accepted, "{delay}: {file:#?}");
    }
}
