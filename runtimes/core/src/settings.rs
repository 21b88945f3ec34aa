//! What the node's configuration, and a pod in place of it, say to a runtime.
//!
//! A runtime declares its [`Table`]. The shim reads the files and the pod's annotations, checks names
//! and types by the declaration, and hands the runtime its [`Settings`]; the runtime checks the values.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::{Error, Result};

/// A table of the node's configuration.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// All keys that may stand in it.
    pub keys: &'static [Key],
}

/// A key of a [`Table`].
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// The annotation by which a pod may say it for itself, if the node's configuration lets it.
    pub annotation: Option<&'static str>,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A number, zero or more.
    Number,
}

impl Kind {
    /// The value that an annotation's text is.
    ///
    /// # Errors
    /// If it is none of this kind; to be read after "must be".
    pub fn read(self, text: &str) -> Result<Value, &'static str> {
        match self {
            Self::Text => Ok(Value::Text(text.to_owned())),
            Self::Number => text.parse().map(Value::Number).map_err(|_| "a number"),
        }
    }
}

/// A value of a key.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A number.
    Number(u64),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

/// What a runtime's table says for a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where files are that were installed together with the shim: `PREFIX/share/trefoil`.
    pub share: PathBuf,
    set: BTreeMap<&'static str, Setting>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    value: Value,
    /// Which key or annotation, and where it stands.
    origin: String,
}

impl Settings {
    /// Settings of which all keys have their defaults.
    pub fn new(share: PathBuf) -> Self {
        Self {
            share,
            set: BTreeMap::new(),
        }
    }

    /// Sets a key, whatever it was before. `origin` names it for whoever has to change it, as in
    /// `/etc/trefoil/config.toml:3: default-cpus`.
    pub fn set(&mut self, key: &'static str, value: Value, origin: String) {
        self.set.insert(key, Setting { value, origin });
    }

    /// What `check` makes of a number; `default` if the key isn't set.
    ///
    /// # Errors
    /// What `check` says, which is read after "must be".
    pub fn number<T>(
        &self,
        key: &str,
        default: T,
        check: impl FnOnce(u64) -> Result<T, String>,
    ) -> Result<T> {
        self.take(key, default, |value| match value {
            Value::Number(number) => check(*number),
            Value::Text(_) => Err("a number".into()),
        })
    }

    /// A text, and which key it stands at; nothing if the key isn't set.
    ///
    /// # Errors
    /// If it is no text.
    pub fn text(&self, key: &str) -> Result<Option<(&str, &str)>> {
        match self.set.get(key) {
            None => Ok(None),
            Some(Setting {
                value: Value::Text(text),
                origin,
            }) => Ok(Some((text, origin))),
            Some(Setting { value, origin }) => Err(Error::invalid(format!(
                "{origin} is {value:?}; it must be a text"
            ))),
        }
    }

    /// A path; the file `default` in [`Self::share`] if the key isn't set.
    ///
    /// # Errors
    /// If it is not absolute.
    pub fn path(&self, key: &str, default: &str) -> Result<PathBuf> {
        self.take(key, self.share.join(default), |value| match value {
            Value::Text(text) if text.starts_with('/') => Ok(text.into()),
            _ => Err("an absolute path".into()),
        })
    }

    fn take<T>(
        &self,
        key: &str,
        default: T,
        check: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Result<T> {
        let Some(Setting { value, origin }) = self.set.get(key) else {
            return Ok(default);
        };
        check(value)
            .map_err(|must| Error::invalid(format!("{origin} is {value:?}; it must be {must}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(number: u64) -> Result<u8, String> {
        u8::try_from(number).map_err(|_| "at most 255".into())
    }

    #[test]
    fn a_key_that_is_not_set_has_its_default() {
        let settings = Settings::new("/share".into());
        assert_eq!(settings.number("cpus", 3, small), Ok(3));
        assert_eq!(
            settings.path("kernel", "vmlinux"),
            Ok("/share/vmlinux".into())
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_where_it_stands() {
        let mut settings = Settings::new("/share".into());
        settings.set("cpus", Value::Number(7), "a.toml:3: cpus".into());
        assert_eq!(settings.number("cpus", 3, small), Ok(7));
        settings.set("cpus", Value::Number(256), "a.toml:9: cpus".into());
        settings.set(
            "kernel",
            Value::Text("vmlinux".into()),
            "a.toml:1: kernel".into(),
        );
        let why = settings.number("cpus", 3, small).expect_err("too many");
        assert_eq!(
            why.to_string(),
            "a.toml:9: cpus is 256; it must be at most 255"
        );
        let why = settings.path("kernel", "vmlinux").expect_err("relative");
        let expected = "a.toml:1: kernel is \"vmlinux\"; it must be an absolute path";
        assert_eq!(why.to_string(), expected);
    }

    #[test]
    fn an_annotation_is_read_by_its_kind() {
        assert_eq!(Kind::Number.read("4"), Ok(Value::Number(4)));
        assert_eq!(Kind::Text.read("4"), Ok(Value::Text("4".into())));
        for wrong in ["", " 4", "-1", "4Mi", "99999999999999999999"] {
            assert_eq!(Kind::Number.read(wrong), Err("a number"));
        }
    }
}
