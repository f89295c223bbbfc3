//! When a credentials file expires. The server refuses expired credentials without saying why.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use serde::Deserialize;

use naq_protocol::Timestamp;

/// What the JWT of a credentials file says, as far as it is used here.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    exp: u64,
    #[serde(default)]
    name: String,
}

fn claims(file: &str) -> Option<Claims> {
    let token = file.lines().map(str::trim).find(|line| {
        line.split('.').count() == 3 && !line.starts_with('-') && !line.contains(' ')
    })?;
    let claims = token.split('.').nth(1)?;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(claims)
        .ok()?;
    serde_json::from_slice(&claims).ok()
}

/// The name of the user that a credentials file is for. `None` if it cannot be read.
pub(super) fn user_name(file: &str) -> Option<String> {
    let name = claims(file)?.name;
    (!name.is_empty()).then_some(name)
}

/// When the credentials of a file expired. `None` if they have not, never do, or cannot be read.
pub(super) fn expired_at(file: &str, now: SystemTime) -> Option<Timestamp> {
    let seconds = claims(file)?.exp;
    // zero means that they never expire
    let expires = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
    let unix_ms = i64::try_from(seconds.checked_mul(1_000)?).ok()?;
    Timestamp::from_unix_ms(unix_ms).filter(|_| seconds > 0 && expires <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_credentials_is_read_only_once_they_have_expired() {
        let file = |claims: &str| {
            let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
            format!("-----BEGIN NATS USER JWT-----\nh.{claims}.s\n------END NATS USER JWT------\n")
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        let expired = |claims: &str| expired_at(&file(claims), now).map(|at| at.unix_ms());
        assert_eq!(expired(r#"{"exp":999}"#), Some(999_000));
        assert_eq!(expired(r#"{"exp":1001}"#), None);
        assert_eq!(expired(r#"{"exp":0}"#), None);
        assert_eq!(expired(r#"{"sub":"U"}"#), None);
        assert_eq!(expired_at("no credentials", now), None);
        assert_eq!(user_name(&file(r#"{"name":"ci"}"#)).as_deref(), Some("ci"));
        assert_eq!(user_name(&file(r#"{"exp":1}"#)), None);
    }
}
