//! A configuration in the runtime specification's words, and changes to it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// The configuration of one container: what `ctr` would write, but for what a trial changes.
#[derive(Clone)]
pub struct Spec(pub Value);

/// What a container may do by default.
const CAPABILITIES: &str = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP \
                            SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE";

/// What is mounted by default: where, the kind, and the options.
const MOUNTS: &str = "\
/proc proc nosuid,noexec,nodev
/dev tmpfs nosuid,strictatime,mode=755,size=65536k
/dev/pts devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5
/dev/shm tmpfs nosuid,noexec,nodev,mode=1777,size=65536k
/dev/mqueue mqueue nosuid,noexec,nodev
/sys sysfs nosuid,noexec,nodev,ro
/run tmpfs nosuid,strictatime,mode=755,size=65536k";

impl Spec {
    /// A container with this root, which gets no further than its first command.
    pub fn new(root: &Path, cgroup: &str) -> Self {
        let words = |text: &str, first: &str| -> Value {
            text.split(' ')
                .map(|word| format!("{first}{word}"))
                .collect::<Vec<_>>()
                .into()
        };
        let capabilities = words(CAPABILITIES, "CAP_");
        let kinds = ["pid", "ipc", "uts", "mount", "network"];
        let mut spec = Self(json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": { "uid": 0, "gid": 0, "additionalGids": [0] },
                "args": ["true"],
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                "cwd": "/",
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
                "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
                "noNewPrivileges": true,
            },
            "root": { "path": root },
            "linux": {
                "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
                "cgroupsPath": cgroup,
                "namespaces": kinds.map(|kind| json!({ "type": kind })),
                "maskedPaths": words("proc/acpi proc/kcore proc/keys proc/timer_list sys/firmware", "/"),
                "readonlyPaths": words("bus fs irq sys sysrq-trigger", "/proc/"),
            },
        }));
        for mount in MOUNTS.lines() {
            let mut cells = mount.split(' ');
            if let (Some(at), Some(kind), Some(options)) =
                (cells.next(), cells.next(), cells.next())
            {
                spec = spec.mount(at, kind, kind, options);
            }
        }
        spec
    }

    /// Changes it as a line of a table says: `PATH = VALUE`, `PATH += ELEMENTS` of a list, and
    /// `PATH -` for what is taken away, with ` ; ` between them.
    pub fn edit(mut self, edits: &str) -> Result<Self> {
        for edit in edits
            .split(" ; ")
            .map(str::trim)
            .filter(|edit| !edit.is_empty())
        {
            let (path, what) = edit.split_once(' ').with_context(|| edit.to_owned())?;
            let value = |text: &str| serde_json::from_str(text).with_context(|| edit.to_owned());
            self = match what.split_once(' ') {
                None => self.unset(path),
                Some(("=", text)) => self.set(path, value(text)?),
                Some(("+=", text)) => {
                    let Value::Array(elements) = value(&format!("[{text}]"))? else {
                        bail!("{edit}: no elements");
                    };
                    elements
                        .into_iter()
                        .fold(self, |spec, element| spec.push(path, element))
                }
                Some(_) => bail!("{edit}: no change"),
            };
        }
        Ok(self)
    }

    /// Sets a value by its path, `/a/b`; what isn't there on the way is made.
    pub fn set(mut self, path: &str, value: Value) -> Self {
        *self.at(path) = value;
        self
    }

    /// Adds an element to the list at a path.
    pub fn push(mut self, path: &str, value: Value) -> Self {
        match self.at(path) {
            Value::Array(list) => list.push(value),
            other => *other = json!([value]),
        }
        self
    }

    fn unset(mut self, path: &str) -> Self {
        if let Some((parent, name)) = path.rsplit_once('/')
            && let Some(object) = self.at(parent).as_object_mut()
        {
            object.remove(name);
        }
        self
    }

    fn at(&mut self, path: &str) -> &mut Value {
        let mut value = &mut self.0;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            if !value.is_object() {
                *value = json!({});
            }
            value = &mut value[name];
        }
        value
    }

    /// Leaves of a list what `keep` says.
    fn retain(mut self, path: &str, keep: impl Fn(&Value) -> bool) -> Self {
        if let Value::Array(list) = self.at(path) {
            list.retain(|element| keep(element));
        }
        self
    }

    /// The command.
    pub fn args(self, words: &[&str]) -> Self {
        self.set("/process/args", json!(words))
    }

    /// A shell's line as the command, complaints among its output.
    pub fn shell(self, line: &str) -> Self {
        self.args(&["sh", "-c", &format!("exec 2>&1; {line}")])
    }

    /// Another root.
    pub fn root(self, root: &Path) -> Self {
        self.set("/root/path", json!(root))
    }

    /// Another user, of a group with the same number.
    pub fn user(self, id: u32) -> Self {
        self.set("/process/user", json!({ "uid": id, "gid": id }))
    }

    /// One more mount, its options between commas.
    pub fn mount(self, destination: &str, kind: &str, source: &str, options: &str) -> Self {
        let options: Vec<&str> = options.split(',').collect();
        self.push(
            "/mounts",
            json!({
                "destination": destination, "type": kind, "source": source, "options": options,
            }),
        )
    }

    /// A bind mount of a path of the node's.
    pub fn bind(self, source: &Path, destination: &str, options: &str) -> Self {
        self.mount(destination, "bind", &source.to_string_lossy(), options)
    }

    /// A mount before all others.
    pub fn mount_first(mut self, mount: Value) -> Self {
        if let Value::Array(list) = self.at("/mounts") {
            list.insert(0, mount);
        }
        self
    }

    /// The usual mount of cgroups.
    pub fn cgroups(self, access: &str) -> Self {
        let options = format!("{access},nosuid,noexec,nodev");
        self.mount("/sys/fs/cgroup", "cgroup", "cgroup", &options)
    }

    /// Without the mounts whose destinations begin so.
    pub fn without_mounts(self, destination: &str) -> Self {
        let there = |mount: &Value| mount["destination"].as_str().unwrap_or_default().to_owned();
        self.retain("/mounts", |mount| !there(mount).starts_with(destination))
    }

    /// One more namespace of its own.
    pub fn namespace(self, kind: &str) -> Self {
        self.push("/linux/namespaces", json!({ "type": kind }))
    }

    /// Without a namespace of its own.
    pub fn without_namespace(self, kind: &str) -> Self {
        self.retain("/linux/namespaces", |namespace| namespace["type"] != kind)
    }

    /// A user namespace in which the first ids are the node's from `host` on.
    pub fn mapped(self, host: u32, size: u32) -> Self {
        let map = json!([{ "containerID": 0, "hostID": host, "size": size }]);
        self.namespace("user")
            .set("/linux/uidMappings", map.clone())
            .set("/linux/gidMappings", map)
    }

    /// More capabilities.
    pub fn capable(mut self, names: &[&str]) -> Self {
        for set in ["bounding", "effective", "permitted"] {
            for name in names {
                self = self.push(&format!("/process/capabilities/{set}"), json!(name));
            }
        }
        self
    }
}
