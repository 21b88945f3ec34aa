//! Who a pod's processes are: user ids that nobody else on the host has, so that a process that was
//! taken over can reach none of another pod's.
//!
//! They follow from the shim's own process id, which no two living shims have in common, and lie in a
//! range that nobody hands out: above those of containers (to 0x6fff_ffff, by systemd's conventions,
//! `UIDS-GIDS.md`) and below those of mapped foreign users (from 0x7ffe_0000). Shims in different pid
//! namespaces may have the same id: so each also locks a file named after the ids, as long as its pod's
//! processes live, and tries the next ones if that is locked.
//!
//! The files lie where only root can open them: what others can bind or lock, they can keep from us. A
//! file that nobody has locked is a killed shim's, and free. Whoever holds a lock may remove the file, and
//! whoever then gets the lock of a file that has no name any more begins again.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use trefoil_core::{Context, Error, Result};

/// Where the files are.
const DIRECTORY: &str = "/run/trefoil";

/// The first id.
const FIRST: u32 = 0x7000_0000;

/// As many pairs of ids as there can be processes (`PID_MAX_LIMIT` of a 64-bit kernel).
const PAIRS: u32 = 1 << 22;

/// How many pairs are tried.
const TRIES: u32 = 64;

/// How often one is tried whose file goes away meanwhile.
const RACES: u32 = 100;

/// A pod's user ids. Each is also a group's.
#[derive(Debug)]
pub(crate) struct UidAllocation {
    /// The VMM's.
    pub vmm: u32,
    /// The file server's.
    pub files: u32,
    /// Keeps others from taking them.
    _claim: Claim,
}

/// A locked file, which goes away with this.
#[derive(Debug)]
struct Claim {
    path: PathBuf,
    /// Its lock is that of the open file, and ends with it.
    _file: File,
}

impl UidAllocation {
    /// Claims ids for the pod of this process.
    ///
    /// # Errors
    /// If the directory of claims is not root's alone, or the ids that were tried are all another's.
    pub fn claim() -> Result<Self> {
        Self::claim_from(Path::new(DIRECTORY), std::process::id())
    }

    fn claim_from(directory: &Path, process: u32) -> Result<Self> {
        let doing = || "claim user ids for the pod";
        let first = process % PAIRS;
        for number in first..first + TRIES {
            let pair = number % PAIRS;
            if let Some(claim) = Claim::of(directory, pair).context(doing)? {
                let vmm = FIRST + 2 * pair;
                return Ok(Self {
                    vmm,
                    files: vmm + 1,
                    _claim: claim,
                });
            }
        }
        Err(Error::internal(format!(
            "claim user ids for the pod: the {TRIES} pairs from {first} on are all taken"
        )))
    }
}

impl Claim {
    /// That of a pair, if it is not another's.
    fn of(directory: &Path, pair: u32) -> io::Result<Option<Self>> {
        let path = directory.join(pair.to_string());
        for _ in 0..RACES {
            match prepare(directory).and_then(|()| Self::lock(&path, true)) {
                Ok(Outcome::Locked(claim)) => return Ok(Some(claim)),
                Ok(Outcome::Taken) => return Ok(None),
                Ok(Outcome::Removed) => {}
                // The directory has just been removed.
                Err(why) if why.kind() == io::ErrorKind::NotFound => {}
                Err(why) => return Err(why),
            }
        }
        Err(io::Error::other(format!(
            "{} goes away again and again",
            path.display()
        )))
    }

    fn lock(path: &Path, create: bool) -> io::Result<Outcome> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(create)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Ok(Outcome::Taken),
            Err(std::fs::TryLockError::Error(why)) => return Err(why),
        }
        // Who had it before may have removed it after we opened it: then the name is another file's.
        match path.symlink_metadata() {
            Ok(named) if is_same(&named, &file.metadata()?) => Ok(Outcome::Locked(Self {
                path: path.to_owned(),
                _file: file,
            })),
            _ => Ok(Outcome::Removed),
        }
    }
}

/// What becomes of an attempt to lock a file.
enum Outcome {
    Locked(Claim),
    Taken,
    Removed,
}

fn is_same(one: &std::fs::Metadata, other: &std::fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Still locked: nobody else's.
        let _ = std::fs::remove_file(&self.path);
        remove_if_empty(&self.path);
    }
}

/// Removes the directory of a file that was its last.
fn remove_if_empty(path: &Path) {
    if let Some(directory) = path.parent() {
        let _ = std::fs::remove_dir(directory);
    }
}

/// Makes the directory, and sees that it is ours and nobody else can open what is in it.
fn prepare(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(why) if why.kind() != io::ErrorKind::AlreadyExists => return Err(why),
        _ => {}
    }
    let found = directory.symlink_metadata()?;
    let own = nix::unistd::geteuid().as_raw();
    if !found.is_dir() || found.uid() != own || found.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "{} is not a directory of user {own}'s alone (mode 0700)",
            directory.display()
        )));
    }
    Ok(())
}

/// Removes what killed shims have left.
pub(crate) fn clean_up() {
    clean_up_in(Path::new(DIRECTORY));
}

fn clean_up_in(directory: &Path) {
    let Ok(entries) = directory.read_dir() else {
        return;
    };
    for entry in entries.flatten() {
        // What can be locked is nobody's, and goes away with the lock.
        let _ = Claim::lock(&entry.path(), false);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const PROCESS: u32 = 4711;

    fn files(directory: &Path) -> usize {
        directory.read_dir().map_or(0, Iterator::count)
    }

    #[test]
    fn no_two_pods_are_the_same_user() {
        let place = tempfile::tempdir().expect("place");
        let directory = place.path().join("ids");
        let one = UidAllocation::claim_from(&directory, PROCESS).expect("ids");
        let other = UidAllocation::claim_from(&directory, PROCESS).expect("ids");
        let mut all = vec![one.vmm, one.files, other.vmm, other.files];
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4, "{all:?}");
        assert!(all.iter().all(|id| (FIRST..0x7ffe_0000).contains(id)));
        let first = one.vmm;
        drop(one);
        let again = UidAllocation::claim_from(&directory, PROCESS).expect("ids");
        assert_eq!(again.vmm, first);
        drop((again, other));
        assert!(!directory.exists(), "something is left");
    }

    #[test]
    fn every_process_has_ids_of_the_range() {
        let place = tempfile::tempdir().expect("place");
        let directory = place.path().join("ids");
        for process in [1, 2, PAIRS - 1, PAIRS, u32::MAX] {
            let ids = UidAllocation::claim_from(&directory, process).expect("ids");
            assert!((FIRST..0x7ffe_0000).contains(&ids.files), "{ids:?}");
        }
    }

    #[test]
    fn what_a_killed_shim_has_left_is_free_and_can_be_removed() {
        let place = tempfile::tempdir().expect("place");
        let directory = place.path().join("ids");
        let held = UidAllocation::claim_from(&directory, 7).expect("ids");
        std::fs::write(directory.join(PROCESS.to_string()), "").expect("write");
        let ids = UidAllocation::claim_from(&directory, PROCESS).expect("ids");
        assert_eq!(ids.vmm, FIRST + 2 * PROCESS);
        std::fs::write(directory.join("9"), "").expect("write");
        clean_up_in(&directory);
        assert_eq!(files(&directory), 2, "what is held stays, and nothing else");
        drop((ids, held));
        assert!(!directory.exists());
        clean_up_in(&directory);
    }

    #[test]
    fn a_place_that_others_can_reach_is_not_used() {
        let place = tempfile::tempdir().expect("place");
        let real = place.path().join("real");
        std::fs::create_dir(&real).expect("directory");
        let mode = |mode| std::fs::set_permissions(&real, PermissionsExt::from_mode(mode));
        mode(0o755).expect("mode");
        let why = UidAllocation::claim_from(&real, PROCESS).expect_err("open to all");
        assert!(why.to_string().contains("mode 0700"), "{why}");
        mode(0o700).expect("mode");
        std::os::unix::fs::chown(&real, Some(1234), None).expect("root");
        UidAllocation::claim_from(&real, PROCESS).expect_err("somebody else's");
        std::os::unix::fs::chown(&real, Some(0), None).expect("root");
        let link = place.path().join("link");
        symlink(&real, &link).expect("link");
        UidAllocation::claim_from(&link, PROCESS).expect_err("a link");
        symlink("/etc/passwd", real.join(PROCESS.to_string())).expect("link");
        UidAllocation::claim_from(&real, PROCESS).expect_err("a link");
        UidAllocation::claim_from(&real, PROCESS + 1).expect("ids");
    }

    #[test]
    fn a_claim_of_a_file_that_goes_away_is_none() {
        let place = tempfile::tempdir().expect("place");
        let directory = place.path().join("ids");
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let directory = directory.clone();
                std::thread::spawn(move || {
                    for _ in 0..200 {
                        let Some(claim) = Claim::of(&directory, 5).expect("tried") else {
                            continue;
                        };
                        let again = Claim::lock(&claim.path, false).expect("it has its name");
                        assert!(matches!(again, Outcome::Taken), "two hold one name");
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no two");
        }
        assert!(!directory.exists());
    }
}
