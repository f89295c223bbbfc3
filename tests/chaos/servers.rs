//! The one server or the three, and what is done to them.

use std::time::Duration;

use naq::envelope::QueueName;
use rand::Rng;
use rand::rngs::StdRng;

use super::run::Run;
use crate::harness::cluster::Cluster;
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

pub(super) enum Servers {
    One(Box<TestServer>),
    Many(Cluster),
}

/// The streams whose leaders are looked for.
const STREAMS: [&str; 3] = ["KV_naq_results", "naq_queue_left", "naq_queue_right"];

impl Servers {
    pub(super) fn start(count: usize) -> Servers {
        if count == 1 {
            Servers::One(Box::new(TestServer::start()))
        } else {
            Servers::Many(Cluster::start(count))
        }
    }

    pub(super) fn naq(&self) -> Naq {
        match self {
            Servers::One(server) => Naq::new(server),
            Servers::Many(cluster) => Naq::of_cluster(cluster),
        }
    }

    /// Makes a queue, once the servers can.
    pub(super) fn make_queue(&self, naq: &Naq, queue: &str) {
        let queue = QueueName::new(queue).unwrap();
        let broker = naq.client().broker();
        eventually("the queue is made", || {
            naq.handle().block_on(broker.ensure_queue(&queue)).is_ok()
        });
    }

    /// Kills the server, or one of them, and starts it again.
    pub(super) fn kill(&mut self, run: &Run, away: Duration, chance: &mut StdRng) -> bool {
        match self {
            Servers::One(server) => {
                server.kill9();
                std::thread::sleep(away);
                server.restart();
            }
            Servers::Many(cluster) => {
                let index = pick(cluster, run, chance);
                cluster.kill9(index);
                std::thread::sleep(away);
                cluster.start_again(index);
            }
        }
        true
    }

    /// Makes it, or one of them, stand still for so long.
    pub(super) fn pause(&mut self, run: &Run, long: Duration, chance: &mut StdRng) -> bool {
        match self {
            Servers::One(server) => {
                server.pause();
                std::thread::sleep(long);
                server.resume();
            }
            Servers::Many(cluster) => {
                let index = pick(cluster, run, chance);
                cluster.pause(index);
                std::thread::sleep(long);
                cluster.resume(index);
            }
        }
        true
    }
}

/// The leader of some stream mostly, else any. The copies are whole first: a majority of them
/// has to live for anything to be promised.
fn pick(cluster: &Cluster, run: &Run, chance: &mut StdRng) -> usize {
    Cluster::settle(run.naq.handle(), run.naq.nats());
    let any = chance.random_range(0..cluster.len());
    let stream = STREAMS[chance.random_range(0..STREAMS.len())];
    let leads = chance.random_bool(0.8);
    let leader = run
        .naq
        .handle()
        .block_on(Cluster::leader(run.naq.nats(), stream));
    let index = leader.filter(|_| leads).unwrap_or(any);
    run.note(&format!("server {index}, leader of {stream}: {leader:?}"));
    index
}
