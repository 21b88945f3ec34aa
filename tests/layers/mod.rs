//! The root hashes of layers: an author's, made by two versions of erofs-utils, and those of a node's
//! containerd, compared for all that a layer may hold.
//!
//!     trefoil-test layers [--in-vm] [--large]
//!
//! With `--large` there are 100,000 files and one of more than 4 GiB besides, which takes minutes. On this
//! machine containerd makes the images and we the trees, as with its versions before 2.3; in the test VM, whose
//! kernel has dm-verity, it makes both.

mod corpus;
mod layout;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rig::test_vm::TestVm;
use rig::{Rig, command, erofs};
use serde::Deserialize;
use trefoil_author::layers::{Choice, Image, Layers, Mkfs};
use trefoil_confidential::layers as node;
use trefoil_core::Mount;
use trefoil_verity::{BLOCK, Block, Checker, Layout, Salt};

use crate::layers::corpus::{CASES, Case, LARGE};

const LIMIT: Duration = Duration::from_secs(20 * 60);

pub fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = rig::part::arguments().collect();
    let mut cases = CASES.to_vec();
    for argument in &arguments {
        match argument.as_str() {
            "--in-vm" => return again_in_vm(&arguments),
            "--large" => cases.extend(LARGE),
            other => bail!("usage: layers [--in-vm] [--large]: {other:?} is neither"),
        }
    }
    let rig = Rig::start()?;
    let scratch = rig.directory().join("layers");
    fs::create_dir(&scratch)?;
    let layout = layout::write(&scratch.join("image"), &cases)?;
    let program = scratch.join("one");
    erofs::install(&erofs::ensure()?, &program)?;
    let one = author(&layout, &program)?;
    ensure!(one.layers.len() == cases.len(), "not all layers were made");
    let mut failed = by_containerd(&rig, &scratch, &layout, &one, &cases)?;
    let mut all = cases.len();
    match another(&scratch) {
        Ok(another) => {
            failed.extend(by_two_versions(&layout, &one, &another, &cases)?);
            all += cases.len();
        }
        Err(why) => println!("skipped: layers by another erofs-utils # {why:#}"),
    }
    for case in &failed {
        println!("FAILED: {case}");
    }
    println!("{} passed, {} failed", all - failed.len(), failed.len());
    Ok(ExitCode::from(u8::from(!failed.is_empty())))
}

fn again_in_vm(arguments: &[String]) -> Result<ExitCode> {
    rig::prepare()?;
    erofs::ensure()?;
    if let Err(why) = erofs::ensure_newest() {
        eprintln!("the test VM has no other erofs-utils: {why:#}");
    }
    let vm = TestVm {
        memory: 6144,
        limit: Some(Duration::from_secs(30 * 60)),
        ..TestVm::default()
    };
    let rest: Vec<_> = arguments
        .iter()
        .filter(|one| *one != "--in-vm")
        .cloned()
        .collect();
    vm.run_again("layers", &rest)
}

/// What the author finds with a program.
fn author(layout: &layout::Layout, program: &Path) -> Result<Image> {
    let choice = Choice {
        reference: Some(layout::NAME.to_owned()),
        ..Choice::default()
    };
    Ok(Layers::new(Mkfs::new(program)?).image(&layout.directory, &choice)?)
}

/// The other version of erofs-utils that this was tried with: a later one may make other images.
const OTHER: &str = "1.9";

/// The program of that version, if Debian's newest is it.
fn another(scratch: &Path) -> Result<PathBuf> {
    let program = scratch.join("other");
    erofs::install(&erofs::ensure_newest()?, &program)?;
    let mut version = Command::new(&program);
    let said = command::run(version.arg("--version"), &[], LIMIT)?.success()?;
    ensure_version(&said.stdout())?;
    Ok(program)
}

/// That it says it is [`OTHER`], as in `mkfs.erofs (erofs-utils) 1.9.3`.
fn ensure_version(said: &str) -> Result<()> {
    let line = said.lines().next().unwrap_or_default();
    let number = line.rsplit(' ').next().unwrap_or_default();
    let numbers: Vec<_> = number.split(['.', '-', '~', '+']).take(2).collect();
    ensure!(
        numbers.join(".") == OTHER,
        "Debian's newest says that it is {line:?}, and {OTHER} was to be compared"
    );
    Ok(())
}

fn by_two_versions(
    layout: &layout::Layout,
    one: &Image,
    another: &Path,
    cases: &[Case],
) -> Result<Vec<String>> {
    let other = author(layout, another)?;
    let pairs = cases.iter().zip(one.layers.iter().zip(&other.layers));
    let differ = pairs.filter(|(_, (one, other))| one != other);
    Ok(differ
        .map(|((case, _), _)| format!("{case}: another erofs-utils makes another root hash"))
        .collect())
}

/// Has containerd unpack the image, and checks what it has made by the author's root hashes as a guest does.
fn by_containerd(
    rig: &Rig,
    scratch: &Path,
    layout: &layout::Layout,
    author: &Image,
    cases: &[Case],
) -> Result<Vec<String>> {
    erofs::configure(rig)?;
    // Without a kernel that mounts EROFS it must write to a filesystem of its own.
    let size =
        "version = 3\n[plugins.'io.containerd.snapshotter.v1.erofs']\ndefault_size = '64MiB'\n";
    rig.reconfigure("size.toml", size)?;
    let archive = layout.archive()?.display().to_string();
    let import = ["images", "import", "--snapshotter", "erofs", &archive];
    command::run(&mut rig.ctr_command(&import)?, &[], LIMIT)?.success()?;
    let trees = node::Trees::new(&scratch.join("trees"), 1 << 30);
    let layers = node::Layers::find(&mounts(rig, &layout.chain)?, &trees)?;
    let with_trees = Path::new("/sys/module/dm_verity").exists();
    ensure!(
        with_trees != scratch.join("trees").exists(),
        "the trees are not whose they should be"
    );
    let mut failed = Vec::new();
    let mut files = layers.files();
    // The node has the uppermost first.
    for ((case, _), layer) in cases.iter().zip(&author.layers).rev() {
        let data = files.next().context("a layer is missing")?;
        let tree = match with_trees {
            true => data,
            false => files.next().context("a tree is missing")?,
        };
        let expected = Layout::new(layer.data_blocks).context("there is data")?;
        let start = match with_trees {
            true => 0,
            false => layer.data_blocks,
        };
        let read = |number: u64, block: &mut Block| match number < layer.data_blocks {
            true => data.read_exact_at(block, number * BLOCK as u64),
            false => tree.read_exact_at(block, (number - start) * BLOCK as u64),
        };
        if let Err(why) = Checker::new(&expected, &Salt::of_layers(), layer.root, read).all() {
            failed.push(format!("{case}: containerd's layer: {why}"));
        }
    }
    Ok(failed)
}

/// A mount as containerd's client shows it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    r#type: String,
    source: String,
    #[serde(default)]
    options: Vec<String>,
}

/// What containerd hands a shim for a container of the image.
fn mounts(rig: &Rig, chain: &str) -> Result<Vec<Mount>> {
    let mut prepare = vec!["snapshots", "--snapshotter", "erofs", "prepare"];
    prepare.extend(["--mounts", "try", chain]);
    let said = rig.ctr(&prepare)?.success()?.stdout();
    let shown: Vec<Shown> = serde_json::from_str(&said).with_context(|| said.clone())?;
    let mount = |shown: Shown| Mount {
        // That filesystem is made before a shim is asked.
        kind: shown.r#type.trim_start_matches("mkfs/").to_owned(),
        source: shown.source,
        target: String::new(),
        options: shown.options,
    };
    let made = |option: &String| !option.starts_with("X-containerd.mkfs.");
    let mut mounts: Vec<_> = shown.into_iter().map(mount).collect();
    for mount in &mut mounts {
        mount.options.retain(made);
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_than_was_asked_for_is_told() {
        for said in [
            "mkfs.erofs (erofs-utils) 1.9",
            "mkfs.erofs (erofs-utils) 1.9.3\navailable compressors: lz4\n",
            "mkfs.erofs (erofs-utils) 1.9-g0123456",
        ] {
            ensure_version(said).expect(said);
        }
        for said in ["", "mkfs.erofs 1.8.6", "mkfs.erofs (erofs-utils) 1.90"] {
            let why = ensure_version(said).expect_err(said).to_string();
            assert!(why.contains(&format!("{:?}", said)), "{why}");
        }
    }
}
