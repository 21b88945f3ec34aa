//! Running in a user namespace, as rootless containerd does: root there is not the host's.

use std::fs;

/// Whether this process is in a user namespace other than the first, which maps all ids there are. Source:
/// user_namespaces(7).
pub fn in_user_namespace() -> bool {
    fs::read_to_string("/proc/thread-self/uid_map").is_ok_and(|map| !maps_all(&map))
}

fn maps_all(map: &str) -> bool {
    let mut numbers = map.split_ascii_whitespace().map(str::parse);
    [0, 0, u32::MAX]
        .iter()
        .all(|expected| numbers.next() == Some(Ok(*expected)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_namespace_is_told_from_others() {
        assert!(maps_all("         0          0 4294967295\n"));
        for other in [
            "",
            "0 100000 65536\n",
            "0 0 65536\n",
            "0 1000 1\n1 100000 65536\n",
        ] {
            assert!(!maps_all(other), "{other:?}");
        }
    }
}
