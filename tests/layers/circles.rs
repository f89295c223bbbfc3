//! Finds circles between the files of one room: a file that imports another, which imports the
//! first, directly or over others.
//!
//! `mod.rs` and `lib.rs` are the front of a room. What they re-export with `pub use` counts as an
//! import of the file that has it; what else they define makes them a file like any other.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

use super::check::paths_in;

/// Module path of a file within its room: `["a", "b"]` for `a/b.rs` and `a/b/mod.rs`, empty for
/// the room's front.
type Module = Vec<String>;

/// One file of a room.
pub(super) struct RoomFile {
    module: Module,
    /// Paths that the file names, from the room's front on.
    paths: Vec<Vec<String>>,
    /// What `pub use` makes available here: the last name, and the path that it stands for.
    exports: BTreeMap<String, Vec<String>>,
}

impl RoomFile {
    /// Reads a file. `file` is its path within the room; `room_path` is what `crate::` paths of
    /// the room begin with: `["crate", "worker"]`, or `["crate"]` if the room is a whole crate.
    pub(super) fn read(room_path: &[&str], file: &str, source: &str) -> RoomFile {
        let mut module: Module = file
            .trim_end_matches(".rs")
            .split('/')
            .map(str::to_owned)
            .collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
            module.pop();
        }
        let tokens: TokenStream = source
            .parse()
            .unwrap_or_else(|error| panic!("{file} is not valid Rust: {error}"));
        let (exported, rest) = split_exports(tokens);
        let in_room = |path: Vec<String>| within(room_path, &module, path);
        let exports = paths_in(exported)
            .into_iter()
            .filter_map(in_room)
            .filter_map(|path| Some((path.last()?.clone(), path)))
            .collect();
        let paths = paths_in(without_visibility(rest))
            .into_iter()
            .filter_map(in_room)
            .collect();
        RoomFile {
            module,
            paths,
            exports,
        }
    }
}

/// Takes the `pub use` statements out of a file.
fn split_exports(tokens: TokenStream) -> (TokenStream, TokenStream) {
    let (mut exported, mut rest) = (Vec::new(), Vec::new());
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let is_pub = matches!(&token, TokenTree::Ident(word) if word == "pub");
        let is_use = matches!(tokens.peek(), Some(TokenTree::Ident(word)) if word == "use");
        if !(is_pub && is_use) {
            rest.push(token);
            continue;
        }
        for token in tokens.by_ref().skip(1) {
            let is_end = matches!(&token, TokenTree::Punct(end) if end.as_char() == ';');
            exported.push(token);
            if is_end {
                break;
            }
        }
    }
    (exported.into_iter().collect(), rest.into_iter().collect())
}

/// The tokens without the `(super)` and `(in crate::room)` of a visibility, which are no imports.
fn without_visibility(tokens: TokenStream) -> TokenStream {
    let mut kept = Vec::new();
    let mut is_after_pub = false;
    for token in tokens {
        let is_pub = matches!(&token, TokenTree::Ident(word) if word == "pub");
        match token {
            TokenTree::Group(group) if is_after_pub && is_visibility(&group) => {}
            TokenTree::Group(group) => {
                let inner = without_visibility(group.stream());
                kept.push(Group::new(group.delimiter(), inner).into());
            }
            other => kept.push(other),
        }
        is_after_pub = is_pub;
    }
    kept.into_iter().collect()
}

fn is_visibility(group: &Group) -> bool {
    group.delimiter() == Delimiter::Parenthesis
        && matches!(
            group.stream().into_iter().next(),
            Some(TokenTree::Ident(word))
                if ["in", "crate", "self", "super"].iter().any(|known| word == known)
        )
}

/// A path as seen from the room's front; `None` if it leads out of the room or begins with a name
/// that is no `crate`, `self` or `super`.
fn within(room_path: &[&str], module: &[String], path: Vec<String>) -> Option<Vec<String>> {
    let names: Vec<&str> = path.iter().map(String::as_str).collect();
    // a lone word is no path
    if names.len() < 2 {
        return None;
    }
    match *names.first()? {
        "crate" => names
            .strip_prefix(room_path)
            .map(|rest| rest.iter().map(|name| (*name).to_owned()).collect()),
        "self" | "super" => {
            let supers = names
                .iter()
                .skip_while(|name| **name == "self")
                .take_while(|name| **name == "super")
                .count();
            let rest = names
                .iter()
                .skip_while(|name| matches!(**name, "self" | "super"))
                .map(|name| (*name).to_owned());
            let kept = module.len().checked_sub(supers)?;
            Some(module[..kept].iter().cloned().chain(rest).collect())
        }
        // a front names its own files without `self`
        _ if module.is_empty() => Some(path),
        _ => None,
    }
}

/// The circles of a room, a line each.
pub(super) fn circles(room: &str, files: &[RoomFile]) -> Vec<String> {
    let by_module: BTreeMap<&Module, &RoomFile> =
        files.iter().map(|file| (&file.module, file)).collect();
    let imports: BTreeMap<&Module, BTreeSet<&Module>> = files
        .iter()
        .map(|file| {
            let targets = file
                .paths
                .iter()
                .filter_map(|path| target(&by_module, path, 0))
                .filter(|target| *target != &file.module)
                .collect();
            (&file.module, targets)
        })
        .collect();
    let mut found = Vec::new();
    for (from, targets) in &imports {
        for to in targets {
            if reaches(&imports, to, from, &mut BTreeSet::new()) {
                let name = |module: &Module| match module.as_slice() {
                    [] => "mod".to_owned(),
                    parts => parts.join("/"),
                };
                found.push(format!("{room}: {} → {} → …", name(from), name(to)));
            }
        }
    }
    found
}

/// The file that a path leads to: its longest beginning that is a file, or where a front
/// re-exports the next name, the file of that.
fn target<'a>(
    by_module: &BTreeMap<&'a Module, &'a RoomFile>,
    path: &[String],
    depth: usize,
) -> Option<&'a Module> {
    let (module, file) = (0..=path.len())
        .rev()
        .find_map(|length| by_module.get_key_value(&path[..length].to_vec()))?;
    let exported = path
        .get(module.len())
        .and_then(|name| file.exports.get(name));
    match exported {
        // bounded: a re-export of a re-export of itself would not end
        Some(path) if depth < 8 => target(by_module, path, depth + 1),
        _ => Some(module),
    }
}

fn reaches<'a>(
    imports: &BTreeMap<&'a Module, BTreeSet<&'a Module>>,
    from: &'a Module,
    to: &Module,
    seen: &mut BTreeSet<&'a Module>,
) -> bool {
    from == to
        || seen.insert(from)
            && imports[from]
                .iter()
                .any(|next| reaches(imports, next, to, seen))
}
