//! Workloads: objects that make pods of a template, and what they call them.

#![expect(dead_code, reason = "fields that are ignored are there to be known")]

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::yaml::{Fault, Node};

use super::Place;
use super::pod::{Metadata, PodSpec, PodTemplate};
use super::values::Ignored;

/// A pod that a manifest makes, once or many times.
#[derive(Debug)]
pub struct Pod {
    /// Where it stands.
    pub place: Place,
    /// Where its template stands in the object: `spec.template`, or nothing.
    pub path: &'static [&'static str],
    /// What its pods are called.
    pub naming: Naming,
    /// The namespace, where the manifest says it.
    pub namespace: Option<String>,
    /// Its labels, annotations and what runs.
    pub template: PodTemplate,
    /// Whether each of its pods has an index (a Job's with `completionMode: Indexed`).
    pub is_indexed: bool,
}

/// What pods are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Naming {
    /// This.
    Exact(String),
    /// This, and what a controller puts behind it.
    Prefix(String),
}

impl Pod {
    /// What runs.
    #[must_use]
    pub fn spec(&self) -> &PodSpec {
        &self.template.spec
    }

    /// Says of a fault in the pod's `spec` where it is.
    #[must_use]
    pub fn error(&self, fault: Fault) -> super::Error {
        let fault = self
            .path
            .iter()
            .rev()
            .fold(fault.in_field("spec"), |fault, part| fault.in_field(part));
        self.place.error(fault)
    }
}

/// Reads an object of a kind that makes pods.
pub(super) type Reader = fn(&Node, &Place) -> Result<Pod, Fault>;

/// What reads an object of a kind.
pub(super) fn reader(version: &str, kind: &str) -> Option<Reader> {
    Some(match (version, kind) {
        ("v1", "Pod") => pod,
        ("apps/v1", "Deployment" | "ReplicaSet" | "DaemonSet")
        | ("v1", "ReplicationController") => replicated,
        ("apps/v1", "StatefulSet") => stateful,
        ("batch/v1", "Job") => job,
        ("batch/v1", "CronJob") => cron_job,
        _ => return None,
    })
}

/// Objects that people keep in one file with their pods, and that change nothing in them.
pub(super) fn is_without_pods(version: &str, kind: &str) -> bool {
    matches!(
        (version, kind),
        ("v1", "Service" | "Namespace" | "Endpoints")
            | (
                "networking.k8s.io/v1",
                "Ingress" | "NetworkPolicy" | "IngressClass"
            )
            | ("policy/v1", "PodDisruptionBudget")
            | ("autoscaling/v2", "HorizontalPodAutoscaler")
            | (
                "rbac.authorization.k8s.io/v1",
                "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding"
            )
            | ("node.k8s.io/v1", "RuntimeClass")
            | ("scheduling.k8s.io/v1", "PriorityClass")
    )
}

/// An object with a pod's template.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Workload<S> {
    #[serde(default)]
    metadata: Metadata,
    spec: S,
    #[serde(default)]
    api_version: Ignored,
    #[serde(default)]
    kind: Ignored,
    #[serde(default)]
    status: Ignored,
}

/// `spec` of all that makes pods of a template. How many and when is the cluster's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Templated {
    template: PodTemplate,
    /// A StatefulSet's disks; refused.
    #[serde(default)]
    volume_claim_templates: Vec<IgnoredAny>,
    /// A StatefulSet's domain.
    service_name: Option<String>,
    /// Whether a Job's pods have an index.
    completion_mode: Option<CompletionMode>,

    #[serde(default)]
    min_ready_seconds: Ignored,
    #[serde(default)]
    paused: Ignored,
    #[serde(default)]
    progress_deadline_seconds: Ignored,
    #[serde(default)]
    replicas: Ignored,
    #[serde(default)]
    revision_history_limit: Ignored,
    #[serde(default)]
    selector: Ignored,
    #[serde(default)]
    strategy: Ignored,
    #[serde(default)]
    update_strategy: Ignored,

    #[serde(default)]
    ordinals: Ignored,
    #[serde(default)]
    persistent_volume_claim_retention_policy: Ignored,
    #[serde(default)]
    pod_management_policy: Ignored,

    #[serde(default)]
    active_deadline_seconds: Ignored,
    #[serde(default)]
    backoff_limit: Ignored,
    #[serde(default)]
    backoff_limit_per_index: Ignored,
    #[serde(default)]
    completions: Ignored,
    #[serde(default)]
    managed_by: Ignored,
    #[serde(default)]
    manual_selector: Ignored,
    #[serde(default)]
    max_failed_indexes: Ignored,
    #[serde(default)]
    parallelism: Ignored,
    #[serde(default)]
    pod_failure_policy: Ignored,
    #[serde(default)]
    pod_replacement_policy: Ignored,
    #[serde(default)]
    success_policy: Ignored,
    #[serde(default)]
    suspend: Ignored,
    #[serde(default)]
    ttl_seconds_after_finished: Ignored,
}

/// `spec` of a CronJob.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Scheduled {
    job_template: JobTemplate,
    #[serde(default)]
    concurrency_policy: Ignored,
    #[serde(default)]
    failed_jobs_history_limit: Ignored,
    #[serde(default)]
    schedule: Ignored,
    #[serde(default)]
    starting_deadline_seconds: Ignored,
    #[serde(default)]
    successful_jobs_history_limit: Ignored,
    #[serde(default)]
    suspend: Ignored,
    #[serde(default)]
    time_zone: Ignored,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JobTemplate {
    spec: Templated,
    #[serde(default)]
    metadata: Ignored,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum CompletionMode {
    Indexed,
    NonIndexed,
}

fn pod(node: &Node, place: &Place) -> Result<Pod, Fault> {
    let template: PodTemplate = node.parse()?;
    let metadata = &template.metadata;
    let naming = match (&metadata.name, &metadata.generate_name) {
        (Some(name), _) => Naming::Exact(name.clone()),
        (None, Some(beginning)) => Naming::generated(beginning),
        (None, None) => {
            return Err(Fault::new("must be given")
                .in_field("name")
                .in_field("metadata"));
        }
    };
    Ok(Pod {
        place: place.clone(),
        path: &[],
        naming,
        namespace: metadata.namespace.clone(),
        template,
        is_indexed: false,
    })
}

impl Naming {
    /// A name that is made up from its beginning, of which some is cut off where it is long.
    fn generated(beginning: &str) -> Self {
        Self::beginning(beginning, LONGEST_GENERATED)
    }

    fn beginning(beginning: &str, longest: usize) -> Self {
        Self::Prefix(beginning.chars().take(longest).collect())
    }
}

/// How much of a name's beginning the API server keeps when it makes one up.
const LONGEST_GENERATED: usize = 58;
/// How much a Job's controller keeps before it puts an index behind it: ten digits and two hyphens.
const LONGEST_INDEXED: usize = LONGEST_GENERATED - 12;

fn replicated(node: &Node, place: &Place) -> Result<Pod, Fault> {
    let workload: Workload<Templated> = node.parse()?;
    of_template(
        place,
        &["spec", "template"],
        workload.metadata,
        workload.spec,
    )
}

fn stateful(node: &Node, place: &Place) -> Result<Pod, Fault> {
    let mut workload: Workload<Templated> = node.parse()?;
    if !workload.spec.volume_claim_templates.is_empty() {
        let why = super::refused::why("persistentVolumeClaim").unwrap_or_default();
        return Err(Fault::new(why)
            .in_field("volumeClaimTemplates")
            .in_field("spec"));
    }
    // The controller sets both, whatever the template says.
    let spec = &mut workload.spec.template.spec;
    spec.hostname = None;
    spec.subdomain = workload.spec.service_name.take();
    of_template(
        place,
        &["spec", "template"],
        workload.metadata,
        workload.spec,
    )
}

fn job(node: &Node, place: &Place) -> Result<Pod, Fault> {
    let workload: Workload<Templated> = node.parse()?;
    of_template(
        place,
        &["spec", "template"],
        workload.metadata,
        workload.spec,
    )
}

fn cron_job(node: &Node, place: &Place) -> Result<Pod, Fault> {
    let workload: Workload<Scheduled> = node.parse()?;
    let path = &["spec", "jobTemplate", "spec", "template"];
    of_template(
        place,
        path,
        workload.metadata,
        workload.spec.job_template.spec,
    )
}

/// All controllers name their pods after the workload, with a hyphen and more behind it.
fn of_template(
    place: &Place,
    path: &'static [&'static str],
    metadata: Metadata,
    mut spec: Templated,
) -> Result<Pod, Fault> {
    let is_indexed = spec.completion_mode == Some(CompletionMode::Indexed);
    if is_indexed {
        // The controller sets it, as well.
        spec.template.spec.hostname = None;
    }
    let Some(name) = metadata.name.or(metadata.generate_name) else {
        return Err(Fault::new("must be given")
            .in_field("name")
            .in_field("metadata"));
    };
    let name = format!("{}-", name.trim_end_matches('-'));
    Ok(Pod {
        place: place.clone(),
        path,
        naming: match is_indexed {
            true => Naming::beginning(&name, LONGEST_INDEXED),
            false => Naming::generated(&name),
        },
        namespace: metadata
            .namespace
            .or_else(|| spec.template.metadata.namespace.clone()),
        is_indexed,
        template: spec.template,
    })
}
