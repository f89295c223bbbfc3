//! What a spawner is told when it starts: how it holds jobs together.

use std::path::PathBuf;

use super::wire::{Malformed, Reader, Writer};

/// What holds for every job of a spawner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Setup {
    /// Where its control groups are, with containment by cgroup.
    pub(super) folder: Option<PathBuf>,
    /// Each job gets a PID namespace.
    pub(super) namespace: bool,
}

impl Setup {
    /// The body of a `HELLO` frame.
    pub(super) fn encode(&self, w: &mut Writer) {
        let folder = self.folder.as_deref().and_then(|path| path.to_str());
        w.c_string(folder.unwrap_or_default());
        w.u8(u8::from(self.namespace));
    }

    /// Reads it.
    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Setup, Malformed> {
        let folder = path(r)?;
        Ok(Setup {
            folder: (!folder.as_os_str().is_empty()).then_some(folder),
            namespace: r.u8()? != 0,
        })
    }
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
        };
        let mut w = Writer::default();
        setup.encode(&mut w);
        let mut r = Reader::new(&w.bytes);
        assert_eq!(Setup::decode(&mut r), Ok(setup));
        assert!(r.is_empty());
        assert_eq!(Setup::decode(&mut Reader::new(&[0])), Err(Malformed));
    }
}
