//! Finding the program that `args[0]` means, by the rules and in the words of stock runtimes.
//!
//! A name with a slash is taken as it is; any other is searched in PATH, and a hit relative to the
//! working directory is refused. kubelet, critest and people match the words of the errors.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, SFlag, stat};
use nix::unistd::{AccessFlags, faccessat};

use super::error::reason;

/// Searched when the environment has no PATH at all. (An empty PATH finds nothing.)
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why there is no program to run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("exec: {file:?}: {why}")]
pub(crate) struct LookupError {
    file: String,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Why {
    #[error("executable file not found in $PATH")]
    NotFound,
    #[error("cannot run executable found relative to current directory")]
    RelativeToCwd,
    #[error("stat {}: {}", .0.display(), reason(*.1))]
    Stat(PathBuf, Errno),
    #[error("{}", reason(*.0))]
    Refused(Errno),
    #[error("the container runtime's own program cannot be run in a container")]
    Runtime,
}

/// A file's identity: device and inode.
pub(crate) type FileId = (u64, u64);

/// The identity of the file that `status` describes.
pub(crate) fn identity(status: &FileStat) -> FileId {
    (status.st_dev, status.st_ino)
}

/// Finds the program. `path` is the value of PATH in the process's environment. `runtime` is our
/// own program file, which `/proc/self/exe` and its relatives lead to and which a container must
/// not run: a process that executes a file can have it overwritten (CVE-2019-5736).
pub(crate) fn find(
    file: &str,
    path: Option<&str>,
    runtime: Option<FileId>,
) -> Result<CString, LookupError> {
    let error = |why| LookupError {
        file: file.to_owned(),
        why,
    };
    let found = match candidates(file, path) {
        Candidates::AsIs(program) => check(&program).map(|id| (program, id)).map_err(error)?,
        Candidates::Search(programs) => programs
            .into_iter()
            .find_map(|program| check(&program).ok().map(|id| (program, id)))
            .ok_or_else(|| error(Why::NotFound))?,
    };
    let (program, id) = found;
    if !file.contains('/') && !program.is_absolute() {
        return Err(error(Why::RelativeToCwd));
    }
    if Some(id) == runtime {
        return Err(error(Why::Runtime));
    }
    CString::new(program.as_os_str().as_bytes()).map_err(|_| error(Why::Refused(Errno::EINVAL)))
}

#[derive(Debug, PartialEq, Eq)]
enum Candidates {
    AsIs(PathBuf),
    Search(Vec<PathBuf>),
}

fn candidates(file: &str, path: Option<&str>) -> Candidates {
    if file.contains('/') {
        return Candidates::AsIs(PathBuf::from(file));
    }
    let path = path.unwrap_or(DEFAULT_PATH);
    if path.is_empty() || matches!(file, "" | "." | "..") {
        return Candidates::Search(Vec::new());
    }
    let directories = path.split(':').map(|directory| match directory {
        "" => Path::new("."),
        other => Path::new(other),
    });
    Candidates::Search(directories.map(|directory| directory.join(file)).collect())
}

/// Whether this process may execute `program`.
fn check(program: &Path) -> Result<FileId, Why> {
    let status = stat(program).map_err(|errno| Why::Stat(program.to_owned(), errno))?;
    if status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
        return Err(Why::Refused(Errno::EISDIR));
    }
    let at = nix::fcntl::AT_FDCWD;
    match faccessat(at, program, AccessFlags::X_OK, AtFlags::AT_EACCESS) {
        Ok(()) => Ok(identity(&status)),
        // A seccomp profile may not know faccessat2; execve has the last word anyway.
        Err(Errno::ENOSYS | Errno::EPERM) if status.st_mode & 0o111 != 0 => Ok(identity(&status)),
        Err(Errno::ENOSYS | Errno::EPERM) => Err(Why::Refused(Errno::EACCES)),
        Err(errno) => Err(Why::Refused(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    fn message(file: &str, path: Option<&str>) -> String {
        find(file, path, None).unwrap_err().to_string()
    }

    #[test]
    fn errors_have_the_words_that_others_match() {
        assert_eq!(
            message("nope", Some("/usr/bin:/bin")),
            r#"exec: "nope": executable file not found in $PATH"#
        );
        assert_eq!(
            message("sh", Some("")),
            r#"exec: "sh": executable file not found in $PATH"#
        );
        assert_eq!(
            message("", None),
            r#"exec: "": executable file not found in $PATH"#
        );
        assert_eq!(
            message("/nope", None),
            r#"exec: "/nope": stat /nope: no such file or directory"#
        );
        assert_eq!(
            message("/etc/passwd/sh", None),
            r#"exec: "/etc/passwd/sh": stat /etc/passwd/sh: not a directory"#
        );
        assert_eq!(message("/etc", None), r#"exec: "/etc": is a directory"#);
        assert_eq!(
            message("/etc/passwd", None),
            r#"exec: "/etc/passwd": permission denied"#
        );
    }

    #[test]
    fn the_first_executable_wins_and_others_are_passed_over() {
        let scratch = tempfile::tempdir().unwrap();
        let make = |directory: &str, mode: u32| {
            let directory = scratch.path().join(directory);
            std::fs::create_dir_all(&directory).unwrap();
            let file = directory.join("tool");
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            directory.display().to_string()
        };
        let (plain, first, second) = (
            make("plain", 0o644),
            make("first", 0o755),
            make("second", 0o755),
        );
        std::fs::create_dir_all(scratch.path().join("dir/tool")).unwrap();
        let dir = scratch.path().join("dir").display().to_string();
        let path = format!("/missing:{dir}:{plain}:{first}:{second}");
        let found = find("tool", Some(&path), None).unwrap();
        assert_eq!(found.to_str().unwrap(), format!("{first}/tool"));
        assert!(message("tool", Some(&plain)).ends_with("executable file not found in $PATH"));
    }

    #[test]
    fn no_path_means_the_usual_one() {
        assert!(find("sh", None, None).is_ok());
    }

    #[test]
    fn our_own_program_is_refused() {
        let own = stat("/proc/self/exe").unwrap();
        let refused = find("/proc/self/exe", None, Some(identity(&own))).unwrap_err();
        assert!(
            refused.to_string().contains("runtime's own program"),
            "{refused}"
        );
    }

    proptest! {
        #[test]
        fn a_search_tries_each_directory_in_order(
            directories in prop::collection::vec("(/[a-z]{1,5}){1,3}", 1..6),
            file in "[a-z]{1,8}",
        ) {
            let planned = candidates(&file, Some(&directories.join(":")));
            let expected = directories.iter().map(|one| Path::new(one).join(&file)).collect();
            prop_assert_eq!(planned, Candidates::Search(expected));
        }

        #[test]
        fn a_slash_means_no_search(file in "[a-z]{0,4}/[a-z/]{0,8}", path in "\\PC{0,20}") {
            prop_assert_eq!(candidates(&file, Some(&path)), Candidates::AsIs(PathBuf::from(&file)));
        }

        #[test]
        fn no_text_breaks_it(file in "\\PC{0,20}", path in proptest::option::of("\\PC{0,40}")) {
            let _ = find(&file, path.as_deref(), None);
        }
    }
}
