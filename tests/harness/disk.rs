//! A disk whose power can be cut: ext4 on a file, through a loop device.
//!
//! The kernel can shut an ext4 file system down at once (`EXT4_IOC_SHUTDOWN`): what is only in memory never
//! reaches the device, and with `NOLOGFLUSH` the journal is not written out either. What the file system
//! had sent to the device before survives, as on a disk without a volatile cache.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

use super::nats::TEST_TIMEOUT;

const IMAGE_BYTES: u64 = 512 << 20;

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, of the folder in the argument.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// A mounted disk of its own. It goes away with the thread that made it and the processes that this thread
/// has started: nobody else sees the mount.
pub(crate) struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// Creates one.
    ///
    /// # Errors
    /// Says why this machine does not permit it.
    pub(crate) fn create() -> Result<Disk, String> {
        if !geteuid().is_root() {
            return Err("mounting a file system needs root".to_owned());
        }
        let refused = |error: nix::Error| format!("no mount namespace of its own: {error}");
        unshare(CloneFlags::CLONE_NEWNS).map_err(refused)?;
        // Away from the machine's mounts. Then shared with the namespaces of jobs: they unmount the disk
        // with this one, as on a machine with systemd. The old file system would live on in theirs.
        for sharing in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
            let flags = MsFlags::MS_REC | sharing;
            mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).map_err(refused)?;
        }
        let folder = tempfile::Builder::new()
            .prefix("naq-disk-")
            .tempdir()
            .unwrap();
        let disk = Disk { folder };
        std::fs::create_dir(disk.path()).unwrap();
        let image = std::fs::File::create(disk.image()).unwrap();
        image.set_len(IMAGE_BYTES).unwrap();
        // All of it now: no thread of the kernel writes later.
        run(program("mkfs.ext4")
            .args(["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(disk.image()))?;
        disk.mount()?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// The folder on which it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn mount(&self) -> Result<(), String> {
        run(program("mount")
            .args(["-t", "ext4", "-o", "loop"])
            .arg(self.image())
            .arg(self.path()))
    }

    /// Writes out what is in memory, as the kernel does by itself from time to time.
    pub(crate) fn sync(&self) {
        run(program("sync").arg("-f").arg(self.path())).unwrap();
    }

    /// Cuts the power. Every access fails from now on.
    pub(crate) fn cut_power(&self) {
        run(program("python3").args(["-c", SHUTDOWN]).arg(self.path())).unwrap();
    }

    /// Restores the power: mounts what is on the disk. No process may have a file on it open.
    pub(crate) fn restore_power(&self) {
        let start = Instant::now();
        while let Err(error) = run(program("umount").arg(self.path())) {
            assert!(start.elapsed() < TEST_TIMEOUT, "{error}");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.mount().unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run(program("umount").arg("--lazy").arg(self.path()));
    }
}

fn program(name: impl AsRef<Path>) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "the system's own tools, which the harness runs as root would"
    )]
    Command::new(name.as_ref())
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(Output { status, .. }) if status.success() => Ok(()),
        Ok(Output { status, stderr, .. }) => {
            let said = String::from_utf8_lossy(&stderr);
            Err(format!("{name}: {status}: {}", said.trim_end()))
        }
        Err(error) => Err(format!("{name}: {error}")),
    }
}
