//! The QEMU that emulates the test VM: Debian 13's source with patches of ours, by which guests in the
//! test VM keep their TLBs while their host runs.
//!
//! Each patch says why. `rig qemu` builds it once, with what the test VM has and nothing else, and linked with
//! the machine's own libraries. Nothing else does: who starts a test VM does not wait for a build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use trefoil_guest::cache;
use trefoil_guest::debian::{self, Apt, Release};
use trefoil_guest::run::{describe, output};

use super::PROGRAM;

/// Debian's source package.
const PACKAGE: &str = "qemu";

/// The version that is built, as long as the mirror has it; its newest otherwise.
const VERSION: &str = "1:10.0.13+ds-0+deb13u1";

/// What is changed in it, in this order.
const PATCHES: [&str; 5] = [
    include_str!("blobs.patch"),
    include_str!("interrupts.patch"),
    include_str!("vmcb.patch"),
    include_str!("guest-tlb.patch"),
    include_str!("global-pages.patch"),
];

/// The devices of the test VM.
const DEVICES: &str = "CONFIG_Q35=y
CONFIG_VIRTIO_PCI=y
CONFIG_VIRTIO_9P=y
CONFIG_VIRTIO_BLK=y
CONFIG_VIRTIO_SERIAL=y
";

/// What `configure` is told.
const CONFIGURATION: [&str; 15] = [
    "--target-list=x86_64-softmmu",
    "--with-devices-x86_64=test-vm",
    "--without-default-devices",
    "--without-default-features",
    "--enable-system",
    "--enable-tcg",
    "--enable-virtfs",
    "--enable-attr",
    "--disable-user",
    "--disable-tools",
    "--disable-docs",
    "--disable-debug-info",
    "--disable-fdt",
    "--disable-install-blobs",
    "--disable-qom-cast-debug",
];

/// What the build runs on, of Debian 13's packages: Debian 12's Meson is too old.
const MESON: [&str; 2] = ["meson", "python3-pycotap"];

/// What it is built with of the machine's.
const TOOLS: [&str; 6] = ["gcc", "ninja", "patch", "pkg-config", "python3", "strip"];

/// Seconds after which a build is given up: before the suite gives up the step. Where two processors do nothing
/// else it takes four minutes.
const LIMIT: &str = "2700";

/// The name in the cache.
const NAME: &str = "qemu-patched";

/// The files that say why there is no program: of the source that the patches are for, and of a newer one.
const FAILED: &str = "failed";
const LACKING: &str = "lacking";

/// What came of building it.
#[derive(Debug)]
pub enum Built {
    /// The program.
    Program(PathBuf),
    /// Why there is none: something to build it of or with is not here.
    Lacking(String),
}

/// The program, if it has been built.
///
/// # Errors
/// If the cache can't be read.
pub fn find() -> Result<Option<PathBuf>> {
    // Without a compiler none has been.
    let Ok(inputs) = inputs() else {
        return Ok(None);
    };
    let directory = cache::find(NAME, &inputs)?;
    let program = directory.map(|directory| directory.join(PROGRAM));
    Ok(program.filter(|program| program.exists()))
}

/// The program, built if the cache doesn't have it.
///
/// Where our patches do not fit the source, or it can't be configured, that is kept, and not tried again until
/// its directory in the cache is removed. All else is tried again: the network may be back, and who has
/// interrupted a build may want it now.
///
/// # Errors
/// Why it can't be built, although all is here.
pub fn ensure() -> Result<Built> {
    if let Some(why) = missing() {
        return Ok(Built::Lacking(why));
    }
    let mut lacking = None;
    let made = cache::ensure(NAME, &inputs()?, |directory| {
        let fetched = fetch(directory);
        let source = fetched.inspect_err(|why| lacking = Some(format!("{why:#}")))?;
        match prepare(&source.tree)? {
            Ok(()) => compile(&source.tree, directory)?,
            Err(why) => fs::write(directory.join(source.verdict), why)?,
        }
        fs::remove_dir_all(&source.tree).context("removing QEMU's source")
    });
    match (made, lacking) {
        (Err(_), Some(why)) => Ok(Built::Lacking(why)),
        (made, _) => found(&made?),
    }
}

/// What is in a directory of the cache.
fn found(directory: &Path) -> Result<Built> {
    let said = |file| fs::read_to_string(directory.join(file)).ok();
    if let Some(why) = said(FAILED) {
        bail!("{why} (to try again, remove {})", directory.display());
    }
    Ok(match said(LACKING) {
        Some(why) => Built::Lacking(why),
        None => Built::Program(directory.join(PROGRAM)),
    })
}

/// What of the machine's is missing to build it.
fn missing() -> Option<String> {
    let is_there = |command: &mut Command| {
        let done = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success())
    };
    for tool in TOOLS {
        if !is_there(Command::new(tool).arg("--version")) {
            return Some(format!("there is no {tool}"));
        }
    }
    let glib = is_there(Command::new("pkg-config").args(["--exists", "glib-2.0"]));
    (!glib).then(|| "there is no GLib to build with".to_owned())
}

/// All that decides what is built.
fn inputs() -> Result<Vec<String>> {
    let compiler = output(Command::new("gcc").arg("--version").env("LC_ALL", "C"))?;
    Ok(vec![
        VERSION.to_owned(),
        PATCHES.concat(),
        DEVICES.to_owned(),
        CONFIGURATION.concat(),
        MESON.concat(),
        String::from_utf8_lossy(&compiler).into_owned(),
    ])
}

/// An unpacked source.
struct Source {
    tree: PathBuf,
    /// Which file says so if it can't be made into a program.
    verdict: &'static str,
}

/// Runs a command of which it is final what it says against the source: that is the inner error. One that
/// somebody has ended has said nothing.
fn attempt(command: &mut Command) -> Result<Result<(), String>> {
    let line = describe(command);
    let done = command
        .output()
        .with_context(|| format!("starting `{line}`"))?;
    let said =
        String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
    let ended = format!("`{line}` ended with {}: {}", done.status, said.trim());
    match done.status.code() {
        Some(0) => Ok(Ok(())),
        // A shell says so of a child that a signal has ended.
        Some(..128) => Ok(Err(ended)),
        _ => bail!(ended),
    }
}

/// Fetches the source and what configures it, and unpacks it in `directory`.
fn fetch(directory: &Path) -> Result<Source> {
    eprintln!("building the test VM's QEMU: some minutes, once");
    let tree = directory.join("tree");
    let meson = tree.join("meson");
    fs::create_dir_all(&meson)?;

    let state = directory.join("apt");
    let apt = Apt::open(&state, Release::TrixieSource)?;
    let (tarball, verdict) = match apt.source(&format!("{PACKAGE}={VERSION}")) {
        Ok(tarball) => (tarball, FAILED),
        // Gone from the mirror, most likely; if it is something else, this fails as well.
        Err(_) => {
            eprintln!("QEMU {VERSION} isn't served any more; taking Debian 13's newest");
            (apt.source(PACKAGE)?, LACKING)
        }
    };
    output(
        Command::new("tar")
            .args(["--extract", "--xz", "--strip-components=1", "--file"])
            .arg(tarball)
            .arg("--directory")
            .arg(&tree),
    )
    .context("unpacking QEMU's source")?;
    fs::remove_dir_all(&state)?;

    let apt = Apt::open(&state, Release::Trixie)?;
    for package in MESON {
        debian::unpack(&apt.download(package)?, &meson)?;
    }
    fs::remove_dir_all(state).context("removing apt's state")?;
    Ok(Source { tree, verdict })
}

/// Changes and configures a source; the inner error says that it can't be.
fn prepare(tree: &Path) -> Result<Result<(), String>> {
    for patch in PATCHES {
        fs::write(tree.join("asked.patch"), patch)?;
        let changed = attempt(
            Command::new("patch")
                .args(["--strip=1", "--fuzz=0", "--input=asked.patch"])
                .current_dir(tree),
        )?;
        if let Err(why) = changed {
            let title = patch.lines().next().unwrap_or_default();
            return Ok(Err(format!("changing QEMU's source: {title}: {why}")));
        }
    }
    fs::write(
        tree.join("configs/devices/x86_64-softmmu/test-vm.mak"),
        DEVICES,
    )?;
    let build = tree.join("build");
    fs::create_dir(&build)?;
    let configured = attempt(
        Command::new("../configure")
            .args(CONFIGURATION)
            .current_dir(&build)
            .env("PYTHONPATH", packages(tree)),
    )?;
    Ok(configured.map_err(|why| format!("configuring QEMU: {why}")))
}

/// Where the packages have it that Meson is in.
fn packages(tree: &Path) -> PathBuf {
    tree.join("meson/usr/lib/python3/dist-packages")
}

/// Compiles in a tree, and leaves the program in `directory`.
fn compile(tree: &Path, directory: &Path) -> Result<()> {
    let build = tree.join("build");
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    output(
        Command::new("sh")
            // What doesn't compile is told on standard output; an interrupt is for all that the terminal runs.
            .args(["-c", "exec timeout --foreground \"$@\" >&2", "sh"])
            .args([LIMIT, "ninja", "--quiet", "-j"])
            .arg(jobs.to_string())
            .arg(PROGRAM)
            .current_dir(&build)
            .env("PYTHONPATH", packages(tree)),
    )
    .context("compiling QEMU")?;
    output(
        Command::new("strip")
            .arg("-o")
            .arg(directory.join(PROGRAM))
            .arg(build.join(PROGRAM)),
    )
    .context("stripping QEMU")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<Result<(), String>> {
        attempt(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn only_what_a_command_says_itself_is_kept() {
        shell("exit 0").expect("ended").expect("done");
        let why = shell("echo no >&2; exit 1").expect("ended");
        assert!(why.expect_err("refused").ends_with("exit status: 1: no"));
        for interrupted in ["kill -KILL $$", "exit 130", "exit 143"] {
            shell(interrupted).expect_err(interrupted);
        }
        attempt(&mut Command::new("/nowhere/configure")).expect_err("there is none");
    }

    #[test]
    fn a_verdict_is_remembered_and_says_how_to_forget_it() {
        let scratch = std::env::temp_dir().join(format!("built-{}", std::process::id()));
        let with = |file: &str, content: &str| {
            let directory = scratch.join(file);
            fs::create_dir_all(&directory).expect("a directory");
            fs::write(directory.join(file), content).expect("written");
            found(&directory)
        };
        let built = with(PROGRAM, "").expect("built");
        assert!(matches!(built, Built::Program(at) if at.ends_with(PROGRAM)));
        let lacking = with(LACKING, "too new").expect("skipped");
        assert!(matches!(lacking, Built::Lacking(why) if why == "too new"));
        let why = with(FAILED, "a hunk failed")
            .expect_err("failed")
            .to_string();
        fs::remove_dir_all(&scratch).expect("removed");
        let again = format!("remove {}", scratch.join(FAILED).display());
        assert!(
            why.starts_with("a hunk failed") && why.contains(&again),
            "{why}"
        );
    }
}
