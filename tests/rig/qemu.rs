//! The QEMU that boots guests, and makes the test VM where instructions are counted: of Debian 13's
//! backports, on either release, so that a test means the same on both.
//!
//! Debian 13's own, 10.0, may lose an interrupt that another thread raises while an emulated CPU
//! enters or leaves a guest of the test VM's: `vmrun` and an exit changed the word of pending
//! interrupts without an atomic operation until 10.2. The test VM's clock events come one at a time,
//! and a processor that has lost one sleeps on.
//!
//! Nothing is installed: it is fetched with all it is linked with, and started by its own loader.
//!
//! Any other test VM has one that is built for it ([`built`]), or this one where that has not been done.

pub mod built;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use trefoil_guest::cache;
use trefoil_guest::debian::{self, Apt, Release};
use trefoil_guest::run::output;

/// What a PC and a `microvm` that boot a kernel read, of all the firmware there is.
const FIRMWARE: [&str; 5] = [
    "seabios/bios-256k.bin",
    "qemu/qboot.rom",
    "qemu/kvmvapic.bin",
    "qemu/linuxboot_dma.bin",
    "qemu/pvh.bin",
];

const PROGRAM: &str = "qemu-system-x86_64";

/// QEMU, in the cache.
#[derive(Clone, Debug)]
pub struct Qemu {
    /// The program, and `lib` and `firmware` beside it.
    directory: PathBuf,
    /// Another program in the place of the fetched one, linked with the machine's libraries.
    built: Option<PathBuf>,
}

impl Qemu {
    /// Fetches it, once. In a test VM it is there, as the test VM was made by it.
    pub fn ensure() -> Result<Self> {
        // The recipe is the key.
        let recipe: [&[u8]; 1] = [include_bytes!("qemu.rs")];
        let directory = cache::ensure("qemu", &recipe, |out| {
            eprintln!("fetching QEMU from Debian 13's backports (once; cached)");
            let (state, root) = (out.join("apt"), out.join("root"));
            let packages =
                Apt::open(&state, Release::TrixieBackports)?.download_all(&["qemu-system-x86"])?;
            fs::create_dir(&root)?;
            for package in packages {
                debian::unpack(&package, &root)?;
            }
            keep(&root, out)?;
            fs::remove_dir_all(state)?;
            fs::remove_dir_all(root).context("removing the rest of QEMU's packages")
        })?;
        Ok(Self {
            directory,
            built: None,
        })
    }

    /// The one that emulates the test VM, where it has been built; else that of [`Qemu::ensure`].
    pub fn emulator() -> Result<Self> {
        let mut qemu = Self::ensure()?;
        qemu.built = built::find()?;
        if qemu.built.is_none() {
            eprintln!(
                "the test VM's QEMU isn't built (`rig qemu` does it); Debian's takes twice as long for guests"
            );
        }
        Ok(qemu)
    }

    /// All of what was fetched, to be put where it is read fast.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// QEMU, without arguments.
    pub fn command(&self) -> Command {
        let mut command = match &self.built {
            Some(program) => Command::new(program),
            None => {
                let mut command = loader(&self.directory.join("lib"));
                command.arg(self.directory.join(PROGRAM));
                command
            }
        };
        command.arg("-L").arg(self.directory.join("firmware"));
        command
    }
}

/// The loader in a directory of libraries, which finds them there.
fn loader(libraries: &Path) -> Command {
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(libraries);
    command
}

/// Takes from the packages what is used, less than half of it.
fn keep(root: &Path, out: &Path) -> Result<()> {
    let copy = |from: &Path, to: &Path| -> Result<()> {
        let name = from.file_name().unwrap_or_default();
        fs::copy(from, to.join(name)).with_context(|| format!("copying {}", from.display()))?;
        Ok(())
    };
    let (lib, firmware) = (out.join("lib"), out.join("firmware"));
    fs::create_dir(&lib)?;
    fs::create_dir(&firmware)?;
    let program = root.join("usr/bin").join(PROGRAM);
    copy(&program, out)?;
    for file in FIRMWARE {
        copy(&root.join("usr/share").join(file), &firmware)?;
    }
    let list = output(
        loader(&root.join("usr/lib/x86_64-linux-gnu"))
            .arg("--list")
            .arg(program),
    )?;
    for line in String::from_utf8_lossy(&list).lines() {
        // "libz.so.1 => FILE (0x...)", the loader itself included, or what is no file.
        let file = line
            .split_once(" => ")
            .and_then(|(_, file)| file.split_once(" ("));
        if let Some((file, _)) = file {
            let file = Path::new(file);
            ensure!(
                file.starts_with(root),
                "{} is this machine's, no package's",
                file.display()
            );
            copy(file, &lib)?;
        }
    }
    Ok(())
}
