//! A container's bind mounts, where libcontainer can't make them from what the configuration says.
//!
//! It knows no id-mapped ones. And it opens sources as the container's root does, who, in a user
//! namespace, may not pass where the host's may: the kubelet's directories are closed to others. So
//! these mounts are made here, and libcontainer is told where to find them.

use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use oci_spec::runtime::{Mount, Spec};
use trefoil_core::detached::{Depth, Tree};
use trefoil_core::{Context, Error, Result};

use super::mapping::Mappings;
use super::namespace;
use super::private::Private;

/// What has to be kept while libcontainer makes the container.
#[derive(Debug)]
pub struct Prepared {
    _mounts: Option<Private>,
    _namespaces: Option<namespace::Namespaces>,
}

/// Makes the user namespace and the bind mounts that libcontainer would not, and changes `spec` so that
/// it finds them. If there are such mounts the calling process, which must be single-threaded, is in a
/// mount namespace of its own as long as the result lives. `shelf` does not exist yet.
pub fn prepare(spec: &mut Spec, bundle: &Path, shelf: &Path) -> Result<Prepared> {
    let own = namespace::open(spec)?;
    let mut binds: Vec<&mut Mount> = spec
        .mounts_mut()
        .iter_mut()
        .flatten()
        .filter(|mount| {
            // The others are for libcontainer to refuse.
            is_bind(mount)
        })
        .collect();
    if binds.is_empty() || (own.is_none() && !binds.iter().any(|mount| asks_for_mapping(mount))) {
        return Ok(Prepared {
            _mounts: None,
            _namespaces: own,
        });
    }

    // Opened before the namespace is left, so that they get the host's later mounts, and it theirs.
    let mut mapped = Mapped {
        user: own.as_ref().map(|own| &own.user),
        made: Vec::new(),
    };
    let mut trees = Vec::with_capacity(binds.len());
    for mount in &binds {
        let destination = mount.destination().display();
        let tree = open(mount, bundle, &mut mapped)
            .map_err(|why| why.context(format!("mount {destination}")))?;
        trees.push(tree);
    }
    drop(mapped);

    DirBuilder::new()
        .mode(0o711)
        .create(shelf)
        .context(|| format!("make {}", shelf.display()))?;
    let private = Private::enter(shelf)?;
    for (number, (mount, tree)) in binds.iter_mut().zip(trees).enumerate() {
        let place = private.put(tree, &number.to_string())?;
        mount.set_source(Some(place));
        mount.set_uid_mappings(None);
        mount.set_gid_mappings(None);
        if let Some(options) = mount.options_mut() {
            options.retain(|option| !is_mapping(option));
        }
    }
    Ok(Prepared {
        _mounts: Some(private),
        _namespaces: own,
    })
}

/// A copy of the mount's source, its ids mapped if they are to be.
fn open(mount: &Mount, bundle: &Path, mapped: &mut Mapped<'_>) -> Result<Tree> {
    let source = mount
        .source()
        .as_ref()
        .ok_or_else(|| Error::invalid("it has no source"))?;
    // An absolute source stays as it is.
    let source = bundle.join(source);
    let depth = |name| match has_option(mount, name) {
        true => Depth::All,
        false => Depth::One,
    };
    let tree = Tree::copy(&source, depth("rbind"))?;
    if asks_for_mapping(mount) {
        let given = Mappings::given(
            mount.uid_mappings().as_deref(),
            mount.gid_mappings().as_deref(),
        )?;
        let namespace = mapped.find(given)?;
        tree.map_ids(namespace.as_fd(), depth("ridmap"), &source)?;
    }
    Ok(tree)
}

/// The user namespaces whose mappings mounts take: the container's, and those made for mounts with
/// mappings of their own, which mostly are all the same.
struct Mapped<'a> {
    user: Option<&'a OwnedFd>,
    made: Vec<(Mappings, OwnedFd)>,
}

impl Mapped<'_> {
    fn find(&mut self, mappings: Option<Mappings>) -> Result<&OwnedFd> {
        let Some(mappings) = mappings else {
            return self.user.ok_or_else(|| {
                Error::invalid(
                    "its ids are to be mapped, but neither it nor the container says how",
                )
            });
        };
        let found = self.made.iter().position(|(made, _)| *made == mappings);
        let index = match found {
            Some(index) => index,
            None => {
                let namespace = mappings.namespace()?;
                self.made.push((mappings, namespace));
                self.made.len() - 1
            }
        };
        Ok(&self.made[index].1)
    }
}

fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || has_option(mount, "bind")
        || has_option(mount, "rbind")
}

fn asks_for_mapping(mount: &Mount) -> bool {
    let any = |ids: &Option<Vec<_>>| ids.as_ref().is_some_and(|ids| !ids.is_empty());
    any(mount.uid_mappings())
        || any(mount.gid_mappings())
        || mount
            .options()
            .iter()
            .flatten()
            .any(|option| is_mapping(option))
}

fn is_mapping(option: &str) -> bool {
    matches!(option, "idmap" | "ridmap")
}

fn has_option(mount: &Mount, name: &str) -> bool {
    mount
        .options()
        .iter()
        .flatten()
        .any(|option| option == name)
}
