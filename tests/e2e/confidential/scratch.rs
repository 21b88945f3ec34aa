//! What confidential pods write: on a disk of the host's that tells it nothing, and that it can't change.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, umount2};
use nix::unistd::{Whence, lseek};
use rig::confidential::state;
use rig::cri::{Container, ContainerSpec, Pod};
use rig::{Handler, command};

use super::{Configured, PERMISSIVE, with};
use crate::e2e::machines::process_of;
use crate::e2e::{Env, same};

/// How long a command of the node's may take.
const LIMIT: Duration = Duration::from_secs(60);

/// What the host looks for, again and again in a file of 1 MiB.
const CANARY: &[u8] = b"a canary of the pod's own";

/// The host's file that a pod's scratch disk is.
struct HostsFile(File);

impl HostsFile {
    /// Of a pod that runs: its VMM alone has it.
    fn of(pod: &Pod<'_>, state: &Path) -> Result<Self> {
        let vmm = process_of(&pod.id, "trefoil-vmm")?;
        let begins = format!("{}/", state.join("scratch").display());
        for descriptor in fs::read_dir(format!("/proc/{vmm}/fd"))?.flatten() {
            let place = descriptor.path();
            let leads_to = fs::read_link(&place).unwrap_or_default();
            if leads_to.to_string_lossy().starts_with(&begins) {
                let file = File::options().read(true).write(true).open(&place)?;
                return Ok(Self(file));
            }
        }
        anyhow::bail!("the VMM has no file below {begins}")
    }

    /// What has been written of it, in pieces of whole blocks, and where each is.
    fn written(&self) -> Result<Vec<(u64, Vec<u8>)>> {
        let mut pieces = Vec::new();
        let mut end = 0;
        while let Ok(start) = lseek(&self.0, end, Whence::SeekData) {
            end = lseek(&self.0, start, Whence::SeekHole)?;
            let mut piece = vec![0; usize::try_from(end - start)?];
            let start = u64::try_from(start)?;
            self.0.read_exact_at(&mut piece, start)?;
            pieces.push((start, piece));
        }
        Ok(pieces)
    }

    fn taken(&self) -> Result<u64> {
        Ok(self.0.metadata()?.blocks() * 512)
    }
}

/// A disk of the node's, where its volumes are: the rig's own directory may be in memory, and an empty directory
/// there is one of the medium `Memory`.
struct NodesDisk {
    image: PathBuf,
    volumes: PathBuf,
}

impl NodesDisk {
    fn new(env: &Env) -> Result<Self> {
        let at = |name: &str| env.rig.directory().join(name);
        let disk = Self {
            image: at("volumes.img"),
            volumes: at("pods/uid/volumes"),
        };
        fs::create_dir_all(&disk.volumes)?;
        let run = |program: &str, words: &[&OsStr]| -> Result<()> {
            let mut command = env.rig.command(program)?;
            command::run(command.args(words), b"", LIMIT)?.success()?;
            Ok(())
        };
        let (image, volumes) = (disk.image.as_os_str(), disk.volumes.as_os_str());
        run("mkfs.ext4", &["-q".as_ref(), image, "64M".as_ref()])?;
        run("mount", &["-o".as_ref(), "loop".as_ref(), image, volumes])?;
        Ok(disk)
    }

    /// A pod with one container, which has an empty directory of the kubelet's at `/data`.
    fn with_volume<'a>(&self, pod: &Pod<'a>) -> Result<Container<'a>> {
        let volume = self.volumes.join("kubernetes.io~empty-dir/data");
        fs::create_dir_all(&volume)?;
        let mut spec = ContainerSpec::idle();
        spec.mounts = vec![(volume, "/data".to_owned())];
        pod.start(&spec)
    }
}

impl Drop for NodesDisk {
    fn drop(&mut self) {
        // It is there no longer than the trial, whatever became of that.
        let _ = umount2(&self.volumes, MntFlags::MNT_DETACH);
        drop(fs::remove_file(&self.image));
    }
}

/// Writes the canary to a root and a volume, and past all caches.
fn write_canary(container: &Container<'_>) -> Result<()> {
    let canary = String::from_utf8_lossy(CANARY);
    let line = format!(
        "yes \"{canary}\" | head -c 1048576 > /data/canary && cp /data/canary /canary && sync"
    );
    container.exec(&["sh", "-c", &line])?.success()?;
    Ok(())
}

/// What a pod writes is on a disk of the host's that is there at once, takes what is written, tells nothing, and
/// goes with the pod.
pub(super) fn encrypted(env: &Env) -> Result<()> {
    let _configured = Configured::new(env)?;
    let disk = NodesDisk::new(env)?;
    let pod = Pod::run(&env.rig, Handler::TrefoilConfidential, with(PERMISSIVE)?)?;
    let container = disk.with_volume(&pod)?;
    let run = |line: &str| container.exec(&["sh", "-c", line])?.success()?.text();
    let file = HostsFile::of(&pod, &state(&env.rig))?;
    same("size", file.0.metadata()?.len(), 8 << 30)?;
    let taken = file.taken()?;
    ensure!(taken <= 4 << 20, "a new disk takes {taken} bytes");

    let mounts = run("grep ' /data ' /proc/mounts")?;
    ensure!(
        mounts.contains(" ext4 ") && mounts.contains("nosuid,nodev"),
        "the volume is {mounts}"
    );
    write_canary(&container)?;
    // Many small files, of which the disk's inodes are made.
    run(
        "for i in $(seq 2000); do mkdir -p /data/$((i % 50)); echo $i > /data/$((i % 50))/$i; done; sync",
    )?;
    let written = file.written()?;
    let length: usize = written.iter().map(|(_, piece)| piece.len()).sum();
    ensure!(length >= 2 << 20, "only {length} bytes have been written");
    let taken = file.taken()?;
    ensure!(
        taken <= 64 << 20,
        "2 MiB and small files take {taken} bytes"
    );
    let has_canary = |piece: &[u8]| piece.windows(CANARY.len()).any(|part| part == CANARY);
    for (place, piece) in &written {
        ensure!(!has_canary(piece), "the host reads the canary near {place}");
    }
    // The host's file is what it is read from.
    let read = "dd if=/canary iflag=direct bs=64k 2> /dev/null | cmp - /data/canary && \
                dd if=/data/canary iflag=direct bs=64k 2> /dev/null | cmp - /canary && \
                cat $(find /data -type f) | wc -l";
    run(read)?;

    drop(file);
    pod.stop()?;
    pod.remove()?;
    let mut left = fs::read_dir(state(&env.rig).join("scratch"))?;
    ensure!(left.next().is_none(), "the pod has left its scratch disk");
    Ok(())
}

/// What the host does to a disk.
enum Tampering {
    /// It changes a bit of each block.
    Flips,
    /// It brings blocks that another pod has written.
    Replays(Vec<(u64, Vec<u8>)>),
}

/// What the host changes of it, or brings of an earlier pod, is found when it is read: nobody gets it, and the pod
/// ends and says why.
pub(super) fn tampered(env: &Env) -> Result<()> {
    let _configured = Configured::new(env)?;
    let disk = NodesDisk::new(env)?;
    let written = after(env, &disk, &Tampering::Flips).context("flipped bits")?;
    after(env, &disk, &Tampering::Replays(written)).context("another pod's disk")?;
    Ok(())
}

/// One pod that it is done to. Answers with what was written of its disk after it was new.
fn after(env: &Env, disk: &NodesDisk, tampering: &Tampering) -> Result<Vec<(u64, Vec<u8>)>> {
    let pod = Pod::run(&env.rig, Handler::TrefoilConfidential, with(PERMISSIVE)?)?;
    let container = disk.with_volume(&pod)?;
    let file = HostsFile::of(&pod, &state(&env.rig))?;
    let before = file.written()?;
    write_canary(&container)?;
    let mut written = Vec::new();
    for (start, piece) in file.written()? {
        for (place, block) in (start..).step_by(4096).zip(piece.chunks(4096)) {
            let is_old = |(start, piece): &(u64, Vec<u8>)| {
                (*start..*start + piece.len() as u64).contains(&place)
            };
            if !before.iter().any(is_old) {
                written.push((place, block.to_vec()));
            }
        }
    }
    ensure!(
        written.len() >= 512,
        "{} blocks were written",
        written.len()
    );
    match tampering {
        Tampering::Flips => {
            for (place, block) in &written {
                let byte = block.first().context("a block has a byte")?;
                file.0.write_all_at(&[byte ^ 1], *place)?;
            }
        }
        Tampering::Replays(others) => {
            let blocks = others.iter().cycle();
            for ((place, _), (_, block)) in written.iter().zip(blocks) {
                file.0.write_all_at(block, *place)?;
            }
        }
    }
    let read = container.exec(&["dd", "if=/canary", "of=/dev/null", "iflag=direct", "bs=4k"]);
    ensure!(
        read.and_then(rig::command::Finished::success).is_err(),
        "the container has read what the host had changed"
    );
    same("exit code", container.ended()?.0, 137)?;
    let log = env.rig.log();
    command::until("the reason in the log", Duration::from_secs(20), || {
        let said = fs::read_to_string(&log)?;
        let mut lines = said.lines().filter(|line| line.contains(&pod.id));
        Ok(lines.any(|line| {
            line.contains("scratch disk: sector ")
                && line.contains(" is not what was written there")
        }))
    })?;
    pod.stop()?;
    pod.remove()?;
    Ok(written)
}
