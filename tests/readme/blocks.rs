//! Commands and their output, as Markdown shows them.

/// A fenced block whose info string is `console run` or `console run background`. One that cannot run here is
/// `console shown`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The line of its first command, for reports.
    pub(super) line: usize,
    /// Whether its one command keeps running while the following blocks run.
    pub(super) background: bool,
    pub(super) steps: Vec<Step>,
}

/// A command and what it prints.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) command: String,
    pub(super) output: Vec<String>,
}

/// Every block to run, in order.
pub(super) fn read(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    let mut fenced = false;
    for (index, line) in markdown.lines().enumerate() {
        if let Some(info) = line.strip_prefix("```") {
            if fenced {
                assert!(info.is_empty(), "line {}: a fence in a fence", index + 1);
                blocks.extend(open.take());
                fenced = false;
                continue;
            }
            fenced = true;
            let words: Vec<&str> = info.split_whitespace().collect();
            if words.first() == Some(&"console") && words[1..] != ["shown"] {
                let background = match words[1..] {
                    ["run"] => false,
                    ["run", "background"] => true,
                    _ => panic!("line {}: `{info}` runs nothing", index + 1),
                };
                open = Some(Block {
                    line: index + 2,
                    background,
                    steps: Vec::new(),
                });
            }
            continue;
        }
        let Some(block) = &mut open else { continue };
        if let Some(command) = line.strip_prefix("$ ") {
            block.steps.push(Step {
                command: command.replace("cargo run --release -- ", "naq "),
                output: Vec::new(),
            });
            continue;
        }
        let step = block
            .steps
            .last_mut()
            .unwrap_or_else(|| panic!("line {}: output before a command", index + 1));
        if step.output.is_empty() && step.command.ends_with('\\') {
            step.command.push('\n');
            step.command.push_str(line);
        } else {
            step.output.push(line.to_owned());
        }
    }
    assert!(!fenced, "a fence is not closed");
    blocks
}

/// A line without what differs from run to run: ids, times, ages, amounts of memory, ports, the
/// home folder, the kind of containment, what a worker is doing, and the width of columns.
pub(super) fn settled(line: &str) -> String {
    let mut words: Vec<String> = line.split_whitespace().map(settle).collect();
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
    match line.split_once("(tzdata ") {
        // the database of time zones is the machine's
        Some((before, _)) => format!("{before}(<tzdata>)"),
        None => line,
    }
}

fn settle(word: &str) -> String {
    let core = word.trim_matches(|c| "(),`".contains(c));
    // another process of this machine may have the port
    if core.contains("/login?code=") {
        return "<login>".to_owned();
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
