//! Manifests: the pods in a file, and the ConfigMaps and Secrets beside them.
//!
//! [`read`] takes a file's text apart. What it does not know it refuses, by kind and by field: what is
//! ignored in silence here would run otherwise than its author was told. Start reading at [`Manifest`].

pub mod config;
pub mod container;
pub mod mount;
pub mod pod;
pub(crate) mod refused;
pub mod security;
mod values;
pub mod volume;
pub mod workload;

use std::fmt;

use crate::yaml::{self, Fault, Node, Value};

pub use config::{Config, ConfigKind, Configs};
pub use values::Quantity;
pub use workload::{Naming, Pod};

/// What is in a file.
#[derive(Debug, Default)]
pub struct Manifest {
    /// The pods, those of workloads among them, in the file's order.
    pub pods: Vec<Pod>,
    /// The ConfigMaps and Secrets.
    pub configs: Configs,
    without_token: Vec<WithoutToken>,
}

/// What is wrong with a manifest: in which file and document, of which object, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    sentence: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Error {}

/// Where an object stands, for messages about it.
#[derive(Debug, Clone)]
pub struct Place {
    file: String,
    /// Counted from 1, of those that are not empty.
    document: usize,
    /// `Deployment web`.
    object: String,
}

impl Place {
    /// Says of a fault where the object is that has it.
    #[must_use]
    pub fn error(&self, fault: Fault) -> Error {
        let Self {
            file,
            document,
            object,
        } = self;
        Error {
            sentence: format!("{file}: document {document} ({object}): {fault}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.object)
    }
}

/// Reads a file's text.
///
/// # Errors
/// What is no YAML, an object of a kind that is not known, a field that is not known or refused, a name
/// that stands for two objects.
pub fn read(file: &str, text: &str) -> Result<Manifest, Error> {
    let documents = yaml::read(text).map_err(|fault| Error {
        sentence: format!("{file}: {fault}"),
    })?;
    let mut manifest = Manifest::default();
    for (number, document) in documents.iter().enumerate() {
        let mut reader = Reader {
            file,
            document: number + 1,
            manifest: &mut manifest,
        };
        reader.object(document)?;
    }
    manifest.check_accounts()?;
    Ok(manifest)
}

/// A ServiceAccount that says that its pods have no token.
#[derive(Debug, PartialEq, Eq)]
struct WithoutToken {
    name: String,
    namespace: Option<String>,
}

impl Manifest {
    /// What a ServiceAccount says of its pods' tokens a pod has to say itself: it may run under another one of
    /// the name.
    fn check_accounts(&self) -> Result<(), Error> {
        for pod in &self.pods {
            let spec = pod.spec();
            let own = spec.service_account_name.as_ref();
            let name = own.or(spec.service_account.as_ref());
            let name = name.map_or("default", String::as_str);
            let is_its = |account: &&WithoutToken| {
                let (one, other) = (&account.namespace, &pod.namespace);
                account.name == name && (one == other || one.is_none() || other.is_none())
            };
            if spec.automount_service_account_token.is_none()
                && self.without_token.iter().any(|account| is_its(&account))
            {
                let why = "the ServiceAccount in this file has false, so say it here, too";
                let fault = Fault::new(why).in_field("automountServiceAccountToken");
                return Err(pod.error(fault));
            }
        }
        Ok(())
    }
}

struct Reader<'a> {
    file: &'a str,
    document: usize,
    manifest: &'a mut Manifest,
}

impl Reader<'_> {
    fn place(&self, node: &Node) -> Place {
        let kind = node.text("kind").unwrap_or("object without a kind");
        let metadata = node.get("metadata");
        let name = metadata.and_then(|one| one.text("name").or_else(|| one.text("generateName")));
        let object = match name {
            Some(name) => format!("{kind} {name}"),
            None => kind.to_owned(),
        };
        Place {
            file: self.file.to_owned(),
            document: self.document,
            object: object.chars().take(120).collect(),
        }
    }

    fn object(&mut self, node: &Node) -> Result<(), Error> {
        let place = self.place(node);
        if !matches!(node.value, Value::Map(_)) {
            return Err(place.error(Fault::at(node.line, "must be an object")));
        }
        let text = |name| node.text(name).unwrap_or_default();
        match (text("apiVersion"), text("kind")) {
            ("v1", "List" | "PodList" | "ConfigMapList" | "SecretList") => self.list(node, &place),
            ("v1", "ConfigMap") => self.config(node, &place, ConfigKind::ConfigMap),
            ("v1", "Secret") => self.config(node, &place, ConfigKind::Secret),
            ("v1", "ServiceAccount") => {
                self.account(node);
                Ok(())
            }
            (version, kind) => match workload::reader(version, kind) {
                Some(reader) => {
                    let pod = reader(node, &place).map_err(|fault| place.error(fault))?;
                    self.manifest.pods.push(pod);
                    Ok(())
                }
                None if workload::is_without_pods(version, kind) => Ok(()),
                None => Err(place.error(unknown_kind(node, version, kind))),
            },
        }
    }

    fn list(&mut self, node: &Node, place: &Place) -> Result<(), Error> {
        let Some(Value::List(items)) = node.get("items").map(|items| &items.value) else {
            return Err(place.error(Fault::at(node.line, "must be a list").in_field("items")));
        };
        items.iter().try_for_each(|item| self.object(item))
    }

    fn account(&mut self, node: &Node) {
        let mounts = node
            .get("automountServiceAccountToken")
            .map(|one| &one.value);
        let metadata = node.get("metadata");
        let text = |field| metadata.and_then(|one| one.text(field)).map(str::to_owned);
        if let (Some(Value::Bool(false)), Some(name)) = (mounts, text("name")) {
            let namespace = text("namespace");
            self.manifest
                .without_token
                .push(WithoutToken { name, namespace });
        }
    }

    fn config(&mut self, node: &Node, place: &Place, kind: ConfigKind) -> Result<(), Error> {
        self.manifest
            .configs
            .add(kind, node)
            .map_err(|fault| place.error(fault))
    }
}

fn unknown_kind(node: &Node, version: &str, kind: &str) -> Fault {
    let shown = |text: &str| text.chars().take(60).collect::<String>();
    let why = format!(
        "unknown kind {:?} of apiVersion {:?}; there are Pod, Deployment, Job, CronJob, StatefulSet, \
         DaemonSet, ReplicaSet, ConfigMap, Secret, and List of these",
        shown(kind),
        shown(version)
    );
    Fault::at(node.line, why).in_field("kind")
}

#[cfg(test)]
mod tests;
