//! What a kind of pod's machines are made of: all but their size, their network, and who their processes
//! are.
//!
//! Each device has a number, which the guest finds it by. The numbers follow from the order here.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use trefoil_agent_protocol::command_line::{COMMAND_LINE, CONSOLE, NO_PCI};
use trefoil_agent_protocol::{READY_PORT, SHARE_TAG};
use trefoil_files::parent::Flush;
use trefoil_vmm::client::{Full, Handing};
use trefoil_vmm::configuration::{Device, Tables};
use trefoil_vmm::devices::block::MOST_PARTS;

use crate::content::sources::{Listener, Sources};
use crate::host::network::Nic;

/// The longest file that can be written as a disk, in bytes: the VMM's process can write no further in
/// any file.
pub(crate) const LONGEST_DISK: u64 = 1 << 40;

/// How many slots for disks a machine has. A root takes one, or two if what is written is apart from the
/// layers.
const DISKS: u8 = 8;

/// The same where each image has one for all its containers, less one for each network interface: the guest's
/// tables list all devices, and are the same for each pod.
const UNSHARED_DISKS: u8 = 20;

/// The guest's number on its vsock. Each machine has a host of its own, so all have the same.
const CID: u64 = 3;

/// Connections between guest and host at a time: three for each process that containerd looks at, one
/// for each forwarded connection.
const CONNECTIONS: u16 = 1024;

/// Descriptors that a VMM needs beside its connections' and its disks'.
const OTHER_DESCRIPTORS: u32 = 200;

/// What the kernel prints, to a console that costs an exit for each character: errors and worse.
const QUIET: &str = " quiet";

/// A kind of machine.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The guest's kernel: an ELF file with a PVH entry, or a bzImage.
    pub kernel: PathBuf,
    /// The initramfs that holds the guest's init, and the agent where no file server shares it.
    pub initramfs: PathBuf,
    /// What the kernel is told.
    pub command_line: String,
    /// By which tables the kernel finds its processors and devices.
    pub tables: Tables,
    /// How many slots for disks it has.
    pub disks: u8,
    /// What its file server is like. A machine without one has nothing of the host's but disks.
    pub file_server: Option<FileServer>,
    /// What its guest gets in place of shared files, if its guest believes nothing of the host.
    pub unshared: Option<Unshared>,
}

/// What a guest is given that has nothing of the host's but disks and bytes.
#[derive(Clone, Debug)]
pub struct Unshared {
    /// What the pod's author has bound to the guest's launch, as it was written.
    pub initdata: Vec<u8>,
    /// The disk that it may write to; the host's file is gone with the pod.
    pub scratch: Option<Scratch>,
    /// What its roots and volumes are made of.
    pub sources: Arc<dyn Sources>,
    /// Who takes its connections to another port of the host's than the agent's.
    pub listener: Option<Arc<dyn Listener>>,
}

/// A disk that begins empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scratch {
    /// In which directory its file is, without a name.
    pub directory: PathBuf,
    /// How large it is, in bytes. It takes as much of the host as was written.
    pub size: u64,
}

/// A kind of file server.
#[derive(Clone, Debug)]
pub struct FileServer {
    /// The agent's program, which guests are shown.
    pub agent: PathBuf,
    /// Of which closes of a file the guest's kernel tells.
    pub flush: Flush,
}

/// What a machine's devices are connected to.
pub(crate) struct Backends<'a> {
    /// The VMM's end of the host socket.
    pub host_socket: &'a OwnedFd,
    /// What it reaches its file server by, if it has one.
    pub file_server: Option<&'a OwnedFd>,
    /// Its network interfaces.
    pub nics: &'a [Nic],
}

impl Profile {
    /// A machine that shares directories of the host's with its guest, and has disks.
    pub fn with_file_server(kernel: PathBuf, initramfs: PathBuf, file_server: FileServer) -> Self {
        Self {
            file_server: Some(file_server),
            ..Self::of_disks(kernel, initramfs)
        }
    }

    /// A machine that has disks alone. Its image holds the agent.
    pub fn of_disks(kernel: PathBuf, initramfs: PathBuf) -> Self {
        Self {
            kernel,
            initramfs,
            command_line: format!("{COMMAND_LINE}{CONSOLE}{QUIET}"),
            tables: Tables::MultiProcessor,
            disks: DISKS,
            file_server: None,
            unshared: None,
        }
    }

    /// The same for a guest that believes nothing of the host: a disk for each image, and one to write to.
    pub fn of_unshared(kernel: PathBuf, initramfs: PathBuf, unshared: Unshared) -> Self {
        let disks_alone = Self::of_disks(kernel, initramfs);
        Self {
            command_line: disks_alone.command_line + NO_PCI,
            tables: Tables::Acpi,
            disks: UNSHARED_DISKS,
            unshared: Some(unshared),
            ..disks_alone
        }
    }

    /// Who takes its guest's connections to another port than the agent's.
    pub(crate) fn listener(&self) -> Option<Arc<dyn Listener>> {
        self.unshared.as_ref()?.listener.clone()
    }

    /// How many descriptors its VMM may have.
    pub(crate) fn descriptors(&self) -> u32 {
        let disks = u32::from(self.disks) * MOST_PARTS as u32;
        u32::from(CONNECTIONS) + OTHER_DESCRIPTORS + disks
    }

    /// How many slots for disks it has beside so many network interfaces.
    fn slots(&self, nics: usize) -> usize {
        let others = match self.tables {
            Tables::MultiProcessor => 0,
            Tables::Acpi => nics,
        };
        usize::from(self.disks).saturating_sub(others)
    }

    /// Adds its devices, in their order. Answers with the numbers of its slots for disks.
    ///
    /// # Errors
    /// If they are more than there may be.
    pub(crate) fn plug<'a>(
        &self,
        backends: &Backends<'a>,
        handing: &mut Handing<'a>,
    ) -> Result<Vec<u8>, Full> {
        let other = self.listener().map(|one| one.port());
        let ports = [READY_PORT].into_iter().chain(other);
        let vsock = Device::Vsock {
            host_socket: handing.descriptor(backends.host_socket)?,
            guest_cid: CID,
            ports: ports.map(|port| (port, port)).collect(),
            connections: CONNECTIONS,
        };
        handing.device(vsock)?;
        handing.device(Device::Rng)?;
        if let Some(server) = backends.file_server {
            let server = handing.descriptor(server)?;
            let tag = SHARE_TAG.into();
            handing.device(Device::Fs { server, tag })?;
        }
        let slots = (0..self.slots(backends.nics.len())).map(|_| handing.device(Device::Slot));
        let slots = slots.collect::<Result<_, _>>()?;
        for nic in backends.nics {
            let tap = handing.descriptor(&nic.tap)?;
            let (mac, mtu) = (nic.mac, nic.mtu);
            handing.device(Device::Net { tap, mac, mtu })?;
        }
        Ok(slots)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn null() -> OwnedFd {
        File::open("/dev/null").expect("open").into()
    }

    /// The devices of a machine with two interfaces, in words, and which are slots.
    fn plugged(profile: &Profile, file_server: Option<&OwnedFd>) -> (Vec<String>, Vec<u8>) {
        let host_socket = null();
        let nics = [1, 2].map(|last| Nic {
            tap: null(),
            mac: [2, 0, 0, 0, 0, last],
            mtu: 1500,
        });
        let backends = Backends {
            host_socket: &host_socket,
            file_server,
            nics: &nics,
        };
        let mut handing = Handing::default();
        let slots = profile.plug(&backends, &mut handing).expect("room");
        let kinds = handing.take_devices().into_iter().map(|device| {
            let text = format!("{device:?}");
            text.split(' ').next().unwrap_or_default().to_owned()
        });
        (kinds.collect(), slots)
    }

    #[test]
    fn a_machine_of_disks_has_no_file_server() {
        let disks = Profile::of_disks("/kernel".into(), "/image".into());
        let (kinds, slots) = plugged(&disks, None);
        assert!(!kinds.contains(&"Fs".into()), "{kinds:?}");
        assert_eq!(slots, (2..10).collect::<Vec<u8>>());
        assert_eq!(kinds[10..], ["Net", "Net"]);

        let file_server = FileServer {
            agent: "/agent".into(),
            flush: Flush::EachClose,
        };
        let shared = Profile::with_file_server("/kernel".into(), "/image".into(), file_server);
        let connection = null();
        let (kinds, slots) = plugged(&shared, Some(&connection));
        assert_eq!(kinds[..4], ["Vsock", "Rng", "Fs", "Slot"]);
        assert_eq!(slots, (3..11).collect::<Vec<u8>>());
        assert_eq!(shared.command_line, disks.command_line);
    }

    #[test]
    fn a_machine_with_acpi_has_as_many_devices_however_many_interfaces() {
        let mut profile = Profile::of_disks("/kernel".into(), "/image".into());
        profile.tables = Tables::Acpi;
        let (kinds, slots) = plugged(&profile, None);
        assert_eq!(kinds.len(), usize::from(2 + DISKS));
        assert_eq!(slots, (2..DISKS).collect::<Vec<u8>>());
    }

    #[test]
    fn slots_are_as_many_as_the_profile_says() {
        let mut profile = Profile::of_disks("/kernel".into(), "/image".into());
        profile.disks = 30;
        let (kinds, slots) = plugged(&profile, None);
        assert_eq!((slots.len(), kinds.len()), (30, 34));
        assert_eq!(profile.descriptors(), 1024 + 200 + 30 * MOST_PARTS as u32);
    }
}
