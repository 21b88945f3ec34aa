//! JSON that is read to the last field: one that nobody asks for is a denial, and so is one that is there
//! twice.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::{Check, Denial, ensure};

/// No text has more bytes: as much as one message holds.
pub(crate) const LARGEST: usize = 4 << 20;

/// No object has more fields, as each is compared with all others.
const MOST_FIELDS: usize = 256;

/// No list is longer: the variables of some thousand services are.
const LONGEST_LIST: usize = 1 << 15;

/// A value, with all its fields as they were written.
#[derive(Debug)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// A value and where it is, for denials.
pub(crate) struct Field {
    path: String,
    value: Json,
}

/// The fields of an object that have not been asked for.
pub(crate) struct Object {
    path: String,
    fields: Vec<(String, Json)>,
}

type Read<T> = Result<T, Denial>;

impl Field {
    /// Reads a text as a whole.
    pub(crate) fn parse(path: &str, text: &[u8]) -> Read<Self> {
        check_size(path, "bytes", text.len(), LARGEST)?;
        let value = serde_json::from_slice(text).map_err(|why| {
            let came = format_args!("it can't be read: {why}");
            Denial::new(Check::Malformed, path, came, "JSON")
        })?;
        Ok(Self {
            path: path.to_owned(),
            value,
        })
    }

    fn wrong(&self, wanted: &str) -> Denial {
        let came = match &self.value {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Unsigned(_) | Json::Negative(_) => "another number",
            Json::Text(_) => "a text",
            Json::List(_) => "a list",
            Json::Object(_) => "an object",
        };
        let came = format_args!("{came} came");
        Denial::new(Check::Malformed, &self.path, came, wanted)
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn object(self) -> Read<Object> {
        let Json::Object(fields) = self.value else {
            return Err(self.wrong("an object"));
        };
        check_size(&self.path, "fields", fields.len(), MOST_FIELDS)?;
        for (at, (key, _)) in fields.iter().enumerate() {
            let before = &fields[..at];
            if before.iter().any(|(other, _)| other == key) && Check::Duplicate.is_made() {
                let field = format_args!("{}.{key}", self.path);
                let came = "it came twice";
                return Err(Denial::new(Check::Duplicate, field, came, "once"));
            }
        }
        Ok(Object {
            path: self.path,
            fields,
        })
    }

    pub(crate) fn list<T>(self, read: impl Fn(Self) -> Read<T>) -> Read<Vec<T>> {
        let Json::List(all) = self.value else {
            return Err(self.wrong("a list"));
        };
        check_size(&self.path, "items", all.len(), LONGEST_LIST)?;
        let one = |(at, value)| {
            read(Self {
                path: format!("{}[{at}]", self.path),
                value,
            })
        };
        all.into_iter().enumerate().map(one).collect()
    }

    /// A list in which nothing is twice and whose order says nothing.
    pub(crate) fn set<T: Ord>(self, read: impl Fn(Self) -> Read<T>) -> Read<BTreeSet<T>> {
        let path = self.path.clone();
        let mut set = BTreeSet::new();
        for (at, one) in self.list(read)?.into_iter().enumerate() {
            ensure(Check::Duplicate, set.insert(one), || {
                (format!("{path}[{at}]"), "it came twice", "once")
            })?;
        }
        Ok(set)
    }

    pub(crate) fn text(self) -> Read<String> {
        match self.value {
            Json::Text(text) if !text.contains('\0') => Ok(text),
            _ => Err(self.wrong("a text without zero bytes")),
        }
    }

    pub(crate) fn bool(self) -> Read<bool> {
        match self.value {
            Json::Bool(value) => Ok(value),
            _ => Err(self.wrong("true or false")),
        }
    }

    pub(crate) fn is_negative(&self) -> bool {
        matches!(self.value, Json::Negative(_))
    }

    /// A number that a type can hold.
    pub(crate) fn number<T: TryFrom<u64> + TryFrom<i64>>(self) -> Read<T> {
        let number = match self.value {
            Json::Unsigned(number) => T::try_from(number).ok(),
            Json::Negative(number) => T::try_from(number).ok(),
            _ => None,
        };
        number.ok_or_else(|| self.wrong("a number within bounds"))
    }

    /// A text that stands for one of a closed set.
    pub(crate) fn one_of<T>(self, find: impl Fn(&str) -> Option<T>, what: &str) -> Read<T> {
        let path = self.path.clone();
        let text = self.text()?;
        find(&text).ok_or_else(|| {
            let came = format_args!("{text:?} came");
            Denial::new(Check::Malformed, path, came, what)
        })
    }
}

fn check_size(path: &str, what: &str, came: usize, most: usize) -> Read<()> {
    ensure(Check::TooLarge, came <= most, || {
        (
            path.to_owned(),
            format!("{came} {what} came"),
            format!("at most {most}"),
        )
    })
}

impl Object {
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// A field that may be missing.
    pub(crate) fn take(&mut self, key: &str) -> Option<Field> {
        let at = self.fields.iter().position(|(name, _)| name == key)?;
        let (_, value) = self.fields.remove(at);
        Some(Field {
            path: format!("{}.{key}", self.path),
            value,
        })
    }

    /// A field that has to be there.
    pub(crate) fn demand(&mut self, key: &str) -> Read<Field> {
        self.take(key).ok_or_else(|| {
            let field = format_args!("{}.{key}", self.path);
            Denial::new(Check::Missing, field, "it is missing", "a value")
        })
    }

    /// A list of a field's, which is empty if there is none.
    pub(crate) fn list<T>(&mut self, key: &str, read: impl Fn(Field) -> Read<T>) -> Read<Vec<T>> {
        self.take(key)
            .map_or_else(|| Ok(Vec::new()), |field| field.list(read))
    }

    /// A set of a field's, which is empty if there is none.
    pub(crate) fn set<T: Ord>(
        &mut self,
        key: &str,
        read: impl Fn(Field) -> Read<T>,
    ) -> Read<BTreeSet<T>> {
        self.take(key)
            .map_or_else(|| Ok(BTreeSet::new()), |field| field.set(read))
    }

    /// A field's value, if there is one.
    pub(crate) fn maybe<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(Field) -> Read<T>,
    ) -> Read<Option<T>> {
        self.take(key).map(read).transpose()
    }

    /// Every field that is left, of objects whose keys are names.
    pub(crate) fn rest(self) -> impl Iterator<Item = (String, Field)> {
        let path = self.path;
        self.fields.into_iter().map(move |(key, value)| {
            let path = format!("{path}.{key}");
            (key, Field { path, value })
        })
    }

    /// Sees to it that no field is left.
    pub(crate) fn end(self) -> Read<()> {
        match self.fields.first() {
            Some((key, _)) if Check::Unknown.is_made() => Err(Denial::new(
                Check::Unknown,
                format_args!("{}.{key}", self.path),
                "it came",
                "nothing, as a confidential pod has no such field",
            )),
            _ => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value without fractions")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Negative(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut all = Vec::new();
        while let Some(one) = access.next_element()? {
            all.push(one);
        }
        Ok(Json::List(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut all = Vec::new();
        while let Some(one) = access.next_entry()? {
            all.push(one);
        }
        Ok(Json::Object(all))
    }
}
