//! What our file server shares, as Linux' own driver of virtio-fs sees it.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::mount::{MsFlags, mount};
use rig::probe::failed;
use trefoil_core::Mount;
use trefoil_files::parent::{self, Flush, Jail, Server};
use trefoil_files::tree::{Changes, Source, Tree};
use trefoil_vmm::process::Start;

use crate::vmm::machine::{Guest, Share};
use crate::vmm::scratch::{self, Scratch};
use crate::vmm::{Body, Setting};

pub const TRIALS: &[(&str, Body)] = &[
    ("files::overlay", overlay),
    ("files::directory", directory),
    ("files::kinds", kinds),
    ("files::bytes", bytes),
    ("files::life", life),
    ("files::bound", bound),
];

/// What this program is called when it is the file server.
pub const PROGRAM: &str = "trefoil-files";

const TAG: &str = "trefoil";
const AT: &str = "/run/share";
const MIB: u64 = 1 << 20;

/// Linux gives the filesystem that begins where another mount does (`fuse_fill_super_submount`) no
/// access lists, whatever the one above it has: seen in 6.12.
const NOT_BELOW_A_MOUNT: &str = "access-lists";

/// How long the host's changes may take to be seen.
const SEEN: Duration = Duration::from_millis(1500);

/// A pod's files, and the runtime by which they are shared.
struct Shared {
    server: Server,
    runtime: tokio::runtime::Runtime,
}

impl Shared {
    fn share(&self, name: &str, tree: Tree) -> Result<()> {
        Ok(self.runtime.block_on(self.server.share(name, tree))?)
    }

    fn unshare(&self, name: &str) -> Result<()> {
        Ok(self.runtime.block_on(self.server.unshare(name))?)
    }
}

/// Boots a guest that has what is shared mounted.
fn with_guest(
    setting: &Setting,
    mib: u32,
    body: impl FnOnce(&Shared, &mut Guest, &Scratch) -> Result<()>,
) -> Result<()> {
    let scratch = Scratch::new()?;
    let log = std::io::stderr();
    let start = Start {
        program: None,
        arguments: &[PROGRAM],
        log: log.as_fd(),
        cgroups: &[],
        oom_score_adj: None,
    };
    let jail = Jail {
        uid: 70_019,
        gid: 70_020,
        guest_mib: mib,
        flush: Flush::WhereLocked,
    };
    let (server, vmm) = parent::start(&start, &jail)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let shared = Shared { server, runtime };
    let mut machine = setting.machine();
    machine.memory = mib;
    // Some make ten thousand files, which takes its time where KVM is emulated.
    machine.limit = Duration::from_secs(600);
    machine.shares.push(Share {
        server: vmm.into(),
        tag: TAG.into(),
    });
    let mut guest = machine.boot(setting.vmm)?;
    drop(machine);
    guest.probe.mount_shared(TAG, AT)?;
    body(&shared, &mut guest, &scratch)?;
    ensure!(
        shared.server.ended()?.is_none(),
        "the file server has ended"
    );
    guest.power_off()
}

fn path(path: &Path) -> Tree {
    Tree {
        source: Source::Path {
            path: path.to_owned(),
            submounts: true,
        },
        read_only: false,
        changes: Changes::Anybody,
    }
}

fn make(scratch: &Scratch, name: &str) -> Result<PathBuf> {
    let path = scratch.path().join(name);
    fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
    Ok(path)
}

fn run_all(guest: &mut Guest, below: &str) -> Result<()> {
    let mut wrong = Vec::new();
    let names = trefoil_probe::files::TRIALS.iter().map(|(name, _)| *name);
    for name in names.filter(|name| *name != NOT_BELOW_A_MOUNT) {
        if let Err(why) = guest.probe.try_files(name, below) {
            wrong.push(format!("{why:#}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

/// A container's root filesystem, as the snapshotter describes it.
fn overlay(setting: &Setting) -> Result<()> {
    with_guest(setting, 256, |shared, guest, scratch| {
        let [one, two, upper, work] =
            ["one", "two", "upper", "work"].map(|name| make(scratch, name));
        let (one, two, upper, work) = (one?, two?, upper?, work?);
        fs::write(one.join("file"), "of the upper layer")?;
        fs::write(two.join("file"), "of the lower layer")?;
        fs::write(two.join("other"), "of the lower layer")?;
        let option = |name, path: &Path| format!("{name}={}", path.display());
        let lower = format!("{}:{}", one.display(), two.display());
        let tree = Tree {
            source: Source::Mount(Mount {
                kind: "overlay".into(),
                source: "overlay".into(),
                target: String::new(),
                options: vec![
                    option("workdir", &work),
                    option("upperdir", &upper),
                    format!("lowerdir={lower}"),
                ],
            }),
            read_only: false,
            changes: Changes::GuestOnly,
        };
        shared.share("root", tree)?;
        let root = format!("{AT}/root");
        let read = guest.probe.read(&format!("{root}/file"))?;
        ensure!(read == "of the upper layer", "{read}");
        // It is copied up while the guest knows it.
        let before: u64 = guest
            .probe
            .look_at_file(&format!("{root}/other"))?
            .get("inode")?;
        guest.probe.write(&format!("{root}/other"), "changed")?;
        let read = guest.probe.read(&format!("{root}/other"))?;
        ensure!(read == "changed", "{read}");
        let after: u64 = guest
            .probe
            .look_at_file(&format!("{root}/other"))?
            .get("inode")?;
        ensure!(before == after, "its number was {before} and is {after}");
        ensure!(fs::read_to_string(upper.join("other"))? == "changed");
        run_all(guest, &root)
    })
}

fn directory(setting: &Setting) -> Result<()> {
    with_guest(setting, 256, |shared, guest, scratch| {
        let tree = make(scratch, "tree")?;
        shared.share("tree", path(&tree))?;
        run_all(guest, &format!("{AT}/tree"))
    })
}

/// One file, a mount below a directory, and what can't be written to.
fn kinds(setting: &Setting) -> Result<()> {
    with_guest(setting, 128, |shared, guest, scratch| {
        let tree = make(scratch, "tree")?;
        let below = tree.join("below");
        fs::create_dir(&below)?;
        fs::write(tree.join("hosts"), "of the host")?;
        let none = None::<&str>;
        mount(Some("none"), &below, Some("tmpfs"), MsFlags::empty(), none)?;
        let outcome = (|| {
            fs::write(below.join("file"), "in a mount")?;
            shared.share("tree", path(&tree))?;
            shared.share("hosts", path(&tree.join("hosts")))?;
            shared.share(
                "read-only",
                Tree {
                    read_only: true,
                    ..path(&tree)
                },
            )?;
            let probe = &mut guest.probe;
            let device = |probe: &mut rig::probe::Probe<_>, name: &str| -> Result<u64> {
                probe.list(&format!("{AT}/{name}"))?;
                probe.look_at_file(&format!("{AT}/{name}/."))?.get("device")
            };
            let devices = [
                device(probe, "tree")?,
                device(probe, "tree/below")?,
                device(probe, "read-only")?,
                device(probe, "")?,
            ];
            for (number, one) in devices.iter().enumerate() {
                ensure!(!devices[..number].contains(one), "{devices:?}");
            }
            let read = probe.read(&format!("{AT}/tree/below/file"))?;
            ensure!(read == "in a mount", "{read}");
            let read = probe.read(&format!("{AT}/hosts"))?;
            ensure!(read == "of the host", "{read}");
            probe.write(&format!("{AT}/hosts"), "of the guest")?;
            ensure!(fs::read_to_string(tree.join("hosts"))? == "of the guest");
            failed(probe.write(&format!("{AT}/read-only/new"), "x"), "EROFS")?;
            failed(probe.write(&format!("{AT}/read-only/hosts"), "x"), "EROFS")?;
            failed(probe.write(&format!("{AT}/new"), "x"), "EROFS")?;
            failed(probe.list(&format!("{AT}/none")).map(drop), "ENOENT")
        })();
        nix::mount::umount(&below)?;
        outcome
    })
}

fn bytes(setting: &Setting) -> Result<()> {
    with_guest(setting, 128, |shared, guest, scratch| {
        let tree = make(scratch, "tree")?;
        let file = scratch.disk("tree/from-host", 64 * MIB, 7)?;
        shared.share("tree", path(&tree))?;
        guest
            .probe
            .check_file(&format!("{AT}/tree/from-host"), 64 * MIB, 7)?;
        guest
            .probe
            .write_file(&format!("{AT}/tree/from-guest"), 64 * MIB + 5, 8)?;
        let written = tree.join("from-guest");
        ensure!(fs::metadata(&written)?.len() == 64 * MIB + 5);
        scratch::check(&written, 0, 64 * MIB + 5, 8)?;
        let status = fs::metadata(&file)?;
        ensure!(status.uid() == 0);
        Ok(())
    })
}

/// Trees come and go while the guest runs, the host changes files, and the guest mounts all again.
fn life(setting: &Setting) -> Result<()> {
    with_guest(setting, 128, |shared, guest, scratch| {
        let tree = make(scratch, "tree")?;
        let swap = |number: u32| -> Result<()> {
            fs::create_dir(tree.join(number.to_string()))?;
            fs::write(
                tree.join(number.to_string()).join("key"),
                number.to_string(),
            )?;
            symlink(number.to_string(), tree.join("..new"))?;
            Ok(fs::rename(tree.join("..new"), tree.join("..data"))?)
        };
        swap(1)?;
        symlink("..data/key", tree.join("key"))?;
        shared.share("map", path(&tree))?;
        let key = format!("{AT}/map/key");
        ensure!(guest.probe.read(&key)? == "1");
        swap(2)?;
        std::thread::sleep(SEEN);
        ensure!(guest.probe.read(&key)? == "2");

        shared.unshare("map")?;
        failed(guest.probe.read(&key).map(drop), "ENOENT")?;
        // What only the guest changes it need not ask for again; but for the tree itself.
        let own = Tree {
            changes: Changes::GuestOnly,
            ..path(&tree)
        };
        for _ in 0..3 {
            shared.share("map", own.clone())?;
            ensure!(guest.probe.read(&key)? == "2");
            shared.unshare("map")?;
            failed(guest.probe.list(&format!("{AT}/map")).map(drop), "ENOENT")?;
        }
        shared.share("map", own)?;
        ensure!(guest.probe.read(&key)? == "2");

        guest.probe.unmount_shared(AT)?;
        guest.probe.mount_shared(TAG, AT)?;
        ensure!(guest.probe.read(&key)? == "2");
        Ok(())
    })
}

/// An honest guest never meets the limit on how many files it may know, however many there are.
fn bound(setting: &Setting) -> Result<()> {
    // More than the 1024 for each MiB of the guest's; not many more where KVM is emulated.
    let files = if rig::test_vm::inside() {
        70_000
    } else {
        100_000
    };
    with_guest(setting, 64, |shared, guest, scratch| {
        let tree = make(scratch, "tree")?;
        for directory in 0..100 {
            let directory = tree.join(directory.to_string());
            fs::create_dir(&directory)?;
            for file in 0..files / 100 - 1 {
                fs::write(directory.join(file.to_string()), "")?;
            }
        }
        shared.share("tree", path(&tree))?;
        let found = guest.probe.walk_files(&format!("{AT}/tree"))?;
        ensure!(found == files, "{found} files are found");
        let held = fs::read_dir(format!("/proc/{}/fd", shared.server.pid()))?.count();
        let status = fs::read_to_string(format!("/proc/{}/smaps_rollup", shared.server.pid()))?;
        let pss = status
            .lines()
            .find(|line| line.starts_with("Pss:"))
            .ok_or_else(|| anyhow!("no Pss"))?;
        println!("the server holds {held} files; {pss}");
        Ok(())
    })
}
