//! The network and IPC namespaces a rig lives in.
//!
//! The network is a node's in small: loopback, and a bridge that carries the node's address and
//! the default route. Pods get theirs from the CNI bridge plugin inside it, so no interface,
//! address or firewall rule of the machine's is ever touched. The IPC namespace is there because
//! critest leaves shared memory segments behind.
//!
//! Both are kept by bind mounts and entered with `setns`. (`ip netns exec` would also remount
//! /sys, and hide the cgroups.)

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::command::describe;

/// The port of the rig's registry, on loopback in its own network.
pub const REGISTRY_PORT: u16 = 5000;
/// The node's address.
pub const NODE_ADDRESS: &str = "10.86.0.1";

/// The two namespaces, kept by files.
#[derive(Debug)]
pub struct Namespaces {
    directory: PathBuf,
    network: File,
    ipc: File,
}

impl Namespaces {
    /// Makes them, kept by the files `net` and `ipc` in `directory`, with a listening socket for
    /// the registry inside.
    pub fn create(directory: &Path) -> Result<(Self, TcpListener)> {
        let made = directory.to_owned();
        // A thread can leave the process's namespaces for good, and then end.
        thread::spawn(move || Self::create_here(made))
            .join()
            .map_err(|_| anyhow!("the thread that makes the namespaces died"))?
    }

    fn create_here(directory: PathBuf) -> Result<(Self, TcpListener)> {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC)
            .context("making namespaces")?;
        let keep = |name: &str| -> Result<File> {
            let file = directory.join(name);
            File::create(&file)?;
            let from = format!("/proc/thread-self/ns/{name}");
            mount(
                Some(from.as_str()),
                &file,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .with_context(|| format!("mounting {}", file.display()))?;
            Ok(File::open(&file)?)
        };
        let (network, ipc) = (keep("net")?, keep("ipc")?);
        for line in [
            "link set lo up",
            "link add node0 type bridge",
            &format!("address add {NODE_ADDRESS}/24 dev node0"),
            "link set node0 up",
            "route add default dev node0",
        ] {
            let mut ip = Command::new("ip");
            let output = ip.args(line.split(' ')).output().context("starting ip")?;
            if !output.status.success() {
                return Err(anyhow!(
                    "`{}`: {}",
                    describe(&ip),
                    String::from_utf8_lossy(&output.stderr)
                ));
            }
        }
        let listener = TcpListener::bind(("127.0.0.1", REGISTRY_PORT))?;
        Ok((
            Self {
                directory,
                network,
                ipc,
            },
            listener,
        ))
    }

    /// The file that keeps the network namespace, for `nsenter --net=`.
    pub fn network_file(&self) -> PathBuf {
        self.directory.join("net")
    }

    /// The file that keeps the IPC namespace, for `nsenter --ipc=`.
    pub fn ipc_file(&self) -> PathBuf {
        self.directory.join("ipc")
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = Command::new(program);
        let (network, ipc) = (self.network.try_clone()?, self.ipc.try_clone()?);
        let enter = move || {
            setns(network.as_fd(), CloneFlags::CLONE_NEWNET)?;
            setns(ipc.as_fd(), CloneFlags::CLONE_NEWIPC)?;
            Ok(())
        };
        // SAFETY: between fork and exec this makes two system calls and nothing else.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }

    /// Runs `work` on a thread inside: what it connects to or listens on is there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let network = &self.network;
        thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(network.as_fd(), CloneFlags::CLONE_NEWNET)?;
                    work()
                })
                .join()
                .map_err(|_| anyhow!("the thread in the rig's network died"))?
        })
    }
}

/// Unmounts everything under a directory, the last mounted first.
pub fn unmount_below(directory: &Path) -> Result<()> {
    for point in mounts_below(directory)?.iter().rev() {
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
    Ok(())
}

/// What is mounted under a directory, in the order it was mounted.
pub fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from);
    Ok(points
        .filter(|point| point.starts_with(directory))
        .collect())
}
