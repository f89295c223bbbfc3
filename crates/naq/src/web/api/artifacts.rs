//! Artifacts: the files that jobs have left.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use futures_util::stream;
use schemars::JsonSchema;
use serde::Serialize;

use super::jobs::JOB;
use super::parameters::encode;
use crate::web::access::Right;
use crate::web::problem::{self, Problem};
use crate::web::route::{Parameter, Route, json, other, path, schema_of};
use crate::web::state::Web;
use naq_protocol::{Artifact, FileDigest, JobId, escape};

const ARTIFACT: Parameter = path(
    "artifact",
    "Name of the file: its path in the job's work folder, with `%2F` for each `/`",
    "out%2Freport.csv",
);

pub(super) const ROUTES: &[Route] = &[
    Route::get(
        "/api/jobs/{job}/artifacts",
        Right::View,
        "List the files that the last attempt of a job has left, as far as they are kept",
        |method| on(method, list),
    )
    .parameters(&[JOB])
    .answers(&[json(200, "The files", schema_of::<ArtifactList>)])
    .problems(&[&problem::BAD_REQUEST, &problem::NOT_FOUND]),
    Route::get(
        "/api/jobs/{job}/artifacts/{artifact}",
        Right::View,
        "Read a file that a job has left, byte for byte",
        |method| on(method, read),
    )
    .parameters(&[JOB, ARTIFACT])
    .answers(&[other(
        200,
        "The file, which a browser stores",
        "application/octet-stream",
    )])
    .problems(&[&problem::BAD_REQUEST, &problem::NOT_FOUND]),
];

/// The files that a job has left.
#[derive(Serialize, JsonSchema)]
struct ArtifactList {
    artifacts: Vec<ListedArtifact>,
}

/// A file that a job has left.
#[derive(Serialize, JsonSchema)]
struct ListedArtifact {
    /// Its path in the job's work folder.
    name: String,
    /// The size, in bytes.
    bytes: u64,
    /// The digest of the content.
    digest: FileDigest,
}

async fn list(
    State(web): State<Arc<Web>>,
    Path(job): Path<String>,
) -> Result<Json<ArtifactList>, Problem> {
    let record = web.client.fetch_job(&JobId::new(&job)?).await?;
    let artifacts = record.artifacts.into_iter();
    Ok(Json(ArtifactList {
        artifacts: artifacts
            .map(|artifact| ListedArtifact {
                name: artifact.name,
                bytes: artifact.bytes,
                digest: artifact.digest,
            })
            .collect(),
    }))
}

async fn read(
    State(web): State<Arc<Web>>,
    Path((job, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let record = web.client.fetch_job(&JobId::new(&job)?).await?;
    let mut artifacts = record.artifacts.iter();
    let Some(artifact) = artifacts.find(|artifact| artifact.name == name) else {
        let name = escape(&name);
        return Err(Problem::new(
            &problem::NOT_FOUND,
            format!("the job `{job}` has kept no file `{name}`"),
        ));
    };
    let content = web.client.open_artifact(artifact).await?;
    let bytes = content.bytes();
    // A part that cannot be read ends the answer before its length.
    let parts = stream::try_unfold(content, async |mut content| {
        let part = content.next().await?;
        Ok::<_, naq_client::ClientError>(part.map(|part| (part, content)))
    });
    let mut response = Body::from_stream(parts).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    // Never a page: the job controls its content.
    let media_type = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, media_type);
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    headers.insert(header::CONTENT_DISPOSITION, attachment(artifact));
    Ok(response)
}

/// The header that has a browser store a file under its last name (RFC 6266): in ASCII for old browsers, and
/// percent-encoded.
fn attachment(artifact: &Artifact) -> HeaderValue {
    let name = artifact.name.rsplit('/').next().unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ');
    let plain: String = name
        .chars()
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect();
    let encoded = encode(name);
    let value = format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}");
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_end_the_header_or_lead_elsewhere() {
        for (name, expected) in [
            (
                "out/a.csv",
                "attachment; filename=\"a.csv\"; filename*=UTF-8''a.csv",
            ),
            (
                "a\"; x=\\y.html",
                "attachment; filename=\"a__ x__y.html\"; filename*=UTF-8''a%22%3B%20x%3D%5Cy.html",
            ),
            ("ö", "attachment; filename=\"_\"; filename*=UTF-8''%C3%B6"),
        ] {
            let artifact = Artifact {
                name: name.to_owned(),
                bytes: 0,
                digest: FileDigest::of(b""),
                object: String::new(),
                unknown: naq_protocol::UnknownFields::default(),
            };
            assert_eq!(attachment(&artifact), expected);
        }
    }
}
