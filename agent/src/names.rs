//! Names that the host gives to things of the guest, and that become parts of paths here.

use trefoil_core::{Error, Result};

/// No name is longer, in bytes.
const LONGEST: usize = 128;

/// Checks what the host calls `what`: one to 128 of `A-Z a-z 0-9 . _ -`, and neither `.` nor `..`.
///
/// # Errors
/// [`trefoil_core::ErrorKind::InvalidArgument`] if it is anything else.
pub(crate) fn check<'a>(what: &str, name: &'a str) -> Result<&'a str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let sound = (1..=LONGEST).contains(&name.len())
        && name.bytes().all(plain)
        && !matches!(name, "." | "..");
    match sound {
        true => Ok(name),
        false => Err(Error::invalid(format!(
            "{what} {:?} is no name: one has 1 to {LONGEST} of A-Z a-z 0-9 . _ -",
            shown(name)
        ))),
    }
}

/// As much of a name as an error may repeat.
fn shown(name: &str) -> &str {
    let end = name.floor_char_boundary(LONGEST);
    &name[..end]
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_told_from_what_is_none() {
        for good in ["a", "A-1_b.c", "...", ".a", "a..b", &"x".repeat(128)] {
            assert_eq!(check("container", good).expect("a name"), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "/",
            "a b",
            "a\0",
            "\u{e9}",
            &"x".repeat(129),
        ] {
            let why = check("container", bad).expect_err("no name").to_string();
            assert!(why.starts_with("container "), "{why}");
        }
        let endless = "\u{e9}".repeat(1 << 20);
        let why = check("share", &endless).expect_err("no name").to_string();
        assert!(why.len() < 512, "{}", why.len());
    }

    proptest! {
        #[test]
        fn a_name_is_one_part_of_a_path(name in "\\PC{0,140}|[a-z./]{0,4}") {
            if check("x", &name).is_ok() {
                let parts: Vec<_> = Path::new(&name).components().collect();
                prop_assert!(matches!(parts.as_slice(), [Component::Normal(part)] if *part == name.as_str()));
            }
        }
    }
}
