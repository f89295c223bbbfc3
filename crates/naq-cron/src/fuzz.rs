//! What the fuzz targets check of this crate, with any bytes. `fuzz/README.md` says how they are run;
//! the test replays the corpus.

use chrono::{DateTime, Utc};

use crate::{Cron, Timezone, parse_datetime};

/// Zones with a change to summer time, with half hours, and with none of both.
const ZONES: [&str; 3] = ["Europe/Berlin", "Australia/Lord_Howe", "UTC"];

/// How many matches are computed.
const MATCHES: usize = 4;

/// A line of an expression, and a line of a time zone and of a date and time if there are more.
pub fn cron(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.splitn(3, '\n');
    let expression = lines.next().unwrap_or_default();
    let zones = ZONES.into_iter().chain(lines.next());
    let moment = lines.next().unwrap_or_default();
    let cron = Cron::parse(expression);
    for zone in zones.filter_map(|name| name.parse::<Timezone>().ok()) {
        let now = DateTime::<Utc>::UNIX_EPOCH;
        let start = parse_datetime(moment, zone, now).unwrap_or(now);
        if let Ok(cron) = &cron {
            check_matches(cron, zone, start);
        }
    }
    match cron {
        Ok(cron) => {
            assert!(!cron.explain().is_empty(), "no words for {expression:?}");
            let again = Cron::parse(cron.as_str());
            assert_eq!(again.ok().as_ref(), Some(&cron), "an expression changes");
        }
        Err(error) => {
            let error = error.to_string();
            assert!(!error.is_empty(), "an error without words");
        }
    }
}

/// Each match is later than the one before.
fn check_matches(cron: &Cron, zone: Timezone, start: DateTime<Utc>) {
    let mut after = start;
    for _ in 0..MATCHES {
        let Some(next) = cron.next_after(after, zone) else {
            return;
        };
        assert!(next > after, "{} does not follow {after}", cron.as_str());
        after = next;
    }
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::corpus::replay;

    #[test]
    fn the_fuzz_corpus_holds() {
        replay("cron", super::cron);
    }
}
