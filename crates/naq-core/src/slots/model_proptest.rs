//! Several workers share the slots of one key: with stale reads, writes whose answer is lost or that
//! arrive late, workers that crash, are cut off and come back, and a worker that asks for slots.
//!
//! The model assumes what the protocol does: a question is asked every second, so a worker that is
//! connected during a silence answers; and the jobs of a worker that is cut off end within its lease.

use std::time::Duration;

use proptest::prelude::*;

use super::lump::{SlotPlan, SlotRequest, SlotWrite, WorkerLump};
use super::silence::{LumpSilence, OnSilence};
use crate::job::takeover::HolderReply;
use naq_protocol::{JobId, QueueName, SlotHolder, Slots, UnknownFields};

const LEASE: Duration = Duration::from_secs(30);
/// How long after the loss of the connection the jobs of a worker are dead.
const TRUSTED: Duration = Duration::from_secs(27);
const TAKEOVER_AFTER: Duration = Duration::from_secs(10);
const WORKERS: usize = 3;

/// What becomes of a write.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Confirmed,
    /// It is carried out, and the answer is lost.
    Unanswered,
    /// The answer never comes, and the write may be carried out at any later time.
    Late,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    /// A job requests a slot.
    Take,
    /// The worker returns so many slots that it does not use.
    Return(u32),
    Renew,
    /// A job that is listed among the holders has ended.
    ReleaseSingle,
}

#[derive(Clone, Debug)]
enum Event {
    /// The worker reads the slots for a change.
    Read(usize, Change),
    /// It writes the change, by what it has read.
    Write(usize, Fate),
    /// A job gets a slot without a write, if the worker has one.
    TakeAhead(usize),
    /// A job that uses a slot of the lump ends.
    End(usize),
    Arrives(usize),
    Crash(usize),
    CutOff(usize),
    Reconnect(usize),
    /// Another worker asks for slots, after reading them.
    Ask(usize),
    /// It takes the lump away that it has found silent, by what it has read.
    Remove(usize),
    Pass(u64),
    /// The worker takes slots until it gets no more.
    Fill(usize),
    /// Another worker asks every second for so long, and takes the lump if it finds the worker silent.
    Observe(usize, u32),
    /// The worker is cut off and observed for so long, another one takes what is free, and it comes back.
    Outage(usize, u32),
}

fn any_event() -> impl Strategy<Value = Event> {
    let worker = 0..WORKERS;
    let change = prop_oneof![
        6 => Just(Change::Take),
        3 => (0_u32..8).prop_map(Change::Return),
        4 => Just(Change::Renew),
        2 => Just(Change::ReleaseSingle),
    ];
    let fate = prop_oneof![
        6 => Just(Fate::Confirmed),
        1 => Just(Fate::Unanswered),
        1 => Just(Fate::Late),
    ];
    prop_oneof![
        8 => (worker.clone(), change).prop_map(|(worker, change)| Event::Read(worker, change)),
        8 => (worker.clone(), fate).prop_map(|(worker, fate)| Event::Write(worker, fate)),
        8 => worker.clone().prop_map(Event::TakeAhead),
        4 => worker.clone().prop_map(Event::End),
        2 => (0_usize..8).prop_map(Event::Arrives),
        1 => worker.clone().prop_map(Event::Crash),
        2 => worker.clone().prop_map(Event::CutOff),
        2 => worker.clone().prop_map(Event::Reconnect),
        5 => worker.clone().prop_map(Event::Ask),
        3 => worker.prop_map(Event::Remove),
        4 => (0_u64..20_000).prop_map(Event::Pass),
        8 => (0..WORKERS).prop_map(Event::Fill),
        4 => (0..WORKERS, 0_u32..40).prop_map(|(worker, seconds)| Event::Observe(worker, seconds)),
        2 => (0..WORKERS, 0_u32..40).prop_map(|(worker, seconds)| Event::Outage(worker, seconds)),
    ]
}

struct Worker {
    lump: WorkerLump,
    /// Jobs that run by slots of the lump, and those that are listed among the holders.
    ahead: u32,
    singles: Vec<JobId>,
    is_alive: bool,
    /// When it was connected last. `None` means that it is connected.
    cut_off_at: Option<Duration>,
    read: Option<(Slots, u64, Change)>,
}

impl Worker {
    fn running(&self) -> usize {
        self.ahead as usize + self.singles.len()
    }

    fn kill_jobs(&mut self, now: Duration) {
        for _ in 0..std::mem::take(&mut self.ahead) {
            self.lump.release(now);
        }
        self.singles.clear();
    }
}

struct World {
    max: u32,
    slots: Slots,
    revision: u64,
    /// Writes that are on their way, each with the revision that it names.
    late: Vec<(Slots, u64)>,
    workers: Vec<Worker>,
    silences: Vec<Option<(LumpSilence, OnSilence, Slots, u64)>>,
    now: Duration,
    jobs: u32,
}

impl World {
    fn new(max: u32) -> World {
        let worker = |index| Worker {
            lump: WorkerLump::new(format!("w{index}"), LEASE, 1),
            ahead: 0,
            singles: Vec::new(),
            is_alive: true,
            cut_off_at: None,
            read: None,
        };
        World {
            max,
            slots: Slots::default(),
            revision: 0,
            late: Vec::new(),
            workers: (0..WORKERS).map(worker).collect(),
            silences: vec![None; WORKERS],
            now: Duration::from_secs(1_000),
            jobs: 0,
        }
    }

    fn write(&mut self, slots: Slots, revision: u64) -> bool {
        let is_current = revision == self.revision;
        if is_current {
            self.slots = slots;
            self.revision += 1;
        }
        is_current
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Read(worker, change) => {
                let state = &mut self.workers[worker];
                if state.is_alive && state.cut_off_at.is_none() {
                    if let Change::Return(count) = change {
                        state.lump.shrink(count);
                    }
                    state.read = Some((self.slots.clone(), self.revision, change));
                }
            }
            Event::Write(worker, fate) => self.change(worker, fate),
            Event::TakeAhead(worker) => {
                let (max, now) = (self.max, self.now);
                let state = &mut self.workers[worker];
                if state.is_alive && state.lump.take(max, now) {
                    state.ahead += 1;
                }
            }
            Event::End(worker) => {
                let now = self.now;
                let state = &mut self.workers[worker];
                if state.ahead > 0 {
                    state.ahead -= 1;
                    state.lump.release(now);
                }
            }
            Event::Arrives(index) => {
                if index < self.late.len() {
                    let (slots, revision) = self.late.swap_remove(index);
                    self.write(slots, revision);
                }
            }
            Event::Crash(worker) => {
                let now = self.now;
                let state = &mut self.workers[worker];
                state.kill_jobs(now);
                state.is_alive = false;
            }
            Event::CutOff(worker) => {
                let now = self.now;
                self.workers[worker].cut_off_at.get_or_insert(now);
            }
            Event::Reconnect(worker) => {
                self.workers[worker].cut_off_at = None;
                // it answers the question of this second
                if self.workers[worker].is_alive {
                    self.silences[worker] = None;
                }
            }
            Event::Ask(worker) => self.ask(worker),
            Event::Remove(worker) => self.remove(worker),
            Event::Fill(_) | Event::Observe(..) | Event::Outage(..) => self.several_steps(&event),
            Event::Pass(ms) => {
                self.now += Duration::from_millis(ms);
                let now = self.now;
                for worker in &mut self.workers {
                    if worker.cut_off_at.is_some_and(|at| now >= at + TRUSTED) {
                        worker.kill_jobs(now);
                    }
                }
            }
        }
    }

    fn several_steps(&mut self, event: &Event) {
        match *event {
            Event::Fill(worker) => {
                for _ in 0..self.max {
                    self.step(Event::TakeAhead(worker));
                    self.step(Event::Read(worker, Change::Take));
                    self.step(Event::Write(worker, Fate::Confirmed));
                }
            }
            Event::Observe(worker, seconds) => {
                for _ in 0..seconds {
                    self.step(Event::Ask(worker));
                    self.step(Event::Pass(1_000));
                }
                self.step(Event::Remove(worker));
            }
            Event::Outage(worker, seconds) => {
                self.step(Event::Fill(worker));
                self.step(Event::CutOff(worker));
                self.step(Event::Observe(worker, seconds));
                self.step(Event::Fill((worker + 1) % WORKERS));
                self.step(Event::Reconnect(worker));
                self.step(Event::Read(worker, Change::Renew));
                self.step(Event::Write(worker, Fate::Confirmed));
                self.step(Event::Fill(worker));
            }
            _ => {}
        }
    }

    /// A worker plans a change by what it has read, and writes it.
    fn change(&mut self, worker: usize, fate: Fate) {
        let (max, sent_at) = (self.max, self.now);
        let job = JobId::new(format!("j{}", self.jobs)).unwrap();
        let state = &mut self.workers[worker];
        let Some((mut slots, revision, change)) = state.read.take() else {
            return;
        };
        if !state.is_alive {
            return;
        }
        let planned: Option<SlotWrite> = match change {
            Change::Take => {
                self.jobs += 1;
                let holder = SlotHolder {
                    job: job.clone(),
                    queue: QueueName::new("q").unwrap(),
                    sequence: 1,
                    unknown: UnknownFields::default(),
                };
                let request = SlotRequest {
                    holder,
                    max,
                    wanted: 16,
                };
                match state.lump.request(&mut slots, &request) {
                    SlotPlan::Write(write) => Some(write),
                    SlotPlan::Full | SlotPlan::Holds => return,
                }
            }
            Change::Return(_) => state.lump.sync(&mut slots),
            Change::Renew => state.lump.renew(&mut slots),
            Change::ReleaseSingle => {
                let Some(ended) = state.singles.pop() else {
                    return;
                };
                slots.holders.retain(|held| held.job != ended);
                None
            }
        };
        if planned.is_none() && !matches!(change, Change::ReleaseSingle) {
            return;
        }
        let is_cut_off = state.cut_off_at.is_some();
        let is_confirmed = match fate {
            Fate::Confirmed if !is_cut_off => self.write(slots, revision),
            Fate::Unanswered if !is_cut_off => {
                self.write(slots, revision);
                false
            }
            _ => {
                self.late.push((slots, revision));
                false
            }
        };
        if let Some(write) = planned.filter(|_| is_confirmed) {
            let state = &mut self.workers[worker];
            state.lump.confirm(&write, sent_at);
            if write.takes_from_lump() {
                state.ahead += 1;
            } else if matches!(change, Change::Take) {
                state.singles.push(job);
            }
        }
    }

    fn ask(&mut self, worker: usize) {
        let Some(lump) = self.slots.lump_of(&format!("w{worker}")).cloned() else {
            self.silences[worker] = None;
            return;
        };
        let state = &mut self.workers[worker];
        let reply = if state.is_alive && state.cut_off_at.is_none() {
            state.lump.on_wanted();
            HolderReply::Running
        } else {
            HolderReply::Absent {
                connected_for: Duration::from_secs(900),
            }
        };
        let previous = self.silences[worker].take();
        let mut silence = previous.map_or_else(|| LumpSilence::new(&lump), |(silence, ..)| silence);
        let decided = silence.on_reply(&lump, reply, TAKEOVER_AFTER, self.now);
        if decided != OnSilence::LeaveToWorker {
            self.silences[worker] = Some((silence, decided, self.slots.clone(), self.revision));
        }
    }

    fn remove(&mut self, worker: usize) {
        let observed = self.silences[worker].clone();
        let Some((silence, OnSilence::Remove, mut slots, revision)) = observed else {
            return;
        };
        self.silences[worker] = None;
        if silence.remove(&format!("w{worker}"), &mut slots) {
            self.write(slots, revision);
        }
    }

    fn running(&self) -> usize {
        self.workers.iter().map(Worker::running).sum()
    }

    /// A job waits, so the worker that blocked it asks for slots until each other one has answered or is
    /// found dead. Then every slot that is not free is used.
    fn serve_a_waiter(&mut self) {
        for worker in 0..WORKERS {
            self.step(Event::Reconnect(worker));
            while self.slots.lump_of(&format!("w{worker}")).is_some() {
                self.step(Event::Ask(worker));
                if self.workers[worker].is_alive {
                    let unused = self.workers[worker].lump.unused();
                    self.step(Event::Read(worker, Change::Return(unused)));
                    self.step(Event::Write(worker, Fate::Confirmed));
                    break;
                }
                self.step(Event::Remove(worker));
                self.step(Event::Pass(1_000));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn slots_in_use_never_exceed_the_limit_and_none_is_withheld(
        max in 1_u32..16,
        events in prop::collection::vec(any_event(), 0..60),
    ) {
        let mut world = World::new(max);
        for event in events {
            let text = format!("{event:?}");
            world.step(event);
            prop_assert!(world.running() <= max as usize, "{} run after {text}", world.running());
        }
        world.serve_a_waiter();
        prop_assert!(world.running() <= max as usize);
        let ahead: u32 = world.workers.iter().map(|worker| worker.ahead).sum();
        let taken: u32 = world.slots.lumps.iter().map(|lump| lump.slots).sum();
        prop_assert_eq!(taken, ahead, "slots are taken ahead while a job waits");
    }
}
