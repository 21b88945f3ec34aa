//! From a tree to typed values, with the field's path in every error.

use std::fmt;

use serde::de::value::StringDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::{Node, Value};

/// What is wrong with a document: where, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The field's path from the document's root, its last part first.
    path: Vec<String>,
    line: Option<usize>,
    why: String,
}

impl Fault {
    /// A fault of no known place.
    pub fn new(why: impl Into<String>) -> Self {
        Self {
            path: Vec::new(),
            line: None,
            why: why.into(),
        }
    }

    /// A fault of a line.
    pub fn at(line: usize, why: impl Into<String>) -> Self {
        Self {
            line: Some(line),
            ..Self::new(why)
        }
    }

    /// Says of which field it is, from within outwards.
    #[must_use]
    pub fn in_field(mut self, name: &str) -> Self {
        self.path.push(name.to_owned());
        self
    }

    /// Says of which item of a list it is.
    #[must_use]
    pub fn in_item(self, number: usize) -> Self {
        self.in_field(&format!("[{number}]"))
    }

    fn on_line(mut self, line: usize) -> Self {
        self.line.get_or_insert(line);
        self
    }

    /// The field's path: `spec.containers[0].env[2].value`.
    #[must_use]
    pub fn path(&self) -> String {
        let mut path = String::new();
        for part in self.path.iter().rev() {
            if !path.is_empty() && !part.starts_with('[') {
                path.push('.');
            }
            path.push_str(part);
        }
        path
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        match self.path().as_str() {
            "" => write!(f, "{}", self.why),
            path => write!(f, "{path}: {}", self.why),
        }
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self::new(why.to_string())
    }

    fn invalid_type(found: de::Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        let quote = match found {
            de::Unexpected::Str(_) | de::Unexpected::Map | de::Unexpected::Seq => "",
            _ if wanted.to_string() == "a string" => ": quote it",
            _ => "",
        };
        Self::new(format!("must be {wanted}, not {found}{quote}"))
    }

    fn unknown_field(name: &str, _known: &'static [&'static str]) -> Self {
        let name: String = name.chars().take(80).collect();
        match crate::manifest::refused::why(&name) {
            Some(why) => Self::new(why),
            None => Self::new("unknown field: nothing is ignored here, as it may change what runs"),
        }
        .in_field(&name)
    }

    fn missing_field(name: &'static str) -> Self {
        Self::new("must be given").in_field(name)
    }
}

/// Reads one value.
pub(super) struct Deserializer<'a> {
    node: &'a Node,
}

impl<'a> Deserializer<'a> {
    pub(super) fn new(node: &'a Node) -> Self {
        Self { node }
    }
}

impl<'de> de::Deserializer<'de> for Deserializer<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let line = self.node.line;
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(is) => visitor.visit_bool(*is),
            Value::Int(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => visitor.visit_seq(Items { items, next: 0 }),
            Value::Map(fields) => visitor.visit_map(Fields::new(fields, false)),
        }
        .map_err(|fault| fault.on_line(line))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.node.value {
            // In Kubernetes a field that is null is a field that is not there.
            Value::Map(fields) => visitor
                .visit_map(Fields::new(fields, true))
                .map_err(|fault| fault.on_line(self.node.line)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let line = self.node.line;
        match &self.node.value {
            Value::Text(text) if variants.contains(&text.as_str()) => {
                let text: StringDeserializer<Fault> = text.clone().into_deserializer();
                visitor.visit_enum(text)
            }
            Value::Text(text) => {
                let shown: String = text.chars().take(80).collect();
                let why = format!("unknown value {shown:?}; there are {}", variants.join(", "));
                Err(Fault::at(line, why))
            }
            _ => Err(Fault::at(
                line,
                format!("must be one of {}", variants.join(", ")),
            )),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

struct Items<'a> {
    items: &'a [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.items.get(self.next) else {
            return Ok(None);
        };
        let number = self.next;
        self.next += 1;
        seed.deserialize(Deserializer::new(node))
            .map(Some)
            .map_err(|fault| fault.on_line(node.line).in_item(number))
    }
}

struct Fields<'a> {
    fields: std::slice::Iter<'a, (String, Node)>,
    skip_null: bool,
    value: Option<(&'a str, &'a Node)>,
}

impl<'a> Fields<'a> {
    fn new(fields: &'a [(String, Node)], skip_null: bool) -> Self {
        Self {
            fields: fields.iter(),
            skip_null,
            value: None,
        }
    }
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        for (name, node) in self.fields.by_ref() {
            if self.skip_null && node.value == Value::Null {
                continue;
            }
            let name_of: StringDeserializer<Fault> = name.clone().into_deserializer();
            self.value = Some((name, node));
            return seed
                .deserialize(name_of)
                .map(Some)
                .map_err(|fault| fault.on_line(node.line));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((name, node)) = self.value.take() else {
            return Err(Fault::new("a value without a key"));
        };
        seed.deserialize(Deserializer::new(node))
            .map_err(|fault| fault.on_line(node.line).in_field(name))
    }
}
