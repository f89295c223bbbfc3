//! Whether a worker may take a job over from the worker that its record names.
//!
//! After an outage the server redelivers every message whose acknowledgement timeout has passed,
//! often before the worker that runs the job has reconnected. A redelivery therefore proves nothing
//! about that worker, the *holder*: it is asked before its job starts anywhere else.

use std::time::Duration;

/// What the holder of a lease replied when it was asked about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderReply {
    /// It runs the job, or is recording its outcome.
    Running,
    /// Its lease has ended, and it is killing the job.
    Stopping,
    /// It lives, and has no such lease any more: it gave the lease up, and the job is dead.
    Released,
    /// It is not connected, as the server reports: it has ended, or is cut off.
    Absent {
        /// How long the asker has been connected without a break; zero if its connection broke
        /// meanwhile.
        connected_for: Duration,
    },
    /// It is connected, as far as the server knows, and did not reply in time: it is stopped or
    /// busy, or its connection is half dead.
    Silent {
        /// The same.
        connected_for: Duration,
        /// How many times in a row it did not reply.
        times: u32,
    },
}

/// How many times in a row a connected holder must not reply before it counts as gone. A process
/// on an overloaded machine may need more than a second for one reply.
const SILENT_TIMES_MIN: u32 = 3;

/// How a lease ended that nobody holds any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEnd {
    /// Its worker gave it up during an outage and stopped the job. Nobody crashed.
    Released,
    /// Its worker is gone: a crash.
    Crashed,
}

/// What the asker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// Leave the message alone: no acknowledgement of any kind. The holder renews it.
    LeaveToHolder,
    /// Ask again after a pause.
    AskAgain,
    /// Start the next attempt.
    TakeOver(LeaseEnd),
}

/// Decides what a reply of the holder means.
///
/// Silence counts only once the asker has been connected for `takeover_after` without a break. If
/// the server was away for everybody, the holder reconnects in that time, and it lets its lease
/// end earlier than that if it cannot.
#[must_use]
pub fn decide_takeover(reply: HolderReply, takeover_after: Duration) -> Takeover {
    match reply {
        HolderReply::Running => Takeover::LeaveToHolder,
        HolderReply::Stopping => Takeover::AskAgain,
        HolderReply::Released => Takeover::TakeOver(LeaseEnd::Released),
        HolderReply::Absent { connected_for } if connected_for >= takeover_after => {
            Takeover::TakeOver(LeaseEnd::Crashed)
        }
        HolderReply::Silent {
            connected_for,
            times: SILENT_TIMES_MIN..,
        } if connected_for >= takeover_after => Takeover::TakeOver(LeaseEnd::Crashed),
        HolderReply::Absent { .. } | HolderReply::Silent { .. } => Takeover::AskAgain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_reply() -> impl Strategy<Value = HolderReply> {
        prop_oneof![
            Just(HolderReply::Running),
            Just(HolderReply::Stopping),
            Just(HolderReply::Released),
            (0_u64..60_000).prop_map(|ms| HolderReply::Absent {
                connected_for: Duration::from_millis(ms)
            }),
            (0_u64..60_000, 1_u32..9).prop_map(|(ms, times)| HolderReply::Silent {
                connected_for: Duration::from_millis(ms),
                times,
            }),
        ]
    }

    /// One event in the life of a lease, as its holder, its asker and the server see it. The model
    /// advances by the given time before the event.
    #[derive(Clone, Debug)]
    enum Event {
        ServerDown,
        ServerUp,
        HolderReconnects,
        HolderDies,
        AskerReconnects,
        Ask,
    }

    fn any_event() -> impl Strategy<Value = (u64, Event)> {
        let event = prop_oneof![
            2 => Just(Event::ServerDown),
            3 => Just(Event::ServerUp),
            2 => Just(Event::HolderReconnects),
            1 => Just(Event::HolderDies),
            3 => Just(Event::AskerReconnects),
            6 => Just(Event::Ask),
        ];
        (0_u64..6_000, event)
    }

    /// Milliseconds that a refused connection extends the lease of the holder by, and that the
    /// asker waits.
    const REFUSED_TRUST_MS: u64 = 4_000;
    const TAKEOVER_AFTER_MS: u64 = 10_000;
    const ACK_WAIT_MS: u64 = 5_000;

    proptest! {
        /// Only a reply from the holder, or a long silence, starts the job elsewhere.
        #[test]
        fn takeover_needs_a_reply_or_a_long_silence(reply in any_reply(), after in 1_u64..60_000) {
            let after = Duration::from_millis(after);
            let taken = matches!(decide_takeover(reply, after), Takeover::TakeOver(_));
            let may = match reply {
                HolderReply::Running | HolderReply::Stopping => false,
                HolderReply::Released => true,
                HolderReply::Absent { connected_for } => connected_for >= after,
                HolderReply::Silent { connected_for, times } => {
                    connected_for >= after && times >= SILENT_TIMES_MIN
                }
            };
            prop_assert_eq!(taken, may);
        }

        /// A holder that trusts a refused connection, and an asker that reconnects earlier or
        /// later: at no time does the asker start the job while the holder runs it.
        #[test]
        fn takeover_after_an_outage_never_overlaps_with_the_holder(
            events in proptest::collection::vec(any_event(), 1..80),
        ) {
            let (mut now, mut server_up, mut server_since) = (0_u64, true, 0_u64);
            // When the lease of the holder ends, and when its renewal reached the server last.
            let (mut expires, mut renewed_at) = (ACK_WAIT_MS * 9 / 10, 0_u64);
            let (mut alive, mut holder_connected, mut asker_since) = (true, true, Some(0_u64));
            for (elapsed, event) in events {
                // In steps of the interval at which a disconnected holder probes the server.
                for _ in 0..elapsed / 500 + 1 {
                    now += 500;
                    let runs = alive && now < expires;
                    if runs && holder_connected && server_up {
                        (expires, renewed_at) = (now + ACK_WAIT_MS * 9 / 10, now);
                    } else if runs && !server_up {
                        expires = expires.max(now + REFUSED_TRUST_MS);
                    }
                }
                match event {
                    Event::ServerDown => {
                        (server_up, holder_connected, asker_since) = (false, false, None);
                    }
                    Event::ServerUp if !server_up => (server_up, server_since) = (true, now),
                    Event::ServerUp => {}
                    Event::HolderReconnects => holder_connected = server_up && alive,
                    Event::HolderDies => (alive, holder_connected) = (false, false),
                    Event::AskerReconnects => {
                        asker_since = asker_since.or(server_up.then_some(now));
                    }
                    Event::Ask => {
                        // The server redelivers once the last renewal is older than `ack_wait`.
                        let is_redelivered = server_up && now >= renewed_at + ACK_WAIT_MS;
                        let Some(since) = asker_since.filter(|_| is_redelivered) else { continue };
                        prop_assert!(since >= server_since || server_since == 0);
                        let runs = alive && now < expires;
                        let reply = if holder_connected {
                            if runs { HolderReply::Running } else { HolderReply::Released }
                        } else {
                            HolderReply::Absent { connected_for: Duration::from_millis(now - since) }
                        };
                        let after = Duration::from_millis(TAKEOVER_AFTER_MS);
                        if let Takeover::TakeOver(_) = decide_takeover(reply, after) {
                            prop_assert!(!runs, "two attempts at once at {} ms", now);
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}
