//! Secrets of pods, from the tests' key broker: the container has them, and the host never does.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rig::author::Author;
use rig::broker::Serving;
use rig::images::BASE;
use rig::kubelet::{Kubelet, Manifest, shell, write};
use rig::namespaces::NODE_ADDRESS;
use serde_json::json;
use trefoil_broker::sealing::Sealer;
use trefoil_broker::{Configuration, Resource};

use super::{Configured, refused_for, run};
use crate::e2e::{Env, same};

/// The secrets. Nothing of the host's may have them, so no trial says them in a manifest or asks for them.
const OF_VARIABLE: &str = "canary-of-a-variable-b1946ac92492d234";
const OF_FILE: &str = "canary-of-a-file-591785b794601e21";

/// The file that the VMM maps as the guest's memory.
const GUEST_MEMORY: &str = "/memfd:guest";

/// What `sha256sum` says of them.
const DIGESTS: &str =
    "sum() { sha256sum | cut -c 1-64; }; printf %s \"$PASSWORD\" | sum; sum < /secret/key";

const SIGNER: &str = "default/keys/signer";
const VARIABLE: &str = "default/secrets/variable";
const ENVELOPE: &str = "default/keys/envelope";

/// A pod's author and their secrets, as the broker has them and as the manifest does.
struct Sealed {
    configuration: Configuration,
    manifest: Manifest,
    file: String,
}

impl Sealed {
    fn new() -> Result<Self> {
        let sealer = Sealer::new(&format!("kbs:///{SIGNER}"))?;
        let key = [7; 32];
        let variable = sealer.vault(&format!("kbs:///{VARIABLE}"))?;
        let file = sealer.envelope(OF_FILE.as_bytes(), &format!("kbs:///{ENVELOPE}"), key)?;
        let resource = |content: &[u8]| Resource {
            content: content.to_vec(),
            references: None,
        };
        let resources = BTreeMap::from([
            (SIGNER.to_owned(), resource(&sealer.jwk())),
            (VARIABLE.to_owned(), resource(OF_VARIABLE.as_bytes())),
            (ENVELOPE.to_owned(), resource(&key)),
        ]);
        let line = format!("{DIGESTS}; trap 'exit 0' TERM; sleep 3600 & wait");
        let mut container = shell("web", BASE, &line);
        container["env"] = json!([{"name": "PASSWORD", "value": variable}]);
        container["volumeMounts"] = json!([{"name": "secret", "mountPath": "/secret"}]);
        let mut manifest = Manifest::of(vec![container]);
        manifest.volumes = vec![json!({"name": "secret", "secret": {"secretName": "sealed"}})];
        manifest.objects = vec![json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "sealed"},
            "stringData": {"key": file},
        })];
        Ok(Self {
            configuration: Configuration {
                accept_simulated: true,
                resources,
                ..Configuration::default()
            },
            manifest,
            file,
        })
    }

    /// Runs the pod, whose secrets are at the broker that `cdh` names.
    fn run<'a>(&self, env: &'a Env, cdh: &str) -> Result<Kubelet<'a>> {
        let author = Author::new(&env.rig, &[BASE])?;
        let knobs = ["--allow-logs", "--allow-exec", "web:sh -c ..."];
        let kubelet = run(env, &author, &self.manifest, &knobs, Some(cdh))?;
        write(
            &kubelet.volume("kubernetes.io~secret", "secret")?,
            "key",
            &self.file,
        )?;
        Ok(kubelet)
    }
}

/// The digests of both secrets, a line for each.
fn digests() -> String {
    [OF_VARIABLE, OF_FILE]
        .map(|secret| format!("{}\n", rig::cache::sha256(secret.as_bytes())))
        .concat()
}

/// A sealed secret in a variable and one in a file, unsealed in the guest.
pub fn sealed(env: &Env) -> Result<()> {
    let _configured = Configured::new(env)?;
    let sealed = Sealed::new()?;
    let serving = Serving::start(&env.rig, sealed.configuration.clone())?;
    let kubelet = sealed.run(env, &serving.cdh())?;
    let spec = kubelet.spec(sealed.manifest.container("web")?)?;
    let web = kubelet.pod().start(&spec)?;
    let last = digests().lines().last().unwrap_or_default().to_owned();
    web.logs(&last)?;
    let logged = String::from_utf8(web.logged("stdout")?)?;
    same("the secrets' digests", logged, digests())?;
    let run = web.exec(&["sh", "-c", DIGESTS])?.text()?;
    same(
        "those that a further process has",
        format!("{run}\n"),
        digests(),
    )?;
    // The policy tells of both.
    same("attestations", serving.broker.attestations(), 1)?;

    let sent = serving.recorded();
    ensure!(sent.len() > 1000, "only {} bytes were sent", sent.len());
    let mut looked_at = 0;
    unknown_below(env.rig.directory(), &mut looked_at)?;
    ensure!(looked_at > 100, "only {looked_at} files were looked at");
    for secret in [OF_VARIABLE, OF_FILE] {
        ensure!(!has(&sent, secret), "the network has a secret");
    }
    let processes = kubelet.pod().shim_side()?;
    ensure!(processes.len() > 1, "{} processes", processes.len());
    for pid in processes {
        unknown_to(pid)?;
    }
    // The trial's own process has them: there they are found.
    let own = unknown_to(std::process::id()).err();
    let found = own.map_or_else(String::new, |why| why.to_string());
    ensure!(found.contains("has a secret"), "not found: {found:?}");

    // A container that is started again needs no broker.
    drop(serving);
    env.rig.crictl(&["rm", "-f", &web.id])?.success()?;
    let spec = kubelet.spec(sealed.manifest.container("web")?)?;
    let again = kubelet.pod().start(&spec)?;
    again.logs(&last)?;
    kubelet.stop()
}

fn has(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}

/// That a process has no secret in its memory beside the guest's, which is a TEE's business.
fn unknown_to(pid: u32) -> Result<()> {
    let mappings = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut looked_at = 0;
    for line in mappings.lines().filter(|line| !line.contains(GUEST_MEMORY)) {
        let (range, _) = line.split_once(' ').context("no range")?;
        let (start, end) = range.split_once('-').context("no end")?;
        let (start, end) = (
            u64::from_str_radix(start, 16)?,
            u64::from_str_radix(end, 16)?,
        );
        let mut content = vec![0; usize::try_from(end - start)?];
        // Some are for the kernel alone, as vvar is, and some can't be read.
        if memory.read_exact_at(&mut content, start).is_err() {
            continue;
        }
        looked_at += content.len();
        for secret in [OF_VARIABLE, OF_FILE] {
            ensure!(!has(&content, secret), "process {pid} has a secret: {line}");
        }
    }
    ensure!(
        looked_at > 100_000,
        "of process {pid} only {looked_at} bytes could be read"
    );
    Ok(())
}

/// That no file of the node's has a secret.
fn unknown_below(directory: &Path, looked_at: &mut usize) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            unknown_below(&path, looked_at)?;
        }
        // What containerd removes meanwhile has none.
        let Some(content) = kind.is_file().then(|| fs::read(&path).ok()).flatten() else {
            continue;
        };
        *looked_at += 1;
        // Images and their layers are older than the secrets.
        if content.len() > 4 << 20 {
            continue;
        }
        for secret in [OF_VARIABLE, OF_FILE] {
            ensure!(!has(&content, secret), "{} has a secret", path.display());
        }
    }
    Ok(())
}

/// A broker that takes another launch for the pod's hands nothing out, and its reason is told.
pub fn refused(env: &Env) -> Result<()> {
    let _configured = Configured::new(env)?;
    let mut sealed = Sealed::new()?;
    sealed.configuration.references = Some(vec!["00".repeat(48)]);
    let serving = Serving::start(&env.rig, sealed.configuration.clone())?;
    let kubelet = sealed.run(env, &serving.cdh())?;
    let declared = sealed.manifest.container("web")?;
    for _ in 0..2 {
        let outcome = kubelet.pod().start(&kubelet.spec(declared)?);
        let why = super::refusal(outcome);
        ensure!(
            why.contains("the broker refused") && why.contains("reference value"),
            "it says {why:?}"
        );
    }
    same("attestations", serving.broker.attestations(), 0)?;
    kubelet.stop()
}

/// A broker that is away is told of, in time, and asked again when the container is.
pub fn away(env: &Env) -> Result<()> {
    let _configured = Configured::new(env)?;
    let sealed = Sealed::new()?;
    let serving = Serving::start(&env.rig, sealed.configuration.clone())?;
    let nobody = format!("https://{NODE_ADDRESS}:1");
    let cdh = serving.cdh().replace(&serving.url, &nobody);
    let kubelet = sealed.run(env, &cdh)?;
    let spec = kubelet.spec(sealed.manifest.container("web")?)?;
    refused_for(kubelet.pod().start(&spec), "the broker is away")?;
    same("connections", serving.broker.connections(), 0)?;
    kubelet.stop()
}
