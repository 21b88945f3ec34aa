//! Configurations that have passed, as the agent's other code reads them.

use serde_json::{Map, Value, json};

use super::{
    Configuration, Cpu, HostDeviceRule, HostLinux, HostMount, HostProcess, Memory, Resources,
};
use crate::{Access, Device, DeviceKind, MountOption, Namespace};

/// As much of the specification as these types are of.
const VERSION: &str = "1.2.0";

/// Adds a field, if there is a value.
fn put(fields: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        fields.insert(name.into(), value.into());
    }
}

impl Configuration {
    /// The configuration of the OCI runtime specification that says this and no more.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mounts: Vec<_> = self.mounts.iter().map(HostMount::value).collect();
        let value = json!({
            "ociVersion": VERSION,
            "process": self.process.value(),
            "root": {"path": self.root_path, "readonly": self.read_only_root},
            "mounts": mounts,
            "linux": self.linux.value(),
        });
        value.to_string().into_bytes()
    }
}

impl HostMount {
    fn value(&self) -> Value {
        let options: Vec<_> = self.options.iter().map(MountOption::to_string).collect();
        let bind = (self.kind == "bind").then(|| "rbind".to_owned());
        let options: Vec<_> = bind.into_iter().chain(options).collect();
        json!({
            "destination": self.destination,
            "type": self.kind,
            "source": self.source,
            "options": options,
        })
    }
}

impl HostProcess {
    /// The process of the OCI runtime specification that says this and no more.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        self.value().to_string().into_bytes()
    }

    fn value(&self) -> Value {
        let mut value = json!({
            "terminal": self.terminal,
            "user": {
                "uid": self.user.uid,
                "gid": self.user.gid,
                "additionalGids": self.user.additional_gids,
            },
            "args": self.args,
            "env": self.env,
            "cwd": self.cwd,
            "capabilities": self.capabilities_value(),
            "rlimits": self.rlimits,
            "noNewPrivileges": self.no_new_privileges,
        });
        if let Value::Object(fields) = &mut value {
            let size = self.console_size;
            let size = size.map(|(height, width)| json!({"height": height, "width": width}));
            put(fields, "consoleSize", size);
            put(fields, "oomScoreAdj", self.oom_score);
        }
        value
    }

    /// With the sets that are empty, as a set that is missing means another thing to some.
    fn capabilities_value(&self) -> Value {
        let sets = &self.capabilities;
        json!({
            "bounding": sets.bounding,
            "effective": sets.effective,
            "permitted": sets.permitted,
            "inheritable": sets.inheritable,
            "ambient": sets.ambient,
        })
    }
}

impl HostLinux {
    fn value(&self) -> Value {
        let namespaces = self.namespaces.iter().map(|kind| {
            let name = match kind {
                Namespace::Cgroup => "cgroup",
                Namespace::Mount => "mount",
                Namespace::Pid => "pid",
            };
            json!({"type": name})
        });
        let mut value = json!({
            "cgroupsPath": self.cgroups_path,
            "namespaces": namespaces.collect::<Vec<_>>(),
            "maskedPaths": self.masked_paths,
            "readonlyPaths": self.readonly_paths,
            "resources": self.resources.value(),
        });
        if let Value::Object(fields) = &mut value {
            // A profile can always be told.
            let seccomp = self.seccomp.as_ref();
            let seccomp = seccomp.and_then(|profile| serde_json::to_value(profile).ok());
            put(fields, "seccomp", seccomp);
            put(fields, "rootfsPropagation", self.propagation.clone());
            let devices: Vec<_> = self.devices.iter().map(device).collect();
            put(fields, "devices", (!devices.is_empty()).then_some(devices));
        }
        value
    }
}

fn letter(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Block => "b",
        DeviceKind::Character => "c",
    }
}

fn device(device: &Device) -> Value {
    json!({
        "path": device.path,
        "type": letter(device.kind),
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    })
}

impl Resources {
    /// `linux.resources` of the OCI runtime specification that says this and no more.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        self.value().to_string().into_bytes()
    }

    fn value(&self) -> Value {
        let mut fields = Map::new();
        let devices: Vec<_> = self.devices.iter().map(HostDeviceRule::value).collect();
        put(
            &mut fields,
            "devices",
            (!devices.is_empty()).then_some(devices),
        );
        put(&mut fields, "memory", self.memory.value());
        put(&mut fields, "cpu", self.cpu.value());
        put(
            &mut fields,
            "pids",
            self.pids.map(|limit| json!({"limit": limit})),
        );
        let weight = self.io_weight.map(|weight| json!({"weight": weight}));
        put(&mut fields, "blockIO", weight);
        let unified: Map<_, _> = self
            .unified
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect();
        put(
            &mut fields,
            "unified",
            (!unified.is_empty()).then_some(unified),
        );
        fields.into()
    }
}

/// An object, unless it has no fields.
fn unless_empty(fields: Map<String, Value>) -> Option<Value> {
    (!fields.is_empty()).then_some(fields.into())
}

impl Memory {
    fn value(&self) -> Option<Value> {
        let mut fields = Map::new();
        put(&mut fields, "limit", self.limit);
        put(&mut fields, "reservation", self.reservation);
        put(&mut fields, "swap", self.swap);
        unless_empty(fields)
    }
}

impl Cpu {
    fn value(&self) -> Option<Value> {
        let mut fields = Map::new();
        put(&mut fields, "shares", self.shares);
        put(&mut fields, "quota", self.quota);
        put(&mut fields, "period", self.period);
        put(&mut fields, "burst", self.burst);
        put(&mut fields, "idle", self.idle);
        unless_empty(fields)
    }
}

impl HostDeviceRule {
    fn value(&self) -> Value {
        let Some(rule) = &self.rule else {
            return json!({"allow": self.allow, "type": "a", "access": "rwm"});
        };
        let access = rule.access.iter().map(|access| match access {
            Access::Read => 'r',
            Access::Write => 'w',
            Access::MakeNode => 'm',
        });
        let mut value = json!({
            "allow": self.allow,
            "type": letter(rule.kind),
            "major": rule.major,
            "access": access.collect::<String>(),
        });
        if let Value::Object(fields) = &mut value {
            put(fields, "minor", rule.minor);
        }
        value
    }
}
