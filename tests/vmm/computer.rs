//! The machine around the devices: processors, memory, time, and how it ends.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use trefoil_vmm::exit::{Exit, Stop};

use crate::vmm::{Body, Setting};

pub const TRIALS: &[(&str, Body)] = &[
    ("machine::nothing_is_wrong", nothing_is_wrong),
    ("machine::memory", memory),
    ("machine::processors", processors),
    ("machine::spare_processors", spare_processors),
    ("machine::time", time),
    ("machine::restart", restart),
    ("machine::crash", crash),
    ("machine::triple_fault", triple_fault),
];

fn nothing_is_wrong(setting: &Setting) -> Result<()> {
    let mut guest = setting.machine().boot(setting.vmm)?;
    let log = guest.probe.log()?;
    for bad in ["WARNING: CPU", "BUG:", "Call Trace", "trefoil-probe:"] {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(bad)).collect();
        ensure!(lines.is_empty(), "the kernel says:\n{}", lines.join("\n"));
    }
    guest.power_off()
}

fn memory(setting: &Setting) -> Result<()> {
    // The last one has a part above 4 GiB.
    for mib in [64, 1024, 4096] {
        let mut machine = setting.machine();
        machine.memory = mib;
        let mut guest = machine.boot(setting.vmm)?;
        let total: u64 = guest.probe.memory()?.get("total")?;
        let given = u64::from(mib) << 20;
        // The kernel keeps some for itself, more where there is more.
        let expected = given - given / 24 - (24 << 20);
        ensure!(
            total <= given && total >= expected,
            "of {given} bytes the guest has {total}"
        );
        // Linux takes what is above 4 GiB first. Where KVM is emulated, a gigabyte takes minutes.
        let most = match rig::test_vm::inside() {
            true => 256 << 20,
            false => u64::MAX,
        };
        guest.probe.fill_memory((total / 4).min(most), 1)?;
        guest.power_off()?;
    }
    Ok(())
}

fn processors(setting: &Setting) -> Result<()> {
    let mut machine = setting.machine();
    (machine.cpus, machine.most_cpus) = (4, 4);
    let mut guest = machine.boot(setting.vmm)?;
    let online = guest.probe.cpus()?.text("online")?.to_owned();
    ensure!(online == "0-3", "the guest has the processors {online}");
    for number in 0..4 {
        // Leaf 1 has the APIC's number in the highest byte of EBX, and in ECX that there is a
        // hypervisor.
        let [_, ebx, ecx, _] = guest.probe.cpuid(1, 0, number)?;
        ensure!(ebx >> 24 == number, "processor {number} is {}", ebx >> 24);
        ensure!(ecx >> 31 == 1, "processor {number} has no hypervisor");
    }
    guest.power_off()
}

fn spare_processors(setting: &Setting) -> Result<()> {
    let mut machine = setting.machine();
    machine.most_cpus = 3;
    let mut guest = machine.boot(setting.vmm)?;
    let online = |guest: &mut crate::vmm::machine::Guest| -> Result<String> {
        Ok(guest.probe.cpus()?.text("online")?.to_owned())
    };
    ensure!(online(&mut guest)? == "0", "{}", online(&mut guest)?);
    guest.probe.cpu_online(2, true)?;
    guest.probe.cpu_online(1, true)?;
    ensure!(online(&mut guest)? == "0-2", "{}", online(&mut guest)?);
    guest.probe.cpuid(1, 0, 2)?;
    guest.probe.cpu_online(1, false)?;
    ensure!(online(&mut guest)? == "0,2", "{}", online(&mut guest)?);
    guest.probe.cpu_online(1, true)?;
    guest.power_off()
}

/// The guest's clock is the host's, from the start on.
fn time(setting: &Setting) -> Result<()> {
    let mut guest = setting.machine().boot(setting.vmm)?;
    let before = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let facts = guest.probe.time()?;
    let after = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let source = facts.text("source")?;
    ensure!(
        source == "kvm-clock" || source == "tsc",
        "the clock is {source}"
    );
    let real = Duration::from_nanos(facts.get("real")?);
    // KVM tells the time to the second.
    let slack = Duration::from_secs(2);
    ensure!(
        real + slack >= before && real <= after + slack,
        "it is {real:?} in the guest, and between {before:?} and {after:?} here"
    );
    // And goes as fast.
    let (first, began) = (facts.get::<u64>("uptime")?, SystemTime::now());
    std::thread::sleep(Duration::from_secs(2));
    let second: u64 = guest.probe.time()?.get("uptime")?;
    let there = Duration::from_nanos(second - first);
    let here = began.elapsed()?;
    ensure!(
        there < here * 3 / 2 && here < there * 3 / 2,
        "{there:?} went by in the guest, and {here:?} here"
    );
    guest.power_off()
}

fn restart(setting: &Setting) -> Result<()> {
    setting
        .machine()
        .boot(setting.vmm)?
        .end_by("restart")?
        .expect(|exit| *exit == Exit::Done(Stop::Reset))
}

fn crash(setting: &Setting) -> Result<()> {
    setting
        .machine()
        .boot(setting.vmm)?
        .end_by("crash")?
        .expect(|exit| *exit == Exit::Done(Stop::Reset))
}

/// On AMD's processors KVM resets the virtual CPU before it tells, and nothing is left to see.
fn triple_fault(setting: &Setting) -> Result<()> {
    let amd = std::fs::read_to_string("/proc/cpuinfo")?.contains("AuthenticAMD");
    setting
        .machine()
        .boot(setting.vmm)?
        .end_by("triple-fault")?
        .expect(|exit| match exit {
            Exit::Done(Stop::TripleFault { registers: None }) => amd,
            // In the kernel, with paging, in long mode.
            Exit::Done(Stop::TripleFault {
                registers: Some(at),
            }) => !amd && at.rip >> 63 == 1 && at.cr0 >> 31 == 1 && at.efer & 0x500 == 0x500,
            _ => false,
        })
}
