//! Pods that are made up: whatever order a host asks in, what passes is what the policy says, and no change of
//! a request makes it another one.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use serde_json::{Value, json};

use super::{configuration, creation, gate, policy};
use crate::{Configuration, Request};

/// A pod's policy, and what a host asks.
#[derive(Clone, Debug)]
struct Pod {
    policy: Value,
    asked: Value,
    /// The variables that there are to be, in their order.
    env: Vec<String>,
    /// Where the mounts are to be, in their order.
    mounts: Vec<String>,
}

/// Name, value, whether it is optional and whether it is given.
type Variable = (String, (String, bool, bool));

type Place = (String, Vec<&'static str>);

fn pods() -> impl Strategy<Value = Pod> {
    // Some are called as those of services are.
    let name = "[A-D]{1,2}(_PORT|_SERVICE_HOST|_X)";
    let value = ("[a-z0-9=]{0,6}", any::<bool>(), any::<bool>());
    let variables = prop::collection::btree_map(name, value, 0..8);
    let value = select(vec!["10.0.0.1", "80"]);
    let services = prop::collection::btree_map("[E-G](_PORT|_SERVICE_HOST)", value, 0..4);
    let options = subsequence(vec!["ro", "nosuid", "nodev"], 0..=3);
    let mounts = prop::collection::btree_map("/[a-d]{1,2}", options, 0..6);
    let groups = prop::collection::btree_set(0_u32..9, 0..4);
    (variables, services, mounts, groups).prop_flat_map(|(variables, services, mounts, groups)| {
        let variables: Vec<Variable> = variables.into_iter().collect();
        let services: Vec<_> = services.into_iter().collect();
        let mounts: Vec<Place> = mounts.into_iter().collect();
        let twice = (
            Just(variables.clone()).prop_shuffle(),
            Just(variables).prop_shuffle(),
            Just(mounts.clone()).prop_shuffle(),
            Just(mounts).prop_shuffle(),
        );
        (twice, Just(services).prop_shuffle(), Just(groups)).prop_map(
            |((rules, came, mounts, mounted), services, groups)| {
                let services: Vec<_> = services
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                Pod {
                    policy: with_policy(&rules, &mounts, &groups),
                    asked: asked(&services, &came, &mounted, &groups),
                    env: given(&rules).into_iter().chain(services).collect(),
                    mounts: mounts.into_iter().map(|(place, _)| place).collect(),
                }
            },
        )
    })
}

fn with_policy(rules: &[Variable], mounts: &[Place], groups: &BTreeSet<u32>) -> Value {
    let mut policy = policy();
    let container = &mut policy["containers"][0];
    let service = json!({"name": {"typed": "service_variable"}, "value": {"typed": "service_value"},
        "optional": true});
    let rules = rules.iter().map(|(name, (value, optional, _))| {
        json!({"name": {"exact": name}, "value": {"exact": value}, "optional": optional})
    });
    container["process"]["env"] = rules.chain([service]).collect();
    container["process"]["user"]["additional_gids"] = json!(groups);
    container["mounts"] = mounts
        .iter()
        .map(|(place, options)| json!({"destination": place, "kind": "tmpfs", "options": options}))
        .collect();
    policy
}

fn given(variables: &[Variable]) -> Vec<String> {
    let given = variables
        .iter()
        .filter(|(_, (_, optional, given))| *given || !optional);
    given
        .map(|(name, (value, ..))| format!("{name}={value}"))
        .collect()
}

fn asked(
    services: &[String],
    variables: &[Variable],
    mounts: &[Place],
    groups: &BTreeSet<u32>,
) -> Value {
    let mut asked = configuration();
    let env = services.iter().cloned().chain(given(variables));
    asked["process"]["env"] = env.map(Value::from).collect();
    asked["process"]["user"]["additionalGids"] = json!(groups);
    asked["mounts"] = mounts
        .iter()
        .map(|(place, options)| {
            json!({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options})
        })
        .collect();
    asked
}

/// What a container is made of; none if it is denied.
fn made(policy: &Value, asked: &Value) -> Option<Configuration> {
    Configuration::from_json(asked.to_string().as_bytes()).ok()?;
    let approved = gate(policy).decide(creation(asked)).ok()?;
    match approved.request {
        Request::CreateContainer(made) => Some(made.configuration),
        other => panic!("another request: {other:?}"),
    }
}

/// All places of a value, as pointers.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let at = format!("{at}/{key}");
                places(value, &at, all);
                all.push(at);
            }
        }
        Value::Array(items) => {
            for (number, value) in items.iter().enumerate() {
                let at = format!("{at}/{number}");
                places(value, &at, all);
                all.push(at);
            }
        }
        _ => {}
    }
}

/// What is done to a value.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    Other,
    Null,
    Gone,
    Twice,
    First,
}

fn changes() -> impl Strategy<Value = Change> {
    use Change::{First, Gone, Null, Other, Twice};
    select(vec![Other, Null, Gone, Twice, First])
}

/// The same, with a change at a place.
fn changed(whole: &Value, place: &str, change: Change) -> Value {
    let mut whole = whole.clone();
    let (parent, key) = place.rsplit_once('/').expect("a pointer");
    let value = whole.pointer(place).expect("a place").clone();
    let around = whole.pointer_mut(parent).expect("a parent");
    let is_done = match around {
        Value::Array(items) => in_list(items, key.parse().expect("a number"), change),
        Value::Object(fields) => change == Change::Gone && fields.remove(key).is_some(),
        _ => false,
    };
    if !is_done {
        *whole.pointer_mut(place).expect("a place") = match (change, value) {
            (Change::Null, _) => Value::Null,
            (_, Value::Bool(is)) => (!is).into(),
            (_, Value::Number(number)) => (number.as_u64().unwrap_or(0) + 1).into(),
            (_, Value::String(text)) => format!("{text}x").into(),
            (_, Value::Array(_)) => json!(["x"]),
            (_, _) => json!({"x": 1}),
        };
    }
    whole
}

/// Changes a list, and says whether that is all there is to do.
fn in_list(items: &mut Vec<Value>, at: usize, change: Change) -> bool {
    match change {
        Change::Gone => drop(items.remove(at)),
        Change::Twice => items.push(items[at].clone()),
        Change::First => items.swap(0, at),
        Change::Other | Change::Null => return false,
    }
    true
}

proptest! {
    #[test]
    fn what_passes_is_in_the_policys_order(pod in pods()) {
        let first = made(&pod.policy, &pod.asked).expect("it passes");
        prop_assert_eq!(&first.process.env, &pod.env);
        let mounts: Vec<_> = first.mounts.iter().map(|one| one.destination.clone()).collect();
        prop_assert_eq!(&mounts, &pod.mounts);
        // Whatever the host's order was.
        let mut sorted = pod.asked.clone();
        sorted["process"]["env"] = json!(pod.env);
        let of = |place: &String| {
            let mut mounts = pod.asked["mounts"].as_array().expect("a list").iter();
            mounts.find(|one| one["destination"] == **place).cloned()
        };
        sorted["mounts"] = pod.mounts.iter().filter_map(of).collect();
        prop_assert_eq!(made(&pod.policy, &sorted), Some(first));
    }

    #[test]
    fn no_change_makes_another_container(pod in pods(), at in any::<Index>(), change in changes()) {
        let sound = made(&pod.policy, &pod.asked).expect("it passes");
        let mut all = Vec::new();
        places(&pod.asked, "", &mut all);
        let place = at.get(&all);
        let other = changed(&pod.asked, place, change);
        let Some(mut other) = made(&pod.policy, &other) else {
            return Ok(());
        };
        // The host may leave out what is optional, and say what services there are.
        let rules = pod.policy["containers"][0]["process"]["env"].as_array().expect("a list");
        for variable in &other.process.env {
            let (name, value) = variable.split_once('=').expect("a variable");
            let mut own = rules.iter().filter(|rule| rule["name"]["exact"] == name);
            match own.next() {
                Some(rule) => prop_assert_eq!(&rule["value"]["exact"], value),
                None => prop_assert!(name.starts_with(['E', 'F', 'G']), "{}", name),
            }
        }
        other.process.env.clone_from(&sound.process.env);
        prop_assert_eq!(other, sound, "{} {:?}", place, change);
    }
}
