//! What netlink can't set of an interface's IPv6: files, in the namespace of the calling thread.

use std::fs;
use std::io;
use std::path::PathBuf;

use trefoil_os::{Context, Result};

fn path(interface: &str, key: &str) -> PathBuf {
    ["/proc/sys/net/ipv6/conf", interface, key].iter().collect()
}

/// Reads a setting; none where there is no IPv6.
pub fn read(interface: &str, key: &str) -> Result<Option<u8>> {
    let path = path(interface, key);
    match fs::read_to_string(&path) {
        // Negative ones mean no less than "no".
        Ok(text) => Ok(Some(text.trim().parse().unwrap_or(0))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(|| format!("read {}", path.display())),
    }
}

/// Writes a setting; does nothing where there is no IPv6.
pub fn write(interface: &str, key: &str, value: u8) -> Result<()> {
    let path = path(interface, key);
    match fs::write(&path, value.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.context(|| format!("write {value} to {}", path.display())),
    }
}
