//! Root filesystems whose files are to have other owners: `uidmap=…` and `gidmap=…` among the options
//! of a mount, as containerd's snapshotters write them.

use std::os::fd::AsFd;
use std::path::Path;

use trefoil_core::Result;
use trefoil_os::detached::{Depth, Tree};

use super::mapping::{Mappings, parse};
use super::private::PrivateMounts;

/// The option that names overlay's lower layers.
const LAYERS: &str = "lowerdir=";

/// Takes the mappings out of a mount's options.
pub fn take_options(options: &[String]) -> Result<(Option<Mappings>, Vec<String>)> {
    let (mut uids, mut gids, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for option in options {
        if let Some(text) = option.strip_prefix("uidmap=") {
            uids = parse(text)?;
        } else if let Some(text) = option.strip_prefix("gidmap=") {
            gids = parse(text)?;
        } else {
            others.push(option.clone());
        }
    }
    Ok((Mappings::given(Some(&uids), Some(&gids))?, others))
}

/// Mounts what `mount_plain` mounts, given options and a place, at `target`, an empty directory, with
/// mapped ids. The calling process must be single-threaded.
///
/// Overlay takes other owners from its layers, not for itself: there, it is these that are mapped.
pub fn mount(
    kind: &str,
    options: &[String],
    mappings: &Mappings,
    target: &Path,
    mount_plain: impl FnOnce(&[String], &Path) -> Result<()>,
) -> Result<()> {
    let namespace = mappings.namespace()?;
    let layers = match kind {
        "overlay" => open_layers(options, namespace.as_fd())?,
        _ => Vec::new(),
    };
    // Once it is mounted, overlay needs no paths to its layers any more.
    let private = PrivateMounts::enter(target)?;
    let place = private.directory("root")?;
    let tree = if kind == "overlay" {
        mount_plain(&put_layers(options, layers, &private)?, &place)?;
        Tree::copy(&place, Depth::One)?
    } else {
        mount_plain(options, &place)?;
        let tree = Tree::copy(&place, Depth::All)?;
        tree.map_ids(namespace.as_fd(), Depth::All, target)?;
        tree
    };
    private.leave()?;
    Ok(tree.attach(target)?)
}

/// The layers in all options, in order.
fn layers(options: &[String]) -> impl Iterator<Item = &str> {
    options
        .iter()
        .filter_map(|option| option.strip_prefix(LAYERS))
        .flat_map(|paths| paths.split(':'))
}

fn open_layers(options: &[String], namespace: std::os::fd::BorrowedFd<'_>) -> Result<Vec<Tree>> {
    layers(options)
        .map(|path| {
            let path = Path::new(path);
            let tree = Tree::copy(path, Depth::One)?;
            tree.make_read_only()?;
            tree.map_ids(namespace, Depth::One, path)?;
            Ok(tree)
        })
        .collect()
}

/// Puts the layers on the shelf, and has the options name them there.
fn put_layers(
    options: &[String],
    trees: Vec<Tree>,
    private: &PrivateMounts,
) -> Result<Vec<String>> {
    let mut places = Vec::with_capacity(trees.len());
    for (number, tree) in trees.into_iter().enumerate() {
        let place = private.put(tree, &number.to_string())?;
        places.push(place.to_string_lossy().into_owned());
    }
    let others = options.iter().filter(|option| !option.starts_with(LAYERS));
    Ok(others
        .cloned()
        .chain([format!("{LAYERS}{}", places.join(":"))])
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(all: &[&str]) -> Vec<String> {
        all.iter().map(|option| (*option).to_owned()).collect()
    }

    #[test]
    fn mappings_are_taken_out_of_the_options() {
        let given = options(&[
            "index=off",
            "uidmap=0:1:2,2:9:1",
            "gidmap=0:3:4",
            "lowerdir=/a",
        ]);
        let (mappings, others) = take_options(&given).expect("options");
        let (uids, gids) = (parse("0:1:2,2:9:1"), parse("0:3:4"));
        let expected = Mappings::given(Some(&uids.expect("uids")), Some(&gids.expect("gids")));
        assert_eq!(mappings, expected.expect("both"));
        assert_eq!(others, ["index=off", "lowerdir=/a"]);
    }

    #[test]
    fn options_without_mappings_stay() {
        let given = options(&["rbind", "ro"]);
        assert_eq!(take_options(&given).expect("options"), (None, given));
    }

    #[test]
    fn half_a_mapping_and_no_mapping_are_refused() {
        for bad in ["uidmap=0:1:2", "gidmap=0:1:2", "uidmap=", "gidmap=x"] {
            assert!(take_options(&options(&[bad])).is_err(), "{bad}");
        }
    }

    #[test]
    fn layers_are_found_in_order() {
        let given = options(&["lowerdir=/a:/b", "upperdir=/u", "workdir=/w"]);
        assert_eq!(layers(&given).collect::<Vec<_>>(), ["/a", "/b"]);
    }
}
