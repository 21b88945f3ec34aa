//! Fields of the pod that variables and files show.

use trefoil_policy::{Pattern, Typed};

use crate::manifest::container::{Container, FieldRef, ResourceFieldRef};
use crate::manifest::{Naming, Pod, Quantity};
use crate::yaml::Fault;

/// Annotations and labels that controllers add, and what is in them.
const ADDED: &[(&str, Typed)] = &[
    ("batch.kubernetes.io/job-completion-index", Typed::Number),
    ("apps.kubernetes.io/pod-index", Typed::Number),
    ("statefulset.kubernetes.io/pod-name", Typed::DnsName),
    ("batch.kubernetes.io/job-name", Typed::DnsName),
    ("batch.kubernetes.io/controller-uid", Typed::Uuid),
    ("pod-template-hash", Typed::DnsName),
    ("controller-revision-hash", Typed::DnsName),
];

/// What a pod is called.
pub(super) fn name(pod: &Pod) -> Pattern {
    match &pod.naming {
        Naming::Exact(name) => Pattern::exact(name.as_str()),
        Naming::Prefix(beginning) => Pattern::Prefix(beginning.clone()),
    }
}

/// The namespace that a pod is in.
pub(super) fn namespace(pod: &Pod) -> Pattern {
    match &pod.namespace {
        Some(namespace) => Pattern::exact(namespace.as_str()),
        None => Pattern::Typed(Typed::DnsName),
    }
}

/// What a field of the pod is.
///
/// # Errors
/// A field that is none.
pub(super) fn field(pod: &Pod, reference: &FieldRef) -> Result<Pattern, Fault> {
    let spec = pod.spec();
    Ok(match reference.field_path.as_str() {
        "metadata.name" => name(pod),
        "metadata.namespace" => namespace(pod),
        "metadata.uid" => Pattern::Typed(Typed::Uuid),
        "spec.nodeName" => match &spec.node_name {
            Some(name) => Pattern::exact(name.as_str()),
            None => Pattern::Typed(Typed::DnsName),
        },
        "spec.serviceAccountName" => {
            let name = spec
                .service_account_name
                .as_ref()
                .or(spec.service_account.as_ref());
            Pattern::exact(name.map_or("default", String::as_str))
        }
        "status.hostIP" | "status.podIP" => Pattern::Typed(Typed::Ip),
        "status.hostIPs" | "status.podIPs" => Pattern::Typed(Typed::Text),
        path => {
            let metadata = &pod.template.metadata;
            let of = |list: &str| {
                path.strip_prefix(list)?
                    .strip_prefix("['")?
                    .strip_suffix("']")
            };
            if let Some(key) = of("metadata.labels") {
                from_map(metadata.labels.get(key), key)
            } else if let Some(key) = of("metadata.annotations") {
                from_map(metadata.annotations.get(key), key)
            } else {
                let why = format!("{:?} is no field that can be shown", shorten(path));
                return Err(Fault::new(why).in_field("fieldPath"));
            }
        }
    })
}

fn from_map(value: Option<&String>, key: &str) -> Pattern {
    match value {
        Some(value) => Pattern::exact(value.as_str()),
        None => {
            let added = ADDED.iter().find(|(name, _)| *name == key);
            Pattern::Typed(added.map_or(Typed::Text, |(_, kind)| *kind))
        }
    }
}

/// What a limit or request of a container is.
///
/// # Errors
/// A container that is none, a resource that can't be shown.
pub(super) fn resource(
    pod: &Pod,
    container: Option<&Container>,
    reference: &ResourceFieldRef,
) -> Result<Pattern, Fault> {
    let named = |name: &str| {
        let all = pod.spec().all_containers();
        all.map(|(_, _, one)| one).find(|one| one.name == name)
    };
    let of = match reference.container_name.as_str() {
        "" => container,
        name => named(name),
    };
    let Some(of) = of else {
        let why = format!(
            "no container {:?} in this pod",
            shorten(&reference.container_name)
        );
        return Err(Fault::new(why).in_field("containerName"));
    };
    let (list, resource) = reference.resource.split_once('.').unwrap_or_default();
    let is_shown = matches!(resource, "cpu" | "memory" | "ephemeral-storage")
        || resource.starts_with("hugepages-");
    if !is_shown || !matches!(list, "limits" | "requests") {
        let why = format!(
            "{:?} is no resource that can be shown",
            shorten(&reference.resource)
        );
        return Err(Fault::new(why).in_field("resource"));
    }
    let limit = of.resources.limits.get(resource);
    let amount = match list {
        // A limit without a request is the request too.
        "requests" => of.resources.requests.get(resource).or(limit),
        _ => limit,
    };
    // Without one it is the node's, or what the namespace gives by default.
    Ok(amount
        .and_then(|amount| shown(*amount, resource, reference.divisor))
        .map_or(Pattern::Typed(Typed::Number), Pattern::Exact))
}

/// An amount in its unit, rounded up.
fn shown(amount: Quantity, resource: &str, divisor: Option<Quantity>) -> Option<String> {
    let number = match divisor.filter(|divisor| *divisor != Quantity::default()) {
        Some(divisor) if resource == "cpu" => amount.in_units_of(divisor)?,
        // Of bytes both are whole numbers before they are divided.
        Some(divisor) => amount.units().div_ceil(divisor.units().max(1)),
        None => amount.units(),
    };
    Some(number.to_string())
}

/// As much of a manifest's text as a message repeats.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}
