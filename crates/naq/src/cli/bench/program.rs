//! The programs that the jobs of a measurement run.

use bytes::Bytes;

use super::process::Bench;
use super::static_program;
use crate::cli::exit::Failure;
use naq_protocol::Envelope;
use naq_runner::Termination;

/// A program that jobs run.
#[derive(Clone, Debug)]
pub(super) struct JobProgram {
    /// Its name in the results.
    pub(super) name: String,
    /// Its absolute path and its arguments.
    pub(super) argv: Vec<String>,
}

impl JobProgram {
    /// The program of most measurements: a small one that uses the C library.
    pub(super) fn usual() -> JobProgram {
        JobProgram {
            name: "/bin/true".to_owned(),
            argv: vec!["/bin/true".to_owned()],
        }
    }

    /// A static program that ends at once. `Err` with the reason if this machine does not run it.
    pub(super) async fn nothing(bench: &Bench) -> Result<Result<JobProgram, String>, Failure> {
        JobProgram::made(bench, "nothing", static_program::nothing()).await
    }

    /// A static program that writes the time and ends. `Err` with the reason if this machine does not run it.
    pub(super) async fn clock(bench: &Bench) -> Result<Result<JobProgram, String>, Failure> {
        JobProgram::made(bench, "clock", static_program::clock()).await
    }

    async fn made(
        bench: &Bench,
        name: &str,
        content: Option<Vec<u8>>,
    ) -> Result<Result<JobProgram, String>, Failure> {
        let Some(content) = content else {
            let machine = std::env::consts::ARCH;
            return Ok(Err(format!("naq has no static program for {machine}")));
        };
        let path = bench.program_file(name, &content)?;
        let ended = bench.spawn(&path, &[]).wait().await;
        Ok(match ended.end {
            Termination::Exited(0) => Ok(JobProgram {
                name: format!("static program: {name}"),
                argv: vec![path],
            }),
            end => Err(format!("{path} does not run here: {end:?}")),
        })
    }

    /// An envelope of a job that runs it.
    pub(super) fn envelope(&self) -> Envelope {
        let mut words = self.argv.iter().cloned();
        Envelope::command(words.next().unwrap_or_default(), words)
    }

    /// That envelope as bytes.
    pub(super) fn payload(&self) -> Result<Bytes, Failure> {
        payload(&self.envelope())
    }
}

/// An envelope as bytes.
pub(super) fn payload(envelope: &Envelope) -> Result<Bytes, Failure> {
    let bytes = serde_json::to_vec(envelope);
    Ok(bytes
        .map_err(|error| Failure::general(error.to_string()))?
        .into())
}
