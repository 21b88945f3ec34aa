//! From a pod to its policy: what kubelet and containerd make of a manifest and its images.
//!
//! Kubernetes of versions 1.30 to 1.36 and containerd of 2.1 to 2.4 make the same of it, as far as the
//! policy's types say it; where they don't, the policy allows both or the field is refused. What each of
//! them does stands in the module of its part: [`mod@env`], [`mounts`], [`user`] and so on. Start reading at
//! [`policy`].

mod capabilities;
mod container;
mod env;
mod exec;
mod expand;
mod fields;
mod mounts;
mod names;
mod sandbox;
mod seccomp;
mod signals;
mod user;
mod variables;
mod volumes;

use std::cell::RefCell;
use std::collections::BTreeSet;

use trefoil_policy::{Kind, MountKind, Pattern, Policy, VERSION};

use crate::image::{Image, Images};
use crate::manifest::config::Config;
use crate::manifest::container::{Container, SidecarPolicy};
use crate::manifest::pod::PodSpec;
use crate::manifest::{self, ConfigKind, Configs, Error};
use crate::yaml::Fault;

use fields::shorten;

type Result<T> = std::result::Result<T, Fault>;

/// What the author allows the host beyond running the pod. All of it is off unless it is asked for.
#[derive(Debug, Clone, Default)]
pub struct Knobs {
    /// Those of the whole pod.
    pub pod: trefoil_policy::Knobs,
    /// Commands that may be run: a container's name, and the words, of which a last `...` stands for any.
    pub exec: Vec<(String, Vec<String>)>,
    /// Limits may be raised while containers run.
    pub resize: bool,
    /// The earliest time of the guest's clock, in seconds since 1970.
    pub not_before: Option<u64>,
    /// Within how many seconds all containers have to be started.
    pub start_within: Option<u32>,
}

/// A policy, and what its author should know.
#[derive(Debug)]
pub struct Derived {
    /// The policy.
    pub policy: Policy,
    /// What is allowed because it is not known, and what is off: a sentence each.
    pub notes: Vec<String>,
    /// Each image as the manifest spells it, and the digest that it had.
    pub images: Vec<(String, trefoil_policy::Digest)>,
}

/// Annotations by which a node is told how to run a pod, as they begin.
const FOR_THE_NODE: [&str; 7] = [
    "blockio.resources.beta.kubernetes.io/",
    "cdi.k8s.io/",
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "io.katacontainers.",
    "rdt.resources.beta.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
];

/// A pod while its policy is made.
struct Pod<'a> {
    pod: &'a manifest::Pod,
    configs: &'a Configs,
    hostname: Pattern,
    notes: RefCell<BTreeSet<String>>,
}

impl<'a> Pod<'a> {
    fn spec(&self) -> &'a PodSpec {
        self.pod.spec()
    }

    fn hostname(&self) -> &Pattern {
        &self.hostname
    }

    fn config(&self, kind: ConfigKind, name: &str) -> Option<&'a Config> {
        self.configs.get(kind, self.pod.namespace.as_deref(), name)
    }

    fn note(&self, note: String) {
        self.notes.borrow_mut().insert(note);
    }

    fn note_unknown(&self, kind: ConfigKind, name: &str) {
        let (kind, name) = (kind.name(), shorten(name));
        self.note(format!(
            "the {kind} {name} is not in this file: what is in it is up to the host"
        ));
    }

    /// Whether Kubernetes mounts the service account's token.
    fn has_token(&self) -> bool {
        self.spec().automount_service_account_token.unwrap_or(true)
    }

    fn note_defaults(&self, knobs: &Knobs) {
        let spec = self.spec();
        if spec.automount_service_account_token.is_none() {
            self.note(
                "a service account's token is expected, as automountServiceAccountToken is not set; the host knows it"
                    .to_owned(),
            );
        }
        if spec.enable_service_links.unwrap_or(true) {
            self.note(
                "the host can set variables such as X_SERVICE_HOST and X_PORT: enableServiceLinks: false forbids it"
                    .to_owned(),
            );
        }
        let annotations = self.pod.template.metadata.annotations.keys();
        for key in annotations.filter(|key| FOR_THE_NODE.iter().any(|one| key.starts_with(one))) {
            self.note(format!(
                "the annotation {} is for the node and is not bound",
                shorten(key)
            ));
        }
        for (field, is_set, file) in [
            ("hostAliases", spec.host_aliases.is_some(), "/etc/hosts"),
            ("dnsConfig", spec.dns_config.is_some(), "/etc/resolv.conf"),
            ("dnsPolicy", spec.dns_policy.is_some(), "/etc/resolv.conf"),
        ] {
            if is_set {
                self.note(format!(
                    "{field} is not bound: what is in {file} is up to the host"
                ));
            }
        }
        if spec.runtime_class_name.is_none() {
            self.note("runtimeClassName is not set: the pod would not be confidential".to_owned());
        }
        if !knobs.pod.logs {
            self.note("logs are off: --allow-logs gives the host what containers write".to_owned());
        }
        let is_filtered = |one: &Container| {
            let own = one.security_context.seccomp_profile.as_ref();
            own.or(spec.security_context.seccomp_profile.as_ref())
                .is_some()
        };
        if !spec.all_containers().all(|(_, _, one)| is_filtered(one)) {
            self.note(
                "seccompProfile is not set for every container: a node whose kubelet has seccompDefault would be denied"
                    .to_owned(),
            );
        }
        let has_input = spec.all_containers().any(|(_, _, one)| one.stdin);
        if has_input && !knobs.pod.stdin {
            self.note("stdin is off: --allow-stdin lets the host write to containers".to_owned());
        }
    }
}

/// Derives a pod's policy.
///
/// # Errors
/// What can't be in a confidential pod, or is not known here, with its field and with what to do instead.
pub fn policy(
    pod: &manifest::Pod,
    configs: &Configs,
    images: &dyn Images,
    knobs: &Knobs,
) -> std::result::Result<Derived, Error> {
    let working = Pod {
        pod,
        configs,
        hostname: sandbox::hostname(&pod.naming, pod.spec()),
        notes: RefCell::default(),
    };
    let (policy, images) = derive(&working, images, knobs).map_err(|fault| pod.error(fault))?;
    policy
        .check()
        .map_err(|fault| pod.error(Fault::new(fault.to_string())))?;
    working.note_defaults(knobs);
    Ok(Derived {
        policy,
        images,
        notes: working.notes.into_inner().into_iter().collect(),
    })
}

type Pins = Vec<(String, trefoil_policy::Digest)>;

fn derive(pod: &Pod<'_>, images: &dyn Images, knobs: &Knobs) -> Result<(Policy, Pins)> {
    let spec = pod.spec();
    sandbox::check_pod(spec)?;
    check_exec(spec, knobs)?;
    let (mut containers, mut pins) = (Vec::new(), Pins::new());
    let mut before: Option<&str> = None;
    for (list, number, declared) in spec.all_containers() {
        let fault = |fault: Fault| fault.in_item(number).in_field(list);
        let image = image(images, declared).map_err(fault)?;
        for caution in &image.cautions {
            pod.note(format!("the image {}: {caution}", shorten(&declared.image)));
        }
        let kind = kind(list, declared);
        let made = container::of_pod(pod, declared, kind, before, &image, knobs).map_err(fault)?;
        containers.push(made);
        if pins.iter().all(|(name, _)| *name != declared.image) {
            pins.push((declared.image.clone(), image.digest));
        }
        if kind != Kind::App {
            // Each waits for the one before it, and so for all.
            before = Some(&declared.name);
        }
    }
    let mounted: BTreeSet<_> = containers
        .iter()
        .flat_map(|container| &container.mounts)
        .filter_map(|mount| match &mount.kind {
            MountKind::Volume { name, .. } => Some(name.clone()),
            _ => None,
        })
        .collect();
    let policy = Policy {
        version: VERSION,
        permissive: false,
        sandbox: sandbox::of_pod(pod, knobs)?,
        volumes: volumes::of_pod(pod, |name| mounted.contains(name))?,
        containers,
        knobs: knobs.pod.clone(),
    };
    Ok((policy, pins))
}

fn image(images: &dyn Images, declared: &Container) -> Result<Image> {
    images
        .image(&declared.image)
        .map_err(|why| Fault::new(why).in_field("image"))
}

fn kind(list: &str, declared: &Container) -> Kind {
    match (list, declared.restart_policy) {
        ("initContainers", Some(SidecarPolicy::Always)) => Kind::Sidecar,
        ("initContainers", _) => Kind::Init,
        _ => Kind::App,
    }
}

/// A command that is allowed in no container is a mistake.
fn check_exec(spec: &PodSpec, knobs: &Knobs) -> Result<()> {
    for (name, _) in &knobs.exec {
        if spec.all_containers().all(|(_, _, one)| one.name != *name) {
            let why = format!("--allow-exec: there is no container {:?}", shorten(name));
            return Err(Fault::new(why).in_field("containers"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
