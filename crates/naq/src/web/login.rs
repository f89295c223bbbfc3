//! Login with a one-time code that the program prints, or with a token in a form.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::tokens::hex;

/// Number of failed attempts before the next ones are delayed.
const FREE_FAILURES: u32 = 5;

/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(30);

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
    failures: Failures,
}

impl LoginGate {
    pub(super) fn new(codes: Vec<LoginCode>) -> LoginGate {
        LoginGate(Mutex::new(GateState {
            codes,
            failures: Failures::default(),
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

    /// The time until the next attempt may be made. `None` means now. The attempts of all clients count together,
    /// because behind a proxy all have the same address.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        self.lock().failures.pause_left(now)
    }

    /// Counts a failed attempt.
    pub(super) fn failed(&self, now: Instant) {
        self.lock().failures.add(now);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, GateState> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The recent failures. Each one beyond the free ones doubles the pause before the next attempt. After a minute
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

    /// What is left of the pause. `None` means that it is over.
    fn pause_left(&mut self, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.last?);
        if since > self.pause() * 2 + Duration::from_secs(60) {
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
}
