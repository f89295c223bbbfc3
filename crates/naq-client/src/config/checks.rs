//! Settings that exclude or need each other.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::{ConfigError, Warning};
use super::ranked_value::RankedValue;
use super::settings::Entry;
use super::source::Source;
use super::value::Value;

/// The ways to authenticate. User and password are one.
const AUTH_METHODS: &[&[&str]] = &[&["creds"], &["nkey"], &["user", "password"], &["token"]];

/// Keeps the way to authenticate that the highest layer names, and removes the others.
pub(super) fn keep_one_auth_method(
    found: &mut BTreeMap<&'static str, RankedValue>,
) -> Result<(), ConfigError> {
    let rank_of = |found: &BTreeMap<&'static str, RankedValue>, way: &[&'static str]| {
        way.iter()
            .filter_map(|name| found.get(name))
            .map(|value| value.rank)
            .max()
    };
    let Some(highest) = AUTH_METHODS
        .iter()
        .filter_map(|way| rank_of(found, way))
        .max()
    else {
        return Ok(());
    };
    let mut kept: Option<&'static str> = None;
    for way in AUTH_METHODS {
        match rank_of(found, way) {
            Some(rank) if rank == highest => {
                let named = way.iter().copied().find(|name| found.contains_key(name));
                if let (Some(one), Some(other)) = (kept, named) {
                    return Err(conflict(
                        found,
                        one,
                        other,
                        "these are two ways to authenticate; omit one of them",
                    ));
                }
                kept = named;
            }
            _ => way.iter().for_each(|name| {
                found.remove(name);
            }),
        }
    }
    Ok(())
}

/// The addresses that files and contexts name.
#[derive(Debug, Default)]
pub(super) struct NamedAddresses {
    named: Vec<(Source, Value)>,
    /// The file in the current folder, whose author is unknown.
    current_dir: Option<PathBuf>,
}

impl NamedAddresses {
    pub(super) fn new(current_dir: Option<PathBuf>) -> NamedAddresses {
        NamedAddresses {
            named: Vec::new(),
            current_dir,
        }
    }

    /// Adds the address that a place names. Of several, the first counts.
    pub(super) fn add(&mut self, place: &Source, address: Value) {
        if self.of(place).is_none() {
            self.named.push((place.clone(), address));
        }
    }

    fn of(&self, place: &Source) -> Option<&Value> {
        let mut named = self.named.iter();
        let (_, address) = named.find(|(named, _)| named.is_same_place(place))?;
        Some(address)
    }

    /// Whether a credential of one place may go to an address of another.
    fn may_go(&self, credential: &Source, address: &RankedValue) -> bool {
        match (credential, &address.source) {
            (Source::Flag(_) | Source::Variable(_), Source::File { path, .. }) => {
                self.current_dir.as_ref() != Some(path)
            }
            (Source::Flag(_) | Source::Variable(_), _) => true,
            (credential, source) => match self.of(credential) {
                Some(own) => *own == address.value,
                None => credential.is_same_place(source),
            },
        }
    }
}

/// Removes credentials that are not for the address, and reports each. A credential of a file or a
/// context is for the address that the same file or context names. Flags and variables are for any address
/// but one that a file in the current folder names.
pub(super) fn remove_foreign_credentials(
    found: &mut BTreeMap<&'static str, RankedValue>,
    addresses: &NamedAddresses,
) -> Vec<Warning> {
    let Some(address) = found.get("nats_url").cloned() else {
        return Vec::new();
    };
    let mut removed = Vec::new();
    for name in AUTH_METHODS.iter().copied().flatten().copied() {
        if let Some(credential) = found.get(name)
            && !addresses.may_go(&credential.source, &address)
        {
            removed.push(Warning::ForeignCredential {
                name,
                place: credential.source.clone(),
                address: address.source.clone(),
            });
            found.remove(name);
        }
    }
    removed
}

/// Rejects a certificate without its key and a user without a password, and vice versa.
pub(super) fn check_pairs(found: &BTreeMap<&'static str, RankedValue>) -> Result<(), ConfigError> {
    for (one, other, reason) in [
        (
            "tls_cert",
            "tls_key",
            "a certificate needs its key, and a key its certificate; set both",
        ),
        (
            "tls_key",
            "tls_cert",
            "a certificate needs its key, and a key its certificate; set both",
        ),
        ("password", "user", "a password needs a user name"),
        ("user", "password", "a user name needs a password"),
    ] {
        if found.contains_key(one) && !found.contains_key(other) {
            return Err(conflict(found, one, other, reason));
        }
    }
    Ok(())
}

fn conflict(
    found: &BTreeMap<&'static str, RankedValue>,
    one: &'static str,
    other: &'static str,
    reason: &'static str,
) -> ConfigError {
    let place = |name| {
        found
            .get(name)
            .map_or(Source::Default, |value| value.source.clone())
    };
    ConfigError::Conflict {
        one,
        one_source: Box::new(place(one)),
        other,
        other_source: Box::new(place(other)),
        reason,
    }
}

/// Rejects intervals that are not shorter than the TTL: a worker's entry or a leader's lock would expire between
/// two renewals.
pub(super) fn check_intervals_within_ttls(entries: &[Entry]) -> Result<(), ConfigError> {
    check_interval_within_ttl(entries, "worker_heartbeat_interval", "worker_ttl")?;
    check_interval_within_ttl(
        entries,
        "scheduler_lock_renew_interval",
        "scheduler_lock_ttl",
    )
}

fn check_interval_within_ttl(
    entries: &[Entry],
    interval: &str,
    ttl: &str,
) -> Result<(), ConfigError> {
    let find = |name: &str| entries.iter().find(|entry| entry.setting.name == name);
    let (Some(ttl), Some(interval)) = (find(ttl), find(interval)) else {
        return Ok(());
    };
    match (&ttl.value, &interval.value) {
        (Some(Value::Duration(whole)), Some(Value::Duration(part))) if part >= whole => {
            Err(ConfigError::Conflict {
                one: interval.setting.name,
                one_source: Box::new(interval.source.clone()),
                other: ttl.setting.name,
                other_source: Box::new(ttl.source.clone()),
                reason: "the interval must be shorter than the TTL; a third of it is usual",
            })
        }
        _ => Ok(()),
    }
}
