//! What protects a pod's machine, as its host sees it: what is measured at the launch, and what binds the
//! author's initdata to that.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256, Sha384};
use trefoil_agent_protocol::command_line::{SIMULATED_REPORT, TEE};
use trefoil_core::{Context, Result};
use trefoil_initdata::{BoundDigest, Field, hex};

/// What a machine is launched from.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The guest's kernel.
    pub kernel: &'a Path,
    /// The initramfs, which holds init and agent.
    pub initramfs: &'a Path,
    /// What the kernel is told, all of it measured.
    pub command_line: &'a str,
}

/// A trusted execution environment.
pub trait Tee: fmt::Debug + Send + Sync {
    /// Its name, in the configuration and behind `trefoil.tee=` in the guest's command line.
    fn name(&self) -> &'static str;

    /// Which field of its reports binds the initdata.
    fn field(&self) -> Field;

    /// What is to be seen of pods that it protects, if that is not enough: a word before all else.
    fn warning(&self) -> Option<&'static str>;

    /// What the kernel is told beside what is measured.
    ///
    /// # Errors
    /// If what is launched can't be read.
    fn unmeasured_words(&self, launch: &Launch<'_>, bound: &BoundDigest) -> Result<String>;
}

/// The word of the command line that says which TEE it is.
pub(crate) fn measured_word(tee: &dyn Tee) -> String {
    format!(" {TEE}{}", tee.name())
}

/// A TEE that protects nothing. Its launch digest is a hash of the bytes that are loaded, and what a report
/// would say stands in the command line.
#[derive(Clone, Copy, Debug)]
pub struct Simulated;

impl Simulated {
    /// The digest of a launch: of the digests of kernel, initramfs and command line, in that order.
    ///
    /// # Errors
    /// If one can't be read.
    pub fn launch_digest(launch: &Launch<'_>) -> Result<[u8; 48]> {
        let mut all = Sha384::new();
        all.update(b"SIMULATED");
        for path in [launch.kernel, launch.initramfs] {
            all.update(of_file(path)?);
        }
        all.update(Sha384::digest(launch.command_line));
        Ok(all.finalize().into())
    }
}

/// By SHA-256, which processors have instructions for: it is read at each launch.
fn of_file(path: &Path) -> Result<[u8; 32]> {
    let doing = || format!("measure {}", path.display());
    let mut file = File::open(path).context(doing)?;
    let mut room = vec![0; 1 << 16];
    let mut digest = Sha256::new();
    loop {
        match file.read(&mut room).context(doing)? {
            0 => return Ok(digest.finalize().into()),
            length => digest.update(&room[..length]),
        }
    }
}

impl Tee for Simulated {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn field(&self) -> Field {
        Field::Simulated
    }

    fn warning(&self) -> Option<&'static str> {
        Some("SIMULATED")
    }

    fn unmeasured_words(&self, launch: &Launch<'_>, bound: &BoundDigest) -> Result<String> {
        let digest = Self::launch_digest(launch)?;
        Ok(format!(
            " {SIMULATED_REPORT}{},{}",
            hex(&digest),
            hex(bound.bytes())
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_of_every_byte_that_is_loaded() {
        let scratch = tempfile::tempdir().expect("directory");
        let file = |name: &str, content: &str| {
            let path = scratch.path().join(name);
            std::fs::write(&path, content).expect("write");
            path
        };
        let (kernel, other) = (file("kernel", "one"), file("other", "two"));
        let of = |kernel: &Path, initramfs: &Path, command_line: &str| {
            let launch = Launch {
                kernel,
                initramfs,
                command_line,
            };
            Simulated::launch_digest(&launch).expect("digest")
        };
        let first = of(&kernel, &other, "quiet");
        assert_eq!(first, of(&kernel, &other, "quiet"));
        for changed in [
            of(&other, &other, "quiet"),
            of(&kernel, &kernel, "quiet"),
            of(&other, &kernel, "quiet"),
            of(&kernel, &other, "quiet "),
        ] {
            assert_ne!(first, changed);
        }
        let missing = Launch {
            kernel: Path::new("/missing"),
            initramfs: &other,
            command_line: "",
        };
        let why = Simulated::launch_digest(&missing).expect_err("missing");
        assert!(why.to_string().contains("measure /missing"), "{why}");
    }
}
