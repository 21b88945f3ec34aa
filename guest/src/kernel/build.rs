//! One build of the kernel, the same bytes wherever it is done.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::kernel::config::Options;
use crate::kernel::source::{self, Source};
use crate::kernel::trim::trim;
use crate::run::output;

/// Programs a build runs, and Debian's packages of them.
const PROGRAMS: [(&str, &str); 11] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("strip", "binutils"),
    ("readelf", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("patch", "patch"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
];

/// What is changed in the kernel's source: each says why.
pub const PATCHES: [&str; 3] = [
    include_str!("../../kernel/layout.patch"),
    include_str!("../../kernel/interrupt.patch"),
    include_str!("../../kernel/flush.patch"),
];

/// What decides about the bytes beside the source and its configuration.
pub struct Tools {
    /// What the compiler says its version is.
    pub compiler: String,
    /// What the linker says its version is.
    pub linker: String,
}

impl Tools {
    /// Finds out what there is; an error names everything that is missing.
    pub fn find() -> Result<Self> {
        let mut missing = Vec::new();
        for (program, package) in PROGRAMS {
            if !on_path(program) {
                missing.push((program, package));
            }
        }
        let mut compile = Command::new("gcc");
        compile.args(["-E", "-include", "gelf.h", "-x", "c", "/dev/null"]);
        if on_path("gcc") && output(&mut compile).is_err() {
            missing.push(("gelf.h", "libelf-dev"));
        }
        if !missing.is_empty() {
            let (names, mut packages): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
            packages.dedup();
            bail!(
                "building the guest kernel needs {}, which this machine lacks (Debian's packages: {})",
                names.join(", "),
                packages.join(" ")
            );
        }
        Ok(Self {
            compiler: version("gcc")?,
            linker: version("ld")?,
        })
    }
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// The line in which a program names itself and its version.
fn version(program: &str) -> Result<String> {
    let text = output(Command::new(program).arg("--version").env("LC_ALL", "C"))?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Builds into `directory`, and leaves nothing there but the result.
pub fn build(source: &Source, options: &Options, tools: &Tools, directory: &Path) -> Result<()> {
    let tree = directory.join("tree");
    fs::create_dir(&tree)?;
    output(
        Command::new("tar")
            .args(["--extract", "--xz", "--strip-components=1", "--file"])
            .arg(&source.tarball)
            .arg("--directory")
            .arg(&tree),
    )
    .context("unpacking the kernel's source")?;
    for patch in PATCHES {
        fs::write(tree.join("asked.patch"), patch)?;
        output(
            Command::new("patch")
                .args(["--strip=1", "--fuzz=0", "--input=asked.patch"])
                .current_dir(&tree),
        )
        .with_context(|| {
            let title = patch.lines().next().unwrap_or_default();
            format!("changing the kernel's source: {title}")
        })?;
    }

    // allnoconfig is tinyconfig without its choices for the smallest size, which would have to be
    // taken back one by one.
    fs::write(tree.join("asked.config"), options.fragment())?;
    output(make(&tree).args(["KCONFIG_ALLCONFIG=asked.config", "allnoconfig"]))
        .context("configuring the kernel")?;
    let configuration = fs::read_to_string(tree.join(".config"))?;
    options.check(&configuration)?;

    eprintln!("building the guest kernel: some minutes, once");
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    output(
        make(&tree)
            .arg(format!("--jobs={jobs}"))
            .args(["vmlinux", "bzImage"]),
    )
    .context("compiling the kernel")?;

    let keep = |from: &str, to: &str| {
        fs::copy(tree.join(from), directory.join(to))
            .with_context(|| format!("the build left no {from}"))
    };
    keep(".config", "config")?;
    keep("System.map", "System.map")?;
    keep("arch/x86/boot/bzImage", "bzImage")?;
    // The symbols and what a debugger reads stay in a file of their own.
    if configuration.contains("\nCONFIG_DEBUG_INFO=y\n") {
        keep("vmlinux", "vmlinux.debug")?;
    }
    let vmlinux = directory.join("vmlinux");
    output(
        Command::new("strip")
            .arg("-o")
            .arg(&vmlinux)
            .arg(tree.join("vmlinux")),
    )
    .context("stripping the kernel")?;
    let mut content = fs::read(&vmlinux)?;
    trim(&mut content).context("trimming the kernel")?;
    fs::write(&vmlinux, content)?;
    has_entry(&vmlinux)?;

    let release = fs::read_to_string(tree.join("include/config/kernel.release"))?;
    let mut record = format!(
        "release {}\nsource {} {}\ncompiler {}\nlinker {}\n",
        release.trim(),
        source::PACKAGE,
        source.version,
        tools.compiler,
        tools.linker
    );
    for file in ["vmlinux", "bzImage", "System.map", "config"] {
        let sum = cache::sha256(&fs::read(directory.join(file))?);
        record.push_str(&format!("sha256-{file} {sum}\n"));
    }
    fs::write(directory.join("build"), record)?;
    fs::remove_dir_all(&tree).context("removing the kernel's source")
}

/// A make in the kernel's tree that answers the same whoever runs it, where and when.
fn make(tree: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg("--silent")
        .current_dir(tree)
        // Nothing of the caller's, such as the flags of a make that runs this.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LC_ALL", "C")
        .env("ARCH", "x86_64")
        // Set, though empty: or a work tree around the source would add to the version.
        .env("LOCALVERSION", "")
        .env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970")
        .env("KBUILD_BUILD_USER", "trefoil")
        .env("KBUILD_BUILD_HOST", "trefoil")
        .env("KBUILD_BUILD_VERSION", "1")
        // The tree is compiled by paths within it; what names it in full is mapped away.
        .env("KCFLAGS", format!("-ffile-prefix-map={}=.", tree.display()))
        .env("KAFLAGS", format!("-ffile-prefix-map={}=.", tree.display()));
    make
}

/// Checks that the stripped kernel still carries the note that says where PVH enters it.
fn has_entry(vmlinux: &Path) -> Result<()> {
    let notes = output(
        Command::new("readelf")
            .arg("--notes")
            .arg(vmlinux)
            .env("LC_ALL", "C"),
    )?;
    // XEN_ELFNOTE_PHYS32_ENTRY, the one note of Xen's that a KVM guest's kernel has.
    if !String::from_utf8_lossy(&notes).contains("0x00000012") {
        bail!("the kernel has no PVH entry point");
    }
    Ok(())
}
