//! The documents of an image: indexes, manifests and configurations, of OCI and of Docker.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::Digest;

/// One entry of an index, or of a manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, deserialize_with = "or_empty")]
    pub annotations: BTreeMap<String, String>,
    pub platform: Option<DescribedPlatform>,
}

/// What an entry of an index is for.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct DescribedPlatform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub variant: String,
    #[serde(default, rename = "os.features", deserialize_with = "or_empty")]
    pub features: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Index {
    #[serde(default, deserialize_with = "or_empty")]
    pub manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub config: Descriptor,
    #[serde(default, deserialize_with = "or_empty")]
    pub layers: Vec<Descriptor>,
}

/// The configuration's file.
#[derive(Debug, Deserialize)]
pub(super) struct ImageDocument {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default, deserialize_with = "or_empty")]
    pub config: Config,
    pub rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
pub(super) struct RootFs {
    #[serde(default, deserialize_with = "or_empty")]
    pub diff_ids: Vec<Digest>,
}

/// What an image does when run, as far as CRI makes a container of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// Who its processes are: a name or a number, and perhaps a group's.
    #[serde(deserialize_with = "or_empty")]
    pub user: String,
    /// Its environment, `NAME=value` each.
    #[serde(deserialize_with = "or_empty")]
    pub env: Vec<String>,
    /// The command's beginning.
    #[serde(deserialize_with = "or_empty")]
    pub entrypoint: Vec<String>,
    /// The command's end.
    #[serde(deserialize_with = "or_empty")]
    pub cmd: Vec<String>,
    /// Where its processes begin.
    #[serde(deserialize_with = "or_empty")]
    pub working_dir: String,
    /// Where it wants volumes.
    #[serde(deserialize_with = "keys")]
    pub volumes: Vec<String>,
    /// What ends it.
    #[serde(deserialize_with = "or_empty")]
    pub stop_signal: String,
}

/// Go writes `null` for what is empty.
fn or_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A set, as Go writes one.
fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let map: BTreeMap<String, serde::de::IgnoredAny> = or_empty(deserializer)?;
    Ok(map.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_as_docker_writes_it() {
        let json = r#"{"os": "linux", "architecture": "amd64", "history": [{"comment": "x"}],
            "config": {"User": "1002", "Env": ["A=1"], "Entrypoint": null, "Cmd": ["sh"],
                "Volumes": {"/b": {}, "/a": {}}, "Labels": null},
            "rootfs": {"type": "layers", "diff_ids": null}}"#;
        let read: ImageDocument = serde_json::from_str(json).expect("a configuration");
        assert_eq!(
            (read.os.as_str(), read.architecture.as_str()),
            ("linux", "amd64")
        );
        let expected = Config {
            user: "1002".into(),
            env: vec!["A=1".into()],
            cmd: vec!["sh".into()],
            volumes: vec!["/a".into(), "/b".into()],
            ..Config::default()
        };
        assert_eq!(read.config, expected);
        let none = r#"{"config": null, "rootfs": {}}"#;
        let read: ImageDocument = serde_json::from_str(none).expect("a configuration");
        assert_eq!(read.config, Config::default());
    }
}
