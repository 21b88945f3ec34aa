//! The machine: made from a configuration, run until it ends.
//!
//! The order: memory and KVM, the devices, the virtual CPUs, the kernel; then the jail closes, and
//! only then does the guest run.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuFd, VmFd};
use nix::sys::epoll::EpollTimeout;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::boot;
use crate::bus::{self, Bus, Slot};
use crate::configuration::{self, Configuration, Handed};
use crate::control::{Answer, Control, Message, Request, Stats};
use crate::cpu::cpuid::{Template, Topology};
use crate::cpu::registers;
use crate::cpu::threads::{Ending, Threads};
use crate::devices::block::Block;
use crate::devices::events::{Events, Own};
use crate::devices::fs::Fs;
use crate::devices::interrupt::{Interrupt, USED};
use crate::devices::net::Net;
use crate::devices::rng::Rng;
use crate::devices::serial::Serial;
use crate::devices::transport::{INTERRUPT_ACKNOWLEDGE, Parts, QUEUE_NOTIFY, Transport};
use crate::devices::vacant::Vacant;
use crate::devices::vsock::Vsock;
use crate::devices::{self, Device};
use crate::exit::Exit;
use crate::jail::{self, seccomp};
use crate::layout;
use crate::metrics::{self, Counter, DeviceMetrics, Shared};
use crate::ram;
use crate::slots::Slots;
use trefoil_virtio::Ram;

/// The serial line's interrupt.
const SERIAL_LINE: u32 = 4;

/// How many queues for requests a file server gets. More would gain only where it has a thread for
/// each.
const REQUEST_QUEUES: usize = 1;

/// The loop's own tokens.
const ENDED: u32 = 0;
const CONTROL: u32 = 1;

/// Why a machine can't be made: what was being done, and why not.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct Failure {
    doing: String,
    why: String,
}

fn fail<E: std::fmt::Display>(doing: impl Into<String>) -> impl FnOnce(E) -> Failure {
    move |why| Failure {
        doing: doing.into(),
        why: why.to_string(),
    }
}

/// The descriptors that came along, each to be taken once.
struct Descriptors(Vec<Option<OwnedFd>>);

impl Descriptors {
    fn take(&mut self, handed: Handed, what: &str) -> Result<OwnedFd, Failure> {
        self.0
            .get_mut(usize::from(handed.0))
            .and_then(Option::take)
            .ok_or_else(|| Failure {
                doing: format!("take the descriptor of {what}"),
                why: format!("no descriptor {} came along, or it is taken", handed.0),
            })
    }
}

/// A machine that is ready to run.
struct Machine {
    ram: Arc<Ram>,
    devices: Vec<Arc<Mutex<Transport>>>,
    events: Events,
    vcpus: Vec<VcpuFd>,
    bus: Bus,
    metrics: Arc<Shared>,
    /// Kept: its end is the guest's.
    _vm: VmFd,
}

/// Makes the machine, closes the jail, runs the guest, and answers how it ended.
pub fn run(
    configuration: &Configuration,
    descriptors: Vec<OwnedFd>,
    control: &mut Control,
    began: u64,
) -> Exit {
    let outcome = start(configuration, descriptors, began).and_then(|machine| {
        let ending = Ending::new().map(Arc::new).map_err(fail("make an event"))?;
        supervise(configuration, machine, control, ending)
    });
    outcome.unwrap_or_else(|why| Exit::Internal {
        part: "machine".into(),
        doing: why.doing,
        why: why.why,
    })
}

fn mark(phase: &Counter) {
    phase.set(metrics::now());
}

fn start(
    configuration: &Configuration,
    descriptors: Vec<OwnedFd>,
    began: u64,
) -> Result<Machine, Failure> {
    configuration
        .check()
        .map_err(fail("read the configuration"))?;
    let mut descriptors = Descriptors(descriptors.into_iter().map(Some).collect());
    let metrics = configuration
        .metrics
        .map(|handed| descriptors.take(handed, "the metrics"))
        .transpose()?;
    let metrics = Shared::map(metrics.as_ref()).map_err(fail("map the metrics"))?;
    metrics.phases.began.set(began);
    mark(&metrics.phases.configured);

    let kvm = descriptors.take(configuration.kvm, "/dev/kvm")?;
    // SAFETY: the descriptor is ours to give away.
    let kvm = unsafe { Kvm::from_raw_fd(kvm.into_raw_fd()) };
    let ram = ram::make(configuration.memory.mib, configuration.memory.pages)
        .map_err(fail("make the guest's memory"))?;
    let vm = make_vm(&kvm, &ram)?;
    mark(&metrics.phases.machine);

    let events = Events::new().map_err(fail("make the event loop"))?;
    let mut slots = Vec::new();
    for (number, device) in configuration.devices.iter().enumerate() {
        let device = make_device(device, &mut descriptors)?;
        slots.push(plug(&vm, &ram, &events, &metrics, number, device)?);
    }
    acknowledge_in_kernel(&vm, slots.len())?;
    let serial = match configuration.serial {
        Some(handed) => Some(make_serial(
            &vm,
            descriptors.take(handed, "the serial line")?,
        )?),
        None => None,
    };
    let vcpus = make_vcpus(&kvm, &vm, configuration)?;
    mark(&metrics.phases.devices);

    let mut kernel = File::from(descriptors.take(configuration.kernel, "the kernel")?);
    let mut initramfs = match configuration.initramfs {
        Some(handed) => Some(File::from(descriptors.take(handed, "the initramfs")?)),
        None => None,
    };
    let entry = boot::load(
        &ram,
        &mut kernel,
        initramfs.as_mut(),
        &configuration.whole_command_line(),
        configuration.cpus.most,
    )
    .map_err(fail("load the guest"))?;
    if let Some(first) = vcpus.first() {
        registers::set(first, &ram, entry).map_err(fail("prepare the first virtual CPU"))?;
    }
    mark(&metrics.phases.loaded);
    Ok(Machine {
        devices: slots
            .iter()
            .map(|slot| Arc::clone(&slot.transport))
            .collect(),
        bus: Bus::new(slots, serial, Arc::clone(&metrics)),
        ram,
        events,
        vcpus,
        metrics,
        _vm: vm,
    })
}

fn make_vm(kvm: &Kvm, ram: &Ram) -> Result<VmFd, Failure> {
    for (capability, name) in [
        (Cap::Irqchip, "an interrupt controller"),
        (Cap::Irqfd, "interrupts by descriptor"),
        (Cap::Ioeventfd, "notifications by descriptor"),
        (Cap::UserMemory, "memory from a process"),
        (Cap::ImmediateExit, "immediate exits"),
    ] {
        if !kvm.check_extension(capability) {
            return Err(Failure {
                doing: "make a virtual machine".into(),
                why: format!("this host's KVM lacks {name}"),
            });
        }
    }
    let vm = kvm.create_vm().map_err(fail("make a virtual machine"))?;
    // For Intel's processors; others don't look at it.
    vm.set_identity_map_address(layout::IDENTITY_MAP)
        .map_err(fail("place KVM's identity map"))?;
    vm.set_tss_address(layout::TASK_STATE as usize)
        .map_err(fail("place KVM's task state"))?;
    for (slot, region) in ram.iter().enumerate() {
        let region = kvm_userspace_memory_region {
            slot: u32::try_from(slot).unwrap_or(u32::MAX),
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the mapping is the guest's memory, which outlives the virtual machine: both are
        // the machine's, and threads that run it are joined before.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(fail("give the virtual machine its memory"))?;
    }
    vm.create_irq_chip()
        .map_err(fail("make the interrupt controllers"))?;
    Ok(vm)
}

fn make_device(
    device: &configuration::Device,
    descriptors: &mut Descriptors,
) -> Result<Box<dyn Device>, Failure> {
    use configuration::Device as Wanted;
    Ok(match device {
        Wanted::Block {
            file,
            read_only,
            serial,
        } => {
            let file = File::from(descriptors.take(*file, "a disk")?);
            let options = devices::block::Options {
                read_only: *read_only,
                serial: serial.clone(),
                ..Default::default()
            };
            Box::new(
                Block::new(options, vec![file]).map_err(fail(format!("make the disk {serial}")))?,
            )
        }
        Wanted::Net { tap, mac, mtu } => {
            let tap = File::from(descriptors.take(*tap, "a tap")?);
            let options = devices::net::Options {
                mac: *mac,
                mtu: *mtu,
            };
            Box::new(Net::new(options, tap).map_err(fail("make the network interface"))?)
        }
        Wanted::Vsock {
            door,
            guest_cid,
            ports,
            connections,
        } => {
            let door = descriptors.take(*door, "the door for connections")?;
            let options = devices::vsock::Options {
                ports: ports.iter().map(|&(first, last)| first..=last).collect(),
                connections: *connections,
                ..devices::vsock::Options::new(*guest_cid)
            };
            Box::new(Vsock::new(options, door).map_err(fail("make the vsock device"))?)
        }
        Wanted::Fs { server, tag } => {
            let server = UnixStream::from(descriptors.take(*server, "a file server")?);
            let options = devices::fs::Options {
                tag: tag.clone(),
                queues: REQUEST_QUEUES,
            };
            Box::new(
                Fs::new(options, server)
                    .map_err(fail(format!("share the file server's directory {tag}")))?,
            )
        }
        Wanted::Rng => Box::new(Rng::new()),
        Wanted::Slot => Box::new(Vacant::new(devices::block::QUEUES)),
    })
}

/// Puts a device on the bus: its registers, its interrupt line, and what KVM signals when a queue
/// is kicked.
fn plug(
    vm: &VmFd,
    ram: &Arc<Ram>,
    events: &Events,
    metrics: &Arc<Shared>,
    number: usize,
    device: Box<dyn Device>,
) -> Result<Slot, Failure> {
    let name = device.name();
    let doing = |what: &str| format!("{what} of the {name} device");
    let line = event(
        vm,
        layout::device_line(number),
        &doing("make the interrupt"),
    )?;
    let counted = DeviceMetrics::new(metrics, number);
    let interrupt = Arc::new(Interrupt::new(line, counted.clone()));
    let parts = Parts {
        ram: Arc::clone(ram),
        interrupt: Arc::clone(&interrupt),
        watch: events.watch_of_device(number),
        metrics: counted,
    };
    let transport = Transport::new(device, parts).map_err(fail(doing("make the registers")))?;
    let address = IoEventAddress::Mmio(layout::device_address(number) + QUEUE_NOTIFY);
    for (queue, kick) in (0_u32..).zip(transport.kicks()) {
        vm.register_ioevent(kick, &address, queue)
            .map_err(fail(doing("connect a queue")))?;
    }
    transport
        .watch_kicks()
        .map_err(fail(doing("watch the queues")))?;
    Ok(Slot {
        transport: Arc::new(Mutex::new(transport)),
        interrupt,
    })
}

/// Has KVM itself take what a driver writes to acknowledge nothing but used buffers, which means
/// nothing to us (see [`devices::interrupt`]): the guest is not left for it. KVM signals an event
/// for it, which nobody looks at, and keeps that when we have closed it.
fn acknowledge_in_kernel(vm: &VmFd, devices: usize) -> Result<(), Failure> {
    const DOING: &str = "have acknowledgements taken by KVM";
    let nobodys = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(fail(DOING))?;
    for number in 0..devices {
        let address = layout::device_address(number) + INTERRUPT_ACKNOWLEDGE;
        vm.register_ioevent(&nobodys, &IoEventAddress::Mmio(address), USED)
            .map_err(fail(DOING))?;
    }
    Ok(())
}

/// An event that raises an interrupt line.
fn event(vm: &VmFd, line: u32, doing: &str) -> Result<EventFd, Failure> {
    let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(fail(doing))?;
    vm.register_irqfd(&event, line).map_err(fail(doing))?;
    Ok(event)
}

fn make_serial(vm: &VmFd, output: OwnedFd) -> Result<Serial, Failure> {
    let line = event(vm, SERIAL_LINE, "make the serial line's interrupt")?;
    Serial::new(File::from(output), line).map_err(fail("make the serial line"))
}

fn make_vcpus(kvm: &Kvm, vm: &VmFd, configuration: &Configuration) -> Result<Vec<VcpuFd>, Failure> {
    let cpus = &configuration.cpus;
    let topology = Topology {
        cpus: cpus.most,
        threads_per_core: cpus.threads_per_core,
    };
    let template =
        Template::new(kvm, cpus.model, topology).map_err(fail("choose the processor"))?;
    let mut vcpus = Vec::new();
    for number in 0..cpus.most {
        let doing = || format!("make virtual CPU {number}");
        let vcpu = vm.create_vcpu(number.into()).map_err(fail(doing()))?;
        let cpuid = template.of(number).map_err(fail(doing()))?;
        vcpu.set_cpuid2(&cpuid).map_err(fail(doing()))?;
        registers::set_msrs(&vcpu).map_err(fail(doing()))?;
        if number == 0 {
            registers::set_local_apic(&vcpu).map_err(fail(doing()))?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}

/// How many threads the process may come to have: ours, and those the kernel makes for disks.
fn most_threads(configuration: &Configuration) -> u32 {
    let is_disk = |device: &_| matches!(device, configuration::Device::Block { .. });
    let workers = match configuration.devices.iter().any(is_disk) {
        true => devices::block::MOST_WORKERS,
        false => 0,
    };
    1 + u32::from(configuration.cpus.most) + workers
}

/// Closes the jail and sees the guest through to its end.
fn supervise(
    configuration: &Configuration,
    machine: Machine,
    control: &mut Control,
    ending: Arc<Ending>,
) -> Result<Exit, Failure> {
    let Machine {
        ram,
        devices,
        events,
        vcpus,
        bus,
        metrics,
        _vm,
    } = machine;
    // SAFETY: the event lives as long as the loop does.
    let ended = unsafe { BorrowedFd::borrow_raw(ending.event().as_raw_fd()) };
    events
        .add_own(ended, ENDED)
        .map_err(fail("watch for the end"))?;
    events
        .add_own(&*control, CONTROL)
        .map_err(fail("watch the control socket"))?;
    jail::enter(&configuration.jail, most_threads(configuration))
        .map_err(fail("enter the jail"))?;
    mark(&metrics.phases.jailed);
    let filter = seccomp::compile(seccomp::Thread::Vcpu)
        .map(Arc::new)
        .map_err(fail("prepare the virtual CPUs' system call filter"))?;
    let confine = move || seccomp::install(&filter).map_err(|why| why.to_string());
    let threads = Threads::start(
        vcpus,
        bus,
        Arc::clone(&metrics),
        Arc::clone(&ending),
        confine,
    )
    .map_err(fail("start the virtual CPUs"))?;
    let own = seccomp::compile(seccomp::Thread::Events)
        .map_err(fail("prepare the system call filter"))?;
    seccomp::install(&own).map_err(fail("install the system call filter"))?;

    mark(&metrics.phases.running);
    threads.resume();
    control.send(&Message::Running);
    let slots = Slots::new(&configuration.devices, &devices);
    let exit = serve(&events, &devices, slots, &threads, control, &ending);
    threads.stop();
    if exit == Exit::PoweredOff {
        for device in &devices {
            let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
            device
                .shut_down()
                .map_err(fail(format!("shut the {} device down", device.name())))?;
        }
    }
    drop(ram);
    Ok(exit)
}

/// The loop, until something ends the machine.
fn serve(
    events: &Events,
    devices: &[Arc<Mutex<Transport>>],
    mut slots: Slots,
    threads: &Threads,
    control: &mut Control,
    ending: &Ending,
) -> Exit {
    let mut own = Own::new();
    let mut paused = false;
    loop {
        if let Err((device, why)) = events.turn(devices, &mut own, EpollTimeout::NONE) {
            return bus::failed(device, &why);
        }
        if let Some(exit) = ending.get() {
            return exit;
        }
        if !own.contains(&CONTROL) {
            continue;
        }
        loop {
            let (request, descriptors) = match control.receive() {
                Ok(Some(received)) => received,
                Ok(None) => break,
                // The parent is gone, and so is whoever wanted this machine.
                Err(_) => return Exit::Killed,
            };
            let mut outcome = Ok(());
            match &request {
                Request::Pause => {
                    threads.pause();
                    paused = true;
                }
                Request::Resume => {
                    threads.resume();
                    paused = false;
                }
                Request::Stats => {}
                Request::Attach(wanted) => outcome = slots.attach(wanted, descriptors),
                Request::Detach(wanted) => outcome = slots.detach(wanted),
                Request::PowerOff => return Exit::PoweredOff,
                Request::Kill => return Exit::Killed,
            }
            // A parent that does not read its answers misses them.
            control.send(&Message::Answer(match outcome {
                Ok(()) => Answer::Done(Stats { paused }),
                Err(why) => Answer::Refused(why.to_string()),
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_needs_the_kernels_threads() {
        let configuration = |devices| -> Configuration {
            let cpus = r#"{"boot":1,"most":3,"threads-per-core":1,"model":"host"}"#;
            let jail = r#"{"uid":9,"gid":9,"descriptors":9,"file-size":9}"#;
            let text = format!(
                r#"{{"kvm":0,"kernel":1,"command-line":"","cpus":{cpus},"memory":{{"mib":64}},
                    "devices":[{devices}],"jail":{jail}}}"#
            );
            serde_json::from_str(&text).expect("parse")
        };
        assert_eq!(most_threads(&configuration(r#"{"kind":"rng"}"#)), 4);
        let disk = r#"{"kind":"block","file":2,"read-only":true,"serial":""}"#;
        let two = configuration(&format!("{disk},{disk}"));
        assert_eq!(most_threads(&two), 4 + devices::block::MOST_WORKERS);
    }
}
