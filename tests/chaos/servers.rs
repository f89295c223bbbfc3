//! The servers of a run, one or three, and their faults.

use std::time::Duration;

use naq_protocol::QueueName;
use rand::Rng;
use rand::rngs::StdRng;

use super::stage::Stage;
use crate::harness::cluster::Cluster;
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TestServer;

pub(super) struct Servers {
    these: These,
    /// Streams whose leaders are the targets of faults.
    streams: &'static [&'static str],
}

enum These {
    One(Box<TestServer>),
    Many(Cluster),
}

impl Servers {
    pub(super) fn start(count: usize, streams: &'static [&'static str]) -> Servers {
        let these = if count == 1 {
            These::One(Box::new(TestServer::start()))
        } else {
            These::Many(Cluster::start(count))
        };
        Servers { these, streams }
    }

    pub(super) fn naq(&self) -> Naq {
        match &self.these {
            These::One(server) => Naq::new(server),
            These::Many(cluster) => Naq::with_cluster(cluster),
        }
    }

    /// Creates a queue, once the servers can.
    pub(super) fn make_queue(&self, naq: &Naq, queue: &str) {
        let queue = QueueName::new(queue).unwrap();
        let broker = naq.client().broker();
        eventually("the queue is made", || {
            naq.handle().block_on(broker.ensure_queue(&queue)).is_ok()
        });
    }

    /// Kills a server and restarts it.
    pub(super) fn kill(&mut self, stage: &Stage, away: Duration, chance: &mut StdRng) -> bool {
        match &mut self.these {
            These::One(server) => {
                server.kill9();
                std::thread::sleep(away);
                server.restart();
            }
            These::Many(cluster) => {
                let index = pick(cluster, stage, self.streams, chance);
                cluster.kill9(index);
                std::thread::sleep(away);
                cluster.restart_node(index);
            }
        }
        true
    }

    /// Suspends the server, or one of them, for this long.
    pub(super) fn pause(&mut self, stage: &Stage, long: Duration, chance: &mut StdRng) -> bool {
        match &mut self.these {
            These::One(server) => {
                server.pause();
                std::thread::sleep(long);
                server.resume();
            }
            These::Many(cluster) => {
                let index = pick(cluster, stage, self.streams, chance);
                cluster.pause(index);
                std::thread::sleep(long);
                cluster.resume(index);
            }
        }
        true
    }
}

/// Picks a server: mostly the leader of some stream. Waits until all replicas are in sync, since the
/// promises hold only while a majority of them lives.
fn pick(cluster: &Cluster, stage: &Stage, streams: &[&str], chance: &mut StdRng) -> usize {
    Cluster::wait_replicated(stage.naq.handle(), stage.naq.nats());
    let any = chance.random_range(0..cluster.len());
    let stream = streams[chance.random_range(0..streams.len())];
    let leads = chance.random_bool(0.8);
    let leader = stage
        .naq
        .handle()
        .block_on(Cluster::leader(stage.naq.nats(), stream));
    let index = leader.filter(|_| leads).unwrap_or(any);
    stage.note(&format!("server {index}, leader of {stream}: {leader:?}"));
    index
}
