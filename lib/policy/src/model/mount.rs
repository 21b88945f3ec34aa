//! What is mounted in a container.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A mount of a container. What is mounted is the guest's, and its options are these: the host's mount
/// has to be the same, and is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Where, from the container's root.
    pub destination: String,
    /// What.
    pub kind: MountKind,
    /// How, but for what has no meaning in a guest: see [`MountOption`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub options: BTreeSet<MountOption>,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MountKind {
    /// The processes of the container's pid namespace, and the kernel's settings.
    Proc,
    /// The kernel's devices.
    Sysfs,
    /// Terminals.
    Devpts,
    /// POSIX message queues.
    Mqueue,
    /// The container's cgroup.
    Cgroup,
    /// Memory of the container's own.
    Tmpfs,
    /// The memory that the pod's containers share (`/dev/shm`).
    SharedMemory,
    /// A [volume](super::Volume) of the pod.
    Volume {
        /// Its name.
        name: String,
        /// What of it (`subPath`), with `/` between its parts; all of it if there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sub_path: Option<String>,
    },
}

/// An option of a mount, written as mount(8) has it. What says nothing in a guest is no option here, and
/// ignored where the host sends it: `rw`, `bind`, `rbind`, `defaults`, and propagation other than shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MountOption {
    /// `ro`
    ReadOnly,
    /// `nosuid`
    NoSuid,
    /// `nodev`
    NoDev,
    /// `noexec`
    NoExec,
    /// `noatime`
    NoAccessTime,
    /// `relatime`
    RelativeAccessTime,
    /// `strictatime`
    StrictAccessTime,
    /// `newinstance`, of devpts.
    NewInstance,
    /// `ptmxmode=0666`, of devpts.
    PtmxMode(u32),
    /// `mode=0620`
    Mode(u32),
    /// `uid=0`
    Uid(u32),
    /// `gid=5`
    Gid(u32),
    /// `size=65536k`, here in bytes.
    Size(u64),
}

/// it is no option of a mount
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadOption;

const FLAGS: [(MountOption, &str); 8] = [
    (MountOption::ReadOnly, "ro"),
    (MountOption::NoSuid, "nosuid"),
    (MountOption::NoDev, "nodev"),
    (MountOption::NoExec, "noexec"),
    (MountOption::NoAccessTime, "noatime"),
    (MountOption::RelativeAccessTime, "relatime"),
    (MountOption::StrictAccessTime, "strictatime"),
    (MountOption::NewInstance, "newinstance"),
];

impl MountOption {
    /// Whether an option of the host's says nothing in a guest.
    #[must_use]
    pub fn says_nothing(text: &str) -> bool {
        matches!(
            text,
            "rw" | "bind"
                | "rbind"
                | "defaults"
                | "private"
                | "rprivate"
                | "slave"
                | "rslave"
                | "suid"
                | "dev"
                | "exec"
        )
    }
}

impl FromStr for MountOption {
    type Err = BadOption;

    fn from_str(text: &str) -> Result<Self, BadOption> {
        if let Some((flag, _)) = FLAGS.iter().find(|(_, name)| *name == text) {
            return Ok(*flag);
        }
        let (name, value) = text.split_once('=').ok_or(BadOption)?;
        match name {
            "mode" => Ok(Self::Mode(octal(value)?)),
            "ptmxmode" => Ok(Self::PtmxMode(octal(value)?)),
            "uid" => Ok(Self::Uid(decimal(value)?)),
            "gid" => Ok(Self::Gid(decimal(value)?)),
            "size" => Ok(Self::Size(size(value)?)),
            _ => Err(BadOption),
        }
    }
}

/// The bits of a mode.
fn octal(value: &str) -> Result<u32, BadOption> {
    let digits = |byte: u8| (b'0'..=b'7').contains(&byte);
    let sound = (1..=5).contains(&value.len()) && value.bytes().all(digits);
    let mode = u32::from_str_radix(value, 8).map_err(|_| BadOption)?;
    (sound && mode <= 0o7777).then_some(mode).ok_or(BadOption)
}

fn decimal<T: FromStr>(value: &str) -> Result<T, BadOption> {
    let sound = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.parse().map_err(|_| BadOption)?;
    sound.then_some(number).ok_or(BadOption)
}

/// Bytes, with the kernel's endings for more of them.
fn size(value: &str) -> Result<u64, BadOption> {
    let shift = match value.as_bytes().last() {
        Some(b'k' | b'K') => 10,
        Some(b'm' | b'M') => 20,
        Some(b'g' | b'G') => 30,
        _ => return decimal(value),
    };
    let number: u64 = decimal(&value[..value.len() - 1])?;
    number.checked_mul(1 << shift).ok_or(BadOption)
}

impl fmt::Display for MountOption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mode(mode) => write!(formatter, "mode={mode:o}"),
            Self::PtmxMode(mode) => write!(formatter, "ptmxmode={mode:o}"),
            Self::Uid(uid) => write!(formatter, "uid={uid}"),
            Self::Gid(gid) => write!(formatter, "gid={gid}"),
            Self::Size(bytes) => write!(formatter, "size={bytes}"),
            flag => {
                let name = FLAGS.iter().find(|(one, _)| one == flag);
                formatter.write_str(name.map_or("", |(_, name)| name))
            }
        }
    }
}

impl fmt::Display for BadOption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("it is no option of a mount")
    }
}

impl std::error::Error for BadOption {}

impl TryFrom<String> for MountOption {
    type Error = BadOption;

    fn try_from(text: String) -> Result<Self, BadOption> {
        text.parse()
    }
}

impl From<MountOption> for String {
    fn from(option: MountOption) -> Self {
        option.to_string()
    }
}
