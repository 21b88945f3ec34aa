//! The test VM: a machine with a real KVM, pure cgroup v2 and all of a distribution's kernel, made
//! by QEMU where the host has none of it.
//!
//! Its processor is emulated (TCG), AMD's virtualisation with nested paging included; its kernel
//! is Debian's ([`debian_kernel`]); its root is the host's own over 9p, read-only under a
//! tmpfs overlay, so that everything is at its usual path and nothing outlives the test VM. What is
//! read often lies on block images ([`hot`]). Its PID 1 is this program again ([`init`]).
//!
//! [`TestVm::run`] runs one command in one. With [`TestVm::instructions`] all clocks inside count
//! instructions: one nanosecond each.

pub mod debian_kernel;
mod hot;
pub mod init;
mod job;
mod terminal;

use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use trefoil_guest::{cache, cpio};

use crate::containerd::make_directory;
use crate::leftovers::MARK;
use crate::qemu::Qemu;
use crate::transcript::Transcript;
use crate::{command, guard, part, rerun};
use debian_kernel::DebianKernel;
use job::{Hot, Job};
use terminal::Saved;

/// A disk that the test VM is to have besides its own.
#[derive(Clone, Debug)]
pub enum Disk {
    /// An empty one of so many bytes, gone with the test VM.
    Empty(u64),
    /// A file or device that is there; what is written to it stays.
    Existing(PathBuf),
}

/// A test VM to be started.
#[derive(Clone, Debug)]
pub struct TestVm {
    /// How many CPUs. With more than one, guests in the test VM may stand still: see
    /// [`Prepared::qemu`].
    pub cpus: u32,
    /// How much memory, in MiB.
    pub memory: u32,
    /// `/dev/vda` and so on.
    pub disks: Vec<Disk>,
    /// The root can't be written to.
    pub read_only: bool,
    /// One CPU, and one nanosecond of all clocks per instruction.
    pub instructions: bool,
    /// systemd as PID 1, for what asks it for cgroups.
    pub systemd: bool,
    /// After this it is ended, whatever it does.
    pub limit: Option<Duration>,
    /// Files and directories to put on a block image, besides the counterparts if they are built.
    pub hot: Vec<PathBuf>,
    /// Directories of the host that the test VM may write to.
    pub writable: Vec<PathBuf>,
    /// Where the command is started.
    pub directory: PathBuf,
    /// More of its environment.
    pub environment: Vec<(String, String)>,
    /// Where everything the test VM says is kept.
    pub transcript: PathBuf,
}

/// How a test VM's command ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code, or 128 plus the signal that ended it.
    pub code: u8,
    /// From before QEMU started until the command did.
    pub boot: Duration,
    /// All of it.
    pub wall: Duration,
}

/// The processor: as much of the one named as TCG can (and no word about the rest), with AMD's
/// virtualisation. Without XSAVE, and so without AVX: TCG lets a guest of the test VM set XCR0 without
/// telling the test VM's KVM, which then puts back what it knew, and the guest loses registers.
const PROCESSOR: &str = "EPYC,+svm,+npt,-xsave,-avx,-avx2,-fma,-f16c,check=off";

/// How many of a failed test VM's last lines an error shows.
const LAST_LINES: usize = 25;

impl Default for TestVm {
    fn default() -> Self {
        Self {
            cpus: 1,
            memory: 4096,
            disks: Vec::new(),
            read_only: false,
            instructions: false,
            systemd: false,
            limit: Some(Duration::from_secs(600)),
            hot: Vec::new(),
            writable: Vec::new(),
            directory: repository(),
            environment: Vec::new(),
            transcript: PathBuf::from("/dev/null"),
        }
    }
}

/// The directory of the work tree.
fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

impl TestVm {
    /// Runs a command in a new test VM. What it prints goes to `show` as it comes.
    ///
    /// An error means that the test VM failed, not the command: it says why, with the last lines of
    /// what was heard.
    pub fn run(&self, command: &[&str], show: impl FnMut(&[u8]) + Send + 'static) -> Result<Ended> {
        let prepared = Prepared::new(self, command, None)?;
        let mut qemu = prepared.qemu(self)?;
        // Not `stdio`: the end of standard input would disconnect the port.
        qemu.args(["-chardev", "file,id=output,path=/proc/self/fd/1"])
            .arg("-device")
            .arg(format!(
                "virtserialport,chardev=output,name={}",
                job::OUTPUT_PORT
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        prepared.watch(self, qemu, command.join(" "), show)
    }

    /// Runs this very program's part again in a new test VM, with these arguments, as `name` in reports.
    /// What it prints is shown; its exit code is answered.
    pub fn run_again(mut self, name: &str, arguments: &[String]) -> Result<ExitCode> {
        let reports = cache::directory()?.join("reports");
        fs::create_dir_all(&reports)?;
        self.transcript = reports.join(format!("test-vm-{name}.log"));
        self.writable.push(reports);
        let program = std::env::current_exe()?;
        let mut command = vec![program.to_string_lossy().into_owned()];
        command.extend(part::named().next());
        command.extend_from_slice(arguments);
        self.hot.push(program);
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let ended = match self.run(&words, show) {
            Err(error) if error.is::<Crash>() => {
                eprintln!(
                    "{error:#}\nQEMU crashed, not what runs in it: once more, in a new test VM"
                );
                self.run(&words, show)
            }
            outcome => outcome,
        };
        let ended = ended.with_context(|| format!("running {name} in a test VM"))?;
        Ok(ExitCode::from(ended.code))
    }

    /// Runs a command in a new test VM on our own terminal.
    pub fn run_on_terminal(&self, command: &[&str]) -> Result<Ended> {
        let terminal = Saved::of_standard_input()?;
        let prepared = Prepared::new(self, command, Some(terminal.size()))?;
        let mut qemu = prepared.qemu(self)?;
        // QEMU makes the terminal raw, and Ctrl-C a byte like any other.
        qemu.args(["-chardev", "stdio,id=output,signal=off"])
            .args(["-device", "virtconsole,chardev=output"]);
        prepared.watch(self, qemu, command.join(" "), |_| {})
    }
}

/// QEMU itself crashed, as it did once on 2026-11-26, in a test VM with many guests.
#[derive(Debug)]
pub struct Crash(String);

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Crash {}

/// A test VM's directory, with all that QEMU needs, and its guard.
struct Prepared {
    directory: PathBuf,
    qemu: Qemu,
    kernel: DebianKernel,
    /// In the order of `/dev/vda` and so on, with whether they are only read.
    disks: Vec<(PathBuf, bool)>,
    guard: Option<Child>,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("removing {}: {error}", self.directory.display());
        }
        if let Some(guard) = self.guard.take() {
            guard::dismiss(guard);
        }
    }
}

impl Prepared {
    fn new(vm: &TestVm, command: &[&str], terminal: Option<(u16, u16)>) -> Result<Self> {
        // A counted instruction must be the same wherever it is counted.
        let qemu = if vm.instructions {
            Qemu::ensure()?
        } else {
            Qemu::emulator()?
        };
        let kernel = DebianKernel::ensure()?;
        let directory = make_directory()?;
        let mut prepared = Self {
            guard: Some(guard::start(&directory)?),
            directory,
            qemu,
            kernel,
            disks: Vec::new(),
        };
        let at = |name: &str| prepared.directory.join(name);
        fs::create_dir(at("share"))?;
        initramfs(&prepared.kernel, &at("initramfs"))?;
        let mut disks = Vec::new();
        for disk in &vm.disks {
            disks.push(match disk {
                Disk::Existing(path) => (path.clone(), false),
                Disk::Empty(size) => {
                    let path = at(&format!("disk{}", disks.len()));
                    File::create(&path)?.set_len(*size)?;
                    (path, false)
                }
            });
        }
        let mut hot = Vec::new();
        let mut add = |image: PathBuf, paths: &[PathBuf]| {
            hot.push(Hot {
                device: device(disks.len()),
                paths: paths.to_vec(),
            });
            disks.push((image, true));
        };
        // Guests are booted by it, too.
        let qemu = [prepared.qemu.directory().to_owned()];
        add(hot::of_cache(&qemu)?, &qemu);
        let mut environment = environment(vm);
        if let Some(built) = crate::tools::find_built()? {
            add(hot::of_cache(&built)?, &built);
            let list = std::env::join_paths(&built)?.to_string_lossy().into_owned();
            environment.push((crate::tools::PREBUILT.to_owned(), list));
        }
        if !vm.hot.is_empty() {
            let image = at("hot.ext4");
            hot::image(&vm.hot, &image)?;
            add(image, &vm.hot);
        }
        let job = Job {
            command: command.iter().map(|&word| word.to_owned()).collect(),
            directory: vm.directory.clone(),
            environment,
            terminal,
            read_only: vm.read_only,
            systemd: vm.systemd,
            modules: prepared.kernel.modules(),
            hot,
            writable: vm.writable.clone(),
        };
        fs::write(job::file(&at("share")), serde_json::to_vec_pretty(&job)?)?;
        prepared.disks = disks;
        Ok(prepared)
    }

    fn qemu(&self, vm: &TestVm) -> Result<Command> {
        let mut qemu = self.qemu.command();
        qemu.args(["-M", "q35", "-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-cpu", PROCESSOR]);
        let clock = if vm.instructions {
            // Sleeping takes no time: the clock is moved to when somebody wants to wake.
            qemu.args(["-accel", "tcg", "-icount", "shift=0,sleep=off"])
                .args(["-rtc", "clock=vm,base=2026-01-01", "-smp", "1"])
                // What RDRAND answers is the same each time, too.
                .args(["-seed", "1"]);
            // Where things lie decides how many pages they touch.
            "tsc_early_khz=1000000 nokaslr norandmaps".to_owned()
        } else {
            // All processors in one thread of QEMU's, in turn. With a thread for each, one may
            // translate code anew while another patches it, and keep the old; and the test VM's
            // kernel patches itself all the time: now and then it crashed on a busy machine.
            //
            // In turn, what concerns one processor stops all of them, and that is bad for guests:
            // where `vmrun` injects an interrupt, QEMU (10.0 to 11.1) keeps it as an exception that
            // is to be raised, until the guest next exits; a processor that is stopped before
            // raises it once more, whether the guest has disabled interrupts or not. One processor
            // alone is stopped for its own interrupts only, which end the guest's turn first. The
            // QEMU that is built keeps no such exception, but there may be none.
            qemu.args(["-accel", "tcg,thread=single"])
                .args(["-smp", &vm.cpus.to_string()]);
            format!("tsc_early_khz={}", time_stamp_khz())
        };
        let share = |tag: &str, path: &Path, more: &str| {
            format!(
                "local,path={},mount_tag={tag},security_model=none,multidevs=remap{more}",
                escaped(path)
            )
        };
        qemu.args(["-m", &vm.memory.to_string()])
            .arg("-kernel")
            .arg(self.kernel.image()?)
            .arg("-initrd")
            .arg(self.directory.join("initramfs"))
            .arg("-append")
            .arg(format!(
                // On a busy machine the timer's test waits in vain, and the kernel gives up.
                "console=ttyS0 quiet panic=-1 rdinit=/init mitigations=off tsc=reliable {clock} \
                 no_timer_check cgroup_no_v1=all random.trust_cpu=on net.ifnames=0"
            ))
            .arg("-virtfs")
            .arg(share(job::ROOT_TAG, Path::new("/"), ",readonly=on"))
            .arg("-virtfs")
            .arg(share(job::SHARE_TAG, &self.directory.join("share"), ""))
            .args(["-device", "virtio-serial-pci"])
            // What the kernel says, and QEMU's own complaints.
            .args(["-serial", "file:/proc/self/fd/2"])
            .stderr(Stdio::piped());
        for (number, path) in vm.writable.iter().enumerate() {
            qemu.arg("-virtfs")
                .arg(share(&job::writable_tag(number), path, ""));
        }
        for (path, read_only) in &self.disks {
            qemu.arg("-drive").arg(format!(
                "if=virtio,format=raw,file={}{}",
                escaped(path),
                if *read_only { ",readonly=on" } else { "" }
            ));
        }
        // By this the guard knows it, should we be gone.
        qemu.env(MARK, &self.directory);
        command::end_with_us(&mut qemu);
        Ok(qemu)
    }

    /// Whether the command was started.
    fn started(&self) -> bool {
        self.directory.join("share/started").exists()
    }

    /// Starts QEMU and sees it through to its end.
    fn watch(
        &self,
        vm: &TestVm,
        mut qemu: Command,
        what: String,
        show: impl FnMut(&[u8]) + Send + 'static,
    ) -> Result<Ended> {
        let started = Instant::now();
        let transcript = Transcript::create(&vm.transcript)?;
        let mut child = qemu.spawn().context("starting QEMU")?;
        let mut readers = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            readers.push(transcript.follow(pipe, show));
        }
        if let Some(pipe) = child.stderr.take() {
            readers.push(transcript.follow(pipe, |_| {}));
        }
        let share = self.directory.join("share");
        let exit_file = job::exit_file(&share);
        let mut boot = None;
        let mut late = false;
        let status = loop {
            if boot.is_none() && self.started() {
                boot = Some(started.elapsed());
            }
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if vm.limit.is_some_and(|limit| started.elapsed() > limit) {
                late = true;
                child.kill()?;
            }
            thread::sleep(Duration::from_millis(20));
        };
        for reader in readers {
            drop(reader.join());
        }
        let wall = started.elapsed();
        let code = fs::read_to_string(&exit_file).unwrap_or_default();
        match (code.trim().parse(), boot) {
            (Ok(code), boot) => Ok(Ended {
                code,
                boot: boot.unwrap_or(wall),
                wall,
            }),
            (Err(_), boot) => {
                let said = transcript.last_lines(LAST_LINES);
                let limit = vm.limit.unwrap_or_default();
                match (late, boot) {
                    (true, Some(_)) => {
                        bail!("`{what}` was still running in the test VM after {limit:?}; {said}")
                    }
                    (true, None) => {
                        bail!("the test VM had not started `{what}` after {limit:?}; {said}")
                    }
                    (false, _) => {
                        let why = format!(
                            "the test VM ended ({status}) before `{what}` did, after {wall:.1?}; {said}"
                        );
                        Err(match status.signal() {
                            Some(libc::SIGSEGV | libc::SIGBUS | libc::SIGABRT) => Crash(why).into(),
                            _ => anyhow!(why),
                        })
                    }
                }
            }
        }
    }
}

/// Whether we are in a test VM ourselves.
pub fn inside() -> bool {
    job::file(Path::new(job::SHARE)).exists()
}

/// Shows what a command in the test VM prints as if it ran here.
pub fn show(bytes: &[u8]) {
    let mut out = std::io::stdout();
    // Whoever read it may have gone.
    drop(out.write_all(bytes).and_then(|()| out.flush()));
}

/// How fast this machine's time stamp counter counts, which is also the test VM's: measured here,
/// because a test VM on a busy machine measures it wrongly, and its clock then runs at another speed.
fn time_stamp_khz() -> u64 {
    // SAFETY: every x86-64 processor has the instruction; it changes nothing.
    let now = || (Instant::now(), unsafe { core::arch::x86_64::_rdtsc() });
    let (began, first) = now();
    thread::sleep(Duration::from_millis(20));
    let (ended, last) = now();
    let micros = u64::try_from((ended - began).as_micros()).unwrap_or(u64::MAX);
    last.wrapping_sub(first).saturating_mul(1000) / micros.max(1)
}

/// The n-th virtio disk.
fn device(number: usize) -> PathBuf {
    let letter = b'a' + u8::try_from(number).unwrap_or(25).min(25);
    PathBuf::from(format!("/dev/vd{}", char::from(letter)))
}

/// In QEMU's options a comma ends a value, unless there are two.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// What a command in the test VM finds in its environment: ours, as far as it means the same there.
fn environment(vm: &TestVm) -> Vec<(String, String)> {
    let mut variables = vec![(
        "PATH".to_owned(),
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
    )];
    for name in [
        "HOME",
        "TERM",
        "LANG",
        "XDG_CACHE_HOME",
        "CARGO_HOME",
        "RUSTUP_HOME",
        "CARGO_TARGET_DIR",
        crate::containerd::SHIM_VARIABLE,
    ] {
        if let Ok(value) = std::env::var(name) {
            variables.push((name.to_owned(), value));
        }
    }
    // What is left of it when the command starts, but for some seconds.
    if let Some(left) = rerun::left() {
        variables.push((rerun::VARIABLE.to_owned(), left.as_secs().to_string()));
    }
    variables.extend(vm.environment.iter().cloned());
    variables
}

/// PID 1, which is this very program, and the modules to load first.
fn initramfs(kernel: &DebianKernel, file: &Path) -> Result<()> {
    let mut archive = cpio::Archive::new();
    for directory in [
        "proc", "sys", "dev", "lower", "over", "new", "share", "modules",
    ] {
        archive.directory(directory, 0o755)?;
    }
    archive.character_device("dev/console", 0o600, 5, 1)?;
    archive.file("init", 0o755, &fs::read("/proc/self/exe")?)?;
    for module in kernel.first_modules()? {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{name}"), 0o644, &fs::read(&module)?)?;
    }
    fs::write(file, archive.finish()).with_context(|| format!("writing {}", file.display()))
}
