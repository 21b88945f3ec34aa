//! What containers have mounted besides their roots. None of it is the host's: there are directories and
//! files that are empty at first, on the scratch disk or in memory, and files whose bytes the host has sent
//! ([`PutFilesRequest`]).

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use trefoil_agent_protocol::service::PutFilesRequest;
use trefoil_agent_protocol::{EMPTY_FILE_SOURCE, FILES_SOURCE, MEMORY_SOURCE, SCRATCH_SOURCE};
use trefoil_core::{Context, Error, Result};
use trefoil_os::{detached, lock};

use super::mounted::{Mounted, make_directory};
use super::scratch::Scratch;
use super::tree;
use crate::names;

/// Where volumes of files are.
const FILES: &str = "/run/trefoil/files";

/// Where those in memory are.
const MEMORY: &str = "/run/trefoil/memory";

/// A pod has no more volumes of files, and no more in memory.
const MOST: usize = 256;

/// The pod's volumes.
pub(super) struct Volumes {
    scratch: Arc<Scratch>,
    /// Names of those of files.
    files: Mutex<BTreeSet<String>>,
    memory: Mutex<Vec<Mounted>>,
}

impl Volumes {
    /// None yet.
    pub(super) fn new(scratch: Arc<Scratch>) -> Self {
        Self {
            scratch,
            files: Mutex::default(),
            memory: Mutex::default(),
        }
    }

    /// Where what the source of a mount names is; it is made if need be.
    ///
    /// # Errors
    /// If it names nothing that a confidential guest has.
    pub(super) fn place(&self, container: &str, source: &str) -> Result<PathBuf> {
        if let Some(name) = source.strip_prefix(FILES_SOURCE) {
            return self.of_files(names::check("volume", name)?);
        }
        if let Some(name) = source.strip_prefix(MEMORY_SOURCE) {
            return self.in_memory(names::check("volume", name)?);
        }
        let scratch = self.scratch.path();
        if let Some(name) = source.strip_prefix(SCRATCH_SOURCE) {
            let place = scratch.join("volumes").join(names::check("volume", name)?);
            if !place.exists() {
                make_directory(&place, 0o755)?;
                open_to_all(&place, 0o777)?;
            }
            return Ok(place);
        }
        if let Some(name) = source.strip_prefix(EMPTY_FILE_SOURCE) {
            let name = names::check("volume", name)?;
            let directory = files_of(container, scratch);
            make_directory(&directory, 0o755)?;
            let place = directory.join(name);
            File::create(&place).context(|| format!("make {}", place.display()))?;
            open_to_all(&place, 0o666)?;
            return Ok(place);
        }
        Err(Error::invalid(format!(
            "its source {:?} is nothing that a confidential guest has",
            shown(source)
        )))
    }

    /// Makes a volume of files, or replaces what is in it.
    ///
    /// # Errors
    /// What is wrong with the request, or what the kernel says.
    pub(super) fn put(&self, request: &PutFilesRequest) -> Result<()> {
        let name = names::check("volume", &request.volume)?;
        let mut files = lock(&self.files);
        if !files.contains(name) && files.len() >= MOST {
            return Err(Error::precondition(format!(
                "volume {name} would be one more than the {MOST} that there may be"
            )));
        }
        make_directory(Path::new(FILES), 0o755)?;
        tree::put(&Path::new(FILES).join(name), &request.files)
            .map_err(|why| why.context(format!("put the files of volume {name}")))?;
        files.insert(name.to_owned());
        Ok(())
    }

    fn of_files(&self, name: &str) -> Result<PathBuf> {
        match lock(&self.files).contains(name) {
            true => Ok(Path::new(FILES).join(name)),
            false => Err(Error::precondition(format!(
                "the host has not brought the files of volume {name}"
            ))),
        }
    }

    fn in_memory(&self, name: &str) -> Result<PathBuf> {
        let place = Path::new(MEMORY).join(name);
        let mut memory = lock(&self.memory);
        if memory.iter().any(|one| one.path() == place) {
            return Ok(place);
        }
        if memory.len() >= MOST {
            return Err(Error::precondition(format!(
                "there are {MOST} volumes in memory already"
            )));
        }
        let options = ["nosuid", "nodev", "mode=1777"];
        let tree = detached::mount("tmpfs", name, &options)?;
        memory.push(Mounted::at(place.clone(), tree)?);
        Ok(place)
    }
}

/// Where the files of a container's own are, which go with it.
pub(super) fn files_of(container: &str, scratch: &Path) -> PathBuf {
    scratch.join("files").join(container)
}

/// Whatever the process's mask.
fn open_to_all(place: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(place, Permissions::from_mode(mode))
        .context(|| format!("change the mode of {}", place.display()))
}

/// As much of a text as an error may repeat.
fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(128)]
}
