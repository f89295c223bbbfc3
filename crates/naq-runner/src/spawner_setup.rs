//! The setup that a spawner receives when it starts.

use std::path::{Path, PathBuf};

use super::landlock::FileAccess;
use super::options::{Containment, RunnerConfig};
use super::sys::namespace_init::{PrivateMounts, SHM, TMP};
use super::user::JobUser;
use super::wire::{Malformed, Reader, Writer};

/// Settings that apply to every job of a spawner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SpawnerSetup {
    /// The spawner's folder of control groups. `None` means that jobs have no control group.
    pub(super) cgroup_dir: Option<PathBuf>,
    /// Whether each job gets a PID namespace.
    pub(super) namespace: bool,
    /// The file systems of each namespace that other jobs do not see.
    pub(super) private_mounts: PrivateMounts,
    /// The user that jobs run as. `None` means the spawner's own.
    pub(super) user: Option<UserIds>,
    /// The files that jobs may use. `None` means no restriction.
    pub(super) files: Option<FileAccess>,
    /// Whether programs may gain rights when they are executed.
    pub(super) allow_setuid: bool,
    /// How long a job waits for resources of this machine, in milliseconds.
    pub(super) resource_wait_max_ms: u64,
}

/// A user by its numeric ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UserIds {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

impl UserIds {
    /// The ids of a user.
    pub(super) fn of(user: &JobUser) -> UserIds {
        UserIds {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
        }
    }
}

impl SpawnerSetup {
    /// The setup of every spawner of a runner, without its folder of control groups.
    pub(super) fn of(
        options: &RunnerConfig,
        containment: Containment,
        scratch_root: &Path,
    ) -> SpawnerSetup {
        SpawnerSetup {
            cgroup_dir: None,
            namespace: containment.has_namespace(),
            private_mounts: PrivateMounts {
                // A private /dev/shm must not hide the folders of jobs.
                shm: ![scratch_root, &options.work_dir]
                    .iter()
                    .any(|folder| folder.starts_with(SHM)),
                tmp: options.private_tmp.then(|| {
                    [scratch_root, &options.work_dir]
                        .into_iter()
                        .filter(|folder| folder.starts_with(TMP))
                        .filter_map(|folder| folder.to_str().map(str::to_owned))
                        .collect()
                }),
                hidden: options
                    .hidden_dirs
                    .iter()
                    .filter_map(|folder| folder.to_str().map(str::to_owned))
                    .collect(),
            },
            user: options.run_as.as_ref().map(UserIds::of),
            files: options.files.clone(),
            allow_setuid: options.allow_setuid,
            resource_wait_max_ms: u64::try_from(options.resource_wait_max.as_millis())
                .unwrap_or(u64::MAX),
        }
    }

    /// Writes the body of a `HELLO` frame.
    pub(super) fn encode(&self, w: &mut Writer) {
        let folder = self.cgroup_dir.as_deref().and_then(|path| path.to_str());
        w.c_string(folder.unwrap_or_default());
        w.u8(u8::from(self.namespace));
        w.u8(u8::from(self.private_mounts.shm));
        w.u8(u8::from(self.private_mounts.tmp.is_some()));
        if let Some(kept) = &self.private_mounts.tmp {
            write_texts(w, kept);
        }
        write_texts(w, &self.private_mounts.hidden);
        w.u8(u8::from(self.user.is_some()));
        if let Some(user) = &self.user {
            w.u32(user.uid).u32(user.gid);
            w.u32(user.groups.len() as u32);
            for group in &user.groups {
                w.u32(*group);
            }
        }
        w.u8(u8::from(self.files.is_some()));
        if let Some(files) = &self.files {
            for list in [&files.read, &files.write] {
                write_texts(w, list);
            }
        }
        w.u8(u8::from(self.allow_setuid));
        w.u64(self.resource_wait_max_ms);
    }

    /// Reads the body of a `HELLO` frame.
    pub(super) fn decode(r: &mut Reader<'_>) -> Result<SpawnerSetup, Malformed> {
        let folder = text(r)?;
        Ok(SpawnerSetup {
            cgroup_dir: (!folder.is_empty()).then(|| PathBuf::from(folder)),
            namespace: r.u8()? != 0,
            private_mounts: PrivateMounts {
                shm: r.u8()? != 0,
                tmp: match r.u8()? {
                    0 => None,
                    _ => Some(texts(r)?),
                },
                hidden: texts(r)?,
            },
            user: match r.u8()? {
                0 => None,
                _ => Some(user(r)?),
            },
            files: match r.u8()? {
                0 => None,
                _ => Some(FileAccess {
                    read: texts(r)?,
                    write: texts(r)?,
                }),
            },
            allow_setuid: r.u8()? != 0,
            resource_wait_max_ms: r.u64()?,
        })
    }
}

fn user(r: &mut Reader<'_>) -> Result<UserIds, Malformed> {
    let (uid, gid) = (r.u32()?, r.u32()?);
    let count = r.u32()?;
    let groups = (0..count).map(|_| r.u32()).collect::<Result<_, _>>()?;
    Ok(UserIds { uid, gid, groups })
}

fn write_texts(w: &mut Writer, texts: &[String]) {
    w.u32(texts.len() as u32);
    for text in texts {
        w.c_string(text);
    }
}

fn texts(r: &mut Reader<'_>) -> Result<Vec<String>, Malformed> {
    let count = r.u32()?;
    (0..count).map(|_| text(r)).collect()
}

fn text(r: &mut Reader<'_>) -> Result<String, Malformed> {
    let text = std::str::from_utf8(r.c_string()?).map_err(|_| Malformed)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_setup_decodes_to_the_same() {
        let setup = SpawnerSetup {
            cgroup_dir: Some("/sys/fs/cgroup/a b".into()),
            namespace: true,
            private_mounts: PrivateMounts {
                shm: true,
                tmp: Some(vec!["/tmp/a b".into()]),
                hidden: vec!["/etc/secrets".into()],
            },
            user: Some(UserIds {
                uid: 1,
                gid: 2,
                groups: vec![2, 3],
            }),
            files: Some(FileAccess {
                read: vec!["/usr".into(), "/e".into()],
                write: Vec::new(),
            }),
            allow_setuid: true,
            resource_wait_max_ms: 10_000,
        };
        let mut w = Writer::default();
        setup.encode(&mut w);
        let mut r = Reader::new(&w.bytes);
        assert_eq!(SpawnerSetup::decode(&mut r), Ok(setup));
        assert!(r.is_empty());
        assert_eq!(SpawnerSetup::decode(&mut Reader::new(&[0])), Err(Malformed));
    }
}
