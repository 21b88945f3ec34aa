//! Whether mounts that come later are passed on between copies of a mount.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use trefoil_os::detached::{Change, Depth};

use crate::setup::error::Failure;

/// A kind of propagation, of one mount or of all below it, too. Source: mount_namespaces(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Propagation {
    kind: u64,
    all: bool,
}

impl Propagation {
    /// Of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` and `MS_UNBINDABLE`.
    pub(crate) const fn new(kind: u64, all: bool) -> Self {
        Self { kind, all }
    }

    /// Makes a mount have it.
    pub(crate) fn apply(self, mount: BorrowedFd<'_>) -> Result<(), Errno> {
        let depth = match self.all {
            true => Depth::All,
            false => Depth::One,
        };
        Change::propagation(self.kind).apply(mount, depth)
    }
}

/// What `linux.rootfsPropagation` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OfRoot(Option<Propagation>);

impl OfRoot {
    /// Reads it; nothing and the empty word are the same.
    ///
    /// # Errors
    /// If there is no such kind.
    pub(crate) fn parse(name: Option<&str>) -> Result<Self, Failure> {
        let name = name.unwrap_or_default();
        let (plain, all) = match name.strip_prefix('r') {
            Some(plain) => (plain, true),
            None => (name, false),
        };
        let kind = match plain {
            "" if name.is_empty() => return Ok(Self(None)),
            "private" => libc::MS_PRIVATE,
            "slave" => libc::MS_SLAVE,
            "shared" => libc::MS_SHARED,
            "unbindable" => libc::MS_UNBINDABLE,
            _ => {
                return Err(Failure::new(format!(
                    "rootfsPropagation={name} is not supported"
                )));
            }
        };
        Ok(Self(Some(Propagation::new(kind, all))))
    }

    fn is(self, kind: u64) -> bool {
        self.0.is_some_and(|asked| asked.kind == kind)
    }

    /// Whether it is one that can't be without pivot_root: the host's mounts would be left below.
    pub(crate) fn is_private(self) -> bool {
        self.is(libc::MS_PRIVATE)
    }

    /// What all mounts of the namespace get before anything else is done. They never pass anything on to
    /// the host: where the root is to be shared, that is among the container's own mounts, and with the
    /// host's through the volumes that ask for it.
    pub(crate) fn of_namespace(self) -> Propagation {
        match self.is_private() {
            true => Propagation::new(libc::MS_PRIVATE, true),
            false => Propagation::new(libc::MS_SLAVE, true),
        }
    }

    /// What the mount of the root itself gets: it gets the host's later mounts only if it is asked to.
    pub(crate) fn of_root_at_first(self) -> Option<Propagation> {
        match self.is(libc::MS_SLAVE) {
            true => None,
            false => Some(Propagation::new(libc::MS_PRIVATE, false)),
        }
    }

    /// What the root and, if so asked, all below it get when everything is mounted.
    pub(crate) fn of_root_at_last(self) -> Option<Propagation> {
        self.0
            .filter(|asked| ![libc::MS_PRIVATE, libc::MS_SLAVE].contains(&asked.kind))
    }

    /// What a copy of a mount of the host's has to go through, in this order, to be what its options ask
    /// for: as though it was copied from among the namespace's, which are what
    /// [`of_namespace`](Self::of_namespace) says, or, where the root is shared, still the host's.
    pub(crate) fn of_copy(self, asked: &[Propagation]) -> Vec<Propagation> {
        let first = match self.is(libc::MS_SHARED) {
            true => None,
            false => Some(self.of_namespace()),
        };
        // What cuts all ties at once needs no step before it.
        let cuts = |asked: &Propagation| {
            asked.all && [libc::MS_PRIVATE, libc::MS_SLAVE].contains(&asked.kind)
        };
        let first = match asked.first() {
            Some(asked) if cuts(asked) => None,
            _ => first,
        };
        first.into_iter().chain(asked.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLAVE: Propagation = Propagation::new(libc::MS_SLAVE, true);
    const SHARED: Propagation = Propagation::new(libc::MS_SHARED, true);
    const PRIVATE: Propagation = Propagation::new(libc::MS_PRIVATE, true);

    #[test]
    fn only_what_exists_is_read() {
        assert_eq!(OfRoot::parse(None).unwrap(), OfRoot(None));
        assert_eq!(OfRoot::parse(Some("")).unwrap(), OfRoot(None));
        assert_eq!(
            OfRoot::parse(Some("rshared")).unwrap(),
            OfRoot(Some(SHARED))
        );
        for wrong in ["r", "rr", "rrshared", "Shared", "bind"] {
            let why = OfRoot::parse(Some(wrong)).unwrap_err().to_string();
            assert_eq!(why, format!("rootfsPropagation={wrong} is not supported"));
        }
    }

    #[test]
    fn copies_pass_nothing_to_the_host_unless_root_and_mount_are_shared() {
        let unset = OfRoot::parse(None).unwrap();
        assert_eq!(unset.of_copy(&[]), [SLAVE]);
        assert_eq!(unset.of_copy(&[PRIVATE]), [PRIVATE]);
        assert_eq!(unset.of_copy(&[SHARED]), [SLAVE, SHARED]);
        let shared = OfRoot::parse(Some("rshared")).unwrap();
        assert_eq!(shared.of_copy(&[SHARED]), [SHARED]);
        assert_eq!(shared.of_copy(&[SLAVE]), [SLAVE]);
        let private = OfRoot::parse(Some("rprivate")).unwrap();
        assert_eq!(private.of_copy(&[]), [PRIVATE]);
        // The host's mounts would be its master otherwise.
        assert_eq!(private.of_copy(&[SLAVE]), [SLAVE]);
    }
}
