//! Where the kernel's source comes from: Debian's package of it, kept in the cache as it came.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache;
use crate::debian::{self, Apt, Release};

/// Debian's source package of the series.
pub const PACKAGE: &str = "linux-source-6.12";

/// The version that is built, as long as the mirror has it; its newest otherwise.
pub const VERSION: &str = "6.12.117-1";

/// The source, in the cache.
pub struct Source {
    /// The packed tree.
    pub tarball: PathBuf,
    /// The version that was fetched.
    pub version: String,
}

/// The kernel's source, fetched if the cache doesn't have it.
pub fn ensure() -> Result<Source> {
    let inputs = [PACKAGE.as_bytes(), VERSION.as_bytes()];
    let directory = cache::ensure(PACKAGE, &inputs, |directory| {
        let scratch = directory.join("scratch");
        fs::create_dir(&scratch)?;
        let apt = Apt::open(&scratch.join("apt"), Release::Trixie)?;
        let (package, version) = match apt.download(&format!("{PACKAGE}={VERSION}")) {
            Ok(package) => (package, VERSION.to_owned()),
            // Gone from the mirror, most likely; if it is something else, this fails as well.
            Err(_) => {
                let version = apt.field(PACKAGE, "Version")?;
                eprintln!("{PACKAGE} {VERSION} isn't served any more; taking {version}");
                (apt.download(PACKAGE)?, version)
            }
        };
        let root = scratch.join("root");
        fs::create_dir(&root)?;
        debian::unpack(&package, &root)?;
        let tarball = root.join(format!("usr/src/{PACKAGE}.tar.xz"));
        fs::rename(&tarball, directory.join("source.tar.xz"))
            .with_context(|| format!("taking {PACKAGE}.tar.xz out of its package"))?;
        fs::write(directory.join("version"), version)?;
        fs::remove_dir_all(&scratch).context("removing what the source came in")
    })?;
    let version = fs::read_to_string(directory.join("version"))
        .with_context(|| format!("reading the version in {}", directory.display()))?;
    Ok(Source {
        tarball: directory.join("source.tar.xz"),
        version,
    })
}
