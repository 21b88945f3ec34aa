//! What a rig's containerd and its shims are configured with.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::Rig;
use super::handler::{Handler, OUR_SHIM, shim_binary};
use crate::guest::Images;
use crate::images;
use crate::namespaces::REGISTRY_PORT;

/// containerd's configuration of our handlers.
const OUR_HANDLERS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../deploy/containerd/trefoil.toml"
);

impl Rig {
    pub(super) fn configure(&self) -> Result<()> {
        let dir = &self.directory;
        for sub in [
            "bin",
            "certs.d/_default",
            "cni",
            "conf.d",
            "logs",
            "fifo",
            "runc",
            "opt",
            "s",
            "etc/trefoil/config.d",
        ] {
            fs::create_dir_all(dir.join(sub))?;
        }
        // Found through PATH, by the names that containerd makes of the runtime types.
        for (name, target) in [
            (Handler::Runc.shim(), self.tools.runc_shim()),
            ("runc", self.tools.runc()),
            // One file and links to it, as installed.
            (Handler::TrefoilVm.shim(), OUR_SHIM.into()),
            (Handler::TrefoilConfidential.shim(), OUR_SHIM.into()),
        ] {
            symlink(target, dir.join("bin").join(name))?;
        }
        self.install_shim()?;
        let registry = format!("http://127.0.0.1:{REGISTRY_PORT}");
        fs::write(
            dir.join("certs.d/_default/hosts.toml"),
            format!(
                "server = \"{registry}\"\n[host.\"{registry}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
            ),
        )?;
        let at = dir.display();
        fs::write(
            dir.join("cni/10-rig.conflist"),
            serde_json::to_vec_pretty(&serde_json::json!({
                "cniVersion": "1.0.0",
                "name": self.name,
                "plugins": [
                    {
                        "type": "bridge",
                        "bridge": "pods0",
                        "isGateway": true,
                        // Several runs of iptables for each pod, for an outside that a node doesn't have.
                        "ipMasq": !crate::test_vm::inside(),
                        "hairpinMode": true,
                        "ipam": {
                            "type": "host-local",
                            "dataDir": format!("{at}/cni-state/networks"),
                            "ranges": [[{ "subnet": "10.87.0.0/16" }]],
                            "routes": [{ "dst": "0.0.0.0/0" }],
                        },
                    },
                    { "type": "portmap", "capabilities": { "portMappings": true } },
                ],
            }))?,
        )?;
        fs::write(
            dir.join("crictl.yaml"),
            format!(
                "runtime-endpoint: unix://{at}/containerd.sock\nimage-endpoint: unix://{at}/containerd.sock\ntimeout: 60\n"
            ),
        )?;
        fs::write(dir.join("config.toml"), self.configuration())?;
        Ok(())
    }

    /// Puts our shim's file among the rig's programs: a copy, as a shim finds its configuration beside
    /// where it is installed, and rigs are to have one each. Without a shim there are no pods of ours.
    fn install_shim(&self) -> Result<()> {
        let (from, to) = (shim_binary(), self.directory.join("bin").join(OUR_SHIM));
        if from.exists() {
            fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
        }
        Ok(())
    }

    /// Installs what is for guests, where a shim finds it without being told.
    pub fn install_guest(&self, images: &Images) -> Result<()> {
        let share = self.directory.join("share/trefoil");
        fs::create_dir_all(&share)?;
        symlink(&images.kernel, share.join("vmlinux"))?;
        symlink(&images.image, share.join("initramfs"))?;
        symlink(&images.agent, share.join("agent"))?;
        symlink(&images.confidential, share.join("confidential-initramfs"))?;
        symlink(
            &images.confidential_kernel,
            share.join("confidential-vmlinux"),
        )?;
        if crate::test_vm::inside() {
            // There guests boot ten times slower, and all of them share one processor.
            let limit = "[microvm]\nboot-timeout-seconds = 100\n";
            fs::write(self.drop_in("00-test-vm.toml"), limit)?;
        }
        Ok(())
    }

    /// A drop-in of our shim's configuration, to be written and removed: it counts from the next pod on.
    pub fn drop_in(&self, name: &str) -> PathBuf {
        self.directory.join("etc/trefoil/config.d").join(name)
    }

    /// Gives containerd more configuration, and starts it anew with that.
    pub fn reconfigure(&self, name: &str, more: &str) -> Result<()> {
        fs::write(self.directory.join("conf.d").join(name), more)?;
        self.signal_daemon(Signal::SIGTERM)?;
        self.start_daemon()
    }

    fn configuration(&self) -> String {
        let at = self.directory.display();
        let cni = self.tools.cni_bin.display();
        let pause = images::PAUSE;
        // Without the capability nothing may get a lower oom_score_adj than we have.
        let restrict = !has_capability(CAP_SYS_RESOURCE);
        // Ours are configured by what a node is given.
        let ours = OUR_HANDLERS;
        // containerd asks each container each second what it uses. In a test VM that asks guests, some
        // twenty of them leave its one processor no time for anything else. Nor has it time for a program
        // that brings each pod's loopback device up, no matter of shims.
        let slow = crate::test_vm::inside();
        let period = if slow { "10s" } else { "1s" };
        format!(
            r#"version = 3
imports = ['{ours}', '{at}/conf.d/*.toml']
root = '{at}/root'
state = '{at}/state'
disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.tracing.processor.v1.otlp', 'io.containerd.internal.v1.tracing']

[grpc]
address = '{at}/containerd.sock'

[ttrpc]
address = '{at}/containerd.sock.ttrpc'

[debug]
level = 'debug'

[plugins.'io.containerd.internal.v1.opt']
path = '{at}/opt'

[plugins.'io.containerd.shim.v1.manager']
socket_dir = '{at}/s'

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{pause}'

[plugins.'io.containerd.cri.v1.images'.registry]
config_path = '{at}/certs.d'

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = {restrict}
netns_mounts_under_state_dir = true
stats_collect_period = '{period}'
cdi_spec_dirs = []

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['{cni}']
conf_dir = '{at}/cni'
use_internal_loopback = {slow}

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = '{at}/bin/runc'
Root = '{at}/runc'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.trefoil-sandbox]
runtime_type = 'io.containerd.trefoil.v2'
sandboxer = 'shim'
pod_annotations = ['trefoil.dev/*']

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.trefoil-vm-sandbox]
runtime_type = 'io.containerd.trefoil-vm.v2'
sandboxer = 'shim'
privileged_without_host_devices = true
privileged_without_host_devices_all_devices_allowed = true
pod_annotations = ['trefoil.dev/*']
"#
        )
    }
}

const CAP_SYS_RESOURCE: u32 = 24;

fn has_capability(number: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << number) != 0)
}
