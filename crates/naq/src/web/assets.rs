//! Scripts and styles, which are part of the program. Their names contain a digest of their content, so
//! browsers may cache them. A script imports others by their names without digests, which are replaced here.

use std::sync::OnceLock;

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::tokens::hex;

/// A file for browsers.
struct Asset {
    /// Its name without the digest.
    name: &'static str,
    /// Its type.
    media_type: &'static str,
    content: &'static str,
}

/// Makes the row of a script.
macro_rules! script {
    ($name:literal) => {
        Asset {
            name: $name,
            media_type: "text/javascript; charset=utf-8",
            content: include_str!(concat!("assets/", $name)),
        }
    };
}

/// Every asset. A script stands after those that it imports.
const ASSETS: &[Asset] = &[
    script!("trusted.js"),
    script!("patch.js"),
    script!("stream.js"),
    script!("live_worker.js"),
    script!("live.js"),
    script!("live_output.js"),
    script!("stored.js"),
    script!("times.js"),
    script!("live_page.js"),
    script!("form_check.js"),
    script!("log.js"),
    script!("dialogs.js"),
    script!("keys.js"),
    script!("views.js"),
    script!("palette.js"),
    script!("copy.js"),
    script!("app.js"),
    Asset {
        name: "style.css",
        media_type: "text/css; charset=utf-8",
        content: include_str!("assets/style.css"),
    },
    Asset {
        name: "icon.svg",
        media_type: "image/svg+xml",
        content: include_str!("assets/icon.svg"),
    },
];

/// An asset as browsers get it.
struct Served {
    asset: &'static Asset,
    /// Its name with the digest.
    name: String,
    /// Its content, which names others with their digests.
    content: String,
}

/// A script without lines of comments and without indentation, which are a fifth of it. Both are for those who read
/// the source.
fn without_comments(script: &str) -> String {
    let is_comment = |line: &str| {
        line.is_empty()
            || line.starts_with("//")
            || (line.starts_with("/**") && line.ends_with("*/"))
    };
    let lines = script
        .lines()
        .map(str::trim)
        .filter(|line| !is_comment(line));
    lines.fold(String::new(), |text, line| text + line + "\n")
}

/// All assets, in the order of the table.
fn served() -> &'static [Served] {
    static SERVED: OnceLock<Vec<Served>> = OnceLock::new();
    SERVED.get_or_init(|| {
        let mut served: Vec<Served> = Vec::new();
        for asset in ASSETS {
            let mut content = match asset.media_type.starts_with("text/javascript") {
                true => without_comments(asset.content),
                false => asset.content.to_owned(),
            };
            for before in &served {
                let specifier = |name: &str| format!("\"./{name}\"");
                content = content.replace(&specifier(before.asset.name), &specifier(&before.name));
            }
            let digest = Sha256::digest(&content);
            served.push(Served {
                asset,
                name: format!("{}-{}", hex(&digest[..6]), asset.name),
                content,
            });
        }
        served
    })
}

/// The name of an asset with its digest. `None` if there is no such asset.
pub(super) fn name_of(asset: &str) -> Option<&'static str> {
    let found = served().iter().find(|known| known.asset.name == asset)?;
    Some(&found.name)
}

/// The paths of all assets, below the base path.
pub(super) fn paths() -> impl Iterator<Item = String> {
    let served = served().iter();
    served.map(|served| format!("/assets/{}", served.name))
}

/// Answers with an asset.
pub(super) async fn serve(Path(name): Path<String>) -> Response {
    let Some(found) = served().iter().find(|known| known.name == name) else {
        return (StatusCode::NOT_FOUND, "there is no such file").into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, found.asset.media_type),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    (headers, found.content.as_str()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a text of several lines, indentation and slashes would be content.
    #[test]
    fn no_text_or_comment_of_a_script_has_several_lines() {
        for asset in ASSETS.iter().filter(|asset| asset.name.ends_with(".js")) {
            for line in asset.content.lines() {
                let is_closed = line.matches('`').count().is_multiple_of(2);
                let is_one_line = line.matches("/*").count() == line.matches("*/").count();
                assert!(is_closed && is_one_line, "{}: {line}", asset.name);
            }
        }
        assert_eq!(
            without_comments("// a\n\nif (b) {\n  c(\"//d\");\n}\n"),
            "if (b) {\nc(\"//d\");\n}\n"
        );
        let sent: usize = served()
            .iter()
            .filter(|script| script.asset.name.ends_with(".js"))
            .map(|script| script.content.len())
            .sum();
        assert!(sent < 40_000, "scripts of {sent} bytes");
    }

    #[test]
    fn a_script_names_others_with_their_digests() {
        let mut imports = 0;
        for script in served() {
            for specifier in script.content.split("\"./").skip(1) {
                let name = specifier.split('"').next().unwrap();
                let is_served = served().iter().any(|known| known.name == name);
                assert!(is_served, "{} imports {name}", script.asset.name);
                imports += 1;
            }
        }
        assert!(imports > 5, "{imports}");
    }
}
