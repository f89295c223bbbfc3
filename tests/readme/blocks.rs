//! Fenced blocks of Markdown; the commands that they show, and their output.

/// A fenced block of a page, of any language.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fence {
    /// The line of the opening fence.
    pub(super) line: usize,
    /// What follows the opening fence: the language, and what else it says.
    pub(super) info: String,
    pub(super) lines: Vec<String>,
}

impl Fence {
    /// The language, however the info string is written: `sh`, `Sh,ignore` and `{sh}` are all `sh`.
    pub(super) fn language(&self) -> String {
        let words = self
            .info
            .split(|c: char| c.is_whitespace() || ",:{}".contains(c));
        let first = words.into_iter().find(|word| !word.is_empty());
        first.unwrap_or_default().to_lowercase()
    }

    /// The first line, by which lists name the block.
    pub(super) fn first_line(&self) -> &str {
        self.lines.first().map_or("", |line| line.trim())
    }

    /// How a test runs the commands. `None` if it does not.
    pub(super) fn mode(&self) -> Option<Mode> {
        match self.info.as_str() {
            "console run" => Some(Mode::ToItsEnd),
            "console run background" => Some(Mode::Background),
            "console run briefly" => Some(Mode::Briefly),
            _ => None,
        }
    }
}

/// Every fenced block of a page, by the rules of CommonMark: three or more backticks or tildes, also in a list or a
/// quotation.
pub(super) fn fences(markdown: &str) -> Vec<Fence> {
    let mut found = Vec::new();
    let mut open: Option<(String, Fence)> = None;
    for (index, line) in markdown.lines().enumerate() {
        let inner = line.trim_start_matches([' ', '\t', '>']);
        let mark = inner.chars().next().filter(|c| "`~".contains(*c));
        let length = mark.map_or(0, |mark| inner.len() - inner.trim_start_matches(mark).len());
        let (fence, info) = inner.split_at(length);
        match &mut open {
            Some((opening, block)) => {
                let closes = fence.starts_with(opening.as_str()) && info.trim().is_empty();
                assert!(
                    closes || !fence.starts_with(opening.as_str()),
                    "line {}: a fence in a fence",
                    index + 1
                );
                if closes {
                    found.extend(open.take().map(|(_, block)| block));
                } else {
                    block.lines.push(line.to_owned());
                }
            }
            // code in a line may begin with three backticks, and ends with them
            None if length >= 3 && !info.contains('`') => {
                let block = Fence {
                    line: index + 1,
                    info: info.trim().to_owned(),
                    lines: Vec::new(),
                };
                open = Some((fence.to_owned(), block));
            }
            None => {}
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    found
}

/// How long the command of a block runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Its commands end.
    ToItsEnd,
    /// Its one command keeps running while the following blocks run.
    Background,
    /// Its one command is stopped as soon as it has printed what is shown. Nothing that follows needs it.
    Briefly,
}

/// A fenced block whose info string is `console run`, `console run background` or `console run briefly`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The line of its first command, for reports.
    pub(super) line: usize,
    pub(super) mode: Mode,
    pub(super) steps: Vec<Step>,
}

/// A command and what it prints.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) command: String,
    pub(super) output: Vec<String>,
}

/// Whether a line of a command is continued on the next one: it ends with a backslash, or has begun a document
/// (`<<'EOF'`) that has not ended.
fn continues(command: &str) -> bool {
    let document = command.split_once("<<'").and_then(|(_, rest)| {
        let (end, text) = rest.split_once('\'')?;
        Some(!text.lines().skip(1).any(|line| line == end))
    });
    document.unwrap_or_else(|| command.ends_with('\\'))
}

/// Every block to run, in order.
pub(super) fn read(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    for fence in fences(markdown) {
        let Some(mode) = fence.mode() else {
            continue;
        };
        let mut steps: Vec<Step> = Vec::new();
        for (index, line) in fence.lines.iter().enumerate() {
            if let Some(step) = steps.last_mut()
                && step.output.is_empty()
                && continues(&step.command)
            {
                step.command.push('\n');
                step.command.push_str(line);
            } else if let Some(command) = line.strip_prefix("$ ") {
                steps.push(Step {
                    command: command.replace("cargo run --release -- ", "naq "),
                    output: Vec::new(),
                });
            } else {
                let at = fence.line + 1 + index;
                let step = steps.last_mut();
                let step = step.unwrap_or_else(|| panic!("line {at}: output before a command"));
                step.output.push(line.to_owned());
            }
        }
        blocks.push(Block {
            line: fence.line + 1,
            mode,
            steps,
        });
    }
    blocks
}

/// A line without what differs from run to run: ids, times, ages, amounts of memory, ports, the
/// home folder, the kind of containment, what a worker is doing, and the width of columns.
pub(super) fn settled(line: &str) -> String {
    let mut words: Vec<String> = line.split_whitespace().map(settle).collect();
    settle_distances(&mut words);
    let is_worker = words.iter().any(|word| word == "<containment>") && line.contains(" ago ");
    if is_worker {
        // what a worker does is as of its last heartbeat
        for word in &mut words {
            if word == "idle" || word == "busy" {
                *word = "<state>".to_owned();
            } else if word.bytes().all(|byte| byte.is_ascii_digit()) {
                *word = "<count>".to_owned();
            } else if let Some((running, slots)) = word.split_once('/')
                && running.bytes().all(|byte| byte.is_ascii_digit())
            {
                *word = format!("<count>/{slots}");
            }
        }
    }
    let line = words.join(" ").replace("/root/", "~/");
    let line = match line.split_once("(tzdata ") {
        // the database of time zones is the machine's
        Some((before, _)) => format!("{before}(<tzdata>)"),
        None => line,
    };
    match line.split_once("the set of these schedules is `") {
        // named after the user and the machine
        Some((before, rest)) => {
            let (_, after) = rest.split_once('`').unwrap_or_default();
            format!("{before}the set of these schedules is `<set>`{after}")
        }
        None => line,
    }
}

/// Whether a word is a whole number and a unit of time.
fn is_duration(word: &str) -> bool {
    let number = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &word[number.len()..];
    ["s", "m", "h", "d"].contains(&unit) && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Replaces what depends on the time of the run: how far a time is away (`in 3h`, `30d ago`), and the next time of a
/// schedule or the day of a time of the clock, which stand next to such a distance. All other times are compared.
fn settle_distances(words: &mut [String]) {
    for at in 0..words.len() {
        let is_ahead = at > 0 && words[at - 1] == "in";
        let is_past = words.get(at + 1).is_some_and(|next| next == "ago");
        if !(is_ahead || is_past) || !(words[at] == "<span>" || is_duration(&words[at])) {
            continue;
        }
        words[at] = "<span>".to_owned();
        // NEXT of a schedule: in 3h (2026-12-01T02:30:00+01:00)
        if let Some(next) = words.get_mut(at + 1)
            && is_ahead
            && next.starts_with('(')
            && next.contains('T')
        {
            *next = "(<time>)".to_owned();
        }
        // naq: at 2026-12-01 18:00 Europe/Berlin, in 17h
        if is_ahead && words[0] == "naq:" && words[1] == "at" {
            words[2] = "<day>".to_owned();
        }
    }
}

fn settle(word: &str) -> String {
    let core = word.trim_matches(|c| "(),`".contains(c));
    // another process of this machine may have the port
    if core.contains("/login?code=") {
        return "<login>".to_owned();
    }
    // the key of a signature
    if core.starts_with("SHA256:") {
        return word.replace(core, "<fingerprint>");
    }
    // the label of a backfill has the time of its request
    if core.starts_with("backfill=") {
        return word.replace(core, "backfill=<time>");
    }
    let is_nkey = core.len() == 56
        && core
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    if is_nkey {
        return word.replace(core, "<nkey>");
    }
    let is_uuid = core.len() == 36
        && core.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    let amount = |unit: &str| {
        core.strip_suffix(unit).is_some_and(|number| {
            !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        })
    };
    let is_time = core.len() == 24 && core.ends_with('Z') && core.as_bytes()[10] == b'T';
    let kind = if is_uuid {
        "<id>"
    } else if is_time {
        "<time>"
    } else if ["ms", "s", "m"].iter().any(|unit| amount(unit)) {
        "<span>"
    } else if core.contains('.') && amount("") {
        "<amount>"
    } else if core.starts_with("nats://127.0.0.1:") {
        "<url>"
    } else if ["namespace+cgroup", "namespace", "cgroup", "subreaper"].contains(&core) {
        "<containment>"
    } else if ["enforced", "watched"].contains(&core) {
        "<memory limit>"
    } else {
        return word.to_owned();
    };
    word.replace(core, kind)
}
