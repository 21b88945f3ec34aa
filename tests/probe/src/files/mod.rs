//! Trials of a filesystem: what programs rely on, done in an empty directory of it.
//!
//! They hold on any of Linux's own filesystems, so they are right where they hold there; they are
//! run as root, on a thread of their own, whose ids they change.

mod content;
mod names;
mod owners;
mod special;

use std::fmt::Display;
use std::fs;
use std::path::Path;

/// A trial: what is wrong, in a sentence, if something is.
pub type Trial = fn(&Path) -> Result<(), String>;

/// All of them, with their names.
pub const TRIALS: &[(&str, Trial)] = &[
    ("content", content::content),
    ("append", content::append),
    ("holes", content::holes),
    ("copy", content::copy),
    ("mapped", content::mapped),
    ("deleted", content::deleted),
    ("unnamed", content::unnamed),
    ("direct", content::direct),
    ("names", names::names),
    ("links", names::links),
    ("many", names::many),
    ("renames", names::renames),
    ("owners", owners::owners),
    ("groups", owners::groups),
    ("set-id", owners::set_id),
    ("times", owners::times),
    ("attributes", special::attributes),
    ("access-lists", special::access_lists),
    ("nodes", special::nodes),
    ("locks", special::locks),
    ("watches", special::watches),
    ("space", special::space),
];

/// Runs a trial in a new directory below this one.
pub fn run(name: &str, below: &Path) -> Result<(), String> {
    let (_, trial) = TRIALS
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| format!("there is no trial {name:?}"))?;
    let directory = below.join(name);
    fs::create_dir(&directory).during("making a directory")?;
    let outcome = std::thread::scope(|scope| {
        let thread = scope.spawn(|| trial(&directory));
        thread.join().unwrap_or_else(|_| Err("it died".into()))
    });
    outcome.map_err(|why| format!("{name}: {why}"))?;
    fs::remove_dir_all(&directory).during("removing the directory")
}

/// Adds to an error what was being done.
trait During<T> {
    fn during(self, what: impl Display) -> Result<T, String>;
}

impl<T, E: Display> During<T> for Result<T, E> {
    fn during(self, what: impl Display) -> Result<T, String> {
        self.map_err(|error| format!("{what}: {error}"))
    }
}

/// That two are the same.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what} is {found:?}, not {expected:?}")),
    }
}

/// That it fails with this error.
fn fails<T>(
    what: &str,
    outcome: nix::Result<T>,
    expected: nix::errno::Errno,
) -> Result<(), String> {
    match outcome {
        Err(why) if why == expected => Ok(()),
        Err(why) => Err(format!("{what} fails with {why:?}, not {expected:?}")),
        Ok(_) => Err(format!("{what} does not fail with {expected:?}")),
    }
}

/// The number of an error of the standard library's.
fn number<T>(outcome: std::io::Result<T>) -> nix::Result<T> {
    outcome.map_err(|why| nix::errno::Errno::from_raw(why.raw_os_error().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They are right if they hold where they must.
    #[test]
    fn all_checks_hold_on_this_machines_filesystem() {
        let below = std::env::temp_dir().join(format!("files-{}", std::process::id()));
        fs::create_dir(&below).expect("directory");
        for (name, _) in TRIALS {
            run(name, &below).expect(name);
        }
        fs::remove_dir(&below).expect("it is empty");
    }
}
