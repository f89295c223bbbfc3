//! Scripts and styles, which are part of the program. Their names contain a digest of their content, so
//! browsers may cache them.

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

const ASSETS: &[Asset] = &[
    Asset {
        name: "app.js",
        media_type: "text/javascript; charset=utf-8",
        content: include_str!("assets/app.js"),
    },
    Asset {
        name: "log.js",
        media_type: "text/javascript; charset=utf-8",
        content: include_str!("assets/log.js"),
    },
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

/// The names of all assets, with their digests, in the order of the table.
fn names() -> &'static [String] {
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let names = ASSETS.iter().map(|asset| {
            let digest = Sha256::digest(asset.content);
            format!("{}-{}", hex(&digest[..6]), asset.name)
        });
        names.collect()
    })
}

/// The name of an asset with its digest. `None` if there is no such asset.
pub(super) fn name_of(asset: &str) -> Option<&'static str> {
    let at = ASSETS.iter().position(|known| known.name == asset)?;
    names().get(at).map(String::as_str)
}

/// Answers with an asset.
pub(super) async fn serve(Path(name): Path<String>) -> Response {
    let at = names().iter().position(|known| *known == name);
    let Some(asset) = at.and_then(|at| ASSETS.get(at)) else {
        return (StatusCode::NOT_FOUND, "there is no such file").into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, asset.media_type),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    (headers, asset.content).into_response()
}
