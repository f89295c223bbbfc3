//! The faults of a run, drawn from the seed before the run starts.

use std::fmt;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// The size of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) jobs: usize,
    /// SIGKILLs from outside; deaths at failpoints and of producers come in addition.
    pub(super) kills: usize,
    pub(super) seed: u64,
    pub(super) servers: usize,
    pub(super) workers: usize,
    /// Jobs that each worker runs at once.
    pub(super) concurrency: usize,
}

/// The workers' `ack_wait`, which is how long a worker's death delays its jobs.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(3);

/// A fault of a process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    Kill,
    /// SIGKILL of one of a worker's spawner processes.
    KillSpawner,
    /// A SIGSTOP, and a SIGCONT after this time.
    Pause(Duration),
    /// SIGTERM: an orderly exit.
    End,
    /// SIGKILL of a server, and a start after this time.
    KillServer(Duration),
    /// A SIGSTOP of a server, and a SIGCONT after this time.
    PauseServer(Duration),
}

impl Fault {
    pub(super) fn is_kill(self) -> bool {
        matches!(
            self,
            Fault::Kill | Fault::KillSpawner | Fault::KillServer(_)
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// How often each fault hits a crew, in percent; the rest hits servers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    kill: u32,
    kill_spawner: u32,
    pause: u32,
    end: u32,
    kill_server: u32,
    /// The longest suspension. Some processes continue within their lease, some after it.
    pause_max_ms: u64,
}

pub(super) const WORKERS_FAULTS: Shares = Shares {
    kill: 45,
    kill_spawner: 5,
    pause: 12,
    end: 8,
    kill_server: 22,
    pause_max_ms: 5_000,
};

pub(super) const SCHEDULERS_FAULTS: Shares = Shares {
    kill: 40,
    kill_spawner: 0,
    pause: 25,
    end: 10,
    kill_server: 17,
    pause_max_ms: 6_000,
};

/// The faults of a run, in order. They are spread over the run by its progress.
pub(super) fn faults(size: &Size, shares: Shares, chance: &mut StdRng) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut kills = 0;
    let ms = Duration::from_millis;
    while kills < size.kills {
        let mut drawn = chance.random_range(0..100);
        let mut is = |share: u32| {
            let is = drawn < share;
            drawn = drawn.saturating_sub(share);
            is
        };
        let fault = if is(shares.kill) {
            Fault::Kill
        } else if is(shares.kill_spawner) {
            Fault::KillSpawner
        } else if is(shares.pause) {
            Fault::Pause(ms(chance.random_range(100..shares.pause_max_ms)))
        } else if is(shares.end) {
            Fault::End
        } else if is(shares.kill_server) {
            Fault::KillServer(ms(chance.random_range(0..800)))
        } else if size.servers > 1 {
            Fault::PauseServer(ms(chance.random_range(5_000..15_000)))
        } else {
            let long = [200, 1_000, 2_500, 6_500][chance.random_range(0..4_usize)];
            Fault::PauseServer(ms(long))
        };
        kills += usize::from(fault.is_kill());
        faults.push(fault);
    }
    faults
}

/// The failpoints of a worker (`naq_jetstream::failpoint`), and how often, in percent, a worker that
/// is to die at one dies when it passes it.
pub(super) const STEPS: &[(&str, u32)] = &[
    ("claim.before", 4),
    ("claim.written", 4),
    ("ahead.claimed", 4),
    ("ahead.withdrawn", 30),
    ("unstarted.returning", 30),
    ("takeover.decided", 30),
    ("postpone.written", 30),
    ("run.started", 4),
    ("run.ended", 4),
    ("output.stored", 100),
    ("dead_letter.written", 50),
    ("unsuccessful.sent", 50),
    ("outcome.before", 4),
    ("outcome.written", 4),
    ("released", 4),
    ("retry.delayed", 50),
    ("retry.slept", 50),
    ("recheck.released", 100),
    ("block.indexed", 40),
    ("block.written", 40),
    ("block.marked", 40),
    ("block.recheck_scheduled", 40),
    ("release.closed", 40),
    ("release.published", 40),
    ("slot.acquired", 20),
    ("slot.released", 20),
    ("reroute.registered", 100),
    ("reroute.published", 30),
    ("delay.written", 100),
    ("nak.sent", 100),
    ("rejected.dead_lettered", 100),
    ("rejected.written", 100),
    ("ack.before", 4),
    ("ack.done", 4),
];

/// The failpoints of a scheduler.
pub(super) const SCHEDULER_STEPS: &[(&str, u32)] = &[
    ("leader_lease.acquired", 50),
    ("leader_lease.renewed", 30),
    ("schedules.read", 50),
    ("schedules.checked", 50),
    ("overlap.decided", 3),
    ("overlap.cancelled", 10),
    ("tick.due", 2),
    ("tick.checked", 2),
    ("tick.enqueued", 2),
    ("progress.due", 4),
    ("progress.stored", 4),
];

/// The failpoint at which each started process dies, or is suspended for longer than its lease.
pub(super) struct Failpoints {
    steps: &'static [(&'static str, u32)],
    chance: StdRng,
    round: Vec<(&'static str, u32)>,
}

impl Failpoints {
    pub(super) fn new(steps: &'static [(&'static str, u32)], chance: StdRng) -> Failpoints {
        Failpoints {
            steps,
            chance,
            round: Vec::new(),
        }
    }

    /// Value of FAILPOINTS for the next process; the failpoints take turns.
    pub(super) fn next(&mut self) -> String {
        if self.round.is_empty() {
            self.round = self.steps.to_vec();
            self.round.shuffle(&mut self.chance);
        }
        let Some((step, percent)) = self.round.pop() else {
            return String::new();
        };
        match self.chance.random_range(0..10) {
            0..2 => {
                let pause = self.chance.random_range(500..4_500);
                format!("{step}={percent}%1*sleep({pause})")
            }
            _ => format!("{step}={percent}%1*return"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{SCHEDULER_STEPS, STEPS};

    /// A failpoint that the plan does not list would never be tested.
    #[test]
    fn the_plan_has_every_failpoint() {
        assert_eq!(
            found(&["naq/src/worker", "naq-jetstream/src"]),
            known(STEPS)
        );
        assert_eq!(found(&["naq/src/scheduler"]), known(SCHEDULER_STEPS));
    }

    fn known(steps: &[(&str, u32)]) -> BTreeSet<String> {
        steps.iter().map(|(step, _)| (*step).to_owned()).collect()
    }

    fn found(folders: &[&str]) -> BTreeSet<String> {
        let source = std::path::Path::new(crate::ROOT).join("crates");
        let mut folders: Vec<_> = folders.iter().map(|folder| source.join(folder)).collect();
        let mut found = BTreeSet::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(path).unwrap();
                for part in text.split("failpoint(\"").skip(1) {
                    found.insert(part.split('"').next().unwrap().to_owned());
                }
            }
        }
        found
    }
}
