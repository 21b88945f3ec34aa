//! PID 1 of the test VM, which is this program again: from the initramfs to the command's end.
//!
//! It loads the kernel's modules, puts the root together, starts the command, reaps what is left
//! to it, writes down how the command ended and turns the machine off. With systemd as PID 1 it
//! puts the root together and becomes systemd, which starts it again as a service.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{chdir, chroot};

use super::job::{self, Job};

/// By this in its environment the program knows that it is to run the job under systemd.
const SERVICE: &str = "TREFOIL_TEST_VM_SERVICE";

/// Every program that starts a test VM calls this first: it returns unless we are in one.
pub fn take_part() -> Result<()> {
    let service = std::env::var_os(SERVICE).is_some();
    let first = std::process::id() == 1 && Path::new("/modules").is_dir();
    if !service && !first {
        return Ok(());
    }
    let outcome = if service {
        work()
    } else {
        start().and_then(|()| work())
    };
    if let Err(error) = outcome {
        eprintln!("the test VM failed: {error:#}");
    }
    nix::unistd::sync();
    // Nothing is on a disk of the test VM's own.
    reboot(RebootMode::RB_POWER_OFF).context("turning the test VM off")?;
    Ok(())
}

/// From the initramfs to the root in which the command will run.
fn start() -> Result<()> {
    attach("proc", "/proc", "proc", MsFlags::empty(), "")?;
    attach("sysfs", "/sys", "sysfs", MsFlags::empty(), "")?;
    attach("devtmpfs", "/dev", "devtmpfs", MsFlags::empty(), "")?;
    load_modules(Path::new("/modules"))?;
    let options = "trans=virtio,version=9p2000.L,msize=512000";
    attach(job::SHARE_TAG, "/share", "9p", MsFlags::empty(), options)?;
    let job = read_job(Path::new("/share"))?;
    let loose = format!("{options},cache=loose");
    attach(job::ROOT_TAG, "/lower", "9p", MsFlags::MS_RDONLY, &loose)?;
    attach("tmpfs", "/over", "tmpfs", MsFlags::empty(), "size=80%")?;
    fs::create_dir("/over/upper")?;
    fs::create_dir("/over/work")?;
    let layers = "lowerdir=/lower,upperdir=/over/upper,workdir=/over/work";
    attach("overlay", "/new", "overlay", MsFlags::empty(), layers)?;

    for directory in ["proc", "sys", "dev"] {
        let target = format!("/new/{directory}");
        move_mount(Path::new("/").join(directory), &target)?;
    }
    let private = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    for (path, flags, options) in [
        ("/new/run", private, "mode=755"),
        ("/new/dev/shm", private, "mode=1777"),
        // containerd's root may not lie on an overlay, and rigs are made here: with programs and
        // device nodes of containers in them.
        ("/new/var/tmp", MsFlags::empty(), "mode=1777,size=80%"),
    ] {
        fs::create_dir_all(path)?;
        attach("tmpfs", path, "tmpfs", flags, options)?;
    }
    if job.read_only {
        // What is in /tmp may be what the command is about.
        fs::create_dir("/over/tmp")?;
        fs::set_permissions("/over/tmp", PermissionsExt::from_mode(0o1777))?;
        fs::create_dir("/over/tmp-work")?;
        let layers = "lowerdir=/lower/tmp,upperdir=/over/tmp,workdir=/over/tmp-work";
        attach("overlay", "/new/tmp", "overlay", private, layers)?;
    }
    // What udev makes elsewhere.
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        std::os::unix::fs::symlink(target, format!("/new/dev/{name}"))?;
    }
    fs::create_dir_all("/new/dev/pts")?;
    attach(
        "devpts",
        "/new/dev/pts",
        "devpts",
        MsFlags::empty(),
        "ptmxmode=666,mode=620,gid=5",
    )?;
    attach(
        "cgroup2",
        "/new/sys/fs/cgroup",
        "cgroup2",
        MsFlags::empty(),
        "",
    )?;
    for (kind, path) in [
        ("securityfs", "/new/sys/kernel/security"),
        ("tracefs", "/new/sys/kernel/tracing"),
        ("debugfs", "/new/sys/kernel/debug"),
        ("bpf", "/new/sys/fs/bpf"),
    ] {
        attach(kind, path, kind, MsFlags::empty(), "")?;
    }
    let share = format!("/new{}", job::SHARE);
    fs::create_dir(&share)?;
    move_mount("/share", &share)?;
    bind(below(&job.modules), "/new/lib/modules")?;
    for hot in &job.hot {
        let name = hot.device.file_name().unwrap_or_default().to_string_lossy();
        let at = format!("/new/run/hot-{name}");
        fs::create_dir(&at)?;
        let device = below(&hot.device);
        attach(
            &device.to_string_lossy(),
            &at,
            "ext4",
            MsFlags::MS_RDONLY,
            "",
        )?;
        for (number, path) in hot.paths.iter().enumerate() {
            bind(Path::new(&at).join(number.to_string()), below(path))?;
        }
    }
    for (number, path) in job.writable.iter().enumerate() {
        let target = below(path);
        fs::create_dir_all(&target)?;
        let tag = job::writable_tag(number);
        attach(
            &tag,
            &target.to_string_lossy(),
            "9p",
            MsFlags::empty(),
            options,
        )?;
    }
    fs::copy("/init", below(Path::new("/run/trefoil-test-vm-init")))?;
    fs::set_permissions(
        below(Path::new("/run/trefoil-test-vm-init")),
        PermissionsExt::from_mode(0o755),
    )?;
    if job.read_only {
        attach(
            "overlay",
            "/new",
            "",
            MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
            "",
        )
        .context("making the root read-only")?;
    }
    chdir("/new")?;
    move_mount(".", "/")?;
    chroot(".")?;
    chdir("/")?;
    loopback_up()?;
    nix::unistd::sethostname("test-vm")?;
    if job.systemd {
        become_systemd()
    } else {
        Ok(())
    }
}

/// Where a path of the host is before the root is changed.
fn below(path: &Path) -> PathBuf {
    Path::new("/new").join(path.strip_prefix("/").unwrap_or(path))
}

fn attach(source: &str, target: &str, kind: &str, flags: MsFlags, options: &str) -> Result<()> {
    mount(Some(source), target, Some(kind), flags, Some(options))
        .with_context(|| format!("mounting {source} ({kind}, {options:?}) at {target}"))
}

fn move_mount(from: impl AsRef<Path>, to: &str) -> Result<()> {
    let from = from.as_ref();
    mount(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .with_context(|| format!("moving the mount {} to {to}", from.display()))
}

/// Binds a file or directory over a path, which is made if it isn't there.
fn bind(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    if !to.exists() {
        if from.is_dir() {
            fs::create_dir_all(to)?;
        } else {
            fs::create_dir_all(to.parent().unwrap_or(to))?;
            File::create(to)?;
        }
    }
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("binding {} over {}", from.display(), to.display()))
}

fn load_modules(directory: &Path) -> Result<()> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    for file in files {
        let module = File::open(&file)?;
        let parameters = CString::default();
        let flags = nix::kmod::ModuleInitFlags::empty();
        match nix::kmod::finit_module(module.as_fd(), &parameters, flags) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => bail!("loading the kernel module {}: {error}", file.display()),
        }
    }
    Ok(())
}

fn read_job(share: &Path) -> Result<Job> {
    let file = job::file(share);
    let text = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    serde_json::from_slice(&text).context("reading what the test VM is to do")
}

fn loopback_up() -> Result<()> {
    let status = Command::new("/sbin/ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .context("starting ip")?;
    if !status.success() {
        bail!("`ip link set lo up` ended with {status}");
    }
    Ok(())
}

/// Hands PID 1 to systemd, with nothing to start but ourselves.
fn become_systemd() -> Result<()> {
    let units = Path::new("/run/systemd/system");
    fs::create_dir_all(units)?;
    fs::write(
        units.join("trefoil-test-vm.target"),
        "[Unit]\nRequires=trefoil-test-vm.service\nAllowIsolate=yes\n",
    )?;
    fs::write(
        units.join("trefoil-test-vm.service"),
        format!(
            "[Unit]\nRequires=dbus.socket\nAfter=dbus.socket\n\n\
             [Service]\nType=exec\nEnvironment={SERVICE}=1\nExecStart=/run/trefoil-test-vm-init\n\
             StandardOutput=tty\nStandardError=tty\nTTYPath=/dev/ttyS0\nDelegate=yes\n"
        ),
    )?;
    // What an operating system wants before anything else would go through the host's
    // files, for minutes if there are many.
    for wanted in [
        "/lib/systemd/system/sysinit.target.wants",
        "/etc/systemd/system/sysinit.target.wants",
    ] {
        for entry in fs::read_dir(wanted).into_iter().flatten() {
            let name = entry?.file_name();
            let mask = units.join(&name);
            if !name.to_string_lossy().contains("journald") && !mask.exists() {
                std::os::unix::fs::symlink("/dev/null", mask)?;
            }
        }
    }
    let error = Command::new("/lib/systemd/systemd")
        .arg("--unit=trefoil-test-vm.target")
        .exec();
    Err(error).context("becoming systemd")
}

/// Runs the job's command to its end and writes down how it ended.
fn work() -> Result<()> {
    let share = Path::new(job::SHARE);
    let job = read_job(share)?;
    let (program, arguments) = job
        .command
        .split_first()
        .context("the test VM has nothing to do")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(&job.directory)
        .env_clear()
        .envs(job.environment.iter().cloned());
    match job.terminal {
        Some(size) => on_terminal(&mut command, size)?,
        None => {
            let output = output_port()?;
            command
                .stdin(Stdio::null())
                .stdout(output.try_clone()?)
                .stderr(output);
        }
    }
    fs::write(share.join("started"), "")?;
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {program:?} in {}", job.directory.display()))?;
    let status = if std::process::id() == 1 {
        reap_until(i32::try_from(child.id())?)?
    } else {
        child.wait()?
    };
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(255);
    fs::write(job::exit_file(share), code.to_string()).context("writing how the command ended")
}

/// Waits for a child, and for every orphan that ends before it.
fn reap_until(pid: i32) -> Result<ExitStatus> {
    loop {
        match wait().context("waiting for the command")? {
            WaitStatus::Exited(ended, code) if ended.as_raw() == pid => {
                return Ok(ExitStatus::from_raw(code << 8));
            }
            WaitStatus::Signaled(ended, signal, _) if ended.as_raw() == pid => {
                return Ok(ExitStatus::from_raw(signal as i32));
            }
            _ => {}
        }
    }
}

/// The virtio port that takes what the command prints.
fn output_port() -> Result<File> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim() == job::OUTPUT_PORT {
            let device = Path::new("/dev").join(entry.file_name());
            return OpenOptions::new()
                .write(true)
                .open(&device)
                .with_context(|| format!("opening {}", device.display()));
        }
    }
    bail!("the test VM has no virtio port {:?}", job::OUTPUT_PORT)
}

/// Makes the virtio console the command's controlling terminal.
fn on_terminal(command: &mut Command, (rows, columns): (u16, u16)) -> Result<()> {
    let path = Path::new("/dev/hvc0");
    let since = Instant::now();
    while !path.exists() && since.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .context("opening the test VM's terminal")?;
    // A size is a convenience: without it programs take the usual one.
    let resize = Command::new("stty")
        .args(["rows", &rows.to_string(), "cols", &columns.to_string()])
        .stdin(terminal.try_clone()?)
        .status();
    if resize.is_err() {
        writeln!(std::io::stderr(), "the terminal's size could not be set")?;
    }
    command
        .stdin(terminal.try_clone()?)
        .stdout(terminal.try_clone()?)
        .stderr(terminal);
    // SAFETY: between fork and exec only these two system calls are made; neither allocates.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            if libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    Ok(())
}
