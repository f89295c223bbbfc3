//! What befalls whom, drawn from the seed before the run begins.

use std::fmt;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// The size of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) jobs: usize,
    /// SIGKILLs from outside; deaths at failpoints and of producers come on top.
    pub(super) kills: usize,
    pub(super) seed: u64,
    pub(super) servers: usize,
    pub(super) workers: usize,
    /// Jobs that each worker runs at once.
    pub(super) concurrency: usize,
}

/// How long the server waits for word of a job, which is how long a worker's death costs its
/// jobs.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(3);

/// Something that happens to a process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    KillWorker,
    /// Its processes that hold jobs, one of them.
    KillSpawner,
    PauseWorker(Duration),
    /// SIGTERM: it drains and ends.
    EndWorker,
    /// And starts it again after so long.
    KillServer(Duration),
    PauseServer(Duration),
}

impl Fault {
    pub(super) fn is_kill(self) -> bool {
        matches!(
            self,
            Fault::KillWorker | Fault::KillSpawner | Fault::KillServer(_)
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The faults of a run in their order. They are spread over the run by its progress.
pub(super) fn faults(size: &Size, chance: &mut StdRng) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut kills = 0;
    let ms = Duration::from_millis;
    while kills < size.kills {
        let fault = match chance.random_range(0..100) {
            0..45 => Fault::KillWorker,
            45..50 => Fault::KillSpawner,
            // some come back within their lease, some after
            50..62 => Fault::PauseWorker(ms(chance.random_range(100..5_000))),
            62..70 => Fault::EndWorker,
            70..92 => Fault::KillServer(ms(chance.random_range(0..800))),
            _ if size.servers > 1 => Fault::PauseServer(ms(chance.random_range(5_000..15_000))),
            _ => Fault::PauseServer(ms(*[200, 1_000, 2_500, 6_500]
                .get(chance.random_range(0..4_usize))
                .unwrap_or(&200))),
        };
        kills += usize::from(fault.is_kill());
        faults.push(fault);
    }
    faults
}

/// The places between two steps where a worker can die (`step` in `src/broker`), and how often,
/// in percent, one that is set to die there does when it comes by.
pub(super) const STEPS: &[(&str, u32)] = &[
    ("claim.before", 4),
    ("claim.written", 4),
    ("run.started", 4),
    ("run.ended", 4),
    ("output.stored", 100),
    ("failed.kept", 50),
    ("outcome.before", 4),
    ("outcome.written", 4),
    ("released", 4),
    ("retry.held", 50),
    ("retry.slept", 50),
    ("wake.released", 100),
    ("park.indexed", 40),
    ("park.written", 40),
    ("park.marked", 40),
    ("park.armed", 40),
    ("release.closed", 40),
    ("release.published", 40),
    ("slot.taken", 20),
    ("slot.given", 20),
    ("handed_on.registered", 100),
    ("handed_on.published", 30),
    ("later.held", 100),
    ("handed_back", 100),
    ("rejected.kept", 100),
    ("rejected.written", 100),
    ("ack.before", 4),
    ("ack.done", 4),
];

/// Where each worker that is started is to die, or to stand still for longer than its lease.
pub(super) struct Failpoints {
    chance: StdRng,
    round: Vec<(&'static str, u32)>,
}

impl Failpoints {
    pub(super) fn new(chance: StdRng) -> Failpoints {
        Failpoints {
            chance,
            round: Vec::new(),
        }
    }

    /// The value of FAILPOINTS for the next worker; each step has its turn.
    pub(super) fn next(&mut self) -> String {
        if self.round.is_empty() {
            self.round = STEPS.to_vec();
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
    use super::STEPS;

    /// The plan would be blind for a step that it does not know.
    #[test]
    fn the_plan_has_every_step() {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found = std::collections::BTreeSet::new();
        for folder in ["worker", "broker"] {
            for entry in std::fs::read_dir(source.join(folder)).unwrap() {
                let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
                for part in text.split("step(\"").skip(1) {
                    found.insert(part.split('"').next().unwrap().to_owned());
                }
            }
        }
        let known = STEPS.iter().map(|(step, _)| (*step).to_owned()).collect();
        assert_eq!(found, known);
    }
}
