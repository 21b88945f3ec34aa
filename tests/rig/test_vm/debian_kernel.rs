//! The kernel the test VM runs: Debian 13's, on either release, so that a test means the same on both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use trefoil_guest::cache;
use trefoil_guest::debian::{self, Apt, Release};
use trefoil_guest::run::output;

/// Loaded before anything runs: what the root file system is on, and what makes the machine a
/// test VM. What else is needed (filters, ciphers) the kernel asks modprobe for.
const MODULES: [&str; 25] = [
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "9pnet_virtio",
    "9p",
    "overlay",
    "ext4",
    "kvm_amd",
    "vhost_vsock",
    "vhost_net",
    "tun",
    "veth",
    "bridge",
    "loop",
    "fuse",
    "erofs",
    "dm_mod",
    "dm_verity",
    "nf_tables",
    "nft_compat",
    "iptable_nat",
    "xt_comment",
    "xt_mark",
    "xt_MASQUERADE",
    "xt_conntrack",
];

/// The kernel's package, unpacked.
#[derive(Debug)]
pub struct DebianKernel {
    directory: PathBuf,
}

impl DebianKernel {
    /// Fetches it, once.
    pub fn ensure() -> Result<Self> {
        // The recipe is the key. Which of Debian 13's kernels it was is seen in the test VM.
        let recipe: [&[u8]; 1] = [include_bytes!("debian_kernel.rs")];
        let directory = cache::ensure("test-vm-kernel", &recipe, |out| {
            eprintln!("fetching Debian 13's kernel for the test VM (once; cached)");
            let state = out.join("apt");
            let apt = Apt::open(&state, Release::Trixie)?;
            // "linux-image-6.12.117+deb13-amd64 (= 6.12.117-1)"
            let depends = apt.field("linux-image-amd64", "Depends")?;
            let image = depends.split_whitespace().next().unwrap_or_default();
            let package = apt.download(image)?;
            let root = out.join("root");
            fs::create_dir(&root)?;
            debian::unpack(&package, &root)?;
            fs::remove_dir_all(state)?;
            let kernel = Self {
                directory: out.to_owned(),
            };
            let version = kernel.version()?;
            output(
                Command::new("depmod")
                    .arg("-b")
                    .arg(root.join("usr"))
                    .arg(version),
            )
            .context("listing the kernel's modules (package kmod)")?;
            kernel.unpack_modules()
        })?;
        Ok(Self { directory })
    }

    fn only_entry(directory: &Path) -> Result<String> {
        let entry = fs::read_dir(directory)
            .with_context(|| format!("reading {}", directory.display()))?
            .next()
            .with_context(|| format!("{} is empty", directory.display()))??;
        Ok(entry.file_name().to_string_lossy().into_owned())
    }

    /// As `uname -r` says it.
    pub fn version(&self) -> Result<String> {
        Self::only_entry(&self.modules())
    }

    /// The directory that is to be `/lib/modules` in the test VM.
    pub fn modules(&self) -> PathBuf {
        self.directory.join("root/usr/lib/modules")
    }

    /// The bzImage.
    pub fn image(&self) -> Result<PathBuf> {
        Ok(self
            .directory
            .join("root/boot")
            .join(format!("vmlinuz-{}", self.version()?)))
    }

    /// The modules to load at first, in this order, as files that need no unpacking.
    pub fn first_modules(&self) -> Result<Vec<PathBuf>> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.directory.join("first"))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        // Their names begin with their places in the order.
        files.sort();
        Ok(files)
    }

    fn unpack_modules(&self) -> Result<()> {
        let first = self.directory.join("first");
        fs::create_dir(&first)?;
        let lines = output(
            Command::new("modprobe")
                .arg("--dirname")
                .arg(self.directory.join("root/usr"))
                .args(["--set-version", &self.version()?])
                .args(["--show-depends", "--all"])
                .args(MODULES),
        )?;
        let mut known = Vec::new();
        for line in String::from_utf8_lossy(&lines).lines() {
            // "insmod FILE", or "builtin NAME"
            let Some(file) = line.strip_prefix("insmod ") else {
                continue;
            };
            let file = Path::new(file.trim());
            if known.contains(&file.to_owned()) {
                continue;
            }
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            let target = first.join(format!("{:02}-{name}", known.len()));
            known.push(file.to_owned());
            let content = output(Command::new("xz").args(["-dc"]).arg(file))?;
            fs::write(&target, content)?;
        }
        Ok(())
    }
}
