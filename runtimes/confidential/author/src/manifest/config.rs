//! ConfigMaps and Secrets: contents that a policy can bind where the manifest has them.

#![expect(dead_code, reason = "fields that are ignored are there to be known")]

use std::collections::{BTreeMap, HashMap};

use base64ct::{Base64, Encoding};
use serde::Deserialize;

use crate::yaml::{Fault, Node};

use super::pod::Metadata;
use super::values::Ignored;

/// What kind of object has contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConfigKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl ConfigKind {
    /// As manifests spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// The contents of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The keys' values, as files have them.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The keys that can be variables: a ConfigMap's `binaryData` can't.
    pub variables: BTreeMap<String, String>,
}

/// All of a manifest.
#[derive(Debug, Default)]
pub struct Configs {
    configs: HashMap<(ConfigKind, String, String), Config>,
}

impl Configs {
    /// The one of a name, in the pod's namespace. Where neither says a namespace it is the same one.
    #[must_use]
    pub fn get(&self, kind: ConfigKind, namespace: Option<&str>, name: &str) -> Option<&Config> {
        let key = |namespace: &str| (kind, namespace.to_owned(), name.to_owned());
        self.configs
            .get(&key(namespace.unwrap_or_default()))
            .or_else(|| self.configs.get(&key("")))
    }

    pub(super) fn add(&mut self, kind: ConfigKind, node: &Node) -> Result<(), Fault> {
        let object: Object = node.parse()?;
        let Some(name) = object.metadata.name.clone() else {
            return Err(Fault::new("must be given")
                .in_field("name")
                .in_field("metadata"));
        };
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let config = match kind {
            ConfigKind::ConfigMap => object.config_map()?,
            ConfigKind::Secret => object.secret()?,
        };
        match self.configs.insert((kind, namespace, name), config) {
            Some(_) => Err(Fault::at(node.line, "is there twice")),
            None => Ok(()),
        }
    }
}

/// Either kind, as manifests have it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Object {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default)]
    binary_data: BTreeMap<String, String>,
    #[serde(default)]
    string_data: BTreeMap<String, String>,
    #[serde(default)]
    api_version: Ignored,
    #[serde(default)]
    kind: Ignored,
    #[serde(default)]
    immutable: Ignored,
    #[serde(default, rename = "type")]
    kind_of_secret: Ignored,
}

impl Object {
    fn config_map(self) -> Result<Config, Fault> {
        if !self.string_data.is_empty() {
            return Err(Fault::new("is a Secret's field: use data").in_field("stringData"));
        }
        let mut config = Config::default();
        for (key, text) in self.data {
            config.files.insert(key.clone(), text.clone().into_bytes());
            config.variables.insert(key, text);
        }
        for (key, text) in self.binary_data {
            let bytes =
                decoded(&text).map_err(|fault| fault.in_field(&key).in_field("binaryData"))?;
            if config.files.insert(key.clone(), bytes).is_some() {
                return Err(Fault::new("is in data too")
                    .in_field(&key)
                    .in_field("binaryData"));
            }
        }
        Ok(config)
    }

    fn secret(self) -> Result<Config, Fault> {
        if !self.binary_data.is_empty() {
            return Err(Fault::new("is a ConfigMap's field: use data").in_field("binaryData"));
        }
        let mut config = Config::default();
        for (key, text) in self.data {
            let bytes = decoded(&text).map_err(|fault| fault.in_field(&key).in_field("data"))?;
            config.files.insert(key, bytes);
        }
        // It overrides what data has.
        for (key, text) in self.string_data {
            config.files.insert(key, text.into_bytes());
        }
        for (key, bytes) in &config.files {
            // A variable that is no text can't be sent to a container: the runtime's messages carry text.
            if let Ok(text) = String::from_utf8(bytes.clone()) {
                config.variables.insert(key.clone(), text);
            }
        }
        Ok(config)
    }
}

fn decoded(text: &str) -> Result<Vec<u8>, Fault> {
    // Line breaks are dropped by Kubernetes' reader.
    let text: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    Base64::decode_vec(&text).map_err(|_| Fault::new("is no base64"))
}
