//! Examples of each verb. `--help` shows them, and a test runs them.

/// An example: what it does, and the command.
pub(super) type Example = (&'static str, &'static str);

/// The examples of each verb, by its path.
pub(super) const EXAMPLES: &[(&str, &[Example])] = &[
    (
        "run",
        &[
            ("Run a command and see its output", "naq run -- echo hello"),
            (
                "Limit its time and memory",
                "naq run --timeout 30s --memory 256M -- ./backup.sh --all",
            ),
            (
                "Retry it up to three times",
                "naq run --retries 3 --retry-delay 5s -- ./backup.sh",
            ),
            ("Run a script", "naq run --script backup.sh -- --all"),
            ("Pass it input", "echo hello | naq run -- cat"),
        ],
    ),
    (
        "enqueue",
        &[
            ("Enqueue a job", "naq enqueue -- ./backup.sh --all"),
            (
                "Wait for its outcome and see its output",
                "naq enqueue --wait -- date",
            ),
            (
                "Choose the queue and the job's id",
                "naq enqueue --queue build --id build-42 -- make test",
            ),
            (
                "Upload files, and keep what the job makes of them",
                "naq enqueue --upload input --artifact 'out/*.csv' -- sort input/in.csv",
            ),
            (
                "Enqueue a job for each line, and one that gets the outcomes of all",
                "ls | naq enqueue --map - --id sums -- sha256sum {}; naq enqueue --join sums -- wc -l",
            ),
        ],
    ),
    (
        "status",
        &[
            ("Show a job", "naq status report-7"),
            (
                "Show what it depends on and what waits for it",
                "naq status report-7 --tree",
            ),
            ("Print its record", "naq status report-7 --json"),
        ],
    ),
    (
        "why",
        &[
            ("Explain why a job does not run", "naq why report-9"),
            ("Print the explanation as JSON", "naq why report-9 --json"),
        ],
    ),
    (
        "progress",
        &[
            (
                "Report from a shell script",
                "naq run -- sh -c 'naq progress 50; ./backup.sh'",
            ),
            (
                "Say what the job does",
                "naq run -- sh -c 'naq progress --message starting; ./backup.sh'",
            ),
        ],
    ),
    (
        "checkpoint",
        &[
            (
                "Note how far the job has come",
                "naq run -- sh -c 'naq checkpoint 7; echo row 7'",
            ),
            (
                "Note a text",
                "naq run -- sh -c 'naq checkpoint --text row-7'",
            ),
        ],
    ),
    (
        "result",
        &[
            ("Print what a job wrote", "naq result report-7"),
            (
                "Wait for it, and exit with its exit code",
                "naq result report-7 --wait --exit-code",
            ),
            ("Print its standard error", "naq result report-8 --stderr"),
            (
                "Set the result of the job that runs it",
                "naq run -- sh -c 'naq result --set [1,2]'",
            ),
        ],
    ),
    (
        "logs",
        &[
            ("Print a job's output so far", "naq logs report-7"),
            ("Follow it until the job ends", "naq logs --follow report-7"),
        ],
    ),
    (
        "artifacts",
        &[
            (
                "List the files that a job has left",
                "naq artifacts report-7",
            ),
            (
                "Download them into a folder",
                "naq artifacts report-7 --output results",
            ),
            (
                "Print one of them",
                "naq artifacts report-7 out/sums.csv --output -",
            ),
        ],
    ),
    (
        "wait",
        &[
            ("Wait for two jobs", "naq wait report-6 report-7"),
            (
                "Wait no longer than five minutes",
                "naq wait --timeout 5m report-7",
            ),
        ],
    ),
    (
        "cancel",
        &[
            ("Cancel a job", "naq cancel report-9"),
            (
                "Cancel a queue's jobs, and wait until running ones have stopped",
                "naq cancel --queue build --yes --wait",
            ),
            (
                "Cancel the jobs with a label",
                "naq cancel --label customer=acme --yes",
            ),
        ],
    ),
    (
        "retry",
        &[
            ("Run a job again", "naq retry report-8"),
            (
                "Run it again, and wait for its outcome",
                "naq retry --wait report-7",
            ),
        ],
    ),
    (
        "jobs",
        &[
            ("List the latest jobs", "naq jobs"),
            (
                "List what failed in the last hour",
                "naq jobs --state failed,rejected --since 1h",
            ),
            (
                "List ten jobs of a queue, for a program",
                "naq jobs --queue build --limit 10 --json",
            ),
            ("Watch the list", "naq jobs --watch"),
        ],
    ),
    (
        "job ttl",
        &[
            (
                "Keep a job's record for 30 days from now",
                "naq job ttl report-7 30d",
            ),
            ("Keep it forever", "naq job ttl report-7 0"),
        ],
    ),
    (
        "job pause",
        &[
            ("Pause a delayed job", "naq job pause reminder"),
            ("Pause several", "naq job pause reminder reminder-2"),
        ],
    ),
    (
        "job resume",
        &[
            ("Resume a delayed job", "naq job resume reminder"),
            ("Resume several", "naq job resume reminder reminder-2"),
        ],
    ),
    (
        "runner list",
        &[
            ("List runners", "naq runner list"),
            ("List them for a program", "naq runner list --json"),
        ],
    ),
    (
        "runner show",
        &[
            ("Print how Python scripts are run", "naq runner show python"),
            (
                "Print what calls Python functions",
                "naq runner show python --shim",
            ),
        ],
    ),
    (
        "runner check",
        &[
            ("Check which runners work here", "naq runner check"),
            (
                "Check some of them, for a program",
                "naq runner check sh python --json",
            ),
        ],
    ),
    (
        "job reschedule",
        &[
            (
                "Start a delayed job at six in the evening",
                "naq job reschedule reminder 18:00 --tz Europe/Berlin",
            ),
            (
                "Start it on another day",
                "naq job reschedule reminder '2030-12-24 18:00'",
            ),
        ],
    ),
    (
        "job trigger",
        &[
            ("Enqueue a delayed job now", "naq job trigger reminder"),
            (
                "Enqueue another, for a program",
                "naq job trigger reminder-2 --json",
            ),
        ],
    ),
    (
        "failed list",
        &[
            ("List failed jobs", "naq failed list"),
            (
                "List a queue's failed jobs of the last day",
                "naq failed list --queue default --newer-than 24h",
            ),
        ],
    ),
    (
        "failed groups",
        &[
            ("Group failed jobs by cause", "naq failed groups"),
            (
                "Group a queue's failed jobs of the last day",
                "naq failed groups --queue default --newer-than 24h",
            ),
        ],
    ),
    (
        "failed show",
        &[
            ("Show why a job failed", "naq failed show report-8"),
            (
                "Save its envelope",
                "naq failed show report-8 --envelope > envelope.json",
            ),
        ],
    ),
    (
        "failed retry",
        &[
            ("Run a failed job again", "naq failed retry report-8"),
            (
                "Run again what timed out in the last hour",
                "naq failed retry --reason timeout --newer-than 1h",
            ),
        ],
    ),
    (
        "failed discard",
        &[
            ("Discard a failed job", "naq failed discard report-8 --yes"),
            (
                "Discard what failed over 30 days ago",
                "naq failed discard --older-than 30d --yes",
            ),
        ],
    ),
    (
        "audit",
        &[
            ("List the latest changes", "naq audit"),
            (
                "List what was purged in the last two hours",
                "naq audit --since 2h --action purge",
            ),
            (
                "List what one user has changed, for a program",
                "naq audit --who anna --json",
            ),
            (
                "Follow changes of queues",
                "naq audit --follow --action queue",
            ),
        ],
    ),
    (
        "events",
        &[
            ("Print the latest change of each job", "naq events"),
            (
                "Follow failures",
                "naq events --follow --state failed,rejected",
            ),
            (
                "Run a command for each failure",
                "naq events --exec 'echo \"$NAQ_JOB_ID\" >> failures.log'",
            ),
        ],
    ),
    (
        "schedule add",
        &[
            (
                "Run a job every night at three",
                "naq schedule add --name backup --cron '0 3 * * *' --tz Europe/Berlin -- ./backup.sh",
            ),
            (
                "Run a job every 15 minutes; `add` may be left out",
                "naq schedule --every 15m -- ./backup.sh",
            ),
            (
                "See the schedule without adding it",
                "naq schedule add --cron @hourly --overlap skip --dry-run -- ./backup.sh",
            ),
        ],
    ),
    (
        "schedule list",
        &[
            ("List schedules and delayed jobs", "naq schedule list"),
            (
                "List paused schedules",
                "naq schedule list --kind recurring --status paused",
            ),
            (
                "List a queue's, for a program",
                "naq schedule list --queue default --json",
            ),
        ],
    ),
    (
        "schedule show",
        &[
            ("Show a schedule", "naq schedule show nightly"),
            ("Show it to a program", "naq schedule show nightly --json"),
        ],
    ),
    (
        "schedule apply",
        &[
            (
                "See what a file would change",
                "naq schedule apply schedules.toml --dry-run",
            ),
            ("Apply it", "naq schedule apply schedules.toml"),
            (
                "Apply a crontab",
                "naq schedule apply crontab --set host --tz Europe/Berlin",
            ),
            (
                "Apply a crontab without lines that only other crons accept",
                "naq schedule apply crontab --set host --skip-unsupported",
            ),
        ],
    ),
    (
        "schedule pause",
        &[
            ("Pause a schedule", "naq schedule pause nightly"),
            ("Pause several", "naq schedule pause nightly heartbeat"),
        ],
    ),
    (
        "schedule resume",
        &[
            ("Resume a schedule", "naq schedule resume nightly"),
            ("Resume several", "naq schedule resume nightly heartbeat"),
        ],
    ),
    (
        "schedule update",
        &[
            (
                "Change the time of day",
                "naq schedule update nightly --cron '30 4 * * *'",
            ),
            (
                "Change the interval and the next run",
                "naq schedule update heartbeat --every 30m --next-run 18:00",
            ),
            (
                "Remove the end and the jitter",
                "naq schedule update heartbeat --end none --jitter none",
            ),
        ],
    ),
    (
        "schedule trigger",
        &[
            ("Run a schedule's job now", "naq schedule trigger nightly"),
            (
                "Run it and wait for the outcome",
                "naq wait \"$(naq schedule trigger nightly)\"",
            ),
        ],
    ),
    (
        "schedule backfill",
        &[
            (
                "See which runs a schedule would have had",
                "naq schedule backfill nightly --from '2025-01-01 00:00' --to '2025-02-01 00:00' --dry-run",
            ),
            (
                "Enqueue them",
                "naq schedule backfill nightly --from '2025-01-01 00:00' --to '2025-02-01 00:00'",
            ),
            (
                "Enqueue the latest seven",
                "naq schedule backfill nightly --from '2025-01-01 00:00' --limit 7 --order newest",
            ),
        ],
    ),
    (
        "schedule delete",
        &[
            ("Delete a schedule", "naq schedule delete nightly"),
            (
                "Delete another, and print the result as JSON",
                "naq schedule delete heartbeat --json",
            ),
        ],
    ),
    (
        "schedules",
        &[
            ("List schedules and delayed jobs", "naq schedules"),
            ("List delayed jobs only", "naq schedules --kind delayed"),
        ],
    ),
    (
        "queue list",
        &[
            ("List queues", "naq queue list"),
            ("List them for a program", "naq queue list --json"),
        ],
    ),
    (
        "queue add",
        &[
            ("Create two queues", "naq queue add images videos"),
            (
                "Create a queue of which two jobs run at once",
                "naq queue add imports --max-running 2",
            ),
        ],
    ),
    (
        "queue set",
        &[
            (
                "Let no more than four jobs of a queue run at once",
                "naq queue set build --max-running 4",
            ),
            ("Remove the limit", "naq queue set build --max-running none"),
            (
                "Keep one copy of the queue, on one server of a cluster",
                "naq queue set build --replicas 1",
            ),
        ],
    ),
    (
        "queue pause",
        &[
            ("Pause a queue", "naq queue pause build"),
            ("Pause several", "naq queue pause build emails"),
        ],
    ),
    (
        "queue resume",
        &[
            ("Resume a queue", "naq queue resume build"),
            ("Resume several", "naq queue resume build emails"),
        ],
    ),
    (
        "queue remove",
        &[
            ("Remove a queue", "naq queue remove build --yes"),
            ("Remove several", "naq queue remove emails reports --yes"),
        ],
    ),
    (
        "queue purge",
        &[
            ("Remove a queue's jobs", "naq queue purge build --yes"),
            (
                "Remove several queues' jobs",
                "naq queue purge emails reports --yes",
            ),
        ],
    ),
    (
        "queues",
        &[
            ("List queues", "naq queues"),
            ("List them for a program", "naq queues --json"),
        ],
    ),
    (
        "workers",
        &[
            ("List workers", "naq workers"),
            ("List them for a program", "naq workers --json"),
        ],
    ),
    (
        "workers drain",
        &[
            (
                "See what a worker runs",
                "naq workers drain build-1 --dry-run",
            ),
            ("Drain it", "naq workers drain build-1"),
        ],
    ),
    (
        "worker",
        &[
            ("Run jobs of the default queue", "naq worker"),
            (
                "Run jobs of two queues, four at once",
                "naq worker build emails --concurrency 4",
            ),
            (
                "Serve the first queue before the second, with a label",
                "naq worker build default --order strict --label gpu=yes",
            ),
            (
                "Let its jobs enqueue and read jobs of the queue",
                "naq worker build --grant enqueue,read",
            ),
        ],
    ),
    (
        "scheduler",
        &[
            ("Run a scheduler", "naq scheduler"),
            (
                "Name it, and let another take over after 5 seconds",
                "naq scheduler --instance-id host-1 --lock-ttl 5s",
            ),
        ],
    ),
    (
        "scheduler list",
        &[
            ("List schedulers", "naq scheduler list"),
            ("List them for a program", "naq scheduler list --json"),
        ],
    ),
    (
        "dashboard",
        &[
            (
                "Serve pages and the API on a free port",
                "naq dashboard --port 0",
            ),
            (
                "Serve pages that change nothing",
                "naq dashboard --port 0 --read-only",
            ),
        ],
    ),
    (
        "dev",
        &[
            ("Run everything in one process", "naq dev"),
            (
                "Serve another queue, with two jobs at once",
                "naq dev build --concurrency 2",
            ),
        ],
    ),
    (
        "server start",
        &[
            ("Run a local server until Ctrl-C", "naq server start"),
            ("Leave it running", "naq server start --stay"),
        ],
    ),
    (
        "server stop",
        &[
            ("Stop the local server", "naq server stop"),
            ("Stop it, with errors as JSON", "naq server stop --json"),
        ],
    ),
    (
        "server status",
        &[
            ("Show the local server", "naq server status"),
            ("Show it to a program", "naq server status --json"),
        ],
    ),
    (
        "server check",
        &[
            (
                "Compare what naq stores on NATS with what it needs",
                "naq server check",
            ),
            ("Change what can be changed", "naq server check --fix"),
        ],
    ),
    (
        "server path",
        &[
            ("Print the path of nats-server", "naq server path"),
            ("Print its version too", "naq server path --json"),
        ],
    ),
    (
        "nats-config",
        &[
            (
                "Print the users for a queue, with passwords from nats-server's environment",
                "naq nats-config --queue build",
            ),
            (
                "Write them with key pairs, and settings for each role, into a folder",
                "naq nats-config --queue build --nkeys --out fleet",
            ),
            (
                "Print a producer that reads nothing",
                "naq nats-config --queue build --role producer --publish-only",
            ),
            (
                "Print accounts for two tenants",
                "naq nats-config --queue build --tenant acme --tenant globex",
            ),
        ],
    ),
    (
        "config",
        &[
            ("Print the settings", "naq config"),
            ("Print them for a program", "naq config --json"),
        ],
    ),
    (
        "config trust",
        &[
            (
                "Trust the naq.toml of this folder, after reading it",
                "naq config trust",
            ),
            ("Withdraw the trust", "naq config trust --revoke"),
        ],
    ),
    (
        "health",
        &[
            ("Check that NATS can be used", "naq health"),
            (
                "Check the worker of this container too",
                "naq health worker || echo unhealthy",
            ),
        ],
    ),
    (
        "cron next",
        &[
            (
                "Print the next five times",
                "naq cron next '0 3 * * MON-FRI' --tz Europe/Berlin",
            ),
            (
                "Print three times after a date",
                "naq cron next @weekly --count 3 --from '2026-12-24 18:00'",
            ),
        ],
    ),
    (
        "cron explain",
        &[
            (
                "Explain an expression",
                "naq cron explain '*/15 9-17 * * MON-FRI'",
            ),
            ("Explain a nickname", "naq cron explain @daily"),
        ],
    ),
    (
        "schema",
        &[
            ("List the types", "naq schema"),
            ("Print the schema of an envelope", "naq schema envelope"),
        ],
    ),
    (
        "completions",
        &[
            (
                "Save the script for bash",
                "naq completions bash > naq.bash",
            ),
            (
                "Save the script for fish",
                "naq completions fish > naq.fish",
            ),
        ],
    ),
    (
        "man",
        &[
            ("Write the man pages into a folder", "naq man --dir man"),
            (
                "Install them for one user",
                "naq man --dir ~/.local/share/man/man1",
            ),
        ],
    ),
    (
        "version",
        &[
            ("Print the version", "naq version"),
            ("Print it for a program", "naq version --json"),
        ],
    ),
    (
        "bench jobs",
        &[
            ("Measure with 1 to 64 jobs at once", "naq bench jobs"),
            (
                "Measure quickly, with 4 jobs at once",
                "naq bench jobs --concurrency 4 --rounds 1 --seconds 1",
            ),
        ],
    ),
    (
        "bench enqueue",
        &[
            ("Measure", "naq bench enqueue"),
            (
                "Measure quickly",
                "naq bench enqueue --rounds 1 --seconds 0.5",
            ),
        ],
    ),
    (
        "bench latency",
        &[
            ("Measure", "naq bench latency"),
            (
                "Measure quickly",
                "naq bench latency --rounds 1 --seconds 0.5",
            ),
        ],
    ),
    (
        "bench schedule",
        &[
            ("Measure", "naq bench schedule"),
            (
                "Measure with 1,000 schedules",
                "naq bench schedule --schedules 1000",
            ),
        ],
    ),
    (
        "bench memory",
        &[
            ("Measure", "naq bench memory"),
            (
                "Measure with a job that prints 100 MB",
                "naq bench memory --output 100M",
            ),
        ],
    ),
    (
        "bench growth",
        &[
            ("Measure everything", "naq bench growth"),
            (
                "Measure 50 queues, and 20 followers",
                "naq bench growth queues followers --queues 50 --followers 20",
            ),
        ],
    ),
    (
        "bench functions",
        &[
            ("Measure", "naq bench functions"),
            (
                "Measure quickly, with 2 warm processes",
                "naq bench functions --slots 2 --rounds 1 --seconds 0.5",
            ),
        ],
    ),
    (
        "bench web",
        &[
            ("Measure", "naq bench web"),
            (
                "Measure with fewer records and open pages",
                "naq bench web --records 10000 --viewers 10",
            ),
        ],
    ),
    (
        "list-scheduled",
        &[
            ("List schedules and delayed jobs", "naq list-scheduled"),
            (
                "Show a schedule in full",
                "naq list-scheduled --job-id nightly --detailed",
            ),
        ],
    ),
    (
        "job-control",
        &[
            ("Pause a schedule", "naq job-control nightly pause"),
            (
                "Change a schedule",
                "naq job-control nightly reschedule --cron '30 4 * * *'",
            ),
            ("Run a delayed job now", "naq job-control reminder run-now"),
        ],
    ),
    (
        "list-workers",
        &[
            ("List workers", "naq list-workers"),
            ("List them for a program", "naq list-workers --json"),
        ],
    ),
    (
        "purge",
        &[
            (
                "Remove the results of jobs that ended more than a day ago",
                "naq purge --results --older-than 1d --yes",
            ),
            (
                "Remove the results of all jobs that have ended",
                "naq purge --results --yes",
            ),
            ("Remove a queue's jobs", "naq purge build --yes"),
        ],
    ),
];
