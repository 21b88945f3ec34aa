//! The pod's volumes: scratch, and files that the host brings.

use std::collections::BTreeMap;

use trefoil_policy::{Content, Digest, FileRule, Medium, Owner, Pattern, Volume, VolumeKind};

use crate::manifest::ConfigKind;
use crate::manifest::config::Config;
use crate::manifest::container::Container;
use crate::manifest::pod::PodSpec;
use crate::manifest::volume::{self as manifest, Downward, EmptyDir, Item, Source};
use crate::yaml::Fault;

use super::env::SEALED;
use super::fields::{self, shorten};
use super::mounts::clean;
use super::{Pod, Result, names};

/// The most that Kubernetes has in a ConfigMap or Secret.
const LARGEST_OBJECT: u32 = 1 << 20;
/// What there is room for in a token, a field of the pod, or a file of the network's.
const LARGEST_FILE: u32 = 64 << 10;
/// Files' mode unless the manifest says another.
const MODE: u32 = 0o644;
/// What the kubelet adds where files belong to a group.
const GROUP_READS: u32 = 0o440;

/// Works out the volumes that containers have mounted.
///
/// # Errors
/// Two of one name, a name that is taken, a kind that is not known, a key that is none.
pub(super) fn of_pod(pod: &Pod<'_>, is_mounted: impl Fn(&str) -> bool) -> Result<Vec<Volume>> {
    let mut volumes = Vec::new();
    let declared = &pod.spec().volumes;
    for (number, volume) in declared.iter().enumerate() {
        let fault = |fault: Fault| fault.in_item(number).in_field("volumes");
        check_name(volume, &declared[..number]).map_err(fault)?;
        let kind = of_volume(pod, volume).map_err(fault)?;
        if is_mounted(&volume.name) {
            volumes.push(Volume {
                name: volume.name.clone(),
                kind,
            });
        }
    }
    let added = kubelets(pod)
        .into_iter()
        .filter(|volume| is_mounted(&volume.name));
    volumes.extend(added);
    Ok(volumes)
}

fn check_name(volume: &manifest::Volume, before: &[manifest::Volume]) -> Result<()> {
    let why = if before.iter().any(|other| other.name == volume.name) {
        "is there twice"
    } else if names::RESERVED.contains(&volume.name.as_str()) {
        "is the name of a volume that Kubernetes adds: use another"
    } else if names::is_token(&volume.name) {
        "is the token's volume, which Kubernetes adds by itself: leave it and its mounts out"
    } else {
        return Ok(());
    };
    Err(Fault::new(why).in_field("name"))
}

fn of_volume(pod: &Pod<'_>, volume: &manifest::Volume) -> Result<VolumeKind> {
    let manifest::Volume {
        name: _,
        empty_dir,
        config_map,
        secret,
        projected,
        downward_api,
    } = volume;
    let mut files = Files::new(pod);
    match (empty_dir, config_map, secret, projected, downward_api) {
        // Kubernetes takes a volume of no kind for an empty directory.
        (None, None, None, None, None) => return Ok(scratch(Medium::Encrypted, None)),
        (Some(volume), None, None, None, None) => {
            return empty(volume).map_err(|fault| fault.in_field("emptyDir"));
        }
        (None, Some(volume), None, None, None) => {
            files.mode = volume.default_mode.unwrap_or(MODE);
            let optional = volume.optional.unwrap_or_default();
            files
                .object(ConfigKind::ConfigMap, &volume.name, &volume.items, optional)
                .map_err(|fault| fault.in_field("configMap"))?;
        }
        (None, None, Some(volume), None, None) => {
            files.mode = volume.default_mode.unwrap_or(MODE);
            let optional = volume.optional.unwrap_or_default();
            files
                .object(
                    ConfigKind::Secret,
                    &volume.secret_name,
                    &volume.items,
                    optional,
                )
                .map_err(|fault| fault.in_field("secret"))?;
        }
        (None, None, None, Some(volume), None) => {
            files.mode = volume.default_mode.unwrap_or(MODE);
            for (number, source) in volume.sources.iter().enumerate() {
                files.source(source).map_err(|fault| {
                    fault
                        .in_item(number)
                        .in_field("sources")
                        .in_field("projected")
                })?;
            }
        }
        (None, None, None, None, Some(volume)) => {
            files.mode = volume.default_mode.unwrap_or(MODE);
            files
                .downward(volume)
                .map_err(|fault| fault.in_field("downwardAPI"))?;
        }
        _ => return Err(Fault::new("must be of one kind")),
    }
    Ok(files.finish())
}

fn scratch(medium: Medium, size: Option<u64>) -> VolumeKind {
    VolumeKind::EmptyDir { medium, size }
}

fn empty(volume: &EmptyDir) -> Result<VolumeKind> {
    let medium = match volume.medium.as_str() {
        "" => Medium::Encrypted,
        "Memory" => Medium::Memory,
        _ => {
            let why = "huge pages are not set aside in a guest: use Memory, or leave it out";
            return Err(Fault::new(why).in_field("medium"));
        }
    };
    let size = volume
        .size_limit
        .map(|size| size.units())
        .filter(|size| *size != 0);
    Ok(scratch(medium, size))
}

/// Rules for the files of a volume while they are gathered.
struct Files<'a> {
    pod: &'a Pod<'a>,
    mode: u32,
    /// By their paths; none for any.
    rules: BTreeMap<Option<String>, FileRule>,
    known_to_host: bool,
}

impl<'a> Files<'a> {
    fn new(pod: &'a Pod<'a>) -> Self {
        Self {
            pod,
            mode: MODE,
            rules: BTreeMap::new(),
            known_to_host: false,
        }
    }

    /// Where two sources have a file of one path, the later one counts.
    fn add(&mut self, path: Option<&str>, content: Content, mode: Option<u32>, optional: bool) {
        let group = self.pod.spec().security_context.fs_group;
        let of_group = match group {
            Some(_) => GROUP_READS,
            None => 0,
        };
        let rule = FileRule {
            path: path.map_or(Pattern::Prefix(String::new()), Pattern::exact),
            content,
            mode: (mode.unwrap_or(self.mode) | of_group) & 0o777,
            owner: Owner {
                user: 0,
                group: group.unwrap_or_default(),
            },
            optional,
        };
        self.rules.insert(path.map(str::to_owned), rule);
    }

    /// A token of the service account's. The kubelet has it read by the user that all containers are of, if there
    /// is one, and by nobody else.
    fn add_token(&mut self, path: &str) {
        self.add(Some(path), Content::AtMost(LARGEST_FILE), None, false);
        let user = only_user(self.pod.spec());
        let rule = self.rules.get_mut(&Some(path.to_owned()));
        if let (Some(user), Some(rule)) = (user, rule) {
            rule.owner.user = user;
        }
        self.known_to_host = true;
    }

    fn object(
        &mut self,
        kind: ConfigKind,
        name: &str,
        items: &[Item],
        optional: bool,
    ) -> Result<()> {
        let config = self.pod.config(kind, name);
        match config {
            None => self.pod.note_unknown(kind, name),
            Some(config) if kind == ConfigKind::Secret => self.note_digests(name, config, items),
            Some(_) => {}
        }
        let any = Content::AtMost(LARGEST_OBJECT);
        if items.is_empty() {
            match config {
                None => self.add(None, any.clone(), None, true),
                Some(config) => {
                    for (key, bytes) in &config.files {
                        self.add(Some(key), bound(bytes), None, optional);
                    }
                }
            }
        }
        for (number, item) in items.iter().enumerate() {
            let fault = |fault: Fault| fault.in_item(number).in_field("items");
            let path = path(&item.path).map_err(fault)?;
            let content = match config.map(|config| config.files.get(&item.key)) {
                None => any.clone(),
                Some(Some(bytes)) => bound(bytes),
                Some(None) if optional => continue,
                Some(None) => {
                    let (kind, name) = (kind.name(), shorten(name));
                    let why = format!(
                        "the key {:?} is not in the {kind} {name:?}",
                        shorten(&item.key)
                    );
                    return Err(fault(Fault::new(why).in_field("key")));
                }
            };
            self.add(Some(&path), content, item.mode, optional);
        }
        Ok(())
    }

    /// Of a Secret that is mounted the policy has digests, and more people read the policy than the Secret.
    fn note_digests(&self, name: &str, config: &Config, items: &[Item]) {
        let is_shown = |key: &String| items.is_empty() || items.iter().any(|item| item.key == *key);
        let plain = config
            .files
            .iter()
            .filter(|(key, bytes)| is_shown(key) && !bytes.starts_with(SEALED.as_bytes()));
        for (key, _) in plain {
            self.pod.note(format!(
                "the policy has the SHA-256 of the key {} of the Secret {}, by which a short value can be guessed, and the host knows it: seal it",
                shorten(key),
                shorten(name)
            ));
        }
    }

    fn source(&mut self, source: &Source) -> Result<()> {
        let Source {
            config_map,
            secret,
            downward_api,
            service_account_token,
        } = source;
        match (config_map, secret, downward_api, service_account_token) {
            (Some(of), None, None, None) => self
                .object(
                    ConfigKind::ConfigMap,
                    &of.name,
                    &of.items,
                    of.optional.unwrap_or_default(),
                )
                .map_err(|fault| fault.in_field("configMap")),
            (None, Some(of), None, None) => self
                .object(
                    ConfigKind::Secret,
                    &of.name,
                    &of.items,
                    of.optional.unwrap_or_default(),
                )
                .map_err(|fault| fault.in_field("secret")),
            (None, None, Some(of), None) => self
                .downward(of)
                .map_err(|fault| fault.in_field("downwardAPI")),
            (None, None, None, Some(token)) => {
                let path =
                    path(&token.path).map_err(|fault| fault.in_field("serviceAccountToken"))?;
                self.add_token(&path);
                Ok(())
            }
            _ => Err(Fault::new("must have one source")),
        }
    }

    fn downward(&mut self, volume: &Downward) -> Result<()> {
        for (number, item) in volume.items.iter().enumerate() {
            let fault = |fault: Fault| fault.in_item(number).in_field("items");
            let path = path(&item.path).map_err(fault)?;
            let value = match (&item.field_ref, &item.resource_field_ref) {
                // All of them at once, in an order of the kubelet's.
                (Some(field), None)
                    if matches!(
                        field.field_path.as_str(),
                        "metadata.labels" | "metadata.annotations"
                    ) =>
                {
                    None
                }
                (Some(field), None) => {
                    let value = fields::field(self.pod.pod, field);
                    Some(value.map_err(|it| fault(it.in_field("fieldRef")))?)
                }
                (None, Some(resource)) => {
                    let value = fields::resource(self.pod.pod, None, resource);
                    Some(value.map_err(|it| fault(it.in_field("resourceFieldRef")))?)
                }
                _ => {
                    return Err(fault(Fault::new(
                        "must have one of fieldRef and resourceFieldRef",
                    )));
                }
            };
            let content = match value {
                Some(Pattern::Exact(text)) => Content::Digest(Digest::of(text.as_bytes())),
                _ => Content::AtMost(LARGEST_FILE),
            };
            self.add(Some(&path), content, item.mode, false);
        }
        self.known_to_host = true;
        Ok(())
    }

    fn finish(self) -> VolumeKind {
        let files: Vec<_> = self.rules.into_values().collect();
        // What is bound by its digest can't change.
        let update = files
            .iter()
            .any(|rule| matches!(rule.content, Content::AtMost(_)));
        VolumeKind::Files {
            files,
            single: false,
            update,
            known_to_host: self.known_to_host,
        }
    }
}

/// What binds a file to these bytes: a sealed secret's text, which the guest is to know beforehand.
fn bound(bytes: &[u8]) -> Content {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.starts_with(SEALED) => Content::Sealed(text.to_owned()),
        _ => Content::Digest(Digest::of(bytes)),
    }
}

fn path(path: &str) -> Result<String> {
    clean(path)
        .ok_or_else(|| Fault::new("must be a path below the volume, without ..").in_field("path"))
}

/// The user that the manifest gives all containers, if it is one (kubernetes/pkg/volume/util: `FsUserFrom`).
fn only_user(spec: &PodSpec) -> Option<u32> {
    let containers = spec.init_containers.iter().chain(&spec.containers);
    let user = |one: &Container| {
        let own = one.security_context.run_as_user;
        own.or(spec.security_context.run_as_user)
    };
    let mut users = containers.map(user);
    let first = users.next()??;
    users.all(|other| other == Some(first)).then_some(first)
}

/// The volumes that Kubernetes and containerd add.
fn kubelets(pod: &Pod<'_>) -> Vec<Volume> {
    let file = |name: &str, content, update| Volume {
        name: name.to_owned(),
        kind: VolumeKind::Files {
            files: vec![FileRule {
                path: Pattern::exact(""),
                content,
                mode: MODE,
                owner: Owner::default(),
                optional: false,
            }],
            single: true,
            update,
            known_to_host: true,
        },
    };
    let hostname = match pod.hostname() {
        Pattern::Exact(name) => Content::Digest(Digest::of(format!("{name}\n").as_bytes())),
        _ => Content::AtMost(256),
    };
    let mut volumes = vec![
        file(names::HOSTS, Content::AtMost(LARGEST_FILE), true),
        file(names::HOSTNAME, hostname, false),
        file(names::RESOLVER, Content::AtMost(LARGEST_FILE), true),
        Volume {
            name: names::LAST_WORDS.to_owned(),
            kind: VolumeKind::EmptyFile,
        },
    ];
    volumes.push(token(pod));
    volumes
}

/// The service account's token, with what is needed to use it.
fn token(pod: &Pod<'_>) -> Volume {
    let mut files = Files::new(pod);
    files.known_to_host = true;
    let namespace = match fields::namespace(pod.pod) {
        Pattern::Exact(name) => Content::Digest(Digest::of(name.as_bytes())),
        _ => Content::AtMost(253),
    };
    files.add(Some("ca.crt"), Content::AtMost(LARGEST_OBJECT), None, false);
    files.add(Some("namespace"), namespace, None, false);
    files.add_token("token");
    Volume {
        name: names::TOKEN.to_owned(),
        kind: files.finish(),
    }
}
