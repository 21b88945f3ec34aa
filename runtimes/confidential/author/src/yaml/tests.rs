use proptest::prelude::*;
use serde::Deserialize;

use super::*;

fn one(text: &str) -> Value {
    let mut documents = read(text).expect(text);
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0).value
}

fn refused(text: &str) -> String {
    read(text).expect_err(text).to_string()
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[test]
fn documents_are_read_one_by_one() {
    let documents = read("a: 1\n---\n# nothing\n---\n- b\n...\n").expect("two");
    let lines: Vec<_> = documents.iter().map(|node| node.line).collect();
    assert_eq!(lines, [1, 5]);
}

#[test]
fn what_is_quoted_is_text() {
    for quoted in ["\"0644\"", "'0644'", "!!str 0644", "! 0644"] {
        assert_eq!(one(quoted), text("0644"), "{quoted}");
    }
    assert_eq!(one("|\n  yes\n"), text("yes\n"));
}

#[test]
fn an_alias_is_what_it_stands_for() {
    let Value::Map(fields) = one("a: &x {b: [1, 2]}\nc: *x\n") else {
        panic!("no map");
    };
    assert_eq!(fields[0].1.value, fields[1].1.value);
}

#[test]
fn an_alias_does_not_outlive_its_document() {
    assert!(read("a: &x 1\n---\nb: *x\n").is_err());
}

#[test]
fn aliases_can_not_multiply_without_end() {
    let mut laughs = String::from("l0: &l0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n");
    for level in 1..12 {
        let many = vec![format!("*l{}", level - 1); 9].join(", ");
        laughs.push_str(&format!("l{level}: &l{level} [{many}]\n"));
    }
    let why = refused(&laughs);
    assert!(why.contains("aliases repeat"), "{why}");
}

/// Few values, each of which is a megabyte.
#[test]
fn aliases_can_not_repeat_much_text_without_end() {
    let long = "ha".repeat(1 << 19);
    let value = format!("l: &l {long}\nall: [{}]\n", vec!["*l"; 1000].join(", "));
    let key = format!(
        "l: &l {{{}: 1}}\nall: [{}]\n",
        "ha".repeat(500),
        vec!["*l"; 20_000].join(", ")
    );
    let mut levels = format!("l0: &l0 [{}]\n", "ha".repeat(1 << 10));
    for level in 1..8 {
        let many = vec![format!("*l{}", level - 1); 5].join(", ");
        levels.push_str(&format!("l{level}: &l{level} [{many}]\n"));
    }
    for laughs in [value, key, levels] {
        let why = refused(&laughs);
        assert!(
            why.contains("bytes, those that aliases repeat included"),
            "{why}"
        );
    }
    // As much as a file may have is read, with an anchor, too.
    let most = format!("- &l {}\n- *l\n", "x".repeat(MAX_BYTES - 32));
    read(&most).expect("three times as much");
}

#[test]
fn aliases_can_not_make_it_deeper() {
    let mut nested = String::from("l0: &l0 [[[[[[[[x]]]]]]]]\n");
    for level in 1..20 {
        nested.push_str(&format!(
            "l{level}: &l{level} [[[[[[[[*l{}]]]]]]]]\n",
            level - 1
        ));
    }
    let why = refused(&nested);
    assert!(why.contains("deep"), "{why}");
    let why = refused("a: &x [*x]\n");
    assert!(why.contains("alias"), "{why}");
}

#[test]
fn bounds_hold_for_depth_and_length() {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    assert!(refused(&deep).contains("deep"));
    let deep = (0..200)
        .map(|level| format!("{}a:\n", " ".repeat(level)))
        .collect::<String>();
    assert!(refused(&deep).contains("deep"));
    assert!(refused(&"#".repeat(MAX_BYTES + 1)).contains("bytes"));
    let many = "- a\n".repeat(MAX_NODES + 1);
    assert!(refused(&many).contains("values"));
}

#[test]
fn what_kubernetes_does_not_take_is_refused_with_its_line() {
    for (yaml, line, why) in [
        ("a: 1\na: 2\n", "line 2", "twice"),
        ("a: 1\n<<: {b: 2}\n", "line 2", "merge keys"),
        ("x: !!binary aGk=\n", "line 1", "tag"),
        ("x: !Custom {}\n", "line 1", "tag"),
        ("? [a]\n: b\n", "line 1", "a key must be text"),
        ("a: 1\nb: [\n", "line", "no YAML"),
        ("a: 99999999999999999999\n", "line 1", "quote it"),
    ] {
        let told = refused(yaml);
        assert!(told.contains(line) && told.contains(why), "{yaml}: {told}");
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outer {
    #[serde(default)]
    list: Vec<Inner>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inner {
    name: String,
    #[serde(default)]
    number: Option<u32>,
}

fn parsed(text: &str) -> Result<Outer, Fault> {
    read(text).expect(text)[0].parse()
}

#[test]
fn a_fault_names_its_field() {
    for (yaml, told) in [
        (
            "list:\n- name: a\n- name: 5\n",
            "line 3: list[1].name: must be a string, not integer `5`: quote it",
        ),
        (
            "list:\n- name: a\n  number: -1\n",
            "line 3: list[0].number: invalid value: integer `-1`, expected u32",
        ),
        (
            "list:\n- number: 1\n",
            "line 2: list[0].name: must be given",
        ),
        ("list: {}\n", "line 1: list: must be a sequence, not map"),
        (
            "list:\n- name: a\n  size: 1\n",
            "line 3: list[0].size: unknown field: nothing is ignored here, as it may change what runs",
        ),
    ] {
        assert_eq!(parsed(yaml).expect_err(yaml).to_string(), told);
    }
}

#[test]
fn null_is_as_if_it_were_not_there() {
    let outer =
        parsed("list:\n- name: a\n  number: null\n  unheard: ~\n").expect("nothing of it counts");
    assert_eq!(
        (outer.list[0].name.as_str(), outer.list[0].number),
        ("a", None)
    );
    assert!(parsed("list:\n- name: ~\n").is_err());
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[-a:&*!|>\\[\\]{},?#'\"\\n \\t~<0x.%@]{0,200}") {
        if let Ok(documents) = read(&text) {
            for document in documents {
                let _ = document.parse::<Outer>();
            }
        }
    }

    #[test]
    fn json_is_read_as_it_is(value in json()) {
        let text = serde_json::to_string(&value).expect("JSON");
        let documents = read(&text).expect(&text);
        let back = documents.first().map_or(serde_json::Value::Null, plain);
        prop_assert_eq!(back, value);
    }
}

/// Any JSON that has no fractions.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        "[ -~é\\n\\t]{0,12}".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
            prop::collection::btree_map("[a-z]{1,6}", inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

fn plain(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(is) => (*is).into(),
        Value::Int(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(items) => items.iter().map(plain).collect(),
        Value::Map(fields) => fields
            .iter()
            .map(|(key, node)| (key.clone(), plain(node)))
            .collect(),
    }
}
