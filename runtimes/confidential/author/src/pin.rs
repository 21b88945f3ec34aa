//! A manifest with digests in place of tags, so that what is pulled is what the policy was made of.

use crate::yaml::{Node, Value};

/// Writes the digests of images behind their names. All else stays as it is, comments too.
///
/// # Errors
/// A name that is not on the line where its field is, which then has to be written by hand.
pub(crate) fn pin(
    text: &str,
    documents: &[Node],
    images: &[(String, String)],
) -> Result<String, String> {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let mut places = Vec::new();
    for document in documents {
        find(document, &mut places);
    }
    // Aliases show one place several times.
    places.sort_unstable();
    places.dedup();
    for (line, name) in places {
        let Some((_, digest)) = images.iter().find(|(image, _)| image == name) else {
            continue;
        };
        if name.contains('@') {
            continue;
        }
        let by_hand = || format!("line {line}: write {name}@{digest} in place of {name}");
        let text = lines.get_mut(line.saturating_sub(1)).ok_or_else(by_hand)?;
        let key = text.find("image").ok_or_else(by_hand)?;
        let at = key + text[key..].find(name).ok_or_else(by_hand)?;
        text.insert_str(at + name.len(), &format!("@{digest}"));
    }
    Ok(lines.concat())
}

/// The images of containers: fields of that name beside a container's name.
fn find<'a>(node: &'a Node, places: &mut Vec<(usize, &'a str)>) {
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| find(item, places)),
        Value::Map(fields) => {
            for (key, value) in fields {
                match (key.as_str(), &value.value) {
                    ("image", Value::Text(image)) => places.push((value.line, image)),
                    _ => find(value, places),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned(text: &str) -> Result<String, String> {
        let documents = crate::yaml::read(text).expect("YAML");
        let images = [("nginx:1".to_owned(), "sha256:ab".to_owned())];
        pin(text, &documents, &images)
    }

    #[test]
    fn a_digest_is_written_behind_a_name() {
        let text = "spec:\n  containers:\n  # nginx:1\n  - image: nginx:1 # ours\n  - {image: \"nginx:1\", name: b}\n  - image: other\n";
        let expected = text
            .replace("- image: nginx:1 ", "- image: nginx:1@sha256:ab ")
            .replace("\"nginx:1\"", "\"nginx:1@sha256:ab\"");
        assert_eq!(pinned(text), Ok(expected));
    }

    #[test]
    fn what_has_a_digest_stays() {
        let text = "image: nginx:1@sha256:00\n";
        assert_eq!(pinned(text).as_deref(), Ok(text));
    }

    #[test]
    fn a_name_that_is_elsewhere_is_told() {
        let why = pinned("image:\n  nginx:1\n").expect_err("the next line");
        assert!(why.contains("line 2: write nginx:1@sha256:ab"), "{why}");
    }
}
