//! A pod's manifest, and what a kubelet makes of it: files on the node, and what it asks containerd for.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cri::{self, ContainerSpec, Pod, PodSpec};
use crate::{Handler, Rig};

/// The name of the pods, which is their host name.
const POD: &str = "shop";

/// What a kubelet asks for of each container that is not privileged: crictl by itself asks for none of it.
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Makes the directories of pods, and names of files, different.
static NUMBER: AtomicU32 = AtomicU32::new(1);

/// A pod's manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its containers.
    pub containers: Vec<Value>,
    /// Its volumes.
    pub volumes: Vec<Value>,
    /// Other objects of the file: ConfigMaps, Secrets.
    pub objects: Vec<Value>,
    /// The pod's `securityContext`.
    pub security: Value,
}

impl Manifest {
    /// A pod of these containers.
    pub fn of(containers: Vec<Value>) -> Self {
        Self {
            containers,
            volumes: Vec::new(),
            objects: Vec::new(),
            security: json!({}),
        }
    }

    /// The file that its author has.
    pub fn text(&self) -> String {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": POD},
            "spec": {
                "enableServiceLinks": false,
                "containers": self.containers,
                "volumes": self.volumes,
                "securityContext": self.security,
            },
        });
        let objects = self.objects.iter().chain([&pod]);
        let documents: Vec<_> = objects.map(Value::to_string).collect();
        // JSON is YAML.
        documents.join("\n---\n")
    }

    /// A container of it.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn container(&self, name: &str) -> Result<&Value> {
        let mut all = self.containers.iter();
        all.find(|one| one["name"] == name)
            .with_context(|| format!("the manifest has no container {name}"))
    }
}

/// A container of the manifest that runs a line of shell.
pub fn shell(name: &str, image: &str, line: &str) -> Value {
    json!({"name": name, "image": image, "command": ["sh", "-c", line]})
}

/// One that does nothing, and ends at once when asked to.
pub fn idle(name: &str, image: &str) -> Value {
    shell(name, image, "trap 'exit 0' TERM; sleep 3600 & wait")
}

/// A node's kubelet, and the pod that it has.
#[derive(Debug)]
pub struct Kubelet<'a> {
    /// What it has of the pod.
    directory: PathBuf,
    pod: Pod<'a>,
}

impl<'a> Kubelet<'a> {
    /// Runs a pod with these annotations.
    ///
    /// # Errors
    /// What crictl says.
    pub fn run(rig: &'a Rig, handler: Handler, annotations: Vec<(String, String)>) -> Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let uid = format!("uid-{number}");
        let directory = rig.directory().join("logs/kubelet/pods").join(uid);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("etc-hosts"), "127.0.0.1 localhost\n")?;
        let spec = PodSpec {
            annotations,
            more: json!({"hostname": POD}),
            ..PodSpec::default()
        };
        let pod = Pod::run(rig, handler, spec)?;
        let kubelet = Self { directory, pod };
        // Every pod of a service account's has it.
        let token = kubelet.volume("kubernetes.io~projected", "kube-api-access-x7k2p")?;
        for (file, content) in [
            ("ca.crt", "a certificate"),
            ("namespace", "tests"),
            ("token", "a token"),
        ] {
            write(&token, file, content)?;
        }
        Ok(kubelet)
    }

    /// The pod.
    pub fn pod(&self) -> &Pod<'a> {
        &self.pod
    }

    /// Where a volume is on the node.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn volume(&self, kind: &str, name: &str) -> Result<PathBuf> {
        let at = self.directory.join("volumes").join(kind).join(name);
        fs::create_dir_all(&at)?;
        Ok(at)
    }

    /// What the kubelet asks for to have a container of a manifest, which may be another pod's, in a pod with such a
    /// `securityContext` of user, group and `fsGroup`.
    ///
    /// # Errors
    /// If the manifest has no sound container there, or the node none of its volumes.
    pub fn spec_as(&self, declared: &Value, pod: &Value) -> Result<ContainerSpec> {
        let mut spec = self.spec(declared)?;
        let mut security = json!({
            "run_as_user": {"value": pod["runAsUser"]},
            "run_as_group": {"value": pod["runAsGroup"]},
            "supplemental_groups": [pod["fsGroup"]],
        });
        security["masked_paths"] = json!(MASKED);
        security["readonly_paths"] = json!(READ_ONLY);
        spec.more["linux"]["security_context"] = security;
        Ok(spec)
    }

    /// The same of a pod without a `securityContext`.
    ///
    /// # Errors
    /// As [`Self::spec_as`].
    pub fn spec(&self, declared: &Value) -> Result<ContainerSpec> {
        let name = declared["name"].as_str().context("a name")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |field: &str| declared[field].as_array().cloned().unwrap_or_default();
        let mut spec = ContainerSpec::of(declared["image"].as_str().context("an image")?);
        spec.command = list("command").iter().map(text).collect();
        spec.env = list("env")
            .iter()
            .map(|one| (text(&one["name"]), text(&one["value"])))
            .collect();
        let mut mounts = Vec::new();
        for mount in list("volumeMounts") {
            let (host_path, is_empty) = self.find(&text(&mount["name"]))?;
            mounts.push(json!({
                "host_path": host_path,
                "container_path": mount["mountPath"],
                "readonly": !is_empty,
            }));
        }
        let (token, _) = self.find("kube-api-access-x7k2p")?;
        let secrets = "/var/run/secrets/kubernetes.io/serviceaccount";
        mounts.push(json!({"host_path": token, "container_path": secrets, "readonly": true}));
        let hosts = self.directory.join("etc-hosts");
        mounts.push(json!({"host_path": hosts, "container_path": "/etc/hosts"}));
        let words = self.last_words(name)?;
        mounts.push(json!({"host_path": words, "container_path": "/dev/termination-log"}));
        let attempt = NUMBER.fetch_add(1, Ordering::Relaxed);
        spec.more = json!({
            "metadata": {"name": name, "attempt": attempt},
            "mounts": mounts,
            "linux": {"security_context": {"masked_paths": MASKED, "readonly_paths": READ_ONLY}},
        });
        Ok(spec)
    }

    /// The file for a container's last words, another one for each.
    fn last_words(&self, container: &str) -> Result<PathBuf> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = self.directory.join("containers").join(container);
        fs::create_dir_all(&directory)?;
        let file = directory.join(format!("{number:08x}"));
        fs::write(&file, "")?;
        Ok(file)
    }

    /// A volume by its name, and whether it is one that is empty at first.
    fn find(&self, name: &str) -> Result<(PathBuf, bool)> {
        for kind in fs::read_dir(self.directory.join("volumes"))? {
            let at = kind?.path().join(name);
            if at.exists() {
                let is_empty = at
                    .parent()
                    .is_some_and(|kind| kind.ends_with("kubernetes.io~empty-dir"));
                return Ok((at, is_empty));
            }
        }
        bail!("the kubelet has no volume {name}")
    }

    /// Ends the pod. The node has no process of it then.
    ///
    /// # Errors
    /// What crictl says, or what is left.
    pub fn stop(self) -> Result<()> {
        self.pod.stop()?;
        self.pod.remove()?;
        let left = cri::shim_side(&self.pod.id)?;
        ensure!(left.is_empty(), "of the pod's processes {left:?} are left");
        Ok(())
    }
}

/// Writes a file of a volume as a kubelet does: all files anew, in a directory that a link is then led to.
///
/// # Errors
/// If it can't be written.
pub fn write(volume: &Path, file: &str, content: &str) -> Result<()> {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let version = volume.join(format!("..{number}"));
    let data = volume.join("..data");
    fs::create_dir(&version)?;
    for before in fs::read_dir(&data).into_iter().flatten() {
        let before = before?;
        fs::copy(before.path(), version.join(before.file_name()))?;
    }
    fs::write(version.join(file), content)?;
    let next = volume.join("..data_tmp");
    symlink(format!("..{number}"), &next)?;
    fs::rename(&next, &data)?;
    let shown = volume.join(file);
    if !shown.exists() {
        symlink(format!("..data/{file}"), &shown)?;
    }
    Ok(())
}
