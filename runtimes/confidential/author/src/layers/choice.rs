//! Which image of a layout is meant.

use std::path::Path;

use trefoil_core::{Error, ErrorKind, Result};

use super::Digest;
use super::blob::Directory;
use super::document::{DescribedPlatform, Descriptor, Index};

/// How deep indexes may lie in each other.
const MOST_NESTED: usize = 4;
/// How many names a message has.
const MOST_SHOWN: usize = 8;

const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// What an image's name is called in an index, the full one and the tag or whatever a tool takes for it.
const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// What an image is for. Its operating system is Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// As Go calls it.
    pub architecture: String,
}

impl Default for Platform {
    fn default() -> Self {
        Self {
            architecture: "amd64".into(),
        }
    }
}

/// Which image is meant.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// A name that the layout's index has, the whole or the tag of it, or a digest; not needed where there is one
    /// image.
    pub reference: Option<String>,
    /// Which of the image's variants.
    pub platform: Platform,
}

impl Choice {
    /// The digest of the manifest that is meant in an image layout's directory.
    ///
    /// # Errors
    /// If there is none, or several.
    pub fn digest(&self, layout: &Path) -> Result<Digest> {
        self.find(&Directory::new(layout)).map(|found| found.digest)
    }

    /// Finds the manifest.
    pub(super) fn find(&self, directory: &Directory) -> Result<Descriptor> {
        self.find_through(directory).map(|(found, _)| found)
    }

    /// Finds the manifest, and the indexes that lead to it from what is named.
    pub(super) fn find_through(
        &self,
        directory: &Directory,
    ) -> Result<(Descriptor, Vec<Descriptor>)> {
        let index: Index = directory.index()?;
        let mut through = Vec::new();
        let mut found = match self.named(&index.manifests) {
            Err(why) if why.kind() == ErrorKind::NotFound && self.is_digest() => {
                let found = self.below(directory, &index.manifests, &mut through)?;
                found.ok_or(why)?
            }
            found => found?,
        };
        for _ in 0..MOST_NESTED {
            if !INDEXES.contains(&found.media_type.as_str()) {
                return Ok((found, through));
            }
            let index: Index = directory.document(&found)?;
            through.push(std::mem::replace(
                &mut found,
                self.of_the_platform(&index.manifests.iter().collect::<Vec<_>>())?,
            ));
        }
        Err(Error::invalid(format!(
            "the image's indexes lie more than {MOST_NESTED} deep in each other"
        )))
    }

    fn is_digest(&self) -> bool {
        self.reference
            .as_deref()
            .is_some_and(|name| name.parse::<Digest>().is_ok())
    }

    /// The one of the digest in an index that the layout's index leads to: a variant, as it is pinned.
    fn below(
        &self,
        directory: &Directory,
        manifests: &[Descriptor],
        through: &mut Vec<Descriptor>,
    ) -> Result<Option<Descriptor>> {
        if through.len() == MOST_NESTED {
            return Ok(None);
        }
        let indexes = manifests
            .iter()
            .filter(|one| INDEXES.contains(&one.media_type.as_str()));
        for one in indexes {
            let index: Index = directory.document(one)?;
            through.push(one.clone());
            let found = match self.named(&index.manifests) {
                Err(why) if why.kind() == ErrorKind::NotFound => {
                    self.below(directory, &index.manifests, through)?
                }
                found => Some(found?),
            };
            if found.is_some() {
                return Ok(found);
            }
            through.pop();
        }
        Ok(None)
    }

    /// The image that is named, with all its variants.
    fn named(&self, manifests: &[Descriptor]) -> Result<Descriptor> {
        let matching: Vec<_> = manifests
            .iter()
            .filter(|one| {
                self.reference
                    .as_deref()
                    .is_none_or(|name| is_named(one, name))
            })
            .collect();
        let one_digest = |first: &Descriptor| matching.iter().all(|one| one.digest == first.digest);
        match matching.as_slice() {
            [first, ..] if one_digest(first) => Ok((*first).clone()),
            // Without an index of its own an image's variants lie beside each other, all by its name.
            [_, ..] => self
                .of_the_platform(&matching)
                .map_err(|_| self.ambiguous(&matching)),
            [] => Err(self.missing(manifests)),
        }
    }

    fn missing(&self, manifests: &[Descriptor]) -> Error {
        let manifests: Vec<_> = manifests.iter().collect();
        Error::not_found(match &self.reference {
            Some(name) => format!(
                "the image layout has no image {name:?}: it has {}",
                names(&manifests)
            ),
            None => "the image layout has no image".to_owned(),
        })
    }

    fn ambiguous(&self, matching: &[&Descriptor]) -> Error {
        let Some(name) = &self.reference else {
            return Error::invalid(format!(
                "the image layout has several images, so one is to be named: {}",
                names(matching)
            ));
        };
        let digests: Vec<_> = matching.iter().map(|one| one.digest.as_str()).collect();
        Error::invalid(format!(
            "the image layout has several images {name:?}, so its reference is to be the digest of one: {}",
            listed(&digests)
        ))
    }

    /// The variant for the platform. Those of EROFS are left out: they are no tar archives.
    fn of_the_platform(&self, variants: &[&Descriptor]) -> Result<Descriptor> {
        let matching: Vec<_> = variants
            .iter()
            .copied()
            .filter(|one| one.platform.as_ref().is_some_and(|is| self.is_for(is)))
            .collect();
        let plain = |one: &&&Descriptor| {
            let variant = one.platform.as_ref().map(|is| is.variant.as_str());
            matches!(variant, Some("" | "v1" | "v8"))
        };
        let architecture = &self.platform.architecture;
        match matching.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(Error::not_found(format!(
                "the image has no variant for linux/{architecture}"
            ))),
            several => match several.iter().filter(plain).collect::<Vec<_>>()[..] {
                [one] => Ok((*one).clone()),
                _ => Err(Error::invalid(format!(
                    "the image has {} variants for linux/{architecture}, so its reference is to be the digest of one",
                    several.len()
                ))),
            },
        }
    }

    fn is_for(&self, platform: &DescribedPlatform) -> bool {
        platform.os == "linux"
            && platform.architecture == self.platform.architecture
            && platform.features.is_empty()
    }
}

fn is_named(one: &Descriptor, name: &str) -> bool {
    if name.parse::<Digest>().is_ok() {
        return one.digest.as_str() == name;
    }
    let tag = name.rsplit_once(':').map(|(_, tag)| tag);
    let is = |known: &String| known == name || (!known.contains(['/', ':']) && tag == Some(known));
    NAMES
        .iter()
        .filter_map(|key| one.annotations.get(*key))
        .any(is)
}

fn names(manifests: &[&Descriptor]) -> String {
    let name = |one: &&Descriptor| {
        let name = NAMES.iter().find_map(|key| one.annotations.get(*key));
        match name {
            Some(name) => format!("{:?}", name.chars().take(80).collect::<String>()),
            None => one.digest.to_string(),
        }
    };
    let all: Vec<_> = manifests.iter().map(name).collect();
    listed(&all.iter().map(String::as_str).collect::<Vec<_>>())
}

fn listed(names: &[&str]) -> String {
    let (shown, more) = names.split_at(names.len().min(MOST_SHOWN));
    match (shown, more) {
        ([], _) => "none".to_owned(),
        (shown, []) => shown.join(", "),
        (shown, more) => format!("{}, {} more", shown.join(", "), more.len()),
    }
}
