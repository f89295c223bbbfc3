//! How people read entries of the audit.

use naq_client::{AuditEntry, AuditRecord};

/// Who changed something, marked if nobody has checked it. Not escaped.
pub(crate) fn who(record: &AuditRecord) -> String {
    match record.claimed {
        true => format!("{} (claimed)", record.entry.who),
        false => record.entry.who.clone(),
    }
}

/// What was changed: a name, what selected several, or `-`. Not escaped.
pub(crate) fn target(entry: &AuditEntry) -> String {
    let named = [
        entry.queue.as_ref().map(|name| name.as_str()),
        entry.schedule_id.as_ref().map(|name| name.as_str()),
        entry.job_id.as_ref().map(|name| name.as_str()),
        entry.filter.as_deref(),
    ];
    let named: Vec<&str> = named.into_iter().flatten().collect();
    match named.as_slice() {
        [] => "-".to_owned(),
        named => named.join(" "),
    }
}

/// From where: the interface, and an address or a host. Not escaped.
pub(crate) fn origin(entry: &AuditEntry) -> String {
    let via = entry.via.as_str();
    match &entry.forwarded_for {
        Some(client) => format!("{via}, {} for {client}", entry.from),
        None => format!("{via}, {}", entry.from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> AuditRecord {
        AuditRecord {
            sequence: 1,
            time: "2026-12-24T18:00:00Z".parse().unwrap(),
            claimed: true,
            entry: serde_json::from_str(text).unwrap(),
        }
    }

    #[test]
    fn an_entry_is_read_at_a_glance() {
        let text = r#"{"action":"queue.purge","who":"anna","via":"cli","from":"host-1","queue":"build","count":7}"#;
        let mut one = record(text);
        assert_eq!(who(&one), "anna (claimed)");
        assert_eq!(target(&one.entry), "build");
        assert_eq!(origin(&one.entry), "cli, host-1");
        one.claimed = false;
        one.entry.queue = None;
        one.entry.forwarded_for = Some("10.0.0.1".to_owned());
        assert_eq!(who(&one), "anna");
        assert_eq!(target(&one.entry), "-");
        assert_eq!(origin(&one.entry), "cli, host-1 for 10.0.0.1");
        one.entry.filter = Some("--queue build".to_owned());
        assert_eq!(target(&one.entry), "--queue build");
    }
}
