//! CRI's description of a pod, as far as a sandbox is made by it. containerd passes it on as it came from
//! the kubelet.
//! Source: `PodSandboxConfig` in Kubernetes' `cri-api/pkg/apis/runtime/v1/api.proto`.

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod wire;

use std::collections::BTreeMap;

use trefoil_core::Result;

use wire::{Value, each_field};

/// The name of the message.
pub const TYPE: &str = "runtime.v1.PodSandboxConfig";

/// A map of texts.
pub type Texts = BTreeMap<String, String>;

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSandboxConfig {
    /// Its host name; empty if it has none of its own.
    pub hostname: String,
    /// How it resolves names; `None` as the node does.
    pub dns: Option<Dns>,
    /// What it says of itself.
    pub annotations: Texts,
    /// The cgroup that its containers' are made in; may be empty.
    pub cgroup_parent: String,
    /// Kernel parameters of its namespaces.
    pub sysctls: Texts,
    /// The sums of its containers' limits.
    pub resources: Resources,
    /// Where its namespaces are from.
    pub namespaces: Namespaces,
    /// What it is to be labelled with, where the node has SELinux.
    pub selinux: Option<SeLinux>,
    /// Whether containers of it may be privileged.
    pub privileged: bool,
}

/// The contents of a `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<String>,
    /// Domains to search in.
    pub searches: Vec<String>,
    /// Options of the resolver.
    pub options: Vec<String>,
}

/// Limits; zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// The period of the quota, in microseconds.
    pub cpu_period: i64,
    /// Processor time in each period, in microseconds.
    pub cpu_quota: i64,
    /// Memory, in bytes.
    pub memory: i64,
}

/// Where a pod's namespaces are from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Of its network.
    pub network: Mode,
    /// Of its processes.
    pub pid: Mode,
    /// Of its System V IPC and message queues.
    pub ipc: Mode,
    /// Of its users; `None` is the node's.
    pub users: Option<Users>,
}

/// Who shares a namespace: `NamespaceMode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The pod's containers.
    #[default]
    Pod,
    /// Each container has its own.
    Container,
    /// The node's.
    Node,
    /// Any other.
    Other,
}

/// A user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    /// Who shares it.
    pub mode: Mode,
    /// Its users.
    pub uids: Vec<Mapping>,
    /// Its groups.
    pub gids: Vec<Mapping>,
}

/// Which ids stand for which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// The first on the node.
    pub host: u32,
    /// The first in the namespace.
    pub container: u32,
    /// How many.
    pub length: u32,
}

/// The parts of a label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeLinux {
    /// The user.
    pub user: String,
    /// The role.
    pub role: String,
    /// The type.
    pub kind: String,
    /// The level.
    pub level: String,
}

impl PodSandboxConfig {
    /// Reads the message. What it holds besides is left out.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn parse(message: &[u8]) -> Result<Self> {
        let mut config = Self::default();
        each_field(message, |number, value| {
            match number {
                2 => config.hostname = value.text()?,
                4 => config.dns.get_or_insert_default().add(&value.bytes()?)?,
                7 => add_text(&mut config.annotations, &value.bytes()?)?,
                8 => config.add_linux(&value.bytes()?)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(config)
    }

    /// `LinuxPodSandboxConfig`.
    fn add_linux(&mut self, message: &[u8]) -> Result<()> {
        each_field(message, |number, value| {
            match number {
                1 => self.cgroup_parent = value.text()?,
                2 => self.add_security(&value.bytes()?)?,
                3 => add_text(&mut self.sysctls, &value.bytes()?)?,
                5 => self.resources.add(&value.bytes()?)?,
                _ => {}
            }
            Ok(())
        })
    }

    /// `LinuxSandboxSecurityContext`.
    fn add_security(&mut self, message: &[u8]) -> Result<()> {
        each_field(message, |number, value| {
            match number {
                1 => self.namespaces.add(&value.bytes()?)?,
                2 => self.selinux.get_or_insert_default().add(&value.bytes()?)?,
                6 => self.privileged = value.number()? != 0,
                _ => {}
            }
            Ok(())
        })
    }
}

impl Dns {
    fn add(&mut self, message: &[u8]) -> Result<()> {
        each_field(message, |number, value| {
            match number {
                1 => self.servers.push(value.text()?),
                2 => self.searches.push(value.text()?),
                3 => self.options.push(value.text()?),
                _ => {}
            }
            Ok(())
        })
    }
}

impl Resources {
    /// `LinuxContainerResources`.
    fn add(&mut self, message: &[u8]) -> Result<()> {
        each_field(message, |number, value| {
            match number {
                1 => self.cpu_period = value.number()?.cast_signed(),
                2 => self.cpu_quota = value.number()?.cast_signed(),
                4 => self.memory = value.number()?.cast_signed(),
                _ => {}
            }
            Ok(())
        })
    }
}

impl Namespaces {
    /// `NamespaceOption`.
    fn add(&mut self, message: &[u8]) -> Result<()> {
        each_field(message, |number, value| {
            match number {
                1 => self.network = Mode::of(value)?,
                2 => self.pid = Mode::of(value)?,
                3 => self.ipc = Mode::of(value)?,
                5 => self.users.get_or_insert_default().add(&value.bytes()?)?,
                _ => {}
            }
            Ok(())
        })
    }
}

impl Mode {
    fn of(value: Value) -> Result<Self> {
        Ok(match value.number()? {
            0 => Self::Pod,
            1 => Self::Container,
            2 => Self::Node,
            _ => Self::Other,
        })
    }
}

impl Users {
    /// `UserNamespace`.
    fn add(&mut self, message: &[u8]) -> Result<()> {
        each_field(message, |number, value| {
            match number {
                1 => self.mode = Mode::of(value)?,
                2 => self.uids.push(Mapping::parse(&value.bytes()?)?),
                3 => self.gids.push(Mapping::parse(&value.bytes()?)?),
                _ => {}
            }
            Ok(())
        })
    }
}

impl Mapping {
    /// `IDMapping`.
    fn parse(message: &[u8]) -> Result<Self> {
        let mut mapping = Self::default();
        each_field(message, |number, value| {
            let field = match number {
                1 => &mut mapping.host,
                2 => &mut mapping.container,
                3 => &mut mapping.length,
                _ => return Ok(()),
            };
            // As protobuf has it: of what is too large the lower bits.
            *field = (value.number()? & u64::from(u32::MAX)) as u32;
            Ok(())
        })?;
        Ok(mapping)
    }
}

impl SeLinux {
    /// `SELinuxOption`.
    fn add(&mut self, message: &[u8]) -> Result<()> {
        each_field(message, |number, value| {
            match number {
                1 => self.user = value.text()?,
                2 => self.role = value.text()?,
                3 => self.kind = value.text()?,
                4 => self.level = value.text()?,
                _ => {}
            }
            Ok(())
        })
    }
}

/// An entry of a map: a message of a key and a value.
fn add_text(texts: &mut Texts, message: &[u8]) -> Result<()> {
    let (mut key, mut value) = (String::new(), String::new());
    each_field(message, |number, field| {
        match number {
            1 => key = field.text()?,
            2 => value = field.text()?,
            _ => {}
        }
        Ok(())
    })?;
    texts.insert(key, value);
    Ok(())
}

#[cfg(test)]
mod tests;
