//! The users of this machine, by `/etc/passwd`.

use std::path::{Path, PathBuf};

use crate::file_read::read_file;

/// Maximum size of the database, in bytes.
const DATABASE_BYTES_MAX: u64 = 16 << 20;

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The name that the user logs in with.
    pub name: String,
    /// The user's id.
    pub uid: u32,
    /// The user's home folder. May be relative or empty.
    pub home: PathBuf,
}

/// The users of this machine. Empty if the database cannot be read.
#[must_use]
pub fn accounts() -> Vec<Account> {
    let read = read_file(Path::new("/etc/passwd"), DATABASE_BYTES_MAX);
    let bytes = read.map(|read| read.bytes).unwrap_or_default();
    // comments and full names may be in any encoding
    parse(&String::from_utf8_lossy(&bytes))
}

fn parse(database: &str) -> Vec<Account> {
    let lines = database.lines();
    lines
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let uid = fields.nth(1)?.parse().ok()?;
            let home = fields.nth(2).unwrap_or_default().into();
            Some(Account { name, uid, home })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_user_database_is_an_account() {
        let database = "root:x:0:0:root:/root:/bin/sh\n# nobody\n\nx:x:y:1::/x:\nnats:*:111:112::/var/lib/nats:\n";
        let account = |name: &str, uid: u32, home: &str| Account {
            name: name.to_owned(),
            uid,
            home: home.into(),
        };
        assert_eq!(
            parse(database),
            [
                account("root", 0, "/root"),
                account("nats", 111, "/var/lib/nats")
            ]
        );
    }
}
