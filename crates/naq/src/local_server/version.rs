//! Versions of nats-server: how to read one, and which ones naq needs and downloads.

use std::fmt;

use serde::Serialize;

/// The oldest nats-server with all that naq's protocol needs (message schedules).
pub const MINIMUM_VERSION: Version = Version {
    major: 2,
    minor: 12,
    patch: 0,
};

/// The version that naq downloads if no other nats-server is found.
pub const PINNED_VERSION: Version = Version {
    major: 2,
    minor: 15,
    patch: 1,
};

/// A version of nats-server, without a pre-release suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Version {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Patch version.
    pub patch: u32,
}

impl Version {
    /// Parses the output of `nats-server --version`, such as `nats-server: v2.15.1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Version> {
        let text = text.trim();
        let text = text.strip_prefix("nats-server:").unwrap_or(text).trim();
        let text = text.strip_prefix('v').unwrap_or(text);
        let core = text.split(['-', '+', ' ']).next()?;
        let mut numbers = core.split('.').map(str::parse::<u32>);
        let version = Version {
            major: numbers.next()?.ok()?,
            minor: numbers.next()?.ok()?,
            patch: numbers.next()?.ok()?,
        };
        numbers.next().is_none().then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version {
            major,
            minor,
            patch,
        } = self;
        write!(out, "{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_by_number() {
        let parsed = Version::parse("nats-server: v2.15.1\n").unwrap();
        assert_eq!(parsed.to_string(), "2.15.1");
        assert!(parsed > MINIMUM_VERSION);
        assert!(Version::parse("nats-server: v2.9.20").unwrap() < MINIMUM_VERSION);
        assert_eq!(
            Version::parse("nats-server: v2.12.0-RC.1"),
            Some(MINIMUM_VERSION)
        );
        for wrong in ["", "v2", "2.x.1", "hello", "1.2.3.4"] {
            assert_eq!(Version::parse(wrong), None, "{wrong}");
        }
    }
}
