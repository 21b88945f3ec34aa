//! A machine's parts, made from its configuration: virtual machine and memory, devices on a bus, virtual
//! CPUs. What is in the memory, and how the virtual CPUs begin, is for whoever fills them
//! ([`crate::boot`]).

use std::fs::File;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuFd, VmFd};
use trefoil_jail::Failure;
use vmm_sys_util::eventfd::EventFd;

use super::descriptors::Descriptors;
use super::devices;
use crate::bus::{Bus, Slot};
use crate::client::configuration::Configuration;
use crate::cpu::cpuid::{Template, Topology};
use crate::cpu::registers;
use crate::devices::Device;
use crate::devices::events::Events;
use crate::devices::interrupt::{Interrupt, USED};
use crate::devices::serial::Serial;
use crate::devices::transport::{INTERRUPT_ACKNOWLEDGE, Parts, QUEUE_NOTIFY, Transport};
use crate::layout;
use crate::memory::Memory;
use crate::metrics::{self, Counter, DeviceMetrics, Shared};

/// A machine's parts.
pub(super) struct Machine {
    pub memory: Memory,
    /// By number, as in the configuration.
    pub devices: Vec<Arc<Mutex<Transport>>>,
    pub events: Events,
    pub vcpus: Vec<VcpuFd>,
    pub bus: Bus,
    pub metrics: Arc<Shared>,
    /// Kept: its end is the guest's.
    pub vm: VmFd,
}

pub(super) fn mark(phase: &Counter) {
    phase.set(metrics::now());
}

/// Makes all parts.
pub(super) fn build(
    configuration: &Configuration,
    descriptors: &mut Descriptors,
    began: u64,
) -> Result<Machine, Failure> {
    configuration
        .check()
        .map_err(Failure::at("read the configuration"))?;
    let metrics = configuration
        .metrics
        .map(|handed| descriptors.take(handed, "the metrics"))
        .transpose()?;
    let metrics = Shared::map(metrics.as_ref()).map_err(Failure::at("map the metrics"))?;
    metrics.phases.began.set(began);
    mark(&metrics.phases.configured);

    let kvm = descriptors.take(configuration.kvm, "/dev/kvm")?;
    // SAFETY: the descriptor is ours to give away.
    let kvm = unsafe { Kvm::from_raw_fd(kvm.into_raw_fd()) };
    let memory = Memory::shared(configuration.memory.mib, configuration.memory.pages)
        .map_err(Failure::at("make the guest's memory"))?;
    let vm = make_vm(&kvm, &memory)?;
    mark(&metrics.phases.machine);

    let mut plugging = Plugging {
        vm: &vm,
        memory: &memory,
        events: Events::new().map_err(Failure::at("make the event loop"))?,
        metrics: &metrics,
        lines: Vec::new(),
        slots: Vec::new(),
    };
    for device in &configuration.devices {
        plugging.plug(devices::make(device, descriptors)?)?;
    }
    let Plugging { events, slots, .. } = plugging;
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
    Ok(Machine {
        devices: slots
            .iter()
            .map(|slot| Arc::clone(&slot.transport))
            .collect(),
        bus: Bus::new(slots, serial, Arc::clone(&metrics)),
        memory,
        events,
        vcpus,
        metrics,
        vm,
    })
}

fn make_vm(kvm: &Kvm, memory: &Memory) -> Result<VmFd, Failure> {
    for (capability, name) in [
        (Cap::Irqchip, "an interrupt controller"),
        (Cap::Irqfd, "interrupts by descriptor"),
        (Cap::Ioeventfd, "notifications by descriptor"),
        (Cap::UserMemory, "memory from a process"),
        (Cap::ImmediateExit, "immediate exits"),
    ] {
        if !kvm.check_extension(capability) {
            let why = format!("this host's KVM lacks {name}");
            return Err(Failure::new("make a virtual machine", why));
        }
    }
    let vm = kvm
        .create_vm()
        .map_err(Failure::at("make a virtual machine"))?;
    // For Intel's processors; others don't look at it.
    vm.set_identity_map_address(layout::IDENTITY_MAP)
        .map_err(Failure::at("place KVM's identity map"))?;
    vm.set_tss_address(layout::TASK_STATE as usize)
        .map_err(Failure::at("place KVM's task state"))?;
    memory
        .give_to(&vm)
        .map_err(Failure::at("give the virtual machine its memory"))?;
    vm.create_irq_chip()
        .map_err(Failure::at("make the interrupt controllers"))?;
    Ok(vm)
}

/// Puts devices on the bus, one after the other.
struct Plugging<'a> {
    vm: &'a VmFd,
    memory: &'a Memory,
    events: Events,
    metrics: &'a Arc<Shared>,
    /// What raises each interrupt line that there is for devices, as far as they are in use.
    lines: Vec<EventFd>,
    slots: Vec<Slot>,
}

impl Plugging<'_> {
    /// Gives a device its registers, its interrupt line, and what KVM signals when a queue is kicked. Its
    /// number is how many there were.
    fn plug(&mut self, device: Box<dyn Device>) -> Result<(), Failure> {
        let number = self.slots.len();
        let name = device.name();
        let doing = |what: &str| format!("{what} of the {name} device");
        let line = self.line(number, &doing("make the interrupt"))?;
        let counted = DeviceMetrics::new(self.metrics, number);
        let interrupt = Arc::new(Interrupt::new(line, counted.clone()));
        let parts = Parts {
            ram: Arc::clone(self.memory.view()),
            interrupt: Arc::clone(&interrupt),
            watch: self.events.watch_of_device(number),
            metrics: counted,
        };
        let transport =
            Transport::new(device, parts).map_err(Failure::at(doing("make the registers")))?;
        let address = IoEventAddress::Mmio(layout::device_address(number) + QUEUE_NOTIFY);
        for (queue, kick) in (0_u32..).zip(transport.kicks()) {
            self.vm
                .register_ioevent(kick, &address, queue)
                .map_err(Failure::at(doing("connect a queue")))?;
        }
        transport
            .watch_kicks()
            .map_err(Failure::at(doing("watch the queues")))?;
        self.slots.push(Slot {
            transport: Arc::new(Mutex::new(transport)),
            interrupt,
        });
        Ok(())
    }

    /// What raises a device's interrupt line. Devices that share a line share the event, too: KVM raises
    /// and lowers a line in two steps, and where two did so at a time, one's interrupt could be lost in
    /// the other's.
    fn line(&mut self, number: usize, doing: &str) -> Result<EventFd, Failure> {
        let line = layout::device_line(number);
        let index = (line - layout::FIRST_LINE) as usize;
        if index == self.lines.len() {
            self.lines.push(event(self.vm, line, doing)?);
        }
        match self.lines.get(index) {
            Some(event) => event.try_clone().map_err(Failure::at(doing)),
            None => Err(Failure::new(doing, format!("line {line} is out of order"))),
        }
    }
}

/// Has KVM itself take what a driver writes to acknowledge nothing but used buffers, which means
/// nothing to us (see [`crate::devices::interrupt`]): the guest is not left for it. KVM signals an event
/// for it, which nobody looks at, and keeps that when we have closed it.
fn acknowledge_in_kernel(vm: &VmFd, devices: usize) -> Result<(), Failure> {
    const DOING: &str = "have acknowledgements taken by KVM";
    let nobodys =
        EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Failure::at(DOING))?;
    for number in 0..devices {
        let address = layout::device_address(number) + INTERRUPT_ACKNOWLEDGE;
        vm.register_ioevent(&nobodys, &IoEventAddress::Mmio(address), USED)
            .map_err(Failure::at(DOING))?;
    }
    Ok(())
}

/// An event that raises an interrupt line.
fn event(vm: &VmFd, line: u32, doing: &str) -> Result<EventFd, Failure> {
    let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Failure::at(doing))?;
    vm.register_irqfd(&event, line)
        .map_err(Failure::at(doing))?;
    Ok(event)
}

fn make_serial(vm: &VmFd, output: OwnedFd) -> Result<Serial, Failure> {
    let line = event(vm, layout::SERIAL_LINE, "make the serial line's interrupt")?;
    Serial::new(File::from(output), line).map_err(Failure::at("make the serial line"))
}

fn make_vcpus(kvm: &Kvm, vm: &VmFd, configuration: &Configuration) -> Result<Vec<VcpuFd>, Failure> {
    let cpus = &configuration.cpus;
    let topology = Topology {
        cpus: cpus.most,
        threads_per_core: cpus.threads_per_core,
    };
    let template =
        Template::new(kvm, cpus.model, topology).map_err(Failure::at("choose the processor"))?;
    let mut vcpus = Vec::new();
    for number in 0..cpus.most {
        let doing = || format!("make virtual CPU {number}");
        let vcpu = vm
            .create_vcpu(number.into())
            .map_err(Failure::at(doing()))?;
        let cpuid = template.of(number).map_err(Failure::at(doing()))?;
        vcpu.set_cpuid2(&cpuid).map_err(Failure::at(doing()))?;
        registers::set_msrs(&vcpu).map_err(Failure::at(doing()))?;
        if number == 0 {
            registers::set_local_apic(&vcpu).map_err(Failure::at(doing()))?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}
