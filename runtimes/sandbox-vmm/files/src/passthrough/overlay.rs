//! What an overlay in the guest marks its upper directory with, so that Docker and its like can keep
//! their layers on a volume.
//!
//! An overlay writes `trusted.overlay.*`, which needs CAP_SYS_ADMIN on the host, and would be marks of an
//! overlay of the host's there. They are kept as `user.trefoil.trusted.overlay.*`: the guest's kernel
//! lets nobody near `trusted.*` who may not administer the guest, and no name of the guest's reaches what
//! begins with `user.trefoil.`.

use std::borrow::Cow;
use std::ffi::{CStr, CString};

use nix::errno::Errno;

use crate::fuse::Outcome;

/// What the guest calls them.
const MARKS: &[u8] = b"trusted.overlay.";

/// What is before that on the host.
const KEPT: &[u8] = b"user.trefoil.";

/// Whether a name of the guest's is such a mark.
pub(super) fn is_mark(name: &CStr) -> bool {
    name.to_bytes().starts_with(MARKS)
}

/// What the host calls what the guest calls so; `refusal` is for what is not to be reached.
pub(super) fn to_hosts(name: &CStr, refusal: Errno) -> Outcome<Cow<'_, CStr>> {
    let bytes = name.to_bytes();
    if bytes.starts_with(KEPT) {
        return Err(refusal);
    }
    match is_mark(name) {
        false => Ok(Cow::Borrowed(name)),
        true => CString::new([KEPT, bytes].concat())
            .map(Cow::Owned)
            .map_err(|_| Errno::EINVAL),
    }
}

/// A list of names as the guest is to have it: each ends with zero.
pub(super) fn list_to_guests(names: &[u8]) -> Vec<u8> {
    let names = names.split_inclusive(|byte| *byte == 0);
    names
        .filter_map(|name| match name.strip_prefix(KEPT) {
            None => Some(name),
            Some(kept) => kept.starts_with(MARKS).then_some(kept),
        })
        .flatten()
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn marks_are_kept_under_names_that_nobody_else_reaches() {
        let to = |name| to_hosts(name, Errno::EPERM).map(|name| name.to_bytes().to_vec());
        assert_eq!(
            to(c"trusted.overlay.opaque"),
            Ok(b"user.trefoil.trusted.overlay.opaque".to_vec())
        );
        assert_eq!(to(c"user.own"), Ok(b"user.own".to_vec()));
        assert_eq!(to(c"trusted.other"), Ok(b"trusted.other".to_vec()));
        assert_eq!(
            to(c"user.trefoil.trusted.overlay.opaque"),
            Err(Errno::EPERM)
        );
        assert_eq!(to(c"user.trefoil."), Err(Errno::EPERM));
    }

    #[test]
    fn a_list_has_the_guests_names_and_none_of_ours() {
        let hosts =
            b"user.a\0user.trefoil.trusted.overlay.opaque\0user.trefoil.x\0security.capability\0";
        assert_eq!(
            list_to_guests(hosts),
            b"user.a\0trusted.overlay.opaque\0security.capability\0"
        );
        assert_eq!(list_to_guests(b""), b"");
    }

    proptest! {
        #[test]
        fn every_name_comes_back_or_is_refused(name in "[a-z.]{0,12}|trusted\\.overlay\\.[a-z]{0,5}|user\\.trefoil\\.[a-z.]{0,20}") {
            let given = CString::new(name).expect("no zero");
            if let Ok(hosts) = to_hosts(&given, Errno::EPERM) {
                let listed = list_to_guests(hosts.to_bytes_with_nul());
                prop_assert_eq!(listed, given.to_bytes_with_nul());
            }
        }
    }
}
