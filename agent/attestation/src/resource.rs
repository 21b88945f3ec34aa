//! What a broker calls a secret.

use std::fmt;
use std::str::FromStr;

use crate::Failure;

/// No part of a name is longer, in bytes.
const LONGEST_PART: usize = 128;

/// The name of a resource: `kbs:///<repository>/<type>/<tag>`.
///
/// A URI may name a broker before the first part. There is one broker, the initdata's, so it must name none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceUri {
    path: String,
}

impl ResourceUri {
    /// Repository, type and tag, with slashes between them.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for ResourceUri {
    type Err = Failure;

    fn from_str(uri: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::here(format!("the resource {uri:?} {why}"));
        let path = uri
            .strip_prefix("kbs://")
            .ok_or_else(|| wrong("does not begin with kbs://"))?;
        let path = path
            .strip_prefix('/')
            .ok_or_else(|| wrong("names a broker of its own; leave it out: kbs:///"))?;
        let parts: Vec<&str> = path.split('/').collect();
        let is_sound = |part: &&str| {
            (1..=LONGEST_PART).contains(&part.len())
                && part
                    .bytes()
                    .all(|one| one.is_ascii_alphanumeric() || b"-_.".contains(&one))
                && !part.starts_with('.')
        };
        match parts.len() == 3 && parts.iter().all(is_sound) {
            true => Ok(Self {
                path: path.to_owned(),
            }),
            false => Err(wrong(
                "is not kbs:///repository/type/tag, each of letters, digits and -_.",
            )),
        }
    }
}

impl fmt::Display for ResourceUri {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "kbs:///{}", self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_has_three_parts_and_no_broker() {
        let uri: ResourceUri = "kbs:///default/keys/db.1".parse().expect("sound");
        assert_eq!(uri.to_string(), "kbs:///default/keys/db.1");
        let long = format!("kbs:///a/b/{}", "c".repeat(129));
        for uri in [
            "",
            "kbs://",
            "kbs:///",
            "kbs:///a/b",
            "kbs:///a/b/",
            "kbs:///a/b/c/d",
            "kbs://h/a/b/c",
            "kbs:///a/../c",
            "kbs:///a/b/c?x",
            "kbs:///a/b/c d",
            "kbs:///a/b/c\r\nX: y",
            "http:///a/b/c",
            "a/b/c",
            &long,
        ] {
            let why = uri.parse::<ResourceUri>().expect_err(uri).to_string();
            assert!(!why.contains('\n') && why.len() < 512, "{why}");
        }
    }
}
