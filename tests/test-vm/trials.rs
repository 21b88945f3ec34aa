//! The test VM, asked as a user asks it: by its command line.
//!
//!     cargo test -p trefoil-tests --test test-vm-trials -- [part of a trial's name]
//!
//! Each trial has a directory of its own in which test VMs are made, and which must be empty after
//! it: of what a test VM leaves, whatever ended it. How fast one starts is told, and no trial.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use rig::command::{self, Finished};
use rig::leftovers;
use rig::qemu::Qemu;
use rig::rerun::Reruns;
use rig::test_vm::debian_kernel::DebianKernel;

type Body = fn(&Env) -> Result<()>;

const TRIALS: &[(&str, Body)] = &[
    ("test_vm::is_what_it_is_for", is_what_it_is_for),
    ("test_vm::has_what_was_asked_for", has_what_was_asked_for),
    ("test_vm::large_output_and_signal", large_output_and_signal),
    ("test_vm::read_only", read_only),
    ("test_vm::systemd", systemd),
    ("test_vm::counts_instructions", counts_instructions),
    ("test_vm::ends_at_its_limit", ends_at_its_limit),
    ("test_vm::panic_is_reported", panic_is_reported),
    ("test_vm::no_such_command", no_such_command),
    ("test_vm::interrupted", interrupted),
    ("test_vm::killed", killed),
    (
        "test_vm::missing_package_is_named",
        missing_package_is_named,
    ),
    ("test_vm::wrong_options", wrong_options),
];

/// What the test VM answers when it was not the command that failed.
const VM_FAILED: i32 = 125;

/// No test VM of these takes so long.
const LIMIT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let reruns = Arc::new(Reruns::default());
    let trials = TRIALS
        .iter()
        .map(|&(name, body)| {
            let reruns = reruns.clone();
            Trial::test(name, move || {
                reruns
                    .attempt(name, &|| attempt(name, body), None)
                    .map_err(Failed::from)
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    reruns.tell();
    conclusion.exit_code()
}

/// What a trial has.
struct Env {
    /// For its own files.
    files: PathBuf,
    /// Where its test VMs are made.
    vms: PathBuf,
}

fn attempt(name: &str, body: Body) -> Result<()> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name.replace("::", "-"));
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    let env = Env {
        files: directory.join("files"),
        vms: directory.join("test-vms"),
    };
    fs::create_dir_all(&env.files)?;
    fs::create_dir_all(&env.vms)?;
    body(&env)?;
    let left = env.made()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    fs::remove_dir_all(directory).context("removing the trial's files")
}

impl Env {
    /// `test-vm` and a command line.
    fn vm(&self, arguments: &[&str]) -> Command {
        let mut vm = Command::new(env!("CARGO_BIN_EXE_test-vm"));
        vm.env("TREFOIL_TEST_DIR", &self.vms)
            .arg("--transcript")
            .arg(self.files.join("transcript"))
            .args(arguments);
        vm
    }

    fn run(&self, arguments: &[&str]) -> Result<Finished> {
        command::run(&mut self.vm(arguments), b"", LIMIT)
    }

    fn file(&self, name: &str) -> String {
        self.files.join(name).to_string_lossy().into_owned()
    }

    /// The directories of test VMs that are there.
    fn made(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.vms)?;
        entries.map(|entry| Ok(entry?.path())).collect()
    }
}

/// An error that shows all a test VM said, unless it ended with this code.
fn ended(vm: &Finished, code: i32) -> Result<()> {
    ensure!(
        vm.code() == code,
        "`{}` ended with {}, not {code}; it printed {:?} and said {}",
        vm.command,
        vm.code(),
        command::tail(&vm.stdout(), 1000),
        vm.stderr()
    );
    Ok(())
}

fn says(vm: &Finished, parts: &[&str]) -> Result<()> {
    let said = vm.stderr();
    for part in parts {
        ensure!(said.contains(part), "nothing of {part:?} in: {said}");
    }
    Ok(())
}

fn is_what_it_is_for(env: &Env) -> Result<()> {
    let vm = env.run(&[
        "uname -r; ls -l /dev/kvm; stat -fc %T /sys/fs/cgroup; \
         ls /dev/kvm /dev/vhost-vsock /dev/mapper/control; cat /sys/module/kvm_amd/parameters/npt; \
         iptables -t nat -A POSTROUTING -j MASQUERADE && iptables -t nat -S POSTROUTING; pwd; exit 7",
    ])?;
    ended(&vm, 7)?;
    let printed = vm.stdout();
    let lines: Vec<&str> = printed.lines().collect();
    let [
        kernel,
        kvm,
        "cgroup2fs",
        "/dev/kvm",
        "/dev/mapper/control",
        "/dev/vhost-vsock",
        nested_paging,
        rules @ ..,
        directory,
    ] = lines.as_slice()
    else {
        anyhow::bail!("it printed {printed}and said {}", vm.stderr());
    };
    ensure!(
        kernel.starts_with("6.12") && kvm.starts_with('c'),
        "{printed}"
    );
    ensure!(matches!(*nested_paging, "Y" | "1"), "{printed}");
    ensure!(rules.contains(&"-A POSTROUTING -j MASQUERADE"), "{printed}");
    let here = std::env::current_dir()?;
    ensure!(Path::new(directory) == here, "it started in {directory}");
    // "test-vm: the command started after 6.6 s and ended with 7 after 7.1 s"
    let said = vm.stderr();
    let figure = said.lines().find(|line| line.contains("started after"));
    println!("{}", figure.context("how long it took isn't told")?);
    Ok(())
}

fn has_what_was_asked_for(env: &Env) -> Result<()> {
    let (disk, hot) = (env.file("disk"), env.file("hot"));
    fs::write(&disk, vec![b'.'; 1 << 20])?;
    fs::create_dir(&hot)?;
    fs::write(Path::new(&hot).join("file"), "as it was")?;
    let script = format!(
        "set -e; nproc; awk '/MemTotal/ {{ print int($2 / 1024) }}' /proc/meminfo
         blockdev --getsize64 /dev/vda; mke2fs -q /dev/vda; mount /dev/vda /mnt; rmdir /mnt/lost+found
         head -c 7 /dev/vdb; printf changed | dd of=/dev/vdb conv=notrunc status=none; sync; echo
         cat {hot}/file; echo; stat -f -c %T {hot}; touch /etc/only-here; stat -f -c %T /var/tmp"
    );
    let vm = env.run(&[
        "--cpus", "3", "--memory", "1500", "--disk", "64M", "--disk", &disk, "--hot", &hot, &script,
    ])?;
    ended(&vm, 0)?;
    let printed = vm.stdout();
    let lines: Vec<&str> = printed.lines().collect();
    let [
        "3",
        memory,
        size,
        ".......",
        "as it was",
        "ext2/ext3",
        "tmpfs",
    ] = lines.as_slice()
    else {
        anyhow::bail!("it printed {printed}");
    };
    let memory: u32 = memory.parse()?;
    ensure!((1300..=1500).contains(&memory), "{memory} MiB of memory");
    ensure!(*size == (64 << 20).to_string(), "a disk of {size} bytes");
    ensure!(
        fs::read(&disk)?.starts_with(b"changed."),
        "what was written to an existing disk is gone"
    );
    ensure!(
        !Path::new("/etc/only-here").exists(),
        "the test VM wrote to this machine's root"
    );
    Ok(())
}

fn large_output_and_signal(env: &Env) -> Result<()> {
    const LAST: u32 = 1_200_000;
    let vm = env.run(&[&format!("seq {LAST}; kill -9 $$")])?;
    ended(&vm, 128 + Signal::SIGKILL as i32)?;
    let expected: String = (1..=LAST).map(|number| format!("{number}\n")).collect();
    ensure!(
        vm.stdout == expected.as_bytes(),
        "of {} bytes {} came, or not as they were",
        expected.len(),
        vm.stdout.len()
    );
    Ok(())
}

fn read_only(env: &Env) -> Result<()> {
    let vm = env.run(&[
        "--read-only",
        "touch /etc/x && exit 1; touch /usr/x && exit 2; \
         touch /tmp/x /run/x /var/tmp/x /dev/shm/x || exit 3",
    ])?;
    ended(&vm, 0)?;
    ensure!(
        vm.stdout()
            .matches("/etc/x': Read-only file system")
            .count()
            == 1,
        "{}",
        vm.stdout()
    );
    Ok(())
}

fn systemd(env: &Env) -> Result<()> {
    let vm = env.run(&[
        "--systemd",
        "cat /proc/1/comm; stat -fc %T /sys/fs/cgroup; \
         systemd-run --quiet --scope --unit trial sh -c 'cat /proc/self/cgroup; exit 5'",
    ])?;
    ended(&vm, 5)?;
    ensure!(
        vm.stdout() == "systemd\ncgroup2fs\n0::/system.slice/trial.scope\n",
        "{}",
        vm.stdout()
    );
    Ok(())
}

/// The same work takes the same time in two test VMs, by the test VMs' clocks: at its best of ten times,
/// as the kernel does other things meanwhile.
fn counts_instructions(env: &Env) -> Result<()> {
    let time = || -> Result<u64> {
        let vm = env.run(&[
            "--icount",
            "nproc; for n in {1..10}; do a=${EPOCHREALTIME/./}; for i in {1..5000}; do :; done; \
             echo $((${EPOCHREALTIME/./} - a)); done",
        ])?;
        ended(&vm, 0)?;
        let printed = vm.stdout();
        let times = printed.strip_prefix("1\n").context("more than one CPU")?;
        let times: Vec<u64> = times.lines().map(str::parse).collect::<Result<_, _>>()?;
        times.into_iter().min().context("no times")
    };
    let (one, other) = (time()?, time()?);
    ensure!(
        one.abs_diff(other) * 1000 < one,
        "the same work took {one} µs and {other} µs"
    );
    Ok(())
}

fn ends_at_its_limit(env: &Env) -> Result<()> {
    let vm = env.run(&[
        "--limit",
        "60",
        "echo it goes on; echo the kernel heard it >/dev/kmsg; sleep 1000",
    ])?;
    ended(&vm, VM_FAILED)?;
    says(
        &vm,
        &["still running in the test VM after 60s", "it goes on"],
    )?;
    let transcript = fs::read_to_string(env.file("transcript"))?;
    ensure!(transcript.contains("it goes on"), "{transcript}");
    Ok(())
}

fn panic_is_reported(env: &Env) -> Result<()> {
    let vm = env.run(&["echo so far; echo c >/proc/sysrq-trigger; sleep 1000"])?;
    ended(&vm, VM_FAILED)?;
    says(
        &vm,
        &[
            "so far",
            "Kernel panic - not syncing: sysrq triggered crash",
        ],
    )
}

fn no_such_command(env: &Env) -> Result<()> {
    let vm = env.run(&["no-such-command", "at all"])?;
    ended(&vm, VM_FAILED)?;
    says(&vm, &["starting \"no-such-command\"", "No such file"])
}

/// Ctrl-C: the terminal signals everyone who is on it.
fn interrupted(env: &Env) -> Result<()> {
    end_with(env, |vm| Ok(killpg(vm, Signal::SIGINT)?))
}

fn killed(env: &Env) -> Result<()> {
    end_with(env, |vm| Ok(kill(vm, Signal::SIGKILL)?))
}

/// Ends a test VM whose command runs, in some way, and looks for what is left of it.
fn end_with(env: &Env, end: impl FnOnce(Pid) -> Result<()>) -> Result<()> {
    let printed = env.files.join("printed");
    let mut vm = env
        .vm(&["echo it runs; sleep 1000"])
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(File::create(&printed)?)
        .stderr(Stdio::null())
        .spawn()?;
    let outcome = end_running(env, &printed, &mut vm, end);
    // If not as it should, then so.
    drop(vm.kill());
    drop(vm.wait());
    outcome
}

fn end_running(
    env: &Env,
    printed: &Path,
    vm: &mut Child,
    end: impl FnOnce(Pid) -> Result<()>,
) -> Result<()> {
    command::until("starting a test VM's command", LIMIT, || {
        Ok(fs::read(printed)? == b"it runs\n")
    })?;
    let made = env.made()?;
    let [directory] = made.as_slice() else {
        anyhow::bail!("one test VM has made {made:?}");
    };
    let running = leftovers::processes(directory)?;
    ensure!(
        running.iter().any(|process| process.line.contains("qemu")),
        "no QEMU among the test VM's processes"
    );
    end(Pid::from_raw(i32::try_from(vm.id())?))?;
    command::until("the end of `test-vm`", LIMIT, || {
        Ok(vm.try_wait()?.is_some())
    })?;
    // Its guard is at it.
    command::until("the end of what it made", LIMIT, || {
        Ok(leftovers::processes(directory)?.is_empty() && !directory.exists())
    })
}

/// Where a package's program is missing, its name is what one needs to know.
fn missing_package_is_named(env: &Env) -> Result<()> {
    // Fetching them takes other programs.
    Qemu::ensure()?;
    DebianKernel::ensure()?;
    let bare = env.file("bin");
    fs::create_dir(&bare)?;
    symlink(program("cp")?, Path::new(&bare).join("cp"))?;
    let mut vm = env.vm(&["--hot", &bare, "true"]);
    let vm = command::run(vm.env("PATH", &bare), b"", LIMIT)?;
    ended(&vm, VM_FAILED)?;
    says(&vm, &["package e2fsprogs"])?;

    // Somebody who can't install them is told of all.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("rig/prerequisites.sh");
    let mut setpriv = Command::new(program("setpriv")?);
    setpriv
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program("sh")?)
        .arg("-s")
        .env("PATH", "/nonexistent")
        .current_dir("/");
    let refused = command::run(&mut setpriv, &fs::read(script)?, LIMIT)?;
    ensure!(refused.code() != 0, "{}", refused.stdout());
    says(&refused, &["only root can install it", "xz-utils", "flex"])
}

/// The path of a program of this machine.
fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| fs::metadata(file).is_ok_and(|data| data.permissions().mode() & 0o111 != 0))
        .with_context(|| format!("there is no {name}"))
}

fn wrong_options(env: &Env) -> Result<()> {
    for (arguments, part) in [
        (["--nonsense", "true"].as_slice(), "--nonsense"),
        (&["--cpus", "many", "true"], "--cpus"),
        (&["--disk", "7", "true"], "neither a size"),
        (&["--limit"], "--limit needs a value"),
        (&[], "a shell needs a terminal"),
    ] {
        let vm = env.run(arguments)?;
        ended(&vm, VM_FAILED)?;
        says(&vm, &[part])?;
    }
    Ok(())
}
