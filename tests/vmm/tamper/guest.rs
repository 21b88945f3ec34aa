//! A confidential guest under a policy of one container, whose host does as it likes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rig::{erofs, pod_guest};
use serde_json::{Value, json};
use trefoil_agent_protocol::service::{
    CreateContainerRequest, Disk, Filesystem, PutFilesRequest, Rootfs, SetUpRequest, Streams,
};
use trefoil_initdata::{BoundDigest, Field, Initdata};
use trefoil_verity::{BLOCK, Layout, RootHash, Salt, build};
use trefoil_vmm::control::{Attach, Detach, Request};
use trefoil_vmm::exit::{Exit, Stop};

use crate::vmm::Setting;
use crate::vmm::machine::Machine;
use crate::vmm::pod::host::{Ends, Pod, container, now};
use crate::vmm::scratch::Scratch;

/// What the manifest calls the container.
pub const NAME: &str = "web";
/// What the host does.
pub const ID: &str = "c";

/// What the container is to say: it reads a file of each layer.
const SAYS: &str = "from below\nfrom above\n";

/// A file of the upper layer that is read last.
pub const LATE: &str = "read when it is too late";

const SCRIPT: &str =
    "cat /etc/below /etc/above; read line || exit 0; cat /etc/late; echo nobody noticed";

/// A layer with its tree.
#[derive(Clone)]
pub struct Layer {
    pub bytes: Vec<u8>,
    pub blocks: u64,
    pub root: RootHash,
}

impl Layer {
    /// Of a directory.
    fn make(scratch: &Path, directory: &Path, name: &str) -> Result<Self> {
        let (program, image) = (scratch.join("mkfs.erofs"), scratch.join(name));
        erofs::install(&erofs::ensure()?, &program)?;
        let status = Command::new(program)
            .args(["--quiet", "-Enoinline_data", "-T0"])
            .args([&image, directory])
            .status()
            .context("starting mkfs.erofs")?;
        ensure!(status.success(), "mkfs.erofs ended with {status}");
        let data = fs::read(&image)?;
        let layout = Layout::of_bytes(data.len() as u64).context("an empty image")?;
        let mut bytes = data.clone();
        bytes.resize(usize::try_from(layout.device_bytes())?, 0);
        let root = build(
            data.as_slice(),
            &layout,
            &Salt::of_layers(),
            |number, block| {
                let at = usize::try_from(number).map_err(std::io::Error::other)? * BLOCK;
                bytes[at..at + BLOCK].copy_from_slice(block);
                Ok(())
            },
        )?;
        Ok(Self {
            bytes,
            blocks: layout.data_blocks(),
            root,
        })
    }

    /// Where its tree begins, in bytes.
    pub fn tree(&self) -> usize {
        (usize::try_from(self.blocks).unwrap_or(0) + 1) * BLOCK
    }

    /// Where a text is in it.
    pub fn place(&self, text: &str) -> Result<usize> {
        let mut windows = self.bytes.windows(text.len());
        let place = windows.position(|window| window == text.as_bytes());
        place.with_context(|| format!("no {text:?} is in the layer"))
    }
}

/// A guest, and what its host has.
pub struct Guest {
    pub pod: Pod,
    scratch: Scratch,
    /// The uppermost first.
    pub layers: [Layer; 2],
    initdata: String,
    first_slot: u8,
    /// The device of the container's layers.
    device: u8,
}

/// How many disks it can have at a time.
const SLOTS: u8 = 4;

impl Guest {
    /// Boots one, bound to the initdata of a policy for its layers.
    pub fn boot(setting: &Setting) -> Result<Self> {
        let scratch = Scratch::new()?;
        let layers = layers(scratch.path())?;
        let mut initdata = Initdata::default();
        initdata.set_policy(&policy(&layers).to_string());
        let initdata = initdata.write(Field::Simulated)?;
        let bound = BoundDigest::of(initdata.as_bytes(), Field::Simulated)?;
        let bound: String = bound
            .bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut machine = Machine::new(&setting.images);
        machine
            .images
            .image
            .clone_from(&setting.images.confidential);
        machine.memory = 256;
        machine.slots = SLOTS;
        machine.more_words = format!(
            " trefoil.tee=simulated trefoil.simulated={},{bound}",
            "00".repeat(48)
        );
        let first_slot = machine.first_slot()?;
        Ok(Self {
            pod: Pod::of(&machine)?,
            scratch,
            layers,
            initdata,
            first_slot,
            device: first_slot,
        })
    }

    /// The bound document.
    pub fn initdata(&self) -> &str {
        &self.initdata
    }

    /// Boots one and sets it up.
    pub fn boot_and_set_up(setting: &Setting) -> Result<Self> {
        let mut guest = Self::boot(setting)?;
        let document = guest.initdata.clone().into_bytes();
        guest.set_up(document)?;
        Ok(guest)
    }

    /// Sets it up with this initdata.
    pub fn set_up(&mut self, initdata: Vec<u8>) -> Result<()> {
        let request = SetUpRequest {
            hostname: "pod".into(),
            time: now(),
            initdata,
            ..Default::default()
        };
        self.pod.set_up(&request)
    }

    /// Puts a disk of these bytes into a slot; answers with its file.
    pub fn attach(&mut self, slot: u8, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.scratch.path().join(format!("disk{slot}"));
        // What is attached there already keeps its file.
        drop(fs::remove_file(&path));
        fs::write(&path, bytes)?;
        let device = self.first_slot + slot;
        let disk = Attach {
            device,
            read_only: true,
            serial: format!("disk{slot}"),
        };
        self.pod
            .machine
            .ours()?
            .attach(disk, &[File::open(&path)?])?;
        self.device = device;
        Ok(path)
    }

    /// Takes the disk out again.
    pub fn detach(&mut self, slot: u8) -> Result<()> {
        let device = self.first_slot + slot;
        let request = Request::Detach(Detach { device });
        self.pod.machine.ours()?.ask(request).map(drop)
    }

    /// Puts the disk in that the policy is for.
    pub fn attach_sound(&mut self) -> Result<PathBuf> {
        let bytes = self.sound_disk();
        self.attach(0, &bytes)
    }

    /// Both layers, one behind the other.
    pub fn sound_disk(&self) -> Vec<u8> {
        self.layers.clone().map(|layer| layer.bytes).concat()
    }

    /// How many bytes each layer has.
    pub fn parts(&self) -> [u64; 2] {
        [0, 1].map(|at| self.layers[at].bytes.len() as u64)
    }

    /// What makes the container of the policy.
    pub fn creation(&self) -> CreateContainerRequest {
        let disk = Disk {
            device: self.device.into(),
            filesystem: Filesystem::EROFS.into(),
            parts: self.parts().to_vec(),
            ..Default::default()
        };
        CreateContainerRequest {
            container: ID.into(),
            name: NAME.into(),
            configuration: configuration().to_string().into_bytes(),
            rootfs: Some(Rootfs {
                verified: Some(disk).into(),
                ..Default::default()
            })
            .into(),
            streams: Some(Streams::default()).into(),
            ..Default::default()
        }
    }

    /// Asks for a container like that of the policy.
    pub fn create(&mut self, change: impl FnOnce(&mut CreateContainerRequest)) -> Result<()> {
        let mut request = self.creation();
        change(&mut request);
        self.send(&request)
    }

    /// Sends a request for a container.
    pub fn send(&mut self, request: &CreateContainerRequest) -> Result<()> {
        self.pod
            .ask(async |agent, given| agent.create_container(given, request).await)
            .map(drop)
    }

    /// Brings files.
    pub fn put_files(&mut self, request: &PutFilesRequest) -> Result<()> {
        self.pod
            .ask(async |agent, given| agent.put_files(given, request).await)
            .map(drop)
    }

    /// Makes the container of the policy, with streams.
    pub fn create_sound(&mut self) -> Result<Ends> {
        let (stdin, input) = self.pod.stream()?;
        let (stdout, output) = self.pod.stream()?;
        let mut request = self.creation();
        request.streams = Some(Streams {
            stdin,
            stdout,
            ..Default::default()
        })
        .into();
        self.send(&request)?;
        Ok(Ends {
            stdin: Some(input),
            stdout: output,
            stderr: None,
        })
    }

    /// That the container of the policy runs, and reads what is in its layers.
    pub fn runs(&mut self) -> Result<()> {
        self.attach_sound_unless_there()?;
        let mut ends = self.create_sound()?;
        self.pod.start(ID)?;
        ends.input(b"")?;
        let said = ends.output()?;
        ensure!(said == SAYS, "it says {said:?}");
        self.pod.wait(ID, "")?;
        self.pod.delete(ID)
    }

    fn attach_sound_unless_there(&mut self) -> Result<()> {
        match self.scratch.path().join("disk0").exists() {
            true => Ok(()),
            false => self.attach_sound().map(drop),
        }
    }

    /// That there is no container.
    pub fn nothing_runs(&mut self) -> Result<()> {
        let request = container(ID);
        let told = self
            .pod
            .ask(async |agent, given| agent.processes(given, &request).await);
        super::refused("look for a container", told, &["(container-unmade)"])
    }

    /// Ends it by the end of the connection.
    pub fn hang_up(self) -> Result<()> {
        self.pod.hang_up()
    }

    /// That it ends by itself, and says why.
    pub fn ends(mut self, why: &str) -> Result<()> {
        let machine = &mut self.pod.machine;
        machine
            .await_end()?
            .expect(|exit| matches!(exit, Exit::Done(Stop::Reset | Stop::PoweredOff)))?;
        let said = machine.last_lines();
        ensure!(
            said.contains(why),
            "its last lines are not {why:?}, but {said}"
        );
        Ok(())
    }
}

/// The root that a shell needs, and above it some files.
fn layers(scratch: &Path) -> Result<[Layer; 2]> {
    let (below, above) = (scratch.join("below"), scratch.join("above"));
    pod_guest::root_in(&below)?;
    fs::write(below.join("etc/below"), "from below\n")?;
    fs::create_dir_all(above.join("etc"))?;
    fs::write(above.join("etc/above"), "from above\n")?;
    fs::write(above.join("etc/late"), LATE)?;
    let made = [
        Layer::make(scratch, &above, "above.erofs")?,
        Layer::make(scratch, &below, "below.erofs")?,
    ];
    Ok(made)
}

/// The policy's half of what [`configuration`] says.
fn policy(layers: &[Layer; 2]) -> Value {
    let layers = layers.each_ref().map(|layer| {
        let root: String = layer
            .root
            .bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        json!({"root_hash": root, "blocks": layer.blocks})
    });
    json!({
        "version": 1,
        "sandbox": {"hostname": {"exact": "pod"}},
        "volumes": [{"name": "settings", "kind": {"files": {"files": [
            {"path": {"exact": "key"}, "content": {"at_most": 16}, "mode": 420}]}}}],
        "containers": [{
            "name": NAME,
            "kind": "app",
            "image": "00".repeat(32),
            "layers": layers,
            "restart": "always",
            "process": {
                "command": ["/bin/sh", "-c", SCRIPT],
                "env": [{"name": {"exact": "PATH"}, "value": {"exact": "/bin"}}],
                "user": {"uid": 0, "gid": 0, "additional_gids": [5]},
                "cwd": "/",
                "capabilities": {
                    "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"],
                },
                "no_new_privileges": true,
            },
            "mounts": [
                {"destination": "/proc", "kind": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "kind": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/sys", "kind": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            ],
            "namespaces": ["cgroup", "mount", "pid"],
            "seccomp": "unconfined",
            "masked_paths": {"required": ["/proc/kcore"]},
            "readonly_paths": {"required": ["/proc/sys"]},
            "oom_score": {"least": 0, "most": 1000},
            "resources": {"memory": {"least": 1 << 20, "most": 1 << 30}},
            "signals": [9, 15],
            "exec": [{"command": {"arguments": [{"exact": "/bin/true"}]}}],
        }],
        "knobs": {"logs": true, "stdin": true},
    })
}

/// The configuration that the policy is for.
pub fn configuration() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": process(&["/bin/sh", "-c", SCRIPT]),
        "root": {"path": "rootfs", "readonly": false},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "mode=755"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "cgroupsPath": format!("/pod/{ID}"),
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}],
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}],
                "memory": {"limit": 64 << 20},
            },
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
        },
    })
}

/// A process of that container's.
pub fn process(args: &[&str]) -> Value {
    json!({
        "user": {"uid": 0, "gid": 0, "additionalGids": [5]},
        "args": args,
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": {
            "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"],
        },
        "noNewPrivileges": true,
        "oomScoreAdj": 0,
    })
}
