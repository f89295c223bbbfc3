//! What the fuzz targets check of files of schedules, with any bytes. `fuzz/README.md` says how they
//! are run; the test replays the corpus.

use std::collections::BTreeMap;

use super::crontab::{self, CrontabOptions};
use super::schedule_file::ScheduleFile;
use super::toml_file;
use naq_cron::Timezone;
use naq_protocol::{QueueName, Timestamp};

/// Any bytes as a crontab. The first byte says whether its lines have a user.
pub fn crontab(bytes: &[u8]) {
    let (Some((first, text)), Some(queue), Some(zone)) = (bytes.split_first(), queue(), zone())
    else {
        return;
    };
    let options = CrontabOptions {
        queue: &queue,
        zone,
        is_system: first % 2 == 0,
        user_queues: &BTreeMap::new(),
        is_account: |name| name == "root",
    };
    check(&crontab::read(&String::from_utf8_lossy(text), &options));
}

/// Any bytes as a TOML file of schedules.
pub fn schedule_toml(bytes: &[u8]) {
    if let (Some(queue), Some(now)) = (queue(), now()) {
        let text = String::from_utf8_lossy(bytes);
        check(&toml_file::read(&text, &queue, zone(), now));
    }
}

/// Every schedule can be stored, or says why not; every problem is one line.
fn check(file: &ScheduleFile) {
    let unstorable = file
        .schedules
        .iter()
        .filter_map(|schedule| schedule.schedule(now()?).err());
    let diagnostics = file
        .problems
        .iter()
        .chain(&file.unsupported)
        .chain(&file.warnings);
    for diagnostic in diagnostics.cloned().chain(unstorable) {
        assert!(diagnostic.line > 0, "no line: {}", diagnostic.text);
        assert!(
            !diagnostic.text.is_empty(),
            "no words about line {}",
            diagnostic.line
        );
        assert!(
            !diagnostic.text.contains('\n'),
            "several lines: {:?}",
            diagnostic.text
        );
    }
}

fn queue() -> Option<QueueName> {
    QueueName::new("default").ok()
}

fn zone() -> Option<Timezone> {
    "Europe/Berlin".parse().ok()
}

fn now() -> Option<Timestamp> {
    "2026-12-24T17:00:00Z".parse().ok()
}

#[cfg(test)]
#[path = "../../../../../fuzz/replay.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::corpus::replay;

    #[test]
    fn the_fuzz_corpus_holds() {
        replay("crontab", super::crontab);
        replay("schedule_toml", super::schedule_toml);
    }
}
