//! The jail around our VMM, looked at from outside while its guest runs.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use rig::probe::pattern::ZEROES;
use rig::{cgroup, command, ptrace};
use trefoil_vmm::devices::block::MOST_WORKERS;
use trefoil_vmm::exit::Exit;

use crate::vmm::lan::{Lan, MAC};
use crate::vmm::machine::ours::{DESCRIPTORS, GID, UID};
use crate::vmm::machine::{Disk, Machine, Nic};
use crate::vmm::scratch::Scratch;
use crate::vmm::{Body, Setting};

pub const TRIALS: &[(&str, Body)] = &[
    ("jail::from_outside", from_outside),
    ("jail::forbidden_call", forbidden_call),
    ("jail::crash", crash),
    ("jail::ends_with_its_parent", ends_with_its_parent),
];

const LIMIT: Duration = Duration::from_secs(60);
const DISK: u64 = 4 << 20;

/// What a process and each of its threads is, by the names in `/proc/PID/status`.
type Status = BTreeMap<String, String>;

fn status(directory: &Path) -> Result<Status> {
    let text = fs::read_to_string(directory.join("status"))?;
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    Ok(fields
        .map(|(name, value)| {
            let words: Vec<&str> = value.split_whitespace().collect();
            (name.to_owned(), words.join(" "))
        })
        .collect())
}

/// The directories of a process's own threads in `/proc`.
fn threads(process: &Path) -> Result<Vec<PathBuf>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(process.join("task"))? {
        let thread = entry?.path();
        if !is_kernels(&thread)? {
            threads.push(thread);
        }
    }
    threads.sort();
    Ok(threads)
}

/// Whether the kernel has made it to do its own work, which it never leaves.
fn is_kernels(thread: &Path) -> Result<bool> {
    /// `PF_USER_WORKER`.
    const WORKER: u32 = 0x4000;
    let text = fs::read_to_string(thread.join("stat"))?;
    let (_, fields) = text.rsplit_once(')').context("a thread has no name")?;
    let flags: u32 = fields
        .split_whitespace()
        .nth(6)
        .context("a thread has no flags")?
        .parse()?;
    Ok(flags & WORKER != 0)
}

fn from_outside(setting: &Setting) -> Result<()> {
    let scratch = Scratch::new()?;
    let lan = Lan::new()?;
    let mut machine = setting.machine();
    (machine.cpus, machine.most_cpus) = (2, 3);
    machine.disks.push(Disk {
        file: scratch.disk("disk", DISK, ZEROES)?,
        read_only: false,
        serial: "jailed".into(),
    });
    machine.nics.push(Nic {
        tap: lan.tap()?,
        mac: MAC,
        mtu: 1500,
    });
    let name = format!("trefoil-jail-{}", std::process::id());
    for root in cgroup::hierarchies()? {
        let cgroup = root.join(&name);
        fs::create_dir(&cgroup).with_context(|| format!("making {}", cgroup.display()))?;
        machine.cgroups.push(cgroup);
    }
    let looked = look(setting, &machine, &name);
    ensure!(
        cgroup::remove(&name)?,
        "somebody is left in the VMM's cgroup"
    );
    looked
}

fn look(setting: &Setting, machine: &Machine, cgroup: &str) -> Result<()> {
    let mut guest = machine.boot(setting.vmm)?;
    let (_, ours) = guest.parts()?;
    let process = PathBuf::from(format!("/proc/{}", ours.process.pid()));
    let threads = threads(&process)?;
    // One for each virtual CPU, the spare one too.
    ensure!(threads.len() == 4, "it has {} threads", threads.len());
    for thread in &threads {
        credentials(thread).with_context(|| format!("looking at {}", thread.display()))?;
    }
    namespaces(&process)?;
    root(&process)?;
    descriptors(&process, machine)?;
    limits(&process, threads.len())?;
    let found = fs::read_to_string(process.join("cgroup"))?;
    for line in found.lines() {
        ensure!(
            line.ends_with(&format!("/{cgroup}")),
            "its cgroup is {line}"
        );
    }
    for name in ["cmdline", "environ"] {
        let text = fs::read_to_string(process.join(name))?;
        let expected = if name == "cmdline" {
            "trefoil-vmm\0"
        } else {
            ""
        };
        ensure!(text == expected, "its {name} is {text:?}");
    }
    guest.power_off()
}

fn credentials(thread: &Path) -> Result<()> {
    let status = status(thread)?;
    let of_all = |id: u32| [id; 4].map(|id| id.to_string()).join(" ");
    for (name, expected) in [
        ("Uid", of_all(UID).as_str()),
        ("Gid", &of_all(GID)),
        ("Groups", ""),
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        // By a filter of its own.
        ("Seccomp", "2"),
        ("Seccomp_filters", "1"),
        ("Umask", "0077"),
    ] {
        let found = status.get(name).map(String::as_str);
        ensure!(found == Some(expected), "{name} is {found:?}");
    }
    // In its own namespace the process is the first.
    let ids = status.get("NStgid").map(String::as_str).unwrap_or_default();
    ensure!(ids.ends_with(" 1"), "its numbers are {ids}");
    Ok(())
}

fn namespaces(process: &Path) -> Result<()> {
    let of = |process: &Path, name: &str| fs::read_link(process.join("ns").join(name));
    let ours = Path::new("/proc/self");
    for name in ["pid", "mnt", "net", "ipc", "uts"] {
        ensure!(
            of(process, name)? != of(ours, name)?,
            "it shares our {name} namespace"
        );
    }
    let interfaces = fs::read_to_string(process.join("net/dev"))?;
    let names: Vec<&str> = interfaces
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim())
        .collect();
    ensure!(names == ["lo"], "its network has {names:?}");
    Ok(())
}

fn root(process: &Path) -> Result<()> {
    let mounts = fs::read_to_string(process.join("mountinfo"))?;
    let mounts: Vec<&str> = mounts.lines().collect();
    let [mount] = mounts.as_slice() else {
        anyhow::bail!("its mounts are {mounts:?}");
    };
    let options = mount.split(' ').nth(5).unwrap_or_default();
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        ensure!(
            options.split(',').any(|found| found == option),
            "its root is {options}"
        );
    }
    let entries = fs::read_dir(process.join("root"))?.count();
    ensure!(entries == 0, "its root has {entries} entries");
    let directory = fs::read_link(process.join("cwd"))?;
    ensure!(
        directory == Path::new("/"),
        "it is in {}",
        directory.display()
    );
    Ok(())
}

/// What its descriptors are, and how many of each kind lead out of it.
fn descriptors(process: &Path, machine: &Machine) -> Result<()> {
    let mut found = BTreeMap::<String, usize>::new();
    for entry in fs::read_dir(process.join("fd"))? {
        let target = fs::read_link(entry?.path())?;
        let target = target.to_string_lossy();
        let kind = match target.split_once(":[") {
            // The rest is a number.
            Some((kind @ ("pipe" | "socket"), _)) => kind,
            _ => &target,
        };
        *found.entry(kind.to_owned()).or_default() += 1;
    }
    let disk = machine.disks.first().context("no disk")?;
    let disk = disk.file.display().to_string();
    for (kind, count) in [
        ("/dev/null", 2),
        // The log and the serial line.
        ("pipe", 2),
        // The parent's, the host socket, and the probe's connection.
        ("socket", 3),
        ("/dev/net/tun", 1),
        (disk.as_str(), 1),
        ("/memfd:guest (deleted)", 1),
        ("anon_inode:kvm-vm", 1),
        ("anon_inode:kvm-vcpu:0", 1),
        ("anon_inode:kvm-vcpu:1", 1),
        ("anon_inode:kvm-vcpu:2", 1),
    ] {
        let there = found.remove(kind);
        ensure!(
            there == Some(count),
            "{there:?} of its descriptors are {kind}"
        );
    }
    // All others lead nowhere.
    for inward in ["eventfd", "eventpoll", "timerfd", "io_uring"] {
        found.remove(&format!("anon_inode:[{inward}]"));
    }
    ensure!(found.is_empty(), "it has more descriptors: {found:?}");
    Ok(())
}

fn limits(process: &Path, threads: usize) -> Result<()> {
    let limits = fs::read_to_string(process.join("limits"))?;
    // The kernel may make one for KVM and some for the disk.
    let threads = (threads + 1 + MOST_WORKERS as usize).to_string();
    for (name, expected) in [
        ("Max open files", DESCRIPTORS.to_string().as_str()),
        ("Max file size", &DISK.to_string()),
        ("Max processes", &threads),
        ("Max core file size", "0"),
        ("Max locked memory", "0"),
        ("Max msgqueue size", "0"),
        ("Max realtime priority", "0"),
    ] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        let values: Vec<&str> = line
            .unwrap_or_default()
            .split_whitespace()
            .take(2)
            .collect();
        ensure!(values == [expected, expected], "{name}: {values:?}");
    }
    Ok(())
}

/// The kinds of threads, by where they are in the list of all.
const THREADS: [(&str, usize); 2] = [("events", 0), ("vcpu", 1)];

/// Either kind of thread, made to call what its filter forbids, ends the VMM, which says so.
fn forbidden_call(setting: &Setting) -> Result<()> {
    for (name, thread) in THREADS {
        let mut guest = setting.machine().boot(setting.vmm)?;
        let (_, ours) = guest.parts()?;
        let thread = thread_of(ours.process.pid(), thread)?;
        ptrace::make_call(thread, libc::SYS_openat)?;
        let expected =
            format!("VMM: {name} thread: call openat (257): its seccomp filter forbids it");
        let exit = ours.process.wait_within(LIMIT)?;
        let exit = exit.map(|exit| exit.to_string());
        ensure!(exit == Some(expected), "it ended, but: {exit:?}");
        let said = guest.last_lines();
        let line = format!("trefoil-vmm: the {name} thread may not call openat (257): killed");
        ensure!(said.contains(&line), "its log says nothing of it: {said}");
    }
    Ok(())
}

/// A fault of the VMM's own is no end of the guest's.
fn crash(setting: &Setting) -> Result<()> {
    for (_, thread) in THREADS {
        let mut guest = setting.machine().boot(setting.vmm)?;
        let (_, ours) = guest.parts()?;
        let thread = thread_of(ours.process.pid(), thread)?;
        // Nothing is there.
        ptrace::change_registers(thread, |registers| registers.rip = 0)?;
        match ours.process.wait_within(LIMIT)? {
            Some(exit @ Exit::Failed(_)) if exit.to_string().contains("SIGSEGV") => {}
            exit => anyhow::bail!("it ended, but: {exit:?}"),
        }
    }
    Ok(())
}

fn thread_of(process: u32, number: usize) -> Result<Pid> {
    let threads = threads(Path::new(&format!("/proc/{process}")))?;
    let directory = threads.get(number).context("there is no such thread")?;
    let name = directory.file_name().unwrap_or_default();
    Ok(Pid::from_raw(name.to_string_lossy().parse()?))
}

/// What this program is called when it is a parent that will be killed.
pub const PARENTS_NAME: &str = "trefoil-vmm-parent";

/// Boots a machine, says its process's number, and waits to be killed.
pub fn be_parent() -> Result<()> {
    let images = rig::guest::Images::ensure()?;
    let mut guest = Machine::new(&images).boot(crate::vmm::machine::Vmm::Trefoil)?;
    println!("{}", guest.parts()?.1.process.pid());
    loop {
        std::thread::sleep(LIMIT);
    }
}

/// A parent that is killed leaves no VMM behind.
fn ends_with_its_parent(setting: &Setting) -> Result<()> {
    let mut parent = Command::new("/proc/self/exe")
        .arg0(PARENTS_NAME)
        .envs([setting.images.variable()?])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let pipe = parent.stdout.take().context("no pipe")?;
    BufReader::new(pipe).read_line(&mut line)?;
    let process = format!("/proc/{}", line.trim());
    let alive = !line.is_empty() && status(Path::new(&process)).is_ok();
    parent.kill()?;
    parent.wait()?;
    ensure!(alive, "the parent has booted no machine");
    command::until("the VMM ends with its parent", LIMIT, || {
        // Nobody here waits for it: it may be left as a zombie for whoever does.
        let state = status(Path::new(&process)).ok();
        let state = state.and_then(|mut status| status.remove("State"));
        Ok(state.is_none_or(|state| state.starts_with(['Z', 'X'])))
    })
}
