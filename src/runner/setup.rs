//! What a spawner is told when it starts: how it holds jobs together.

use std::path::PathBuf;

use super::user::JobUser;
use super::wire::{Malformed, Reader, Writer};

/// What holds for every job of a spawner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Setup {
    /// Where its control groups are, with containment by cgroup.
    pub(super) folder: Option<PathBuf>,
    /// Each job gets a PID namespace.
    pub(super) namespace: bool,
    /// Who jobs run as, if not this user.
    pub(super) user: Option<SetupUser>,
}

/// A user, in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetupUser {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

impl SetupUser {
    /// The numbers of a user.
    pub(super) fn of(user: &JobUser) -> SetupUser {
        SetupUser {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
        }
    }
}

impl Setup {
    /// The body of a `HELLO` frame.
    pub(super) fn encode(&self, w: &mut Writer) {
        let folder = self.folder.as_deref().and_then(|path| path.to_str());
        w.c_string(folder.unwrap_or_default());
        w.u8(u8::from(self.namespace));
        w.u8(u8::from(self.user.is_some()));
        if let Some(user) = &self.user {
            w.u32(user.uid).u32(user.gid);
            w.u32(user.groups.len() as u32);
            for group in &user.groups {
                w.u32(*group);
            }
        }
    }

    /// Reads it.
    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Setup, Malformed> {
        let folder = path(r)?;
        Ok(Setup {
            folder: (!folder.as_os_str().is_empty()).then_some(folder),
            namespace: r.u8()? != 0,
            user: match r.u8()? {
                0 => None,
                _ => Some(user(r)?),
            },
        })
    }
}

fn user(r: &mut Reader<'_>) -> Result<SetupUser, Malformed> {
    let (uid, gid) = (r.u32()?, r.u32()?);
    let count = r.u32()?;
    let groups = (0..count).map(|_| r.u32()).collect::<Result<_, _>>()?;
    Ok(SetupUser { uid, gid, groups })
}

fn path(r: &mut Reader<'_>) -> Result<PathBuf, Malformed> {
    let text = std::str::from_utf8(r.c_string()?).map_err(|_| Malformed)?;
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setup_survives_the_way() {
        let setup = Setup {
            folder: Some("/sys/fs/cgroup/a b".into()),
            namespace: true,
            user: Some(SetupUser {
                uid: 1,
                gid: 2,
                groups: vec![2, 3],
            }),
        };
        let mut w = Writer::default();
        setup.encode(&mut w);
        let mut r = Reader::new(&w.bytes);
        assert_eq!(Setup::decode(&mut r), Ok(setup));
        assert!(r.is_empty());
        assert_eq!(Setup::decode(&mut Reader::new(&[0])), Err(Malformed));
    }
}
