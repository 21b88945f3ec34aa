//! How a machine comes about: a process of the VMM, and what it is told to be.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use trefoil_core::{Context, Result};
use trefoil_files::parent::Server;
use trefoil_vmm::client::Handing;
use trefoil_vmm::configuration::{Configuration, Cpus, Jail, Memory, Model, Pages};
use trefoil_vmm::devices::vsock::host_socket::HostSocket;
use trefoil_vmm::metrics::{self, Shared};
use trefoil_vmm::process::{self, Process, Start};

use super::console::Console;
use super::profile::{Backends, LONGEST_DISK, Profile};
use super::running::Machine;
use super::size::Size;
use crate::host::network::Nic;
use crate::host::uids::UidAllocation;
use crate::programs::VMM;

/// What a machine is made of.
pub(crate) struct Plan<'a> {
    /// The pod's name.
    pub pod: &'a str,
    /// What kind of machine it is.
    pub profile: &'a Profile,
    /// How large it is.
    pub size: Size,
    /// Who its process is.
    pub uids: &'a UidAllocation,
    /// Its network interfaces.
    pub nics: Vec<Nic>,
    /// What serves it the host's files, if its kind has that.
    pub files: Option<Files>,
}

/// A machine's file server.
pub(crate) struct Files {
    /// Its process.
    pub server: Arc<Server>,
    /// What the machine reaches it by.
    pub connection: OwnedFd,
}

/// A process of the VMM that waits to be told what machine to be, so that it can be put where it belongs
/// first.
pub(crate) struct UnlaunchedVmm {
    process: Process,
    console: Console,
    log: OwnedFd,
}

impl UnlaunchedVmm {
    /// Starts the process. Must be called within the event loop, by the shim's one thread: it ends with
    /// that.
    pub fn start(pod: &str, oom_score_adj: Option<i16>) -> Result<Self> {
        let (console, log) = Console::new()?;
        let process = process::start(&Start {
            program: None,
            arguments: &[VMM, pod],
            log: log.as_fd(),
            cgroups: &[],
            oom_score_adj,
        })
        .context(|| "start the VMM")?;
        Ok(Self {
            process,
            console,
            log,
        })
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it writes what goes wrong, as the pod's other processes may.
    pub fn log(&self) -> BorrowedFd<'_> {
        self.log.as_fd()
    }

    /// Has it become the machine.
    pub fn launch(self, plan: &Plan<'_>) -> Result<Machine> {
        let (host_socket, theirs) =
            HostSocket::pair().context(|| "make the guest's host socket")?;
        let (metrics, slots) = launch(&self.process, plan, &theirs, &self.log)?;
        // Of the console's writing end the VMM's is the last, so that it ends with it.
        drop(self.log);
        let files = plan.files.as_ref().map(|files| files.server.clone());
        Machine::watch(
            self.process,
            host_socket,
            self.console,
            metrics,
            slots,
            files,
        )
    }
}

/// Tells the process what machine to be. Answers with what it will count, and which of its devices are
/// slots for disks.
fn launch(
    process: &Process,
    plan: &Plan<'_>,
    host_socket: &OwnedFd,
    log: &OwnedFd,
) -> Result<(Arc<Shared>, Vec<u8>)> {
    let open = |path: &std::path::Path, write| {
        File::options()
            .read(true)
            .write(write)
            .open(path)
            .context(|| format!("open {}", path.display()))
    };
    let kvm = open("/dev/kvm".as_ref(), true)?;
    let kernel = open(&plan.profile.kernel, false)?;
    let initramfs = open(&plan.profile.initramfs, false)?;
    let metrics = metrics::file().context(|| "make a file for the VMM's metrics")?;

    let full = || "hand descriptors to the VMM";
    let mut handing = Handing::default();
    let backends = Backends {
        host_socket,
        file_server: plan.files.as_ref().map(|files| &files.connection),
        nics: &plan.nics,
    };
    let slots = plan.profile.plug(&backends, &mut handing).context(full)?;
    let configuration = Configuration {
        kvm: handing.descriptor(&kvm).context(full)?,
        kernel: handing.descriptor(&kernel).context(full)?,
        initramfs: Some(handing.descriptor(&initramfs).context(full)?),
        command_line: plan.profile.command_line.clone(),
        tables: plan.profile.tables,
        cpus: Cpus {
            boot: plan.size.cpus,
            most: plan.size.cpus,
            threads_per_core: 1,
            model: Model::Host,
        },
        memory: Memory {
            mib: plan.size.memory,
            pages: Pages::Ordinary,
        },
        devices: handing.take_devices(),
        serial: Some(handing.descriptor(log).context(full)?),
        metrics: Some(handing.descriptor(&metrics).context(full)?),
        jail: Jail {
            uid: plan.uids.vmm,
            gid: plan.uids.vmm,
            descriptors: plan.profile.descriptors(),
            file_size: LONGEST_DISK,
        },
    };
    process
        .launch(&configuration, handing.descriptors())
        .context(|| format!("start the machine of pod {}", plan.pod))?;
    let metrics = Shared::map(Some(&metrics)).context(|| "map the VMM's metrics")?;
    Ok((metrics, slots))
}
