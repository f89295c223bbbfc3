//! Login with a one-time code that the program prints, or with a token in a form.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::tokens::hex;

/// Number of failed attempts before the next ones are delayed.
const FREE_FAILURES: u32 = 5;

/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Clients whose failures are remembered.
const CLIENTS_MAX: usize = 4_096;

/// Failures of all clients together before the next attempts are delayed: more than one client can cause.
const ALL_FAILURES_MAX: u32 = 300;

/// Time after which one of the failures of all clients no longer counts.
const ALL_FAILURES_INTERVAL: Duration = Duration::from_millis(200);

/// A secret for one login, as a part of the address that the program prints.
#[derive(Clone, PartialEq, Eq)]
pub struct LoginCode(String);

impl LoginCode {
    /// A new random code.
    ///
    /// # Errors
    /// Returns an error if the system provides no random numbers.
    pub fn generate() -> Result<LoginCode, std::io::Error> {
        Ok(LoginCode(random_hex::<16>()?))
    }

    /// The code as text, for an address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for LoginCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LoginCode(***)")
    }
}

/// Random bytes as hexadecimal digits.
///
/// # Errors
/// Returns an error if the system provides no random numbers.
pub fn random_hex<const BYTES: usize>() -> Result<String, std::io::Error> {
    use ring::rand::SecureRandom;
    let mut bytes = [0; BYTES];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| std::io::Error::other("the system provides no random numbers"))?;
    Ok(hex(&bytes))
}

/// The codes that nobody has used yet, and the attempts that failed.
#[derive(Debug, Default)]
pub(super) struct LoginGate(Mutex<GateState>);

#[derive(Debug, Default)]
struct GateState {
    codes: Vec<LoginCode>,
    clients: HashMap<IpAddr, Failures>,
    all: AllFailures,
}

impl LoginGate {
    pub(super) fn new(codes: Vec<LoginCode>) -> LoginGate {
        LoginGate(Mutex::new(GateState {
            codes,
            ..GateState::default()
        }))
    }

    /// Consumes a code. Returns whether it was valid.
    pub(super) fn use_code(&self, code: &str) -> bool {
        let mut state = self.lock();
        let Some(at) = state.codes.iter().position(|known| known.0 == code) else {
            return false;
        };
        state.codes.swap_remove(at);
        true
    }

    /// The time until a client may make the next attempt. `None` means now.
    pub(super) fn pause(&self, client: IpAddr, now: Instant) -> Option<Duration> {
        let mut state = self.lock();
        let own = state
            .clients
            .get_mut(&client_key(client))
            .and_then(|failures| failures.pause_left(now));
        own.max(state.all.pause_left(now))
    }

    /// Counts a failed attempt.
    pub(super) fn failed(&self, client: IpAddr, now: Instant) {
        let mut state = self.lock();
        let client = client_key(client);
        if state.clients.len() >= CLIENTS_MAX && !state.clients.contains_key(&client) {
            state.forget_one(now);
        }
        state.clients.entry(client).or_default().add(now);
        state.all.add(now);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, GateState> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl GateState {
    /// Makes room for another client: forgets those that may make an attempt for free again, or else the one whose
    /// last failure is the oldest.
    fn forget_one(&mut self, now: Instant) {
        self.clients.retain(|_, failures| !failures.is_over(now));
        if self.clients.len() < CLIENTS_MAX {
            return;
        }
        let oldest = self
            .clients
            .iter()
            .min_by_key(|(_, failures)| failures.last);
        if let Some(oldest) = oldest.map(|(client, _)| *client) {
            self.clients.remove(&oldest);
        }
    }
}

/// The address of a client, or the first half of an IPv6 address, which is all of one network: a client may choose the
/// second half.
fn client_key(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(client) => client.into(),
        IpAddr::V6(client) => Ipv6Addr::from(u128::from(client) >> 64 << 64).into(),
    }
}

/// The recent failures of all clients together. They bound the attempts of a client with many addresses to a few a
/// second, at which nobody guesses a token; others may then have to wait for moments, but no session ends.
#[derive(Debug, Default)]
struct AllFailures {
    /// When none of them counts any more.
    over_at: Option<Instant>,
}

impl AllFailures {
    fn pause_left(&self, now: Instant) -> Option<Duration> {
        let left = self.over_at?.saturating_duration_since(now);
        let left = left.saturating_sub(ALL_FAILURES_INTERVAL * ALL_FAILURES_MAX);
        (left > Duration::ZERO).then_some(left)
    }

    fn add(&mut self, now: Instant) {
        let over_at = self.over_at.map_or(now, |over_at| over_at.max(now));
        self.over_at = Some(over_at + ALL_FAILURES_INTERVAL);
    }
}

/// The recent failures of a client. Each one beyond the free ones doubles the pause before the next attempt. After a minute
/// and twice that pause without a failure, none counts any more.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    last: Option<Instant>,
}

impl Failures {
    fn pause(&self) -> Duration {
        let over = self.count.saturating_sub(FREE_FAILURES);
        match over {
            0 => Duration::ZERO,
            over => PAUSE_MAX.min(Duration::from_secs(1 << (over - 1).min(10))),
        }
    }

    /// Whether none counts any more.
    fn is_over(&self, now: Instant) -> bool {
        let since = self.last.map(|last| now.saturating_duration_since(last));
        since.is_none_or(|since| since > self.pause() * 2 + Duration::from_secs(60))
    }

    /// What is left of the pause. `None` means that it is over.
    fn pause_left(&mut self, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.last?);
        if self.is_over(now) {
            self.count = 0;
        }
        let left = self.pause().saturating_sub(since);
        (left > Duration::ZERO).then_some(left)
    }

    fn add(&mut self, now: Instant) {
        self.count = self.count.saturating_add(1);
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_valid_once() {
        let code = LoginCode::generate().unwrap();
        let gate = LoginGate::new(vec![code.clone()]);
        assert!(!gate.use_code(""));
        assert!(!gate.use_code("x"));
        assert!(gate.use_code(code.as_str()));
        assert!(!gate.use_code(code.as_str()));
        assert!(!format!("{code:?}").contains(code.as_str()));
    }

    #[test]
    fn failed_logins_slow_the_next_ones_down() {
        let mut failures = Failures::default();
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        for _ in 0..FREE_FAILURES {
            assert_eq!(failures.pause_left(start), None);
            failures.add(start);
        }
        assert_eq!(failures.pause_left(start), None);
        failures.add(start);
        assert_eq!(failures.pause_left(start), Some(Duration::from_secs(1)));
        assert_eq!(failures.pause_left(at(1)), None);
        failures.add(at(1));
        assert_eq!(failures.pause_left(at(2)), Some(Duration::from_secs(1)));
        assert_eq!(failures.pause_left(at(3)), None);
        for _ in 0..100 {
            failures.add(at(3));
        }
        assert_eq!(failures.pause_left(at(32)), Some(Duration::from_secs(1)));
        assert_eq!(failures.pause_left(at(33)), None);
        // after a while without failures, attempts are free again
        assert_eq!(failures.pause_left(at(200)), None);
        failures.add(at(200));
        assert_eq!(failures.pause_left(at(200)), None);
    }

    #[test]
    fn failed_logins_of_one_client_do_not_slow_another_one_down() {
        let gate = LoginGate::new(Vec::new());
        let now = Instant::now();
        let [attacker, neighbour, other, user] =
            ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "192.0.2.1"]
                .map(|address| address.parse::<IpAddr>().unwrap());
        for _ in 0..20 {
            gate.failed(attacker, now);
        }
        assert_eq!(gate.pause(attacker, now), Some(PAUSE_MAX));
        // the rest of the address is the client's choice
        assert_eq!(gate.pause(neighbour, now), Some(PAUSE_MAX));
        assert_eq!(gate.pause(other, now), None);
        assert_eq!(gate.pause(user, now), None);
    }

    #[test]
    fn failed_logins_of_many_clients_are_bounded_together_and_in_memory() {
        let gate = LoginGate::new(Vec::new());
        let start = Instant::now();
        let client = |number: usize| IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());
        let user = client(usize::MAX >> 40);
        for number in 0..ALL_FAILURES_MAX as usize {
            assert_eq!(gate.pause(user, start), None);
            gate.failed(client(number), start);
        }
        gate.failed(client(0), start);
        assert_eq!(gate.pause(user, start), Some(ALL_FAILURES_INTERVAL));
        assert_eq!(gate.pause(user, start + ALL_FAILURES_INTERVAL), None);
        for number in 0..2 * CLIENTS_MAX {
            gate.failed(client(number), start + Duration::from_millis(number as u64));
        }
        assert_eq!(gate.lock().clients.len(), CLIENTS_MAX);
        let later = start + Duration::from_secs(3_600);
        assert_eq!(gate.pause(user, later), None);
        gate.failed(user, later);
        assert_eq!(gate.lock().clients.len(), 1);
    }
}
