//! Bind mounts: copies of mounts of the host's, made with the host's rights before the container's user
//! namespace is joined, whose root may not pass where they are. Everything about such a copy is decided
//! while nobody can see it; it is only attached later.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Mount;
use rustix::fs::CWD;
use trefoil_os::detached::{Change, Depth, Tree};

use super::options::{Attributes, Bind, Options};
use super::propagation::OfRoot;
use super::reason::{Outcome, Reason};
use crate::idmap::Mappings;

/// What all binds of a container have in common.
pub(super) struct Binds<'a> {
    bundle: &'a Path,
    root: OfRoot,
    mapped: Mapped<'a>,
}

impl<'a> Binds<'a> {
    pub(super) fn new(bundle: &'a Path, root: OfRoot, user: Option<BorrowedFd<'a>>) -> Self {
        Self {
            bundle,
            root,
            mapped: Mapped {
                user,
                made: Vec::new(),
            },
        }
    }

    /// The copy that `mount` asks for.
    pub(super) fn open(&mut self, mount: &Mount, options: &Options) -> Outcome<Tree> {
        refuse_what_is_not_for_copies(options)?;
        let source = mount.source().as_deref();
        let source = source.ok_or_else(|| Reason::new("it has no source"))?;
        let depth = depth_of(options.bind.unwrap_or(Bind::One));
        // An absolute source stays as it is.
        let tree = Tree::copy_at(CWD, &self.bundle.join(source), depth)?;
        self.map_ids(mount, options, &tree, source)?;
        change(&tree, options, depth)?;
        for one in self.root.of_copy(&options.propagation) {
            one.apply(tree.as_fd())?;
        }
        Ok(tree)
    }

    fn map_ids(
        &mut self,
        mount: &Mount,
        options: &Options,
        tree: &Tree,
        source: &Path,
    ) -> Outcome<()> {
        let mappings = Mappings::given(
            mount.uid_mappings().as_deref(),
            mount.gid_mappings().as_deref(),
        )
        .map_err(|why| Reason::new(why.to_string()))?;
        if mappings.is_none() && options.map_ids.is_none() {
            return Ok(());
        }
        let depth = depth_of(options.map_ids.unwrap_or(Bind::One));
        let namespace = self.mapped.find(mappings)?;
        tree.map_ids(namespace, depth, source)
            .map_err(|why| Reason::new(why.to_string()))
    }
}

/// A copy has the filesystem of what it is a copy of, and can't change it.
fn refuse_what_is_not_for_copies(options: &Options) -> Outcome<()> {
    if let Some(option) = options.data.first() {
        return Err(Reason::new(format!(
            "bind mounts cannot have any filesystem-specific options applied, as {option:?} is"
        )));
    }
    match options.copy_up {
        true => Err(Reason::new("\"tmpcopyup\" is for tmpfs")),
        false => Ok(()),
    }
}

fn depth_of(bind: Bind) -> Depth {
    match bind {
        Bind::One => Depth::One,
        Bind::All => Depth::All,
    }
}

/// Changes the attributes that the options name, of the mount itself and of all below it. Those that
/// nobody names stay, so that none that is locked is ever in the way of another.
fn change(tree: &Tree, options: &Options, depth: Depth) -> Outcome<()> {
    let steps: [(Attributes, Depth); 2] = match depth {
        Depth::One => [
            (options.attributes.and(options.recursive), Depth::One),
            (Attributes::default(), Depth::One),
        ],
        Depth::All => [
            (options.attributes, Depth::One),
            (options.recursive, Depth::All),
        ],
    };
    for (attributes, depth) in steps {
        if !attributes.is_empty() {
            tree.change(attributes.change(), depth)
                .map_err(|why| explain(why, attributes.change()))?;
        }
    }
    Ok(())
}

/// Says what can't be cleared.
fn explain(why: nix::errno::Errno, change: Change) -> Reason {
    let why_plain = Reason::from(why);
    match why {
        nix::errno::Errno::EPERM if change.clear != 0 => {
            why_plain.with("it has flags that are locked, and cannot be cleared")
        }
        _ => why_plain,
    }
}

/// The user namespaces whose mappings mounts take: the container's, and those made for mounts with
/// mappings of their own, which mostly are all the same.
struct Mapped<'a> {
    user: Option<BorrowedFd<'a>>,
    made: Vec<(Mappings, OwnedFd)>,
}

impl Mapped<'_> {
    fn find(&mut self, mappings: Option<Mappings>) -> Outcome<BorrowedFd<'_>> {
        let Some(mappings) = mappings else {
            return self.user.ok_or_else(|| {
                Reason::new("its ids are to be mapped, but neither it nor the container says how")
            });
        };
        let found = self.made.iter().position(|(made, _)| *made == mappings);
        let index = match found {
            Some(index) => index,
            None => {
                let namespace = mappings
                    .namespace()
                    .map_err(|why| Reason::new(why.to_string()))?;
                self.made.push((mappings, namespace));
                self.made.len() - 1
            }
        };
        Ok(self.made[index].1.as_fd())
    }
}
