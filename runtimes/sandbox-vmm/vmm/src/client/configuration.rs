//! What a machine is to be: the one typed configuration that the parent sends, with the descriptors
//! it names by their number.

use serde::{Deserialize, Serialize};

use crate::layout;

/// The number of a descriptor that came along, from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Handed(pub u8);

/// What the guest is to take its processor for. A fleet whose hosts differ names the model that all
/// of them have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Model {
    /// All that the host's KVM offers.
    #[default]
    Host,
    /// No vector registers but SSE's: the x86-64 ABI's second level.
    #[serde(rename = "x86-64-v2")]
    V2,
    /// AVX2 and its companions: the third level.
    #[serde(rename = "x86-64-v3")]
    V3,
}

/// The processors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cpus {
    /// How many the guest brings up at boot.
    pub boot: u8,
    /// How many there are; the spare ones wait until the guest brings them up.
    pub most: u8,
    /// How many of them share a core: 1 or 2.
    pub threads_per_core: u8,
    /// What they are.
    pub model: Model,
}

/// The most virtual CPUs a machine may have.
pub const MOST_CPUS: u8 = 64;

/// Which pages the memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pages {
    /// The host's ordinary ones, given when they are touched.
    #[default]
    Ordinary,
    /// 2 MiB each, from the host's reserve; a guest that touches one too many is killed.
    Huge,
}

/// The tables by which a kernel is told of its processors, interrupt lines and devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tables {
    /// Intel's MultiProcessor tables, and the command line for devices.
    #[default]
    MultiProcessor,
    /// ACPI's: for kernels under SEV-SNP and TDX, which look at no others.
    Acpi,
}

/// The memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Memory {
    /// How much, in MiB.
    pub mib: u32,
    /// What it is made of.
    #[serde(default)]
    pub pages: Pages,
}

/// One device. Its place in the list is its place in the guest: its registers, its interrupt line
/// and, among disks, its letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "kind"
)]
pub enum Device {
    /// A disk.
    Block {
        /// The file or block device.
        file: Handed,
        /// The guest can't write to it.
        read_only: bool,
        /// By which the guest finds it; at most 20 bytes.
        serial: String,
    },
    /// A network interface.
    Net {
        /// A tap with IFF_NO_PI and IFF_VNET_HDR that does not block.
        tap: Handed,
        /// Its address in the guest.
        mac: [u8; 6],
        /// The largest packet, without the Ethernet header.
        mtu: u16,
    },
    /// Connections between the guest and the host.
    Vsock {
        /// The host socket: see [`crate::devices::vsock`].
        host_socket: Handed,
        /// The guest's number.
        guest_cid: u64,
        /// The host's ports that the guest may connect to, each from the first to the last.
        ports: Vec<(u32, u32)>,
        /// The most connections at a time; each takes a descriptor.
        connections: u16,
    },
    /// A directory that a file server in another process shares.
    Fs {
        /// A connected Unix stream whose other end speaks vhost-user, as the back end of a virtio-fs
        /// device. It answers within ten seconds what it can do, and from then on lives as long as
        /// the machine: its end is the machine's.
        server: Handed,
        /// The name by which the guest mounts it; 1 to 36 bytes without a zero.
        tag: String,
    },
    /// Random numbers.
    Rng,
    /// A place for a disk that comes while the machine runs: see [`super::control::Attach`]. There
    /// is nothing for a driver yet; what it costs a boot is in `docs/vmm.md`.
    Slot,
}

/// Who the process becomes and what it may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Jail {
    /// The user id: not root's, and no other process's.
    pub uid: u32,
    /// The group id: not root's.
    pub gid: u32,
    /// How many descriptors it may have open.
    pub descriptors: u32,
    /// How far it may write in a file: the size of its largest disk, in bytes. Block devices don't
    /// count.
    pub file_size: u64,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Configuration {
    /// `/dev/kvm`, opened for reading and writing.
    pub kvm: Handed,
    /// An ELF kernel with a PVH entry, or a bzImage.
    pub kernel: Handed,
    /// What it begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<Handed>,
    /// What it is told. The devices' places are added, unless there are tables for them.
    pub command_line: String,
    /// By which tables it finds its processors and devices.
    #[serde(default)]
    pub tables: Tables,
    /// The processors.
    pub cpus: Cpus,
    /// The memory.
    pub memory: Memory,
    /// The devices.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Where a serial line's output goes; none, no line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Handed>,
    /// A file for [`crate::metrics::Metrics`], as [`crate::metrics::file`] makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Handed>,
    /// Who the process is to become.
    pub jail: Jail,
}

/// What can't be in a configuration, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// The number of processors.
    #[error(
        "the machine is to boot {boot} of {most} virtual CPUs, and there may be from 1 to {MOST_CPUS}"
    )]
    Cpus {
        /// At boot.
        boot: u8,
        /// At most.
        most: u8,
    },
    /// The threads of a core.
    #[error(
        "{threads} threads are to share a core, and may be 1 or 2, of which {most} is a multiple"
    )]
    Threads {
        /// As asked for.
        threads: u8,
        /// All virtual CPUs.
        most: u8,
    },
    /// The number of devices.
    #[error("the machine is to have {0} devices, and may have {most}", most = layout::MAX_DEVICES)]
    Devices(usize),
}

impl Configuration {
    /// Checks what can be checked without the host's help.
    pub fn check(&self) -> Result<(), Wrong> {
        let Cpus {
            boot,
            most,
            threads_per_core: threads,
            ..
        } = self.cpus;
        if boot == 0 || boot > most || most > MOST_CPUS {
            return Err(Wrong::Cpus { boot, most });
        }
        if !matches!(threads, 1 | 2) || most % threads != 0 {
            return Err(Wrong::Threads { threads, most });
        }
        if self.devices.len() > layout::MAX_DEVICES {
            return Err(Wrong::Devices(self.devices.len()));
        }
        Ok(())
    }

    /// The command line with what the guest can't find out: where the devices are, unless ACPI says so, and
    /// how many of the processors to bring up.
    pub fn whole_command_line(&self) -> String {
        let mut words = self.command_line.trim().to_owned();
        if self.cpus.boot < self.cpus.most {
            words.push_str(&format!(" maxcpus={}", self.cpus.boot));
        }
        if self.tables == Tables::Acpi {
            return words;
        }
        for number in 0..self.devices.len() {
            words.push_str(&format!(
                " virtio_mmio.device={}K@{:#x}:{}",
                layout::DEVICE_SIZE >> 10,
                layout::device_address(number),
                layout::device_line(number)
            ));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_devices_as_there_may_be_leave_room_on_the_command_line() {
        let seed = include_str!("../../fuzz/seeds/control/configuration.json");
        let mut configuration: Configuration = serde_json::from_str(seed).expect("parse");
        configuration.command_line = "x".repeat(600);
        configuration.cpus.boot = configuration.cpus.most;
        configuration.devices = vec![Device::Slot; layout::MAX_DEVICES];
        assert_eq!(configuration.check(), Ok(()));
        let line = configuration.whole_command_line();
        assert!(line.len() < layout::COMMAND_LINE_SIZE, "{}", line.len());
        assert!(
            line.ends_with(" virtio_mmio.device=4K@0xc0027000:6"),
            "{line}"
        );
        let told = Configuration {
            tables: Tables::Acpi,
            ..configuration.clone()
        };
        assert_eq!(told.whole_command_line(), "x".repeat(600));
        configuration.devices.push(Device::Rng);
        let why = configuration.check().expect_err("too many");
        assert_eq!(
            why.to_string(),
            "the machine is to have 41 devices, and may have 40"
        );
    }

    #[test]
    fn fuzzing_begins_with_a_configuration_of_every_device() {
        let seed = include_str!("../../fuzz/seeds/control/configuration.json");
        let configuration: Configuration = serde_json::from_str(seed).expect("parse");
        assert_eq!(configuration.check(), Ok(()));
        let kinds = configuration.devices.iter().map(|device| match device {
            Device::Block { .. } => "block",
            Device::Net { .. } => "net",
            Device::Vsock { .. } => "vsock",
            Device::Fs { .. } => "fs",
            Device::Rng => "rng",
            Device::Slot => "slot",
        });
        assert!(kinds.eq(["block", "net", "vsock", "fs", "rng", "slot"]));
    }
}
