//! Images in OCI image layouts, by the names that manifests have for them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use trefoil_core::ErrorKind;
use trefoil_policy::{Digest, Layer};

use crate::image::{Config, Image, Images};
use crate::layers::{self, Choice, Layers, Mkfs, PublicKey};

/// The image layouts that were given.
#[derive(Debug)]
pub struct Layouts {
    directories: Vec<PathBuf>,
    layers: RefCell<Layers>,
    /// Images that have been read, by their manifests' digests.
    known: RefCell<BTreeMap<layers::Digest, Image>>,
    /// Whose signature each image must have.
    key: Option<PublicKey>,
}

/// Where an image was found.
struct Found<'a> {
    directory: &'a Path,
    choice: Choice,
    digest: layers::Digest,
}

impl Layouts {
    /// Those directories; this program makes root hashes of the layers in them. With a key, images without
    /// its signature are refused.
    #[must_use]
    pub fn new(directories: Vec<PathBuf>, mkfs: Mkfs, key: Option<PublicKey>) -> Self {
        Self {
            directories,
            layers: RefCell::new(Layers::new(mkfs)),
            known: RefCell::default(),
            key,
        }
    }

    /// Looks for an image by all its names, in all layouts.
    fn find(&self, reference: &str) -> Result<Vec<Found<'_>>, String> {
        let mut all = Vec::new();
        for directory in &self.directories {
            for name in names(reference) {
                let choice = Choice {
                    reference: Some(name),
                    ..Choice::default()
                };
                match choice.digest(directory) {
                    Ok(digest) => all.push(Found {
                        directory,
                        choice,
                        digest,
                    }),
                    Err(why) if why.kind() == ErrorKind::NotFound => {}
                    Err(why) => return Err(format!("{}: {why}", directory.display())),
                }
            }
        }
        Ok(all)
    }

    fn read(&self, found: &Found<'_>) -> trefoil_core::Result<Image> {
        if let Some(key) = &self.key {
            key.verify_image(found.directory, &found.choice)?;
        }
        if let Some(known) = self.known.borrow().get(&found.digest) {
            return Ok(known.clone());
        }
        let image = self
            .layers
            .borrow_mut()
            .image(found.directory, &found.choice)?;
        let digest = sha256(&image.digest)?;
        let layers = image.layers.iter().rev().map(|layer| Layer {
            root_hash: Digest(*layer.root.bytes()),
            blocks: layer.data_blocks,
        });
        let made = Image {
            digest,
            layers: layers.collect(),
            config: config(image.config),
            passwd: image.users.passwd,
            group: image.users.group,
            cautions: image.cautions,
        };
        self.known.borrow_mut().insert(image.digest, made.clone());
        Ok(made)
    }
}

impl Images for Layouts {
    fn image(&self, reference: &str) -> Result<Image, String> {
        let shown: String = reference.chars().take(200).collect();
        let all = self.find(reference)?;
        let Some(first) = all.first() else {
            return Err(format!(
                "no --image-layout has {shown:?}: fetch it with `skopeo copy docker://{shown} oci:DIRECTORY:{shown}`"
            ));
        };
        // Which one the node would run can't be known, so none is taken.
        if let Some(other) = all.iter().find(|one| one.digest != first.digest) {
            let (one, two) = (first.directory.display(), other.directory.display());
            return Err(format!(
                "{shown:?} is {} in {one} and {} in {two}: leave one out, or write the digest that is meant behind the name",
                first.digest, other.digest
            ));
        }
        self.read(first)
            .map_err(|why| format!("{}: {why}", first.directory.display()))
    }
}

/// What a layout may call an image: as the manifest does, in full, or by its digest.
fn names(reference: &str) -> Vec<String> {
    let mut names = vec![reference.to_owned()];
    if let Some((_, digest)) = reference.split_once('@') {
        // A digest says which one, whatever it is called.
        return vec![digest.to_owned()];
    }
    let last = reference.rsplit('/').next().unwrap_or(reference);
    let tagged = match last.contains(':') {
        true => reference.to_owned(),
        false => format!("{reference}:latest"),
    };
    let first = tagged.split('/').next().unwrap_or_default();
    let has_host = tagged.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let full = match (has_host, tagged.contains('/')) {
        (true, _) => tagged.clone(),
        (false, true) => format!("docker.io/{tagged}"),
        (false, false) => format!("docker.io/library/{tagged}"),
    };
    names.extend([tagged, full]);
    names.dedup();
    names
}

fn sha256(digest: &layers::Digest) -> trefoil_core::Result<Digest> {
    let (algorithm, digits) = digest.parts();
    match (algorithm, digits.parse()) {
        ("sha256", Ok(digest)) => Ok(digest),
        _ => Err(trefoil_core::Error::invalid(format!(
            "the image's digest {digest} is not of sha256, which a policy has"
        ))),
    }
}

fn config(config: layers::Config) -> Config {
    let layers::Config {
        user,
        env,
        entrypoint,
        cmd,
        working_dir,
        volumes,
        stop_signal,
    } = config;
    Config {
        entrypoint,
        cmd,
        env,
        user,
        working_dir,
        volumes: volumes.into_iter().collect(),
        stop_signal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_looked_for_by_its_names() {
        assert_eq!(
            names("nginx"),
            ["nginx", "nginx:latest", "docker.io/library/nginx:latest"]
        );
        assert_eq!(names("a/b:1"), ["a/b:1", "docker.io/a/b:1"]);
        assert_eq!(names("ghcr.io/a/b:1"), ["ghcr.io/a/b:1"]);
        assert_eq!(
            names("localhost:5000/b"),
            ["localhost:5000/b", "localhost:5000/b:latest"]
        );
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(names(&format!("nginx:1@{digest}")), [digest]);
    }
}
