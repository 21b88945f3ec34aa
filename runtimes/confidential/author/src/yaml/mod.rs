//! YAML as Kubernetes reads it: several documents in a file, each a tree of typed values.
//!
//! Kubernetes types scalars by YAML 1.1 (`0644` is octal, `yes` is a boolean), and so do we: a reader of
//! YAML 1.2 would derive a policy of another pod than the one that runs. The parser below us makes events
//! and nothing else; [`read`] makes a tree of them within fixed bounds, and [`Node::parse`] a typed value,
//! whose errors name the field.

mod de;
mod scalar;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde::de::DeserializeOwned;

pub use de::Fault;

/// The most bytes of a file: Kubernetes takes objects of some 1.5 MiB, and a file may have several.
pub const MAX_BYTES: usize = 4 << 20;
/// The most values of a file, those that aliases repeat included.
pub const MAX_NODES: usize = 200_000;
/// The most bytes of keys and values, those that aliases repeat included. What has an anchor counts twice, as it
/// is kept twice.
pub const MAX_TEXT: usize = 4 * MAX_BYTES;
/// How deep lists and maps may lie in each other.
pub const MAX_DEPTH: usize = 64;

/// A value of a document, and the line where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Counted from 1.
    pub line: usize,
    /// What it is.
    pub value: Value,
}

/// What a document's value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `~`, or nothing.
    Null,
    /// `true`, `yes`, `on` and their kin.
    Bool(bool),
    /// A whole number, decimal, octal, hexadecimal or binary.
    Int(i64),
    /// Another number.
    Float(f64),
    /// Any other scalar, and each that is quoted.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in its order. No key is there twice.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Makes a typed value.
    ///
    /// # Errors
    /// The field that is wrong, and why.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        T::deserialize(de::Deserializer::new(self))
    }

    /// A field of a mapping.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(fields) => fields.iter().find(|(key, _)| key == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// A field that is text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match &self.get(name)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Reads the documents of a text. Empty ones are left out, as Kubernetes does.
///
/// # Errors
/// What is no YAML, what is beyond the bounds, and what Kubernetes would not take either: duplicate keys,
/// keys that are no text, tags of an application's own. Merge keys (`<<`) are refused too.
pub fn read(text: &str) -> Result<Vec<Node>, Fault> {
    if text.len() > MAX_BYTES {
        return Err(Fault::new(format!(
            "{} bytes, of at most {MAX_BYTES}",
            text.len()
        )));
    }
    let mut reader = Reader::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        let (event, span) =
            next.map_err(|why| Fault::at(why.marker().line(), format!("no YAML: {}", why.info())))?;
        reader.take(event, span)?;
    }
    Ok(reader.documents)
}

/// A list or map that has not ended yet.
struct Open {
    line: usize,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map(Fields),
}

/// The fields of a map that has not ended yet.
#[derive(Default)]
struct Fields {
    all: Vec<(String, Node)>,
    names: HashSet<String>,
    /// The one whose value is next.
    key: Option<String>,
}

/// Makes trees of events.
#[derive(Default)]
struct Reader {
    documents: Vec<Node>,
    open: Vec<Open>,
    /// What aliases stand for.
    anchors: HashMap<usize, (Rc<Node>, Extent)>,
    nodes: usize,
    bytes: usize,
}

impl Reader {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        let line = span.start.line();
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref(), line)?;
                self.count(1, text.len(), line)?;
                self.add(Node { line, value }, anchor)
            }
            Event::Alias(anchor) => {
                let Some((node, extent)) = self.anchors.get(&anchor) else {
                    return Err(Fault::at(line, "an alias of what contains it"));
                };
                let extent = *extent;
                let node = Rc::clone(node);
                self.go_down(extent.depth, line)?;
                self.count(extent.nodes, extent.bytes, line)?;
                self.add(Node::clone(&node), 0)
            }
            Event::SequenceStart(anchor, tag) => {
                expect_tag(tag.as_deref(), "seq", line)?;
                self.begin(line, anchor, Content::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                expect_tag(tag.as_deref(), "map", line)?;
                self.begin(line, anchor, Content::Map(Fields::default()))
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::DocumentEnd | Event::StreamStart | Event::StreamEnd | Event::Nothing => Ok(()),
        }
    }

    /// Counts values and their bytes, before they are kept: of an alias all that it stands for, so that no few
    /// lines become a million values, and no few values gigabytes.
    fn count(&mut self, nodes: usize, bytes: usize, line: usize) -> Result<(), Fault> {
        self.nodes = self.nodes.saturating_add(nodes);
        self.bytes = self.bytes.saturating_add(bytes);
        let (most, what) = match (self.nodes > MAX_NODES, self.bytes > MAX_TEXT) {
            (true, _) => (MAX_NODES, "values"),
            (_, true) => (MAX_TEXT, "bytes"),
            _ => return Ok(()),
        };
        let why = format!("more than {most} {what}, those that aliases repeat included");
        Err(Fault::at(line, why))
    }

    fn begin(&mut self, line: usize, anchor: usize, content: Content) -> Result<(), Fault> {
        self.count(1, 0, line)?;
        self.go_down(1, line)?;
        self.open.push(Open {
            line,
            anchor,
            content,
        });
        Ok(())
    }

    /// Whether something may lie in what is open that is so deep itself.
    fn go_down(&self, levels: usize, line: usize) -> Result<(), Fault> {
        if self.open.len() + levels > MAX_DEPTH {
            let why = format!("lists and maps lie more than {MAX_DEPTH} deep in each other");
            return Err(Fault::at(line, why));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Fault> {
        let Some(Open {
            line,
            anchor,
            content,
        }) = self.open.pop()
        else {
            return Err(Fault::new("no YAML: an end without a beginning"));
        };
        let value = match content {
            Content::List(items) => Value::List(items),
            Content::Map(fields) => Value::Map(fields.all),
        };
        self.add(Node { line, value }, anchor)
    }

    /// Puts a finished value where it belongs: into what is open, or among the documents.
    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        if anchor != 0 {
            let extent = Extent::of(&node);
            // The copy counts, too: it is memory.
            self.count(extent.nodes, extent.bytes, node.line)?;
            self.anchors.insert(anchor, (Rc::new(node.clone()), extent));
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map(fields)) => match fields.key.take() {
                Some(name) => fields.all.push((name, node)),
                None => fields.key = Some(new_key(&mut fields.names, node)?),
            },
            None if node.value != Value::Null => self.documents.push(node),
            None => {}
        }
        Ok(())
    }
}

/// How large a tree is.
#[derive(Clone, Copy)]
struct Extent {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

impl Extent {
    /// The depth of the recursion is that of the tree, which is bounded.
    fn of(node: &Node) -> Self {
        let none = Self {
            nodes: 1,
            bytes: 0,
            depth: 1,
        };
        match &node.value {
            Value::List(items) => items.iter().fold(none, Self::with),
            Value::Map(fields) => fields.iter().fold(none, |all, (key, node)| {
                let with = all.with(node);
                Self {
                    bytes: with.bytes + key.len(),
                    ..with
                }
            }),
            Value::Text(text) => Self {
                bytes: text.len(),
                depth: 0,
                ..none
            },
            _ => Self { depth: 0, ..none },
        }
    }

    fn with(self, node: &Node) -> Self {
        let one = Self::of(node);
        Self {
            nodes: self.nodes + one.nodes,
            bytes: self.bytes + one.bytes,
            depth: self.depth.max(one.depth + 1),
        }
    }
}

fn new_key(names: &mut HashSet<String>, node: Node) -> Result<String, Fault> {
    let line = node.line;
    let key = match node.value {
        Value::Text(text) => text,
        // JSON, which Kubernetes makes of YAML, has keys of text only: it writes these out.
        Value::Bool(is) => is.to_string(),
        Value::Int(number) => number.to_string(),
        _ => return Err(Fault::at(line, "a key must be text")),
    };
    if key == "<<" {
        let why = "merge keys (<<) are not supported: write the fields out";
        return Err(Fault::at(line, why));
    }
    if !names.insert(key.clone()) {
        return Err(Fault::at(line, format!("{key:?} is there twice")));
    }
    Ok(key)
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, line: usize) -> Result<Value, Fault> {
    match tag {
        None if style == ScalarStyle::Plain => scalar::plain(text, line),
        None => Ok(Value::Text(text.to_owned())),
        Some(tag) if is_core(tag, "str") || is_non_specific(tag) => {
            Ok(Value::Text(text.to_owned()))
        }
        Some(tag) => Err(unknown_tag(tag, line)),
    }
}

fn is_core(tag: &Tag, kind: &str) -> bool {
    tag.is_yaml_core_schema() && tag.suffix == kind
}

/// A lone `!`, which says: not to be typed by its looks.
fn is_non_specific(tag: &Tag) -> bool {
    tag.handle.is_empty() && tag.suffix == "!"
}

fn expect_tag(tag: Option<&Tag>, kind: &str, line: usize) -> Result<(), Fault> {
    match tag {
        Some(tag) if !is_core(tag, kind) => Err(unknown_tag(tag, line)),
        _ => Ok(()),
    }
}

fn unknown_tag(tag: &Tag, line: usize) -> Fault {
    let shown: String = tag.to_string().chars().take(40).collect();
    Fault::at(
        line,
        format!("the tag {shown:?} is not supported: leave it out"),
    )
}

#[cfg(test)]
mod tests;
