//! Chaos runs: producers, workers and servers are killed, suspended and restarted while they handle
//! thousands of jobs, and a checker counts the jobs that were lost, recorded twice, overwritten, left
//! behind or stuck.
//!
//! The size of a run is a setting of the test: `NAQ_CHAOS_JOBS`, `NAQ_CHAOS_KILLS`,
//! `NAQ_CHAOS_SEED`, `NAQ_CHAOS_WORKERS`, `NAQ_CHAOS_CONCURRENCY`; `just
//! chaos` sets them. The defaults are what CI has time for.
//!
//! `schedules` does the same for the promise of schedules, and `outages` for jobs that never run twice
//! at once; there `NAQ_CHAOS_KILLS` is the number of outages. `power_cuts` cuts the power of the disk; there
//! it is the number of cuts with each setting of `sync_interval`.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod cancels;
mod check;
mod crew;
mod history;
mod jobs;
mod outages;
mod plan;
mod power_cuts;
mod producers;
mod run;
mod schedules;
mod servers;
mod stage;

use plan::Size;

/// A size, as the environment overrides it.
fn sized(default: Size) -> Size {
    let environment = naq_client::config::environment();
    let number = |name: &str| -> Option<u64> {
        let text = environment
            .get(&format!("NAQ_CHAOS_{name}"))
            .filter(|text| !text.is_empty())?;
        Some(
            text.parse()
                .unwrap_or_else(|_| panic!("NAQ_CHAOS_{name}={text}: no number")),
        )
    };
    let count = |name: &str, default: usize| {
        number(name).map_or(default, |number| usize::try_from(number).unwrap())
    };
    Size {
        jobs: count("JOBS", default.jobs),
        kills: count("KILLS", default.kills),
        seed: number("SEED").unwrap_or(default.seed),
        servers: default.servers,
        workers: count("WORKERS", default.workers),
        concurrency: count("CONCURRENCY", default.concurrency),
    }
}

#[test]
fn the_promises_hold_on_one() {
    run::run(sized(Size {
        jobs: 2_000,
        kills: 40,
        seed: rand::random_range(0..1_000_000),
        servers: 1,
        workers: 4,
        concurrency: 4,
    }));
}

#[test]
fn the_promises_hold_on_three() {
    run::run(sized(Size {
        jobs: 400,
        kills: 16,
        seed: rand::random_range(0..1_000_000),
        servers: 3,
        workers: 3,
        concurrency: 4,
    }));
}

#[test]
fn no_job_runs_twice_at_once_through_outages_of_a_cluster() {
    outages::run(sized(Size {
        jobs: 40,
        kills: 4,
        seed: rand::random_range(0..1_000_000),
        servers: 3,
        workers: 3,
        concurrency: 4,
    }));
}

#[test]
fn no_job_runs_twice_at_once_through_outages() {
    outages::run(sized(Size {
        jobs: 60,
        kills: 6,
        seed: rand::random_range(0..1_000_000),
        servers: 1,
        workers: 3,
        concurrency: 4,
    }));
}

#[test]
fn the_promise_of_schedules_holds_on_one() {
    schedules::run(sized(Size {
        jobs: 700,
        kills: 10,
        seed: rand::random_range(0..1_000_000),
        servers: 1,
        workers: 2,
        concurrency: 8,
    }));
}

#[test]
fn the_promise_of_schedules_holds_on_three() {
    schedules::run(sized(Size {
        jobs: 300,
        kills: 6,
        seed: rand::random_range(0..1_000_000),
        servers: 3,
        workers: 2,
        concurrency: 8,
    }));
}

#[test]
fn power_cuts_lose_no_more_than_the_sync_interval_says() {
    power_cuts::run(sized(Size {
        jobs: 0,
        kills: 2,
        seed: rand::random_range(0..1_000_000),
        servers: 1,
        workers: 2,
        concurrency: 4,
    }));
}
