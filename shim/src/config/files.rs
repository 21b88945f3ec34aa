//! Finding and reading the files, and whom they may belong to.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use trefoil_core::{Context, Error, Result};

/// Longer ones are no configuration, in bytes.
const MAX_FILE: u64 = 256 << 10;

/// A file and what is in it.
#[derive(Debug)]
pub struct Text {
    pub path: PathBuf,
    pub content: String,
}

/// All that is in `directory`, in the order in which it counts: `config.toml`, then `config.d/*.toml` by
/// their names' bytes. What isn't there is left out.
pub fn read(directory: &Path) -> Result<Vec<Text>> {
    let mut texts = Vec::new();
    if !is_trusted_directory(directory)? {
        return Ok(texts);
    }
    let main = directory.join("config.toml");
    if main.symlink_metadata().is_ok() {
        texts.push(read_file(main)?);
    }
    let drop_ins = directory.join("config.d");
    if is_trusted_directory(&drop_ins)? {
        for path in names(&drop_ins)? {
            texts.push(read_file(path)?);
        }
    }
    Ok(texts)
}

/// The drop-ins in a directory, in order. Editors' and packages' leavings are none.
fn names(directory: &Path) -> Result<Vec<PathBuf>> {
    let doing = || format!("list {}", directory.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).context(doing)? {
        let path = entry.context(doing)?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden
            && path
                .extension()
                .is_some_and(|extension| extension == "toml")
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether a directory is there; an error if what is there can't be trusted.
fn is_trusted_directory(path: &Path) -> Result<bool> {
    match std::fs::metadata(path) {
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(false),
        Err(why) => Err(why).context(|| format!("look for {}", path.display())),
        Ok(data) if !data.is_dir() => Err(Error::invalid(format!(
            "{} is not a directory",
            path.display()
        ))),
        Ok(data) => check_owner(path, &data).map(|()| true),
    }
}

fn read_file(path: PathBuf) -> Result<Text> {
    let doing = || format!("read {}", path.display());
    // Whatever it is, opening it doesn't wait.
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)
        .context(doing)?;
    let data = file.metadata().context(doing)?;
    if !data.is_file() {
        return Err(Error::invalid(format!("{} is not a file", path.display())));
    }
    check_owner(&path, &data)?;
    if data.len() > MAX_FILE {
        return Err(Error::invalid(format!(
            "{} is {} bytes long, more than the {MAX_FILE} that are read",
            path.display(),
            data.len()
        )));
    }
    let mut content = String::new();
    file.take(MAX_FILE)
        .read_to_string(&mut content)
        .context(doing)?;
    Ok(Text { path, content })
}

/// The configuration decides what pods get: nobody may write it but root, as whom the shim runs.
fn check_owner(path: &Path, data: &Metadata) -> Result<()> {
    let (owner, mode) = (data.uid(), data.mode() & 0o7777);
    let trusted = owner == 0 || owner == nix::unistd::geteuid().as_raw();
    if trusted && mode & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "{} can be written by others than root, and is not trusted: its owner is {owner}, its mode {mode:04o}",
        path.display()
    )))
}
