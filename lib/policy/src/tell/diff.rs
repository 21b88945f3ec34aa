//! What is another in one policy than in another.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::Policy;

type Fields = serde_json::Map<String, Value>;

/// What a line may show of a value, in bytes.
const LONGEST: usize = 120;

/// What changes from one policy to another: one line for each field, named as in the policy's JSON.
/// Containers, volumes and what else has a name are compared with those of the same name; of lists in which
/// the order counts, item by item. Of what is secret, and of files' contents, a line says that it changes and
/// nothing else: a digest lets one try out what it may be of.
#[must_use]
pub fn diff(old: &Policy, new: &Policy) -> Vec<String> {
    // A policy can always be told.
    let value = |policy: &Policy| serde_json::to_value(policy).unwrap_or_default();
    let mut lines = Vec::new();
    compare("", Some(&value(old)), Some(&value(new)), &mut lines);
    lines
}

/// The lists without names in which the order counts: arguments, layers, filters of system calls.
const ORDERED: [&str; 5] = ["command", "arguments", "layers", "syscalls", "args"];

/// What the items of a list are called by, where they are objects.
const NAMES: [&str; 4] = ["name", "destination", "path", "type"];

fn compare(path: &str, old: Option<&Value>, new: Option<&Value>, lines: &mut Vec<String>) {
    match (old, new) {
        (Some(old), Some(new)) if old == new => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => fields(path, old, new, lines),
        (Some(Value::Array(old)), Some(Value::Array(new))) => items(path, old, new, lines),
        (None, Some(new)) => lines.push(format!("{path} is new: {}", shown(new))),
        (Some(old), None) => lines.push(format!("{path} is gone: it was {}", shown(old))),
        (Some(old), Some(new)) => {
            let (old, new) = both_shown(old, new);
            lines.push(format!("{path} changes from {old} to {new}"));
        }
        (None, None) => {}
    }
}

fn fields(path: &str, old: &Fields, new: &Fields, lines: &mut Vec<String>) {
    let secret = is_secret(old) || is_secret(new);
    let added = new.keys().filter(|key| !old.contains_key(*key));
    for key in old.keys().chain(added) {
        let path = match path {
            "" => key.clone(),
            path => format!("{path}.{key}"),
        };
        let (old, new) = (old.get(key), new.get(key));
        match key.as_str() {
            "value" if secret && old != new => lines.push(format!("{path}, a secret, changes")),
            "content" if both_digests(old, new) && old != new => {
                lines.push(format!("{path} changes to other bytes"));
            }
            _ => compare(&path, old, new, lines),
        }
    }
}

fn is_secret(fields: &Fields) -> bool {
    fields.get("secret") == Some(&Value::Bool(true))
}

fn both_digests(old: Option<&Value>, new: Option<&Value>) -> bool {
    [old, new]
        .iter()
        .all(|one| one.is_some_and(|content| content.get("digest").is_some()))
}

fn items(path: &str, old: &[Value], new: &[Value], lines: &mut Vec<String>) {
    let field = path.rsplit('.').next().unwrap_or_default();
    if let Some(key) = name_of_all(old, new) {
        named(path, key, old, new, lines);
    } else if ORDERED.contains(&field) {
        for at in 0..old.len().max(new.len()) {
            compare(&format!("{path}[{at}]"), old.get(at), new.get(at), lines);
        }
    } else {
        unnamed(path, old, new, lines);
    }
}

/// Compares each item with that of its name, and the order of those that are in both.
fn named(path: &str, key: &str, old: &[Value], new: &[Value], lines: &mut Vec<String>) {
    let find = |all: &'_ [Value], name: &Value| all.iter().position(|one| one[key] == *name);
    let added = new.iter().filter(|one| find(old, &one[key]).is_none());
    for one in old.iter().chain(added) {
        let name = &one[key];
        let of = |all: &[Value]| find(all, name).map(|at| all[at].clone());
        let path = format!("{path}[{}]", shown(name));
        compare(&path, of(old).as_ref(), of(new).as_ref(), lines);
    }
    let in_both = |all: &[Value], other: &[Value]| -> Vec<String> {
        let names = all.iter().map(|one| &one[key]);
        let kept = names.filter(|name| find(other, name).is_some());
        kept.map(shown).collect()
    };
    let (before, after) = (in_both(old, new), in_both(new, old));
    if before != after {
        let (before, after) = (before.join(", "), after.join(", "));
        lines.push(format!(
            "{path} are in another order: {after}, and were {before}"
        ));
    }
}

/// Compares lists whose items have no names: sets, most of them.
fn unnamed(path: &str, old: &[Value], new: &[Value], lines: &mut Vec<String>) {
    let before = lines.len();
    for gone in old.iter().filter(|one| !new.contains(one)) {
        lines.push(format!("{path} loses {}", shown(gone)));
    }
    for added in new.iter().filter(|one| !old.contains(one)) {
        lines.push(format!("{path} gains {}", shown(added)));
    }
    if lines.len() == before {
        lines.push(format!("{path} are in another order"));
    }
}

/// What all items of both lists have, each another one in its list.
fn name_of_all(old: &[Value], new: &[Value]) -> Option<&'static str> {
    let tells_apart = |all: &[Value], key: &str| {
        let name = |one: &Value| one.get(key).map(Value::to_string);
        let names: BTreeSet<_> = all.iter().filter_map(name).collect();
        names.len() == all.len()
    };
    let mut keys = NAMES.iter().copied();
    keys.find(|key| tells_apart(old, key) && tells_apart(new, key))
}

fn shown(value: &Value) -> String {
    cut(&told(value))
}

/// Two values. Of long ones that begin alike, what is shown begins where they differ.
fn both_shown(old: &Value, new: &Value) -> (String, String) {
    let (old, new) = (told(old), told(new));
    let same = old.bytes().zip(new.bytes()).take_while(|(a, b)| a == b);
    let same = same.count();
    if same < LONGEST / 2 || old.len().max(new.len()) <= LONGEST {
        return (cut(&old), cut(&new));
    }
    // Not in the middle of a character: both texts are the same up to there.
    let from = old.floor_char_boundary(same);
    (
        format!("…{}", cut(&old[from..])),
        format!("…{}", cut(&new[from..])),
    )
}

fn told(value: &Value) -> String {
    let mut value = value.clone();
    hide(&mut value);
    match &value {
        Value::String(text) => one_line(text),
        Value::Object(fields) if fields.len() == 1 => match fields.get("exact") {
            Some(Value::String(text)) => one_line(text),
            _ => one_line(&value.to_string()),
        },
        value => one_line(&value.to_string()),
    }
}

/// Without what would end a line, steer a terminal or turn the direction of writing: nothing that is shown may
/// look like a line of its own.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for character in text.chars() {
        match character {
            '\u{61c}'
            | '\u{200e}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => line.extend(character.escape_default()),
            _ if character.is_control() => line.extend(character.escape_default()),
            _ => line.push(character),
        }
    }
    line
}

/// Takes out every value that is secret.
fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if is_secret(fields)
                && let Some(secret) = fields.get_mut("value")
            {
                *secret = "a secret".into();
            }
            if let Some(content) = fields.get_mut("content")
                && content.get("digest").is_some()
            {
                *content = "certain bytes".into();
            }
            fields.values_mut().for_each(hide);
        }
        Value::Array(all) => all.iter_mut().for_each(hide),
        _ => {}
    }
}

fn cut(text: &str) -> String {
    match text.len() > LONGEST {
        true => format!("{}…", &text[..text.floor_char_boundary(LONGEST)]),
        false => text.to_owned(),
    }
}
