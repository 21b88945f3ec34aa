//! What has passed counts when it is done, and for what it was.

use serde_json::{Value, json};

use super::*;
use crate::{Check, Denial};

/// A pod in which `next` starts after `web`.
fn in_order() -> Value {
    let mut policy = policy();
    let mut next = policy["containers"][0].clone();
    next["name"] = "next".into();
    next["after"] = json!(["web"]);
    policy["containers"]
        .as_array_mut()
        .expect("a list")
        .push(next);
    policy
}

fn create(gate: &mut Gate, id: &str, name: &str) -> Result<(), Denial> {
    let mut configuration = configuration();
    configuration["linux"]["cgroupsPath"] = format!("/pod/{id}").into();
    let Request::CreateContainer(mut request) = creation(&configuration) else {
        panic!("another request");
    };
    (request.container, request.name) = (id.into(), name.into());
    gate.decide(Request::CreateContainer(request)).map(drop)
}

fn start(gate: &mut Gate, container: &str) -> Start {
    let container = container.to_owned();
    let approved = gate.decide(Request::StartContainer { container });
    approved.expect("it passes").start.expect("a start")
}

#[test]
fn nobody_goes_after_a_start_that_is_not_over_or_failed() {
    let mut gate = gate(&in_order());
    create(&mut gate, "w1", "web").expect("it passes");
    let first = start(&mut gate, "w1");
    let denial = create(&mut gate, "n1", "next").expect_err("not yet");
    assert_eq!(denial.check, Check::Order, "{denial}");
    gate.not_started(first);
    let denial = create(&mut gate, "n1", "next").expect_err("it failed");
    assert_eq!(denial.check, Check::Order, "{denial}");
    let second = start(&mut gate, "w1");
    // It was over before.
    gate.started(first);
    gate.started(second);
    create(&mut gate, "n1", "next").expect("it passes");
}

/// A host that deletes a container while it is being started has its name for another one.
#[test]
fn a_start_is_of_no_container_but_its_own() {
    let mut gate = gate(&in_order());
    create(&mut gate, "x", "web").expect("it passes");
    let of_web = start(&mut gate, "x");
    gate.deleted("x");
    create(&mut gate, "x", "web").expect("it passes");
    gate.started(of_web);
    let denial = create(&mut gate, "n1", "next").expect_err("the second one has not been started");
    assert_eq!(denial.check, Check::Order, "{denial}");
}

#[test]
fn an_end_counts_as_a_success_of_what_was_started() {
    let mut policy = in_order();
    policy["containers"][0]["kind"] = "init".into();
    for (succeeded, passes) in [(true, true), (false, false)] {
        let mut gate = gate(&policy);
        create(&mut gate, "w1", "web").expect("it passes");
        let web = start(&mut gate, "w1");
        gate.ended("w1", true);
        match succeeded {
            true => gate.started(web),
            false => gate.not_started(web),
        }
        assert_eq!(create(&mut gate, "n1", "next").is_ok(), passes);
    }
}
