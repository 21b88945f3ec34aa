//! The machine by QEMU's `microvm`.

use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use rig::command;
use rig::qemu::Qemu;
use rig::transcript::Transcript;
use trefoil_agent_protocol::command_line;

use super::wires::Wires;
use super::{End, LAST_LINES, Machine, Process};

struct Running {
    child: Child,
    said: Option<JoinHandle<()>>,
    transcript: Transcript,
}

/// Starts it.
pub(super) fn start(machine: &Machine) -> Result<(Box<dyn Process>, Wires)> {
    // Any number from 3 on; our own process's is nobody else's.
    let cid = 1000 + std::process::id();
    let wires = Wires::of_kernel(cid)?;
    let mut child = command(machine, cid)?.spawn().context("starting QEMU")?;
    let transcript = machine.transcript.clone();
    let said = child
        .stderr
        .take()
        .map(|pipe| transcript.follow(pipe, |_| {}));
    let running = Running {
        child,
        said,
        transcript,
    };
    Ok((Box::new(running), wires))
}

fn command(machine: &Machine, cid: u32) -> Result<Command> {
    let serial = if machine.console { "on" } else { "off" };
    let mut words = machine.words(command_line::TRIPLE_FAULT);
    if machine.cpus < machine.most_cpus {
        words.push_str(&format!(" maxcpus={}", machine.cpus));
    }
    let mut qemu = Qemu::ensure()?.command();
    qemu.arg("-M")
        // Nothing that the guest kernel has no driver for.
        .arg(format!(
            "microvm,acpi=off,accel=kvm,pit=off,pic=off,rtc=off,isa-serial={serial},auto-kernel-cmdline=on"
        ))
        .args(["-cpu", "host", "-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none"])
        .args(["-smp", &machine.most_cpus.to_string()])
        .args(["-m", &machine.memory.to_string()])
        // Version 1 of virtio, as ours; the old one is QEMU's default for virtio-mmio.
        .args(["-global", "virtio-mmio.force-legacy=false"])
        .arg("-kernel")
        .arg(&machine.images.kernel)
        .arg("-initrd")
        .arg(&machine.images.image)
        .args(["-append", &words])
        .arg("-device")
        .arg(format!("vhost-vsock-device,guest-cid={cid}"))
        .args(["-device", "virtio-rng-device"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for (number, disk) in machine.disks.iter().enumerate() {
        let read_only = if disk.read_only { "on" } else { "off" };
        qemu.arg("-drive")
            .arg(format!(
                "if=none,id=disk{number},format=raw,discard=unmap,read-only={read_only},file={}",
                disk.file.display()
            ))
            .arg("-device")
            .arg(format!(
                "virtio-blk-device,drive=disk{number},serial={}",
                disk.serial
            ));
    }
    let mut inherited = Vec::new();
    for (number, nic) in machine.nics.iter().enumerate() {
        let tap = nic.tap.as_raw_fd();
        inherited.push(tap);
        let mac = nic.mac.map(|byte| format!("{byte:02x}")).join(":");
        qemu.arg("-netdev")
            .arg(format!("tap,id=net{number},fd={tap}"))
            .arg("-device")
            .arg(format!(
                "virtio-net-device,netdev=net{number},mac={mac},host_mtu={}",
                nic.mtu
            ));
    }
    if machine.console {
        qemu.args(["-serial", "file:/proc/self/fd/2"]);
    }
    hand_down(&mut qemu, inherited);
    command::end_with_us(&mut qemu);
    Ok(qemu)
}

/// Has a program inherit descriptors, by their own numbers.
fn hand_down(command: &mut Command, descriptors: Vec<RawFd>) {
    let keep = move || {
        for &descriptor in &descriptors {
            // SAFETY: it is open: whoever starts the program holds it.
            let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec this makes system calls and nothing else.
    unsafe { command.pre_exec(keep) };
}

impl Process for Running {
    fn ended(&mut self) -> Result<Option<End>> {
        Ok(self.child.try_wait()?.map(End::Qemu))
    }

    fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn last_lines(&mut self) -> String {
        // All of it is there when the process is gone.
        if let Some(reader) = self.said.take() {
            drop(reader.join());
        }
        self.transcript.last_lines(LAST_LINES)
    }
}
