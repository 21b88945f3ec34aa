//! The same pod in each isolation that there is, side by side, where a KVM boots Linux.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rig::author::Author;
use rig::broker::Serving;
use rig::confidential::{self, Simulated};
use rig::guest::Images;
use rig::kubelet::{Kubelet, Manifest, idle};
use rig::kvm::{self, Place};
use rig::test_vm::TestVm;
use rig::{Handler, Rig, containerd, images};
use serde_json::json;
use trefoil_broker::sealing::Sealer;
use trefoil_broker::{Configuration, Resource};

use super::{show, step, took};

/// What the demo is asked for when it runs in a test VM.
pub const ARGUMENT: &str = "isolations";

const HANDLERS: [Handler; 3] = [
    Handler::Trefoil,
    Handler::TrefoilVm,
    Handler::TrefoilConfidential,
];

/// What the broker has, and hands to a guest that has attested.
const SECRET: &str = "from the broker";
const SIGNER: &str = "demo/keys/signer";
const PASSWORD: &str = "demo/secrets/password";

/// What tells one kernel and machine from another, and the line of shell that asks.
const QUESTIONS: [(&str, &str); 6] = [
    ("uname -r", "uname -r"),
    (
        "/proc/cpuinfo",
        "sed -n 's/^model name.*: //p' /proc/cpuinfo | sort | uniq -c | sed 's/^ *//'",
    ),
    (
        "hypervisor seen",
        "grep -qw hypervisor /proc/cpuinfo && echo yes || echo no",
    ),
    ("MemTotal", "sed -n 's/^MemTotal: *//p' /proc/meminfo"),
    ("hostname", "hostname"),
    // The same in all manifests: a sealed secret.
    ("$PASSWORD", "printf %.32s \"$PASSWORD\""),
];

/// Runs the pods here, or in a test VM, and says where and why.
pub fn show_all() -> Result<ExitCode> {
    let images = Images::ensure()?;
    match kvm::place(&images)? {
        Place::Here => here(&images).map(|()| ExitCode::SUCCESS),
        Place::TestVm { .. } => {
            rig::prepare()?;
            let vm = TestVm {
                // containerd's root is in memory there.
                memory: 8192,
                limit: Some(Duration::from_secs(10 * 60)),
                environment: vec![
                    images.variable()?,
                    (kvm::VARIABLE.to_owned(), "here".to_owned()),
                ],
                hot: [&[containerd::shim_binary()], images.files().as_slice()].concat(),
                ..TestVm::default()
            };
            vm.run_again("demo", &[ARGUMENT.to_owned()])
        }
    }
}

fn here(guest: &Images) -> Result<()> {
    let rig = Rig::start()?;
    rig.install_guest(guest)?;
    confidential::configure(&rig)?;
    let _tee = Simulated::on(&rig)?;
    rig.pull(images::BASE)?;
    let (serving, manifest) = secret(&rig)?;
    let author = Author::new(&rig, &[images::BASE])?;
    let allowed = ["--allow-exec", "web:sh -c ..."];
    let annotation = author.annotation(&manifest.text(), &allowed, Some(&serving.cdh()))?;
    let mut answers: Vec<Vec<String>> = Vec::new();
    let mut times = Vec::new();
    for handler in HANDLERS {
        let started = Instant::now();
        let annotations = match handler {
            Handler::TrefoilConfidential => vec![annotation.clone()],
            _ => Vec::new(),
        };
        let kubelet = Kubelet::run(&rig, handler, annotations)
            .with_context(|| format!("running the pod with the handler {handler}"))?;
        let pod = kubelet.pod();
        let container = pod.start(&kubelet.spec(manifest.container("web")?)?)?;
        times.push(took(started));
        let mut of_pod = Vec::new();
        for (_, line) in QUESTIONS {
            let answer = container.exec(&["sh", "-c", line])?.text()?;
            of_pod.push(answer.trim().to_owned());
        }
        of_pod.push(format!("{} on the node", pod.shim_side()?.len()));
        of_pod.push(protection(&rig, handler)?);
        answers.push(of_pod);
        pod.stop()?;
        pod.remove()?;
    }
    step(
        "the same pod, another RuntimeClass",
        "its containers' own words, side by side",
    );
    table(&times, &answers);
    ensure!(
        answers[0][0] != answers[1][0],
        "both pods run on the kernel {}",
        answers[0][0]
    );
    let passwords: Vec<&str> = answers.iter().map(|of_pod| of_pod[5].as_str()).collect();
    ensure!(
        passwords[0].starts_with("sealed.")
            && passwords[0] == passwords[1]
            && passwords[2] == SECRET,
        "the passwords are {passwords:?}"
    );
    ensure!(
        serving.broker.attestations() == 1,
        "{} guests have attested",
        serving.broker.attestations()
    );
    let leftovers = rig.leftovers()?;
    ensure!(leftovers.is_empty(), "left behind:\n{leftovers}");
    Ok(())
}

/// A broker that has a secret, and the manifest of a pod with what stands for it.
fn secret(rig: &Rig) -> Result<(Serving, Manifest)> {
    let sealer = Sealer::new(&format!("kbs:///{SIGNER}"))?;
    let resource = |name: &str, content: Vec<u8>| {
        let resource = Resource {
            content,
            references: None,
        };
        (name.to_owned(), resource)
    };
    let configuration = Configuration {
        accept_simulated: true,
        resources: [
            resource(SIGNER, sealer.jwk()),
            resource(PASSWORD, SECRET.into()),
        ]
        .into(),
        ..Configuration::default()
    };
    let sealed = sealer.vault(&format!("kbs:///{PASSWORD}"))?;
    let mut container = idle("web", images::BASE);
    container["env"] = json!([{"name": "PASSWORD", "value": sealed}]);
    let serving = Serving::start(rig, configuration)?;
    Ok((serving, Manifest::of(vec![container])))
}

/// What keeps the node from what is in a handler's pods, as its shim says of itself.
fn protection(rig: &Rig, handler: Handler) -> Result<String> {
    if handler != Handler::TrefoilConfidential {
        return Ok("none".to_owned());
    }
    let log = std::fs::read_to_string(rig.log())?;
    ensure!(
        log.contains("SIMULATED: no TEE protects it"),
        "the shim does not say that the TEE is simulated"
    );
    Ok("SIMULATED: no TEE protects it".to_owned())
}

fn table(times: &[String], answers: &[Vec<String>]) {
    let row = |what: &str, cells: &[&str]| {
        let cells: String = cells.iter().map(|cell| format!("{cell:<42}")).collect();
        show(&format!("{what:<21}{cells}"));
    };
    row("", &HANDLERS.map(Handler::name));
    let times: Vec<&str> = times.iter().map(String::as_str).collect();
    row("runp, create, start", &times);
    let names = QUESTIONS.iter().map(|(name, _)| *name);
    for (number, name) in names.chain(["processes", "TEE"]).enumerate() {
        let of_row = answers.iter().map(|of_pod| of_pod[number].as_str());
        row(name, &of_row.collect::<Vec<_>>());
    }
}
