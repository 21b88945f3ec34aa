//! Keeps containers from writing to the runtime's own program (CVE-2019-5736).
//!
//! A process of a container can come to run this program, by a script whose interpreter is
//! `/proc/self/exe`, and its `/proc/self/exe` then leads others to the file on the host, to be written
//! when nobody runs it any more. So this program runs from a mount of its file that is read-only and
//! nowhere in any directory tree: what such links lead to can't be opened for writing by anybody. The
//! mount shows the very file, so its memory is shared with all other processes that run it.

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::execveat;

use crate::detached::{Depth, Tree};
use crate::{Context, Error, Result};

const OWN: &str = "/proc/self/exe";

/// Where a program that runs from a mount in no directory is told where it lies.
const PATH: &str = "TREFOIL_PROGRAM";

/// Executes this program anew, from a mount that is read-only, unless it runs from one already. Comes
/// back only then. To be called before anything is opened or begun.
///
/// # Errors
/// If the kernel won't have it so.
pub fn run_read_only() -> Result<()> {
    let doing = || "run from a read-only mount of the own program";
    if is_read_only().context(doing)? {
        name_after_arguments();
        return Ok(());
    }
    if std::env::var_os(PATH).is_some() {
        return Err(Error::new(doing(), io::Error::other("it stays writable")));
    }
    let path = std::env::current_exe().context(doing)?;
    let program = Tree::copy(Path::new(OWN), Depth::One)?;
    program.make_read_only()?;
    let text = |bytes: &[u8]| CString::new(bytes).context(doing);
    let arguments = std::env::args_os()
        .map(|one| text(one.as_bytes()))
        .collect::<Result<Vec<_>>>()?;
    let mut said = OsString::from(format!("{PATH}="));
    said.push(path);
    let environment = std::env::vars_os()
        .map(|(name, value)| text(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
        .chain([text(said.as_bytes())])
        .collect::<Result<Vec<_>>>()?;
    match execveat(
        program.as_fd(),
        c"",
        &arguments,
        &environment,
        AtFlags::AT_EMPTY_PATH,
    ) {
        Ok(never) => match never {},
        Err(why) => Err(why).context(doing),
    }
}

fn is_read_only() -> nix::Result<bool> {
    Ok(statvfs(OWN)?.flags().contains(FsFlags::ST_RDONLY))
}

/// Where this program lies: the kernel no longer knows, once it runs from a mount in no directory.
///
/// # Errors
/// If procfs doesn't tell.
pub fn path() -> io::Result<PathBuf> {
    match std::env::var_os(PATH) {
        Some(path) => Ok(path.into()),
        None => std::env::current_exe(),
    }
}

/// The kernel names a process after the descriptor that it was executed by.
fn name_after_arguments() {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default();
    if let Ok(name) = CString::new(name.as_bytes()) {
        let _ = nix::sys::prctl::set_name(&name);
    }
}
