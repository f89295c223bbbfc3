//! The user that jobs run as, if it differs from the worker's.

use std::ffi::CString;
use std::path::PathBuf;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// A user and its groups, as in the system's user database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobUser {
    /// User id.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
    /// Ids of all groups.
    pub groups: Vec<u32>,
    /// User name; the user id if the system has no name for it.
    pub name: String,
    /// Home directory; `/` if the system lists none.
    pub home: PathBuf,
    /// Login shell; `/bin/sh` if the system lists none, or one that refuses logins.
    pub shell: PathBuf,
}

/// The shell of a user without a login shell.
const SHELL: &str = "/bin/sh";

/// The login shell, unless it is one that only refuses: such a user has jobs, and no login.
fn login_shell(listed: PathBuf) -> PathBuf {
    let name = listed.file_name().and_then(|name| name.to_str());
    match name {
        None | Some("nologin" | "false" | "true") => PathBuf::from(SHELL),
        Some(_) => listed,
    }
}

/// Why a user could not be looked up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// No such user exists.
    #[error("{0}: no such user")]
    User(String),
    /// No such group exists.
    #[error("{0}: no such group")]
    Group(String),
    /// The id belongs to no user, so it has no primary group.
    #[error("no user has the id {0}: write {0}:GROUP to name its group")]
    NoGroup(u32),
    /// The user database cannot be read.
    #[error("{0}: cannot read the system's user database: {1}")]
    LookupFailed(String, nix::errno::Errno),
}

impl JobUser {
    /// Looks up `USER` or `USER:GROUP`; each is a name or a numeric id.
    ///
    /// # Errors
    ///
    /// Returns [`UserError`] if the user or group does not exist, if an id without a
    /// name lacks a group, or if the user database cannot be read.
    pub fn lookup(text: &str) -> Result<JobUser, UserError> {
        let unreadable = |errno| UserError::LookupFailed(text.to_owned(), errno);
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let number: Option<u32> = user.parse().ok();
        let found = match number {
            Some(uid) => User::from_uid(Uid::from_raw(uid)),
            None => User::from_name(user),
        };
        let found = found.map_err(unreadable)?;
        let group = match group {
            None => None,
            Some(group) => Some(match group.parse() {
                Ok(gid) => gid,
                Err(_) => Group::from_name(group)
                    .map_err(unreadable)?
                    .ok_or_else(|| UserError::Group(group.to_owned()))?
                    .gid
                    .as_raw(),
            }),
        };
        match (found, number) {
            (Some(found), _) => {
                let gid = group.unwrap_or(found.gid.as_raw());
                let name = CString::new(found.name.as_str()).unwrap_or_default();
                let groups = getgrouplist(&name, Gid::from_raw(gid)).map_err(unreadable)?;
                Ok(JobUser {
                    uid: found.uid.as_raw(),
                    gid,
                    groups: groups.into_iter().map(Gid::as_raw).collect(),
                    name: found.name,
                    home: found.dir,
                    shell: login_shell(found.shell),
                })
            }
            // 4294967295 (-1) tells the system calls to leave the id unchanged.
            (None, Some(uid)) if uid != u32::MAX => match group {
                Some(gid) => Ok(JobUser {
                    uid,
                    gid,
                    groups: vec![gid],
                    name: uid.to_string(),
                    home: PathBuf::from("/"),
                    shell: PathBuf::from(SHELL),
                }),
                None => Err(UserError::NoGroup(uid)),
            },
            _ => Err(UserError::User(user.to_owned())),
        }
    }

    /// The user of this process. A user id that the system has no name for is its own name.
    ///
    /// # Errors
    ///
    /// Returns [`UserError::LookupFailed`] if the user database cannot be read.
    pub fn current() -> Result<JobUser, UserError> {
        let (uid, gid) = (Uid::effective(), Gid::effective());
        // The group is that of the process, which a name for the id alone would not give.
        JobUser::lookup(&format!("{uid}:{gid}"))
    }

    /// The variables that name the user, as cron and systemd set them: `HOME`, `USER`, `LOGNAME` and
    /// `SHELL`.
    #[must_use]
    pub fn environment(&self) -> [(String, String); 4] {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        [
            ("HOME".to_owned(), text(&self.home)),
            ("USER".to_owned(), self.name.clone()),
            ("LOGNAME".to_owned(), self.name.clone()),
            ("SHELL".to_owned(), text(&self.shell)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let root = JobUser::lookup("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        assert_eq!(JobUser::lookup("0").unwrap(), root);
        let other = JobUser::lookup("root:4711").unwrap();
        assert_eq!((other.uid, other.gid), (0, 4711));
        let nameless = JobUser::lookup("3999999999:7").unwrap();
        assert_eq!((nameless.uid, nameless.groups), (3_999_999_999, vec![7]));
    }

    #[test]
    fn a_shell_that_refuses_logins_is_replaced() {
        for (listed, expected) in [
            ("/bin/zsh", "/bin/zsh"),
            ("/usr/sbin/nologin", "/bin/sh"),
            ("/bin/false", "/bin/sh"),
            ("", "/bin/sh"),
        ] {
            assert_eq!(login_shell(PathBuf::from(listed)), PathBuf::from(expected));
        }
    }

    #[test]
    fn an_unknown_user_or_group_is_an_error() {
        let error = |text: &str| JobUser::lookup(text).unwrap_err();
        assert_eq!(
            error("no-such-user"),
            UserError::User("no-such-user".into())
        );
        assert_eq!(error(""), UserError::User(String::new()));
        assert_eq!(error("root:no-such"), UserError::Group("no-such".into()));
        assert_eq!(error("root:"), UserError::Group(String::new()));
        assert_eq!(error("3999999999"), UserError::NoGroup(3_999_999_999));
        let none = u32::MAX.to_string();
        assert_eq!(error(&format!("{none}:0")), UserError::User(none));
    }
}
