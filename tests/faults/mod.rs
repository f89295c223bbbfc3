//! Faults and invalid input for the whole product: a real nats-server, the real program, and
//! producers without naq. After each fault, a valid job still runs on the same worker.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod conflict;
mod connecting;
mod crashes;
mod denials;
mod drain;
mod envelopes;
mod full_results;
mod hostile_server;
mod leases;
mod limits;
mod majority;
mod memory;
mod out_of_reach;
mod outage;
mod output;
mod permissions;
mod poison_messages;
mod power_loss;
mod refused;
mod secrets;
mod security;
mod server_loss;
mod spawn;
mod store;
mod suspects;
mod terminal;
mod unreadable;

/// The arguments of a worker of one queue whose jobs run in a folder that every user may enter.
fn worker_words<'w>(queue: &'w str, containment: &'w str) -> [&'w str; 6] {
    [
        "worker",
        queue,
        "--containment",
        containment,
        "--workdir",
        "/",
    ]
}
