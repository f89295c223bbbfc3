//! Jobs on a server that forces each write to the disk, and on several servers that each keep a copy,
//! compared with one server as it is by default.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use super::super::own_server::OwnServer;
use super::super::{Args, median};
use super::{Row, Sides, run_on_new_worker};
use crate::cli::exit::Failure;
use crate::cli::session::Session;
use crate::local_server::SyncInterval;

/// Bytes between two forced writes of the disk's own measurement: about what a job writes.
const WRITE: [u8; 1024] = [b'x'; 1024];

pub(super) async fn measure_sync(session: &Session, args: &Args) -> Result<Vec<Row>, Failure> {
    let usual = OwnServer::start(session, args, "usual", SyncInterval::EverySecond).await?;
    let always = match OwnServer::start(session, args, "sync", SyncInterval::Always).await {
        Ok(always) => always,
        Err(error) => return usual.end(Err(error)).await,
    };
    let measured = compare_sync(&usual, &always).await;
    let measured = always.end(measured).await;
    usual.end(measured).await
}

async fn compare_sync(usual: &OwnServer, always: &OwnServer) -> Result<Vec<Row>, Failure> {
    let mut sides = Sides::default();
    let mut disk = Vec::new();
    for _ in 0..always.bench.rounds {
        disk.push(forced_writes_per_s(always)?);
        sides.without.push(run_on_new_worker(&usual.bench).await?);
        sides.with.push(run_on_new_worker(&always.bench).await?);
    }
    let row = sides.row("a server with --sync always : the default");
    let jobs_per_s = row.with;
    Ok(vec![
        row,
        Row::new(
            "jobs with --sync always : forced writes of this disk, one after another",
            "1/s",
            jobs_per_s,
            median(disk),
        ),
    ])
}

/// How often a second this disk can be forced to write what was appended to a file.
fn forced_writes_per_s(own: &OwnServer) -> Result<f64, Failure> {
    let path = own.folder.join("written");
    let mut file = File::create(&path)?;
    let time = Duration::from_secs_f64(own.bench.seconds / 3.0);
    let (begun, mut count) = (Instant::now(), 0_u32);
    while count == 0 || begun.elapsed() < time {
        file.write_all(&WRITE)?;
        file.sync_data()?;
        count += 1;
    }
    let per_s = f64::from(count) / begun.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(per_s)
}

pub(super) async fn measure_replicas(
    session: &Session,
    args: &Args,
    count: u32,
) -> Result<Vec<Row>, Failure> {
    let one = OwnServer::start_cluster(session, args, "one", 1).await?;
    let several = OwnServer::start_cluster(session, args, "replicas", count as usize).await;
    let several = match several {
        Ok(several) => several,
        Err(error) => return one.end(Err(error)).await,
    };
    let measured = compare_replicas(&one, &several).await;
    let measured = several.end(measured).await;
    let sides = one.end(measured).await?;
    Ok(vec![sides.row(format!(
        "{count} servers with {count} replicas : one server"
    ))])
}

async fn compare_replicas(one: &OwnServer, several: &OwnServer) -> Result<Sides, Failure> {
    let mut sides = Sides::default();
    for _ in 0..one.bench.rounds {
        sides.without.push(run_on_new_worker(&one.bench).await?);
        sides.with.push(run_on_new_worker(&several.bench).await?);
    }
    Ok(sides)
}
