//! Trees of our own making, for images that containerd has made none of: in a directory, each with a link to
//! its image.
//!
//! Shims of all pods use the directory at once. Whoever makes a tree has the image locked, so another one waits
//! and finds it; a tree has its name only when it is whole and on the disk. What a killed maker leaves behind is
//! not locked, and so known. Trees of images that are gone are removed when the next is made, and those that
//! have not been used for longest if there are too many: whoever has one open keeps it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use trefoil_core::{Context, Error, Result};
use trefoil_verity::{BLOCK, Layout, RootHash, Salt, Superblock, build};

use super::{Layer, behind};

/// A link to the image, in a tree's directory.
const IMAGE: &str = "layer";
/// Superblock and tree.
const TREE: &str = "tree";
/// What the names of unfinished ones begin with.
const UNFINISHED: &str = "new-";

/// The directory of them.
#[derive(Clone, Debug)]
pub struct Trees {
    directory: PathBuf,
    most_bytes: u64,
}

/// A tree in it.
struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

impl Trees {
    /// Those in a directory, which is made when it is needed. Together they take `most_bytes` at most; a tree
    /// has 1/127 of its image's length.
    #[must_use]
    pub fn new(directory: &Path, most_bytes: u64) -> Self {
        Self {
            directory: directory.into(),
            most_bytes,
        }
    }

    /// An image with its tree, which is made if it isn't there.
    pub(super) fn layer(&self, image: File, path: &Path) -> Result<Layer> {
        let metadata = image.metadata().context(|| "open it")?;
        let layout = Layout::of_bytes(metadata.len())
            .filter(|layout| layout.superblock_offset() == metadata.len())
            .ok_or_else(|| {
                let length = metadata.len();
                Error::invalid(format!(
                    "it has {length} bytes, which is no number of blocks of 4096 bytes"
                ))
            })?;
        let doing = || "make its dm-verity tree";
        image.lock().context(doing)?;
        let tree = self.tree(&image, path, &layout);
        image.unlock().context(doing)?;
        Ok(Layer {
            files: vec![image, tree.map_err(|why| why.context(doing()))?],
            length: layout.device_bytes(),
        })
    }

    fn tree(&self, image: &File, path: &Path, layout: &Layout) -> Result<File> {
        let name = name(&image.metadata().context(|| "look at it")?);
        let place = self.directory.join(&name);
        let found = place.join(TREE);
        if found.exists() {
            match behind::open_tree(&found, layout) {
                Ok(tree) => {
                    // It has been used now.
                    tree.set_modified(SystemTime::now())
                        .context(|| format!("touch {}", found.display()))?;
                    return Ok(tree);
                }
                Err(why) => log::warn!("{}: {why}; it is made again", found.display()),
            }
        }
        let unfinished = self.directory.join(format!("{UNFINISHED}{name}"));
        let tree = self.begin(&unfinished, path, layout)?;
        write(image, &tree, layout).context(|| format!("write {}", unfinished.display()))?;
        let _locked = self.lock()?;
        remove(&place)?;
        fs::rename(&unfinished, &place).context(|| format!("name {}", place.display()))?;
        // It can't be written through what the pod's machine gets, and is not locked.
        behind::open_tree(&found, layout)
    }

    /// Makes a tree's directory, and has it locked before anybody else can see that it is not.
    fn begin(&self, unfinished: &Path, image: &Path, layout: &Layout) -> Result<File> {
        let mut directory = DirBuilder::new();
        directory.mode(0o700).recursive(true);
        let doing = || format!("make {}", unfinished.display());
        directory.create(&self.directory).context(doing)?;
        let _locked = self.lock()?;
        self.make_room(layout.device_bytes() - layout.superblock_offset())?;
        remove(unfinished)?;
        directory.create(unfinished).context(doing)?;
        let image = fs::canonicalize(image).context(doing)?;
        symlink(image, unfinished.join(IMAGE)).context(doing)?;
        let tree = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(unfinished.join(TREE))
            .context(doing)?;
        tree.lock().context(doing)?;
        Ok(tree)
    }

    /// Nobody else adds or removes trees until this is dropped.
    fn lock(&self) -> Result<File> {
        let doing = || format!("lock {}", self.directory.display());
        let directory = File::open(&self.directory).context(doing)?;
        directory.lock().context(doing)?;
        Ok(directory)
    }

    /// Removes what nobody needs, and then what has not been used for longest, until there is room.
    fn make_room(&self, bytes: u64) -> Result<()> {
        let most = self.most_bytes;
        if bytes > most {
            return Err(Error::precondition(format!(
                "it takes {bytes} bytes, and all trees together may take {most}"
            )));
        }
        let mut entries = self.sweep()?;
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.used));
        let mut sum: u64 = entries.iter().map(|entry| entry.bytes).sum();
        while sum + bytes > most
            && let Some(oldest) = entries.pop()
        {
            remove(&oldest.path)?;
            sum -= oldest.bytes;
        }
        Ok(())
    }

    /// Removes what is of no use, and answers the rest.
    fn sweep(&self) -> Result<Vec<Entry>> {
        let doing = || format!("read {}", self.directory.display());
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.directory).context(doing)? {
            let entry = entry.context(doing)?;
            let path = entry.path();
            let tree = File::open(path.join(TREE));
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(UNFINISHED.as_bytes())
            {
                // Its maker has it locked, and counts it when it is whole.
                if !tree.is_ok_and(|tree| tree.try_lock().is_err()) {
                    remove(&path)?;
                }
                continue;
            }
            let is_used = fs::metadata(path.join(IMAGE))
                .is_ok_and(|image| entry.file_name() == *name(&image));
            match tree.and_then(|tree| tree.metadata()) {
                Ok(tree) if is_used => kept.push(Entry {
                    path,
                    bytes: tree.len(),
                    used: tree.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                }),
                _ => remove(&path)?,
            }
        }
        Ok(kept)
    }
}

/// Which file an image is, and that it hasn't been changed.
fn name(image: &fs::Metadata) -> String {
    format!(
        "{:x}-{:x}-{:x}-{:x}-{:x}",
        image.dev(),
        image.ino(),
        image.len(),
        image.ctime(),
        image.ctime_nsec()
    )
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            Err(why).context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Writes superblock and tree, and waits until they are on the disk.
fn write(image: &File, to: &File, layout: &Layout) -> io::Result<()> {
    let place = |number: u64| (number - layout.data_blocks()) * BLOCK as u64;
    let salt = Salt::of_layers();
    let root = build(image, layout, &salt, |number, block| {
        to.write_all_at(block, place(number))
    })?;
    let superblock = Superblock {
        data_blocks: layout.data_blocks(),
        salt,
        uuid: uuid(root),
    };
    to.write_all_at(&superblock.block(), 0)?;
    to.sync_data()
}

/// A name that depends on nothing else, as a custom UUID (RFC 9562, version 8).
fn uuid(root: RootHash) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&root.bytes()[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
