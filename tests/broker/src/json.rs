//! RFC 8785: the one form that a JSON value of strings and objects has.

use anyhow::{Result, bail};
use serde_json::Value;

/// The canonical form of a value without numbers, lists and such. The keys that occur are ASCII.
pub(crate) fn canonical(value: &Value) -> Result<String> {
    match value {
        Value::String(_) => Ok(serde_json::to_string(value)?),
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort();
            let mut text = String::from("{");
            for name in names {
                if text.len() > 1 {
                    text.push(',');
                }
                text += &serde_json::to_string(name)?;
                text.push(':');
                text += &canonical(&fields[name])?;
            }
            text.push('}');
            Ok(text)
        }
        other => bail!("{other} is no string and no object"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_and_no_blank_is_there() {
        let value = json!({"b": {"z": "é\"\n", "a": ""}, "a-b": "1", "a": "2"});
        let text = canonical(&value).expect("canonical");
        assert_eq!(text, r#"{"a":"2","a-b":"1","b":{"a":"","z":"é\"\n"}}"#);
        canonical(&json!({"a": 1})).expect_err("a number");
    }
}
