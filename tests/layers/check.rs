//! Reads a source file's tokens and reports what the layer rule forbids.
//!
//! Tokens, not text: comments and strings say nothing, and the bodies of macros count.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The rooms of the program, from the left of the arrow to its right. A room imports only from rows
/// below its own, so neighbours in a row never meet. Cargo keeps the arrows between the crates.
pub(super) const ROWS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["worker", "scheduler", "web", "local_server"],
    &[
        "metrics",
        "clock",
        "languages",
        "process_id",
        "text",
        "traces",
        "watchdog",
    ],
];

/// What only some places may name: the tokens, the crates or rooms, and why.
const RESERVED: &[(&[&str], &[&str], &str)] = &[
    (
        &["async_nats"],
        &["naq-jetstream"],
        "only naq-jetstream knows NATS",
    ),
    (
        &["naq_jetstream"],
        &["naq-jetstream", "naq-client", "worker", "scheduler"],
        "only naq-client, worker and scheduler see naq-jetstream",
    ),
    (
        &["naq_client", "config"],
        &["cli"],
        "only cli sees the settings",
    ),
    (
        &["broker"],
        &[
            "naq-jetstream",
            "naq-client",
            "worker",
            "scheduler",
            "cli/bench",
        ],
        "only worker, scheduler and `naq bench` use the connection below the client",
    ),
    (
        &["prometheus_client"],
        &["metrics"],
        "only metrics knows the formats of monitors",
    ),
    (
        &["ureq"],
        &["cli"],
        "only cli sends HTTP, for webhooks and traces",
    ),
    (
        &["opentelemetry_sdk"],
        &["traces"],
        "only traces knows OpenTelemetry",
    ),
    (
        &["rcgen"],
        &["local_server"],
        "only local_server makes certificates",
    ),
    (
        &["unsafe"],
        &["naq-runner"],
        "unsafe code is naq-runner's alone",
    ),
    (
        &["unsafe_code"],
        &["naq-runner"],
        "the lint against unsafe code is lifted in naq-runner alone",
    ),
    (
        &["process", "Command"],
        &["naq-runner", "local_server"],
        "only naq-runner and local_server start processes",
    ),
    (
        &["env", "var"],
        &["naq-client/config"],
        "only the settings read the environment",
    ),
    (
        &["env", "vars"],
        &["naq-client/config"],
        "only the settings read the environment",
    ),
];

/// What the pure rooms never name.
const IMPURE: &[&[&str]] = &[
    &["tokio"],
    &["std", "fs"],
    &["std", "net"],
    &["SystemTime", "now"],
    &["Instant", "now"],
    &["Utc", "now"],
];

const PURE: &[&str] = &["naq-protocol", "naq-cron", "naq-core"];

fn row(room: &str) -> Option<usize> {
    ROWS.iter().position(|rooms| rooms.contains(&room))
}

/// Where a file belongs: its room in the program, or its crate.
fn room_of(file: &str) -> String {
    let parts: Vec<&str> = file.split('/').collect();
    match parts[..] {
        ["naq", "src", room, ..] => room.trim_end_matches(".rs").to_owned(),
        ["naq-client", "src", "config", ..] => "naq-client/config".to_owned(),
        [name, ..] => name.to_owned(),
        [] => String::new(),
    }
}

/// The part of a room that a rule may name.
fn part_of(file: &str) -> Option<&'static str> {
    file.starts_with("naq/src/cli/bench").then_some("cli/bench")
}

/// The rules that a file breaks, a sentence each. `file` is relative to `crates/`.
pub(super) fn check(file: &str, source: &str) -> Vec<String> {
    let room = room_of(file);
    let room = room.as_str();
    let in_program = file.starts_with("naq/");
    let mut modules: Vec<&str> = file
        .trim_end_matches(".rs")
        .split('/')
        .skip(2)
        .filter(|part| *part != "mod")
        .collect();
    if modules == ["lib"] {
        modules.clear();
    }
    let tokens: TokenStream = source
        .parse()
        .unwrap_or_else(|error| panic!("{file} is not valid Rust: {error}"));
    let mut paths = Vec::new();
    read(tokens, modules.len(), &mut paths);
    let mut found = Vec::new();
    for path in &paths {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        // lib.rs declares the rooms, so it may name each
        if in_program
            && names.first() == Some(&"crate")
            && room != "lib"
            // `pub(crate)` has no second part
            && let Some(other) = names.get(1).copied()
        {
            match (row(room), row(other)) {
                _ if other == room => {}
                (Some(from), Some(to)) if from < to && !(room == "main" && other != "cli") => {}
                (Some(_), Some(_)) => {
                    found.push(format!(
                        "{file}: {room} imports {other}, against the arrows"
                    ));
                }
                (None, _) => found.push(format!("{file}: `{room}` is no room")),
                (_, None) => found.push(format!("{file}: `{other}` is no room")),
            }
        }
        let names_any = |part: &[&str]| names.windows(part.len()).any(|window| window == part);
        for (reserved, rooms, why) in RESERVED {
            let is_allowed =
                rooms.contains(&room) || part_of(file).is_some_and(|part| rooms.contains(&part));
            if names_any(reserved) && !is_allowed {
                found.push(format!("{file}: `{}`: {why}", reserved.join("::")));
            }
        }
        if PURE.contains(&room) {
            for impure in IMPURE {
                if names_any(impure) {
                    found.push(format!("{file}: `{}` in a pure crate", impure.join("::")));
                }
            }
        }
    }
    found
}

/// Every path in the tokens as it is written, with groups in `use` spelt out. An inline module's
/// own `super` is left out.
pub(super) fn paths_in(tokens: TokenStream) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    read_as_written(tokens, 0, &mut paths);
    paths
}

fn read_as_written(tokens: TokenStream, inline: usize, paths: &mut Vec<Vec<String>>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(word) if word == "mod" => {
                let body = match (tokens.get(at + 1), tokens.get(at + 2)) {
                    (Some(TokenTree::Ident(_)), Some(TokenTree::Group(body))) => Some(body),
                    _ => None,
                };
                if let Some(body) = body {
                    read_as_written(body.stream(), inline + 1, paths);
                }
                at += if body.is_some() { 3 } else { 1 };
            }
            TokenTree::Ident(_) => {
                let mut taken = Vec::new();
                at = read_path(&tokens, at, &[], &mut taken);
                for mut path in taken {
                    let supers = path.iter().take_while(|word| *word == "super").count();
                    path.drain(..supers.min(inline));
                    if supers > 0 && supers <= inline {
                        path.insert(0, "self".to_owned());
                    }
                    paths.push(path);
                }
            }
            TokenTree::Group(group) => {
                read_as_written(group.stream(), inline, paths);
                at += 1;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
        }
    }
}

/// Every path in the tokens, with groups in `use` spelt out, `super` chains that leave the room
/// turned into `crate`, and the library's own name (as `main` has it) too. A lone word is a path
/// of one.
fn read(tokens: TokenStream, depth: usize, paths: &mut Vec<Vec<String>>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(word) if word == "mod" => {
                // an inline module is one `super` deeper
                if let (Some(TokenTree::Ident(_)), Some(TokenTree::Group(body))) =
                    (tokens.get(at + 1), tokens.get(at + 2))
                    && body.delimiter() == Delimiter::Brace
                {
                    read(body.stream(), depth + 1, paths);
                    at += 3;
                } else {
                    at += 1;
                }
            }
            TokenTree::Ident(_) => {
                let mut taken = Vec::new();
                at = read_path(&tokens, at, &[], &mut taken);
                for path in taken {
                    if let Some(path) = resolve(path, depth) {
                        paths.push(path);
                    }
                }
            }
            TokenTree::Group(group) => {
                read(group.stream(), depth, paths);
                at += 1;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
        }
    }
}

/// Reads one path from `at`; returns where it ends.
fn read_path(
    tokens: &[TokenTree],
    mut at: usize,
    before: &[String],
    taken: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = before.to_vec();
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(word)) => {
                path.push(word.to_string().trim_start_matches("r#").to_owned());
                at += 1;
            }
            Some(TokenTree::Group(group))
                if group.delimiter() == Delimiter::Brace && !path.is_empty() =>
            {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let mut inside = 0;
                while inside < inner.len() {
                    if matches!(inner[inside], TokenTree::Ident(_)) {
                        inside = read_path(&inner, inside, &path, taken);
                    } else {
                        inside += 1;
                    }
                }
                return at + 1;
            }
            // all of it, or the whole under another name: the check could not distinguish the rooms
            Some(TokenTree::Punct(star)) if star.as_char() == '*' && !path.is_empty() => {
                path.push("*".to_owned());
                at += 1;
            }
            _ => break,
        }
        if path == ["crate"]
            && let Some(TokenTree::Ident(word)) = tokens.get(at)
            && word == "as"
        {
            path.push("as".to_owned());
        }
        let joined = matches!(
            (tokens.get(at), tokens.get(at + 1)),
            (Some(TokenTree::Punct(one)), Some(TokenTree::Punct(two)))
                if one.as_char() == ':' && two.as_char() == ':' && one.spacing() == proc_macro2::Spacing::Joint
        );
        if !joined {
            break;
        }
        at += 2;
    }
    taken.push(path);
    at
}

fn resolve(path: Vec<String>, depth: usize) -> Option<Vec<String>> {
    match path.first().map(String::as_str) {
        Some("naq") if path.len() > 1 => {
            Some([vec!["crate".to_owned()], path[1..].to_vec()].concat())
        }
        Some("self" | "super") => {
            let from_self = usize::from(path[0] == "self");
            let supers = path[from_self..]
                .iter()
                .take_while(|word| *word == "super")
                .count();
            let rest = path[from_self + supers..].to_vec();
            if supers >= depth && supers > 0 {
                Some([vec!["crate".to_owned()], rest].concat())
            } else {
                Some(rest)
            }
        }
        Some(_) => Some(path),
        None => None,
    }
}
