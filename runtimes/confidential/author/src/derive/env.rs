//! The environment of a container: the image's, the manifest's, and what kubelet and containerd add.

use trefoil_policy::{Env, Pattern, Typed};

use crate::manifest::ConfigKind;
use crate::manifest::config::Config;
use crate::manifest::container::{Container, EnvFrom, EnvVar, KeyRef, ObjectName, ValueFrom};
use crate::yaml::Fault;

use super::fields::{self, shorten};
use super::variables::{Variable, Variables};
use super::{Pod, Result};

/// What containerd sets where the image doesn't.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What containerd sets for a terminal: of a container that has one, where nobody else sets the variable; of a
/// process that is run with one beside it, in place of what is set.
const TERM: &str = "TERM";
const XTERM: &str = "xterm";

/// What the controller of an indexed Job gives each container that doesn't set it.
pub(super) const JOB_INDEX: &str = "JOB_COMPLETION_INDEX";

/// A sealed secret begins like this: the host has it, and can't read it.
pub(super) const SEALED: &str = "sealed.";

/// The variables that the kubelet hands to containerd, which references in arguments are to.
pub(super) fn of_manifest(pod: &Pod<'_>, container: &Container) -> Result<Variables> {
    let mut variables = Variables::new(pod.spec().enable_service_links.unwrap_or(true));
    for (number, source) in container.env_from.iter().enumerate() {
        whole(pod, source, &mut variables)
            .map_err(|fault| fault.in_item(number).in_field("envFrom"))?;
    }
    for (number, entry) in container.env.iter().enumerate() {
        one(pod, container, entry, &mut variables)
            .map_err(|fault| fault.in_item(number).in_field("env"))?;
    }
    let sets_index = container.env.iter().any(|entry| entry.name == JOB_INDEX);
    if pod.pod.is_indexed && !sets_index {
        // Behind all others: references from them to it stay as they stand.
        variables.set(JOB_INDEX, Variable::of(Pattern::Typed(Typed::Number)));
    }
    Ok(variables)
}

/// All keys of a ConfigMap or Secret.
fn whole(pod: &Pod<'_>, source: &EnvFrom, variables: &mut Variables) -> Result<()> {
    let (kind, object, field) = match (&source.config_map_ref, &source.secret_ref) {
        (Some(object), None) => (ConfigKind::ConfigMap, object, "configMapRef"),
        (None, Some(object)) => (ConfigKind::Secret, object, "secretRef"),
        _ => return Err(Fault::new("must have one of configMapRef and secretRef")),
    };
    let Some(config) = pod.config(kind, &object.name) else {
        return unknown_whole(kind, object).map_err(|fault| fault.in_field(field));
    };
    if let Some(key) = no_text(kind, config) {
        return Err(Fault::new(format!(
            "the key {:?} of the Secret {:?} is no text, which a variable has to be: name the others in env",
            shorten(key),
            shorten(&object.name)
        ))
        .in_field(field));
    }
    for (key, value) in &config.variables {
        let name = format!("{}{key}", source.prefix);
        let mut variable = of_config(pod, kind, &object.name, key, value)
            .map_err(|fault| fault.in_field(field))?;
        // Kubernetes before 1.34 leaves out names that are unusual.
        variable.optional = !is_usual(&name);
        variables.set(&name, variable);
    }
    Ok(())
}

/// A key that would be a variable and can't be one. Of a ConfigMap those are left out by the kubelet, too.
fn no_text(kind: ConfigKind, config: &Config) -> Option<&String> {
    let mut keys = config.files.keys();
    keys.find(|key| kind == ConfigKind::Secret && !config.variables.contains_key(*key))
}

fn unknown_whole(kind: ConfigKind, object: &ObjectName) -> Result<()> {
    Err(Fault::new(format!(
        "the {} {:?} is not in this file, so the host could set any variable: put it there, or name its keys in env",
        kind.name(),
        shorten(&object.name)
    )))
}

fn is_usual(name: &str) -> bool {
    let may_begin = |byte: &u8| byte.is_ascii_alphabetic() || b"-._".contains(byte);
    name.bytes().next().is_some_and(|byte| may_begin(&byte))
        && name
            .bytes()
            .all(|byte| may_begin(&byte) || byte.is_ascii_digit())
}

fn one(
    pod: &Pod<'_>,
    container: &Container,
    entry: &EnvVar,
    variables: &mut Variables,
) -> Result<()> {
    if entry.name.is_empty() || entry.name.contains(['=', '\0']) {
        return Err(Fault::new("must be the name of a variable").in_field("name"));
    }
    let variable = match &entry.value_from {
        Some(_) if !entry.value.is_empty() => {
            return Err(Fault::new("must not be there beside value").in_field("valueFrom"));
        }
        Some(source) => {
            from_source(pod, container, source).map_err(|fault| fault.in_field("valueFrom"))?
        }
        None => Some(expanded(pod, entry, variables)?),
    };
    // What is optional and missing is left out; an earlier one of the name stays, as in Kubernetes.
    if let Some(variable) = variable {
        variables.set(&entry.name, variable);
    }
    Ok(())
}

fn expanded(pod: &Pod<'_>, entry: &EnvVar, variables: &Variables) -> Result<Variable> {
    let expanded = variables
        .expand(&entry.value)
        .map_err(|fault| fault.in_field("value"))?;
    if expanded.value == Pattern::Typed(Typed::Text) {
        let unknown = expanded.unknown.join(", ");
        pod.note(format!(
            "the variable {} may be any text: {unknown} is not known here",
            shorten(&entry.name)
        ));
    }
    Ok(Variable {
        value: expanded.value,
        optional: false,
        secret: expanded.secret,
    })
}

fn from_source(
    pod: &Pod<'_>,
    container: &Container,
    source: &ValueFrom,
) -> Result<Option<Variable>> {
    let ValueFrom {
        field_ref,
        resource_field_ref,
        config_map_key_ref,
        secret_key_ref,
    } = source;
    match (
        field_ref,
        resource_field_ref,
        config_map_key_ref,
        secret_key_ref,
    ) {
        (Some(reference), None, None, None) => {
            let value =
                fields::field(pod.pod, reference).map_err(|fault| fault.in_field("fieldRef"))?;
            if value == Pattern::Typed(Typed::Text) {
                pod.note(format!(
                    "the host can set a variable to any text: {} is not known here",
                    shorten(&reference.field_path)
                ));
            }
            Ok(Some(Variable::of(value)))
        }
        (None, Some(reference), None, None) => {
            fields::resource(pod.pod, Some(container), reference)
                .map(|value| Some(Variable::of(value)))
                .map_err(|fault| fault.in_field("resourceFieldRef"))
        }
        (None, None, Some(key), None) => of_key(pod, ConfigKind::ConfigMap, key)
            .map_err(|fault| fault.in_field("configMapKeyRef")),
        (None, None, None, Some(key)) => {
            of_key(pod, ConfigKind::Secret, key).map_err(|fault| fault.in_field("secretKeyRef"))
        }
        _ => Err(Fault::new(
            "must have one of fieldRef, resourceFieldRef, configMapKeyRef and secretKeyRef",
        )),
    }
}

fn of_key(pod: &Pod<'_>, kind: ConfigKind, reference: &KeyRef) -> Result<Option<Variable>> {
    let optional = reference.optional.unwrap_or_default();
    let Some(config) = pod.config(kind, &reference.name) else {
        pod.note_unknown(kind, &reference.name);
        return Ok(Some(Variable {
            value: Pattern::Typed(Typed::Text),
            optional,
            secret: kind == ConfigKind::Secret,
        }));
    };
    match config.variables.get(&reference.key) {
        Some(value) => of_config(pod, kind, &reference.name, &reference.key, value).map(Some),
        None if optional && !config.files.contains_key(&reference.key) => Ok(None),
        None => Err(missing_key(kind, reference, config)),
    }
}

fn missing_key(kind: ConfigKind, reference: &KeyRef, config: &Config) -> Fault {
    let what = match config.files.contains_key(&reference.key) {
        true => "is no text, which a variable has to be",
        false => "is not in it",
    };
    let (kind, name) = (kind.name(), shorten(&reference.name));
    let key = shorten(&reference.key);
    Fault::new(format!("the key {key:?} of the {kind} {name:?} {what}")).in_field("key")
}

/// A value of an object in this file. A Secret's is not written into the policy, which more people can
/// read than the Secret: the host knows it, and what it knows protects nothing.
fn of_config(
    pod: &Pod<'_>,
    kind: ConfigKind,
    name: &str,
    key: &str,
    value: &str,
) -> Result<Variable> {
    let secret = kind == ConfigKind::Secret;
    if !secret || value.starts_with(SEALED) {
        return Ok(Variable {
            secret,
            ..Variable::exact(value)
        });
    }
    let (name, key) = (shorten(name), shorten(key));
    if !Typed::Text.matches(value) {
        return Err(Fault::new(format!(
            "the key {key:?} of the Secret {name:?} is too long for a variable that the policy leaves to the host: seal it, or mount it as a file"
        )));
    }
    pod.note(format!(
        "the host knows the Secret {name}, and can set its key {key} to any text as a variable: seal it"
    ));
    Ok(Variable {
        secret,
        ..Variable::of(Pattern::Typed(Typed::Text))
    })
}

/// What has a terminal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terminals {
    /// The container itself.
    pub own: bool,
    /// What may be run beside it, if the host asks for one.
    pub further: bool,
}

/// The environment that containerd makes of the image's variables and the kubelet's.
pub(super) fn of_container(
    hostname: &Pattern,
    terminals: Terminals,
    image: &[String],
    manifest: Variables,
) -> Vec<Env> {
    let services = manifest.services;
    let mut all = Variables::default();
    all.set("PATH", Variable::exact(PATH));
    if terminals.own {
        all.set(TERM, Variable::exact(XTERM));
    }
    all.set("HOSTNAME", Variable::of(hostname.clone()));
    for entry in image {
        match entry.split_once('=') {
            Some((name, value)) => all.set(name, Variable::exact(value)),
            None => all.remove(entry),
        }
    }
    for (name, mut variable) in manifest.into_iter() {
        // Where the kubelet's is missing, the image's is there.
        if variable.optional && all.has(&name) {
            variable.value = Pattern::Typed(Typed::Text);
            variable.optional = false;
        }
        all.set(&name, variable);
    }
    if terminals.further {
        all.set(TERM, with_terminal(all.get(TERM)));
    }
    let mut env: Vec<_> = all
        .into_iter()
        .map(|(name, variable)| Env {
            name: Pattern::Exact(name),
            value: variable.value,
            optional: variable.optional,
            secret: variable.secret,
        })
        .collect();
    add_services(&mut env, services);
    env
}

/// The variable of processes with a terminal and of those without one: the policy has one for both.
fn with_terminal(without: Option<&Variable>) -> Variable {
    let Some(without) = without else {
        return Variable {
            optional: true,
            ..Variable::exact(XTERM)
        };
    };
    let value = match &without.value {
        Pattern::Exact(own) if own == XTERM => without.value.clone(),
        Pattern::Exact(own) => Pattern::OneOf([own.clone(), XTERM.to_owned()].into()),
        _ => Pattern::Typed(Typed::Text),
    };
    Variable {
        value,
        ..without.clone()
    }
}

/// What the kubelet tells of the API server, in any case.
const API_SERVER: [(&str, Typed); 8] = [
    ("KUBERNETES_PORT", Typed::ServiceEndpoint),
    ("KUBERNETES_PORT_443_TCP", Typed::ServiceEndpoint),
    ("KUBERNETES_PORT_443_TCP_ADDR", Typed::Ip),
    ("KUBERNETES_PORT_443_TCP_PORT", Typed::Port),
    ("KUBERNETES_PORT_443_TCP_PROTO", Typed::Protocol),
    ("KUBERNETES_SERVICE_HOST", Typed::Ip),
    ("KUBERNETES_SERVICE_PORT", Typed::Port),
    ("KUBERNETES_SERVICE_PORT_HTTPS", Typed::Port),
];

/// Variables of services. One that the manifest sets is the manifest's.
fn add_services(env: &mut Vec<Env>, all: bool) {
    let service = |name, value| Env {
        name,
        value: Pattern::Typed(value),
        optional: true,
        secret: false,
    };
    for (name, value) in API_SERVER {
        let name = Pattern::exact(name);
        if env.iter().all(|one| one.name != name) {
            env.push(service(name, value));
        }
    }
    if all {
        env.push(service(
            Pattern::Typed(Typed::ServiceVariable),
            Typed::ServiceValue,
        ));
    }
}
