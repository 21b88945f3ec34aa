//! The two files of an image in which names of users are looked up, as its layers have them one above the other.

use std::io::{self, Read};
use std::path::{Component, Path};

use tar::{Archive, EntryType};

use crate::image::UserFile;

/// The most that is read of one.
const LARGEST: u64 = 1 << 20;

const PASSWD: &str = "etc/passwd";
const GROUP: &str = "etc/group";

/// `/etc/passwd` and `/etc/group`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserFiles {
    /// Of users.
    pub passwd: UserFile,
    /// Of groups.
    pub group: UserFile,
}

/// What a layer does to the two files.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    /// It removes what layers below have of them.
    hides_passwd: bool,
    hides_group: bool,
    passwd: Option<UserFile>,
    group: Option<UserFile>,
}

impl Change {
    /// Reads a layer's archive, as far as its entries go. What reads archives here knows less of them than
    /// `mkfs.erofs`, of sparse files for example: then nobody can be looked up.
    pub fn read(tar: impl Read) -> Self {
        Self::understand(tar).unwrap_or_else(|_| Self {
            passwd: Some(UserFile::Unread),
            group: Some(UserFile::Unread),
            ..Self::default()
        })
    }

    fn understand(tar: impl Read) -> io::Result<Self> {
        let mut change = Self::default();
        let mut archive = Archive::new(tar);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let kind = entry.header().entry_type();
            let Some(path) = plain(&entry.path()?) else {
                continue;
            };
            match path.as_str() {
                ".wh.etc" | ".wh..wh..opq" | "etc/.wh..wh..opq" => {
                    (change.hides_passwd, change.hides_group) = (true, true);
                }
                "etc/.wh.passwd" => change.hides_passwd = true,
                "etc/.wh.group" => change.hides_group = true,
                // Where the directory is a link, the files are elsewhere.
                "etc" if kind != EntryType::Directory => {
                    change.passwd = Some(UserFile::Link);
                    change.group = Some(UserFile::Link);
                }
                PASSWD => change.passwd = Some(content(&mut entry, kind)?),
                GROUP => change.group = Some(content(&mut entry, kind)?),
                _ => {}
            }
        }
        Ok(change)
    }

    /// Puts the layer above those that have made the two files.
    pub fn apply(&self, files: &mut UserFiles) {
        let one = |file: &mut UserFile, hides: bool, own: &Option<UserFile>| match own {
            Some(own) => *file = own.clone(),
            None if hides => *file = UserFile::Missing,
            None => {}
        };
        one(&mut files.passwd, self.hides_passwd, &self.passwd);
        one(&mut files.group, self.hides_group, &self.group);
    }
}

fn content(entry: &mut impl Read, kind: EntryType) -> io::Result<UserFile> {
    if !matches!(kind, EntryType::Regular | EntryType::Continuous) {
        return Ok(UserFile::Link);
    }
    let mut bytes = Vec::new();
    entry.take(LARGEST + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > LARGEST {
        true => Err(io::Error::other(format!(
            "it has more than {LARGEST} bytes"
        ))),
        false => Ok(UserFile::Bytes(bytes)),
    }
}

/// A path from the root, without what says nothing; none if it leads up.
fn plain(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str()?.to_owned()),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer of files with their bytes, and of links.
    fn layer(entries: &[(&str, Option<&str>)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in entries {
            let mut header = tar::Header::new_ustar();
            match content {
                Some(content) => {
                    header.set_size(content.len() as u64);
                    header.set_entry_type(EntryType::Regular);
                    archive
                        .append_data(&mut header, path, content.as_bytes())
                        .expect("an entry");
                }
                None => {
                    header.set_size(0);
                    header.set_entry_type(EntryType::Symlink);
                    archive
                        .append_link(&mut header, path, "elsewhere")
                        .expect("an entry");
                }
            }
        }
        archive.into_inner().expect("an archive")
    }

    fn passwd(layers: &[&[(&str, Option<&str>)]]) -> UserFile {
        let mut files = UserFiles::default();
        for entries in layers {
            Change::read(layer(entries).as_slice()).apply(&mut files);
        }
        files.passwd
    }

    #[test]
    fn the_uppermost_layer_counts() {
        let bytes = |text: &str| UserFile::Bytes(text.as_bytes().to_vec());
        let file: &[_] = &[("etc/passwd", Some("a"))];
        assert_eq!(passwd(&[file]), bytes("a"));
        assert_eq!(passwd(&[file, &[("./etc/passwd", Some("b"))]]), bytes("b"));
        assert_eq!(passwd(&[file, &[("etc/other", Some("b"))]]), bytes("a"));
        assert_eq!(
            passwd(&[file, &[("etc/.wh.passwd", Some(""))]]),
            UserFile::Missing
        );
        assert_eq!(passwd(&[file, &[(".wh.etc", Some(""))]]), UserFile::Missing);
        let both: &[_] = &[("etc/passwd", Some("b")), ("etc/.wh..wh..opq", Some(""))];
        assert_eq!(passwd(&[file, both]), bytes("b"));
        assert_eq!(plain(Path::new("../etc/passwd")), None);
    }

    #[test]
    fn nobody_is_looked_up_where_an_archive_is_not_understood() {
        let mut files = UserFiles::default();
        Change::read(layer(&[("etc/passwd", Some("a"))]).as_slice()).apply(&mut files);
        Change::read([1; 1024].as_slice()).apply(&mut files);
        assert_eq!(
            (files.passwd, files.group),
            (UserFile::Unread, UserFile::Unread)
        );
    }

    #[test]
    fn links_are_not_followed() {
        let file: &[_] = &[("etc/passwd", Some("a"))];
        assert_eq!(passwd(&[file, &[("etc/passwd", None)]]), UserFile::Link);
        assert_eq!(passwd(&[file, &[("etc", None)]]), UserFile::Link);
    }
}
