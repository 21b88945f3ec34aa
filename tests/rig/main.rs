//! `rig up`: a private containerd to try things on by hand, until interrupted. `rig qemu`: what emulates the
//! test VM, built if it isn't there.

use std::fs;

use anyhow::{Result, bail};
use nix::sys::signal::{SigSet, Signal};
use rig::guest::Images;
use rig::qemu::built::{self, Built};
use rig::{Rig, containerd, guard};

fn main() -> Result<()> {
    guard::take_part()?;
    match std::env::args().nth(1).as_deref() {
        Some("up") => up(),
        Some("qemu") => qemu(),
        _ => bail!("usage: rig up | qemu"),
    }
}

/// Builds what emulates the test VM. What isn't here to build it of is no failure: there is another.
fn qemu() -> Result<()> {
    match built::ensure()? {
        Built::Program(program) => println!("{}", program.display()),
        Built::Lacking(why) => {
            let lines: Vec<_> = why.lines().map(str::trim).collect();
            println!("skipped: the test VM's QEMU # {}", lines.join("; "));
        }
    }
    Ok(())
}

fn up() -> Result<()> {
    // Waited for below; blocked before any thread is there, so that all threads have them blocked.
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGINT);
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGHUP);
    ends.thread_block()?;

    let rig = Rig::start()?;
    let images = Images::if_kernel()?;
    if let Some(images) = &images {
        rig.install_guest(images)?;
    }
    rig.pull(rig::images::BASE)?;
    let at = rig.directory().display();
    let snippet = rig.directory().join("env");
    let enter = format!(
        "nsenter --net={} --ipc={}",
        rig.namespaces().network_file().display(),
        rig.namespaces().ipc_file().display()
    );
    let tools = rig.tools();
    let runc = tools.runc().display().to_string();
    fs::write(
        &snippet,
        format!(
            r#"# Source this: the rig's containerd by hand.
export RIG={at}
export PATH={at}/bin:{containerd}:{cri}:$PATH
export CONTAINERD_ADDRESS=$RIG/containerd.sock CONTAINERD_NAMESPACE={name} CRI_CONFIG_FILE=$RIG/crictl.yaml
# In the rig's network: inside NAME...
inside() {{ {enter} "$@"; }}
crictl() {{ inside {crictl} "$@"; }}
ctr() {{ inside {ctr} "$@"; }}
critest() {{ inside {critest} "$@"; }}
# ctr-pull IMAGE; ctr-trefoil [options] IMAGE ID [command]; ctr-trefoil-vm and ctr-runc likewise
ctr-pull() {{ ctr image pull --hosts-dir $RIG/certs.d "$@"; }}
ctr-trefoil() {{ ctr run --runtime io.containerd.trefoil.v2 --fifo-dir $RIG/fifo "$@"; }}
ctr-trefoil-vm() {{ ctr run --runtime io.containerd.trefoil-vm.v2 --fifo-dir $RIG/fifo "$@"; }}
ctr-runc() {{ ctr run --runtime io.containerd.runc.v2 --runc-binary {runc} --runc-root $RIG/runc --fifo-dir $RIG/fifo "$@"; }}
IMAGE={image}
"#,
            name = rig.name(),
            containerd = tools.containerd_bin.display(),
            cri = tools.cri_bin.display(),
            crictl = tools.crictl().display(),
            ctr = tools.ctr().display(),
            critest = tools.critest().display(),
            image = rig::images::BASE,
        ),
    )?;
    println!("containerd is up in {at}; in another shell:");
    println!("  . {}", snippet.display());
    println!("  ctr-pull $IMAGE && ctr-runc --rm $IMAGE c1 echo hello   # or ctr-trefoil");
    println!(
        "our shim, of {} (${}): {at}/bin; its configuration: {at}/etc/trefoil",
        containerd::shim_binary().display(),
        containerd::SHIM_VARIABLE
    );
    match &images {
        Some(images) => println!("microVM pods (trefoil-vm): {}", images.kernel.display()),
        None => println!(
            "microVM pods (trefoil-vm): none, as there is no guest kernel; `cargo run -p trefoil-guest --bin \
             guest -- kernel` makes one, in some minutes"
        ),
    }
    println!("containerd's log: {}", rig.log().display());
    println!("Interrupt (Ctrl-C) to take all of it away.");
    ends.wait()?;
    println!("taking it away");
    drop(rig);
    Ok(())
}
