//! `naq artifacts`

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::exit::{Exit, Failure};
use super::json::ArtifactReport;
use super::render::{self, Column};
use super::session::Session;
use crate::text;
use naq_client::{Artifact, Client, FileDigest, JobId, Record};
use naq_protocol::{check_file_path, escape};
use naq_runner::WorkFolder;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job's id
    #[arg(value_name = "JOB")]
    id: String,
    /// Names of the files [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Folder to download the files into; - prints one file
    #[arg(short = 'o', long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Replace files that exist
    #[arg(long, requires = "output")]
    force: bool,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let job_id = JobId::new(&args.id)?;
    let client = session.connect().await?;
    let record = client.fetch_job(&job_id).await?;
    let artifacts = selected(&record, &args.names)?;
    match &args.output {
        None => list(session, &record, &artifacts)?,
        Some(output) if output == Path::new("-") => {
            let [artifact] = artifacts[..] else {
                let kept = text::count(artifacts.len() as u64, "file");
                return Err(Failure::usage(format!(
                    "--output - prints one file, and these are {kept}"
                ))
                .hint("name one"));
            };
            print(session, &client, artifact).await?;
        }
        Some(folder) => {
            for artifact in artifacts {
                download(session, &client, artifact, folder, args.force).await?;
            }
        }
    }
    Ok(0)
}

/// The files with these names, or all.
fn selected<'r>(record: &'r Record, names: &[String]) -> Result<Vec<&'r Artifact>, Failure> {
    let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        if !record
            .artifacts
            .iter()
            .any(|artifact| artifact.name == *name)
        {
            return Err(Failure::new(
                Exit::NotFound,
                format!(
                    "the job `{}` has kept no file `{}`",
                    record.job_id,
                    escape(name)
                ),
            ));
        }
    }
    let files = record.artifacts.iter();
    Ok(files
        .filter(|artifact| names.is_empty() || names.contains(artifact.name.as_str()))
        .collect())
}

fn list(session: &Session, record: &Record, artifacts: &[&Artifact]) -> Result<(), Failure> {
    if session.json {
        for artifact in artifacts {
            render::print_json(&ArtifactReport::of(artifact))?;
        }
        return Ok(());
    }
    if artifacts.is_empty() {
        let state = render::state(record.state());
        render::note(format_args!(
            "the job `{}` ({state}) has kept no files",
            record.job_id
        ));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = artifacts
        .iter()
        .map(|artifact| {
            vec![
                text::bytes(artifact.bytes),
                artifact.digest.to_string(),
                artifact.name.clone(),
            ]
        })
        .collect();
    let columns = [
        Column::number("SIZE"),
        Column::new("DIGEST").optional(1),
        Column::new("NAME"),
    ];
    Ok(render::print_table(&columns, &rows)?)
}

/// Prints a file to standard output.
async fn print(session: &Session, client: &Client, artifact: &Artifact) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    let printed = read(session, client, artifact, |part| output.write_all(part)).await;
    printed?;
    Ok(output.flush()?)
}

/// Downloads a file into a folder, under a temporary name until its content has been compared with its digest.
async fn download(
    session: &Session,
    client: &Client,
    artifact: &Artifact,
    folder: &Path,
    force: bool,
) -> Result<(), Failure> {
    let shown = escape(&artifact.name);
    let failed = |why: &dyn std::fmt::Display| {
        let folder = folder.display();
        Failure::general(format!("cannot write `{shown}` into {folder}: {why}"))
    };
    // The record may be anybody's who may write to the bucket.
    check_file_path(&artifact.name).map_err(|problem| failed(&problem))?;
    std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    let target = WorkFolder::open(&folder.canonicalize()?).map_err(|error| failed(&error))?;
    let part = format!("{}.naq-{:08x}", artifact.name, rand::random::<u32>());
    let (parent, name) = part.rsplit_once('/').unwrap_or(("", &part));
    // a name may be as long as a file system allows
    let name: String = name.chars().rev().take(60).collect::<String>();
    let name: String = name.chars().rev().collect();
    let part = match parent {
        "" => name,
        parent => format!("{parent}/{name}"),
    };
    let mut file = target
        .create_file(&part, false)
        .map_err(|error| failed(&error))?;
    let stored = read(session, client, artifact, |bytes| file.write_all(bytes)).await;
    let placed = match stored {
        Ok(()) => target
            .rename(&part, &artifact.name, force)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => {
                    failed(&"it exists").hint("--force replaces it")
                }
                _ => failed(&error),
            }),
        Err(error) => Err(error),
    };
    if placed.is_err() {
        let _ = target.remove_file(&part);
    }
    placed?;
    if !session.json {
        return Ok(render::print_line(folder.join(&artifact.name).display())?);
    }
    Ok(render::print_json(&ArtifactReport::of(artifact))?)
}

/// Reads a file part by part, and compares it with its digest at the end.
async fn read(
    session: &Session,
    client: &Client,
    artifact: &Artifact,
    mut write: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<(), Failure> {
    let mut content = client.open_artifact(artifact).await?;
    let mut sha256 = Sha256::new();
    while let Some(part) = content.next().await? {
        session.progress.advance();
        sha256.update(&part);
        write(&part)?;
    }
    if FileDigest::from_sha256(&sha256.finalize().into()) != artifact.digest {
        let name = escape(&artifact.name);
        return Err(Failure::general(format!(
            "`{name}` is stored with other content than the job has left"
        )));
    }
    Ok(())
}
