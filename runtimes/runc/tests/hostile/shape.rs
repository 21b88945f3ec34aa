//! Configurations as containerd makes them, in a few shapes.

use std::path::Path;

use serde_json::{Value, json};

use crate::case::Choose;

/// What is mounted on `/dev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dev {
    /// A tmpfs, with more upon it.
    Tmpfs,
    /// Nothing, but pts, shm and mqueue below it.
    Points,
    /// Nothing, nor below it.
    Nothing,
}

/// What a configuration asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub name: &'static str,
    pub dev: Dev,
    /// A proc on `/proc`.
    pub proc: bool,
    /// A sysfs on `/sys`.
    pub sys: bool,
    /// The container's cgroups on `/sys/fs/cgroup`.
    pub cgroup: bool,
    /// Volumes, directories and a file, at destinations of one and more components.
    pub volumes: bool,
    /// More mounts in a volume.
    pub nested: bool,
    /// A volume at a destination with `..`.
    pub dotted: bool,
    /// The files that CRI binds into `/etc`.
    pub files: bool,
    /// A tmpfs on `/run` and `/tmp`.
    pub tmpfs: bool,
    /// Masked and read-only paths that lie in the image.
    pub masked: bool,
    /// A device at `/opt/device`.
    pub device: bool,
    pub terminal: bool,
    pub read_only: bool,
    pub user: u32,
    /// A user namespace of its own.
    pub users: bool,
    pub cwd: &'static str,
    /// That of the root, if it is said.
    pub propagation: Option<&'static str>,
    /// How many of the mounts come last instead of first.
    pub rotation: usize,
}

/// More mounts than are asked to come last.
const MOST_ROTATED: usize = 12;

/// First host id of a container with a user namespace.
pub const SHIFT: u32 = 100_000;

/// As CRI asks for an ordinary container.
const CRI: Shape = Shape {
    name: "cri",
    dev: Dev::Tmpfs,
    proc: true,
    sys: true,
    cgroup: true,
    volumes: true,
    nested: false,
    dotted: false,
    files: true,
    tmpfs: false,
    masked: false,
    device: false,
    terminal: false,
    read_only: false,
    user: 0,
    users: false,
    cwd: "/",
    propagation: None,
    rotation: 0,
};

/// All of them.
pub const SHAPES: &[Shape] = &[
    CRI,
    Shape {
        name: "image's /dev",
        dev: Dev::Points,
        cwd: "/work",
        ..CRI
    },
    Shape {
        name: "terminal",
        tmpfs: true,
        terminal: true,
        cwd: "/home/app/code",
        ..CRI
    },
    Shape {
        name: "nothing in /dev",
        dev: Dev::Nothing,
        dotted: true,
        masked: true,
        ..CRI
    },
    Shape {
        name: "user namespace",
        users: true,
        tmpfs: true,
        cwd: "/home/app/code",
        ..CRI
    },
    Shape {
        name: "terminal, image's /dev",
        dev: Dev::Points,
        terminal: true,
        sys: false,
        ..CRI
    },
    Shape {
        name: "read-only, not root",
        read_only: true,
        user: 1000,
        masked: true,
        dotted: true,
        cwd: "/work",
        ..CRI
    },
    Shape {
        name: "image's /proc and /sys",
        proc: false,
        sys: false,
        cgroup: false,
        masked: true,
        ..CRI
    },
    Shape {
        name: "user namespace, image's /dev",
        dev: Dev::Points,
        users: true,
        cwd: "/work",
        ..CRI
    },
    Shape {
        name: "cwd in a volume",
        nested: true,
        masked: true,
        tmpfs: true,
        sys: false,
        cwd: "/data/code",
        ..CRI
    },
    Shape {
        name: "device",
        device: true,
        ..CRI
    },
    Shape {
        name: "not root, terminal, image's /dev",
        dev: Dev::Points,
        user: 1000,
        terminal: true,
        files: false,
        tmpfs: true,
        cwd: "/home/app/code",
        ..CRI
    },
];

/// Where what a configuration names outside the root is.
pub struct Sources<'a> {
    /// A directory of another filesystem than the root's.
    pub volume: &'a Path,
    /// A file to bind.
    pub file: &'a Path,
    /// A network namespace.
    pub network: &'a Path,
    /// The cgroup.
    pub cgroup: &'a str,
}

impl Shape {
    /// Any.
    pub fn any(choices: &mut dyn Choose) -> Self {
        const DEVS: [Dev; 3] = [Dev::Tmpfs, Dev::Points, Dev::Nothing];
        const CWDS: [&str; 4] = ["/", "/work", "/home/app/code", "/data/code"];
        const USERS: [u32; 2] = [0, 1000];
        const PROPAGATIONS: [Option<&str>; 5] = [
            None,
            Some("private"),
            Some("rslave"),
            Some("shared"),
            Some("unbindable"),
        ];
        let mut flag = || choices.below(2) == 1;
        let mut shape = Self {
            name: "any",
            proc: !flag(),
            sys: !flag(),
            cgroup: flag(),
            volumes: flag(),
            nested: false,
            dotted: flag(),
            files: flag(),
            tmpfs: flag(),
            masked: flag(),
            device: flag(),
            terminal: flag(),
            read_only: flag(),
            users: flag(),
            ..CRI
        };
        // What lies in a volume takes one.
        shape.nested = shape.volumes && flag();
        shape.dev = DEVS[choices.below(DEVS.len())];
        shape.user = USERS[choices.below(USERS.len())];
        shape.cwd = CWDS[choices.below(CWDS.len())];
        shape.propagation = PROPAGATIONS[choices.below(PROPAGATIONS.len())];
        // Mostly as containerd has them.
        shape.rotation = choices.below(MOST_ROTATED).saturating_sub(MOST_ROTATED / 2);
        shape
    }

    /// The configuration. Source: config.md of the OCI runtime specification.
    pub fn spec(&self, sources: &Sources<'_>) -> Value {
        let mut spec = json!({
            "ociVersion": "1.2.0",
            "process": self.process(),
            "root": {"path": "rootfs", "readonly": self.read_only},
            "hostname": "hostile",
            "mounts": self.mounts(sources),
            "linux": {
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "cgroupsPath": sources.cgroup,
                "namespaces": self.namespaces(sources),
                "devices": self.devices(),
                "maskedPaths": self.masked_paths(),
                "readonlyPaths": self.read_only_paths(),
            },
        });
        if let Some(propagation) = self.propagation {
            spec["linux"]["rootfsPropagation"] = json!(propagation);
        }
        if self.users {
            let mapping = json!([{"containerID": 0, "hostID": SHIFT, "size": 65536}]);
            spec["linux"]["uidMappings"] = mapping.clone();
            spec["linux"]["gidMappings"] = mapping;
        }
        spec
    }

    fn process(&self) -> Value {
        let own = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETUID"];
        json!({
            "terminal": self.terminal,
            "user": {"uid": self.user, "gid": self.user},
            "args": ["/true"],
            "env": ["PATH=/bin"],
            "cwd": self.cwd,
            "capabilities": {"bounding": own, "effective": own, "permitted": own},
            "noNewPrivileges": true,
        })
    }

    fn mounts(&self, sources: &Sources<'_>) -> Vec<Value> {
        let mut mounts = Vec::new();
        let mut add = |destination: &str, kind: &str, options: &[&str]| {
            mounts.push(
                json!({"destination": destination, "type": kind, "source": kind,
                "options": options}),
            );
        };
        let safe = ["nosuid", "noexec", "nodev"];
        if self.proc {
            add("/proc", "proc", &safe);
        }
        if self.dev == Dev::Tmpfs {
            let options = ["nosuid", "strictatime", "mode=755", "size=65536k"];
            add("/dev", "tmpfs", &options);
        }
        if self.dev != Dev::Nothing {
            let pts = [
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
            ];
            add("/dev/pts", "devpts", &pts);
            let shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
            add("/dev/shm", "tmpfs", &shm);
            add("/dev/mqueue", "mqueue", &safe);
        }
        if self.sys {
            add("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]);
        }
        if self.cgroup {
            let options = ["nosuid", "noexec", "nodev", "relatime", "ro"];
            add("/sys/fs/cgroup", "cgroup", &options);
        }
        if self.tmpfs {
            add("/run", "tmpfs", &["nosuid", "mode=755"]);
            add("/tmp", "tmpfs", &["nosuid", "nodev", "mode=1777"]);
        }
        self.binds(sources, &mut mounts);
        let first = self.rotation.min(mounts.len());
        mounts.rotate_left(first);
        mounts
    }

    fn binds(&self, sources: &Sources<'_>, mounts: &mut Vec<Value>) {
        let mut add = |destination: &str, source: &Path, writable: &str| {
            mounts.push(
                json!({"destination": destination, "type": "bind", "source": source,
                "options": ["rbind", "rprivate", writable]}),
            );
        };
        if self.files {
            for name in ["hosts", "hostname", "resolv.conf"] {
                add(&format!("/etc/{name}"), sources.file, "rw");
            }
        }
        if self.volumes {
            add("/data", sources.volume, "rw");
            add("/srv/a/b", sources.volume, "ro");
            add("/cfg/app.conf", sources.file, "ro");
        }
        if self.nested {
            add("/data/sub/inner", sources.volume, "rw");
            add("/data/sub/file", sources.file, "ro");
        }
        if self.dotted {
            add("/var/../vol/x", sources.volume, "rw");
        }
    }

    fn namespaces(&self, sources: &Sources<'_>) -> Vec<Value> {
        let mut namespaces: Vec<_> = ["pid", "ipc", "uts", "mount", "cgroup"]
            .iter()
            .map(|kind| json!({"type": kind}))
            .collect();
        // Only who owns a network namespace may mount its sysfs.
        namespaces.push(match self.users {
            true => json!({"type": "network"}),
            false => json!({"type": "network", "path": sources.network}),
        });
        if self.users {
            namespaces.push(json!({"type": "user"}));
        }
        namespaces
    }

    fn devices(&self) -> Vec<Value> {
        match self.device {
            true => vec![
                json!({"path": "/opt/device", "type": "c", "major": 1, "minor": 3,
                "fileMode": 0o666, "uid": 0, "gid": 0}),
            ],
            false => Vec::new(),
        }
    }

    fn masked_paths(&self) -> Vec<&str> {
        let mut paths = vec!["/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware"];
        if self.masked {
            paths.extend(["/secret/key", "/secret/rooms"]);
        }
        if self.nested {
            paths.extend(["/data/sub/key"]);
        }
        paths
    }

    fn read_only_paths(&self) -> Vec<&str> {
        let mut paths = vec!["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"];
        if self.masked {
            paths.extend(["/frozen/rooms"]);
        }
        if self.nested {
            paths.extend(["/data/sub/rooms"]);
        }
        paths
    }
}
