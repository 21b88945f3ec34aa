//! The guest kernel: Debian's source of a long-term series, configured by the fragments in
//! `guest/kernel/`, built so that anyone gets the same bytes, and kept in the cache.
//!
//! Start reading at [`ensure`]. [`config`] holds what is asked of the configuration and checks it,
//! [`source`] fetches, [`build`] makes, and `trim` ends the file where nothing more is loaded. What is in the
//! kernel and why: `docs/guest-kernel.md`.

pub mod build;
pub mod config;
pub mod source;
mod trim;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::kernel::config::{Feature, Options};
use crate::progress::Progress;

/// A built kernel, in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Where all of it is.
    pub directory: PathBuf,
    /// The ELF file, stripped, with its PVH entry point: what our VMM boots.
    pub vmlinux: PathBuf,
    /// The same kernel for loaders that take no ELF file.
    pub bzimage: PathBuf,
    /// The final configuration.
    pub config: PathBuf,
    /// Addresses and names.
    pub system_map: PathBuf,
    /// What it was made of, and the sums of what was made: lines of a name and a value.
    pub record: PathBuf,
}

impl Kernel {
    /// The files of a finished build in `directory`.
    fn at(directory: PathBuf) -> Self {
        Self {
            vmlinux: directory.join("vmlinux"),
            bzimage: directory.join("bzImage"),
            config: directory.join("config"),
            system_map: directory.join("System.map"),
            record: directory.join("build"),
            directory,
        }
    }

    /// What the record says under a name.
    pub fn recorded(&self, name: &str) -> Result<String> {
        let text = fs::read_to_string(&self.record)
            .with_context(|| format!("reading {}", self.record.display()))?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        match value {
            Some(value) => Ok(value.to_owned()),
            None => bail!("{} doesn't say its {name}", self.record.display()),
        }
    }
}

/// The default kernel, built if the cache doesn't have it.
pub fn ensure() -> Result<Kernel> {
    ensure_with(&[])
}

/// A kernel with features beyond the default, built if the cache doesn't have it.
///
/// Only a build needs the network: what is in the cache is found by what the program itself knows.
pub fn ensure_with(features: &[Feature]) -> Result<Kernel> {
    let tools = build::Tools::find()?;
    let options = Options::asked(features)?;
    let directory = cache::ensure("kernel", &inputs(&options, &tools), |directory| {
        build::build(&source::ensure()?, &options, &tools, directory)
    })?;
    Ok(Kernel::at(directory))
}

/// A kernel with features beyond the default, if the cache has it. Without the tools that build it nobody
/// knows which that is.
pub fn find_with(features: &[Feature]) -> Result<Option<Kernel>> {
    let Ok(tools) = build::Tools::find() else {
        return Ok(None);
    };
    let inputs = inputs(&Options::asked(features)?, &tools);
    Ok(cache::find("kernel", &inputs)?.map(Kernel::at))
}

/// All that decides what a kernel is.
fn inputs(options: &Options, tools: &build::Tools) -> [String; 8] {
    [
        source::PACKAGE.to_owned(),
        source::VERSION.to_owned(),
        options.fragment(),
        build::PATCHES.concat(),
        tools.compiler.clone(),
        tools.linker.clone(),
        include_str!("kernel/build.rs").to_owned(),
        include_str!("kernel/trim.rs").to_owned(),
    ]
}

/// Whether two builds of a kernel are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Bit by bit.
    Identical,
    /// Where they first aren't.
    Differs {
        /// The file, by its name in [`Kernel::directory`].
        file: String,
        /// How many bytes of it are the same before the first that isn't.
        offset: usize,
    },
}

/// Builds a kernel once more, from scratch and elsewhere, and compares the two.
pub fn verify(features: &[Feature]) -> Result<Comparison> {
    let kernel = ensure_with(features)?;
    let (source, options) = (source::ensure()?, Options::asked(features)?);
    let tools = build::Tools::find()?;
    // Another directory, and a longer one: a path that got into a file would change its size.
    let scratch = cache::directory()?.join(format!("kernel-verify.{}", std::process::id()));
    let again = scratch.join("in-another-place");
    fs::create_dir_all(&again).with_context(|| format!("making {}", again.display()))?;
    let built = Progress::new("second build of the kernel")
        .of(|| build::build(&source, &options, &tools, &again));
    let compared = built.and_then(|()| compare(&kernel.directory, &again));
    fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    compared
}

/// Compares what two builds left.
fn compare(one: &Path, other: &Path) -> Result<Comparison> {
    let read = |directory: &Path, file: &str| {
        let path = directory.join(file);
        fs::read(&path).with_context(|| format!("reading {}", path.display()))
    };
    for file in ["vmlinux", "bzImage", "System.map", "config"] {
        let (one, other) = (read(one, file)?, read(other, file)?);
        if one != other {
            let same = one
                .iter()
                .zip(&other)
                .take_while(|(one, other)| one == other)
                .count();
            return Ok(Comparison::Differs {
                file: file.to_owned(),
                offset: same,
            });
        }
    }
    Ok(Comparison::Identical)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named_with_its_place() {
        let base = std::env::temp_dir().join(format!("trefoil-compare-{}", std::process::id()));
        let (one, other) = (base.join("one"), base.join("other"));
        for directory in [&one, &other] {
            fs::create_dir_all(directory).unwrap();
            for file in ["vmlinux", "bzImage", "System.map", "config"] {
                fs::write(directory.join(file), "content").unwrap();
            }
        }
        assert_eq!(compare(&one, &other).unwrap(), Comparison::Identical);
        fs::write(other.join("bzImage"), "contest and more").unwrap();
        let differs = Comparison::Differs {
            file: "bzImage".to_owned(),
            offset: 5,
        };
        assert_eq!(compare(&one, &other).unwrap(), differs);
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn the_record_is_read_by_name() {
        let directory = std::env::temp_dir().join(format!("trefoil-record-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let kernel = Kernel::at(directory.clone());
        fs::write(
            &kernel.record,
            "release 6.12.1-trefoil\nsource linux-source-6.12 1\n",
        )
        .unwrap();
        assert_eq!(kernel.recorded("release").unwrap(), "6.12.1-trefoil");
        assert_eq!(kernel.recorded("source").unwrap(), "linux-source-6.12 1");
        assert!(kernel.recorded("rel").is_err());
        fs::remove_dir_all(directory).unwrap();
    }
}
