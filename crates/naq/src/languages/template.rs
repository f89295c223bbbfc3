//! The arguments of a manifest: text with placeholders such as `{file}`.

use naq_runner::{ArgumentPiece, SourceArgument};

/// What the placeholders of an argument stand for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Placeholders<'a> {
    /// `{args}`: the arguments of a script.
    pub(super) args: &'a [String],
    /// `{module_path}`: where modules are looked for, joined by `:`.
    pub(super) module_path: &'a str,
    /// The name of the runner's parameter, and its value.
    pub(super) parameter: Option<(&'a str, &'a str)>,
}

/// What may stand in braces.
const NAMES: [&str; 5] = ["file", "shim", "folder", "module_path", "args"];

/// A piece of a template.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'t> {
    Text(&'t str),
    Name(&'t str),
}

/// Splits a template at its placeholders: a name in braces. Other braces are text.
fn pieces(template: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    let mut from = 0;
    while let Some(open) = rest[from..].find('{').map(|at| from + at) {
        let name = rest[open + 1..].split('}').next().unwrap_or_default();
        let closes = rest[open + 1 + name.len()..].starts_with('}');
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        if !closes || name.is_empty() || !name.chars().all(is_name) {
            from = open + 1;
            continue;
        }
        if open > 0 {
            pieces.push(Piece::Text(&rest[..open]));
        }
        pieces.push(Piece::Name(name));
        rest = &rest[open + name.len() + 2..];
        from = 0;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}

/// Checks a template.
///
/// # Errors
/// Returns a message if it has a placeholder that is unknown, or one that has to stand alone.
pub(super) fn check(template: &str, parameter: Option<&str>) -> Result<(), String> {
    let pieces = pieces(template);
    for piece in &pieces {
        let Piece::Name(name) = piece else { continue };
        if *name == "args" && pieces.len() > 1 {
            return Err(format!("`{template}`: {{args}} has to stand alone"));
        }
        if !NAMES.contains(name) && Some(*name) != parameter {
            return Err(format!("`{template}`: unknown placeholder {{{name}}}"));
        }
    }
    Ok(())
}

/// The arguments that a template stands for: one, but for `{args}`.
pub(super) fn expand(template: &str, values: &Placeholders<'_>) -> Vec<SourceArgument> {
    if template == "{args}" {
        return values.args.iter().map(SourceArgument::text).collect();
    }
    let pieces = pieces(template).into_iter().map(|piece| match piece {
        Piece::Text(text) => ArgumentPiece::Text(text.to_owned()),
        Piece::Name("file" | "shim") => ArgumentPiece::File,
        Piece::Name("folder") => ArgumentPiece::Folder,
        Piece::Name("module_path") => ArgumentPiece::Text(values.module_path.to_owned()),
        Piece::Name(name) => ArgumentPiece::Text(match values.parameter {
            Some((known, value)) if known == name => value.to_owned(),
            _ => String::new(),
        }),
    });
    vec![SourceArgument(pieces.collect())]
}

/// The text that a template stands for which names no file.
pub(super) fn expand_text(template: &str, values: &Placeholders<'_>) -> String {
    let pieces = pieces(template).into_iter().map(|piece| match piece {
        Piece::Text(text) => text,
        Piece::Name("module_path") => values.module_path,
        Piece::Name(_) => "",
    });
    pieces.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_names_in_braces() {
        assert_eq!(pieces("-u"), [Piece::Text("-u")]);
        assert_eq!(
            pieces("-v{file}:/job:ro"),
            [
                Piece::Text("-v"),
                Piece::Name("file"),
                Piece::Text(":/job:ro")
            ]
        );
        assert_eq!(
            pieces("print {1} {} {a{file}"),
            [Piece::Text("print {1} {} {a"), Piece::Name("file")]
        );
    }

    #[test]
    fn unknown_and_misplaced_placeholders_are_errors() {
        assert!(check("{file}", None).is_ok());
        assert!(check("{image}", Some("image")).is_ok());
        assert!(check("{image}", None).unwrap_err().contains("{image}"));
        assert!(check("x{args}", None).unwrap_err().contains("alone"));
    }

    #[test]
    fn arguments_expand_to_several() {
        let args = ["a b".to_owned(), String::new()];
        let values = Placeholders {
            args: &args,
            ..Placeholders::default()
        };
        assert_eq!(
            expand("{args}", &values),
            [SourceArgument::text("a b"), SourceArgument::text("")]
        );
    }
}
