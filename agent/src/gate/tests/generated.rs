//! Tampering that is made up by walking what is sound: every field of every JSON changed, left out, added
//! and repeated; a field that nobody knows in every message; every request out of order and repeated.

use protobuf::SpecialFields;
use serde_json::{Value, json};

use super::cases::{Case, Told};
use super::sound::{creation_of, life, place, policy};
use super::{Guest, Message, run};

/// A change somewhere in a JSON.
struct Change {
    /// As denials have it.
    path: String,
    what: &'static str,
    text: String,
}

/// What the host may choose within bounds, with all that is in it.
const FREE: [&str; 9] = [
    "configuration.oomScoreAdj",
    "configuration.process.oomScoreAdj",
    "configuration.env[2]",
    "configuration.process.env[2]",
    "configuration.linux.resources.memory",
    "configuration.linux.resources.cpu",
    "configuration.linux.resources.pids",
    "configuration.linux.resources.unified",
    "resources",
];

fn is_free(path: &str) -> bool {
    FREE.iter().any(|one| path.starts_with(one))
}

/// All changes of a value, as texts of the whole.
fn changes(name: &str, whole: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    walk(whole, &mut Vec::new(), &mut |steps, value| {
        let path = steps.iter().fold(name.to_owned(), |path, step| match step {
            Step::Key(key) => format!("{path}.{key}"),
            Step::At(at) => format!("{path}[{at}]"),
        });
        for (what, key, changed) in changed(value) {
            let path = key.map_or_else(|| path.clone(), |key| format!("{path}.{key}"));
            let text = put(whole, steps, changed).to_string();
            // Keys can't be there twice in a value, so one is renamed in the text.
            let text = text.replace(r#""TWICE:"#, "\"");
            found.push(Change { path, what, text });
        }
    });
    found
}

#[derive(Clone)]
enum Step {
    Key(String),
    At(usize),
}

fn walk(value: &Value, steps: &mut Vec<Step>, see: &mut impl FnMut(&[Step], &Value)) {
    see(steps, value);
    let inner: Vec<_> = match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (Step::Key(key.clone()), value))
            .collect(),
        Value::Array(all) => all
            .iter()
            .enumerate()
            .map(|(at, value)| (Step::At(at), value))
            .collect(),
        _ => Vec::new(),
    };
    for (step, value) in inner {
        steps.push(step);
        walk(value, steps, see);
        steps.pop();
    }
}

fn put(whole: &Value, steps: &[Step], new: Value) -> Value {
    let mut whole = whole.clone();
    let mut here = &mut whole;
    for step in steps {
        here = match step {
            Step::Key(key) => &mut here[key.as_str()],
            Step::At(at) => &mut here[*at],
        };
    }
    *here = new;
    whole
}

/// What a value is changed to; with the field of it that is meant, if it is one.
fn changed(value: &Value) -> Vec<(&'static str, Option<String>, Value)> {
    let mut all = vec![("null", None, Value::Null)];
    match value {
        Value::Object(fields) => {
            all.push(("a list", None, json!([])));
            let with = |key: String, value: Value| {
                let mut fields = fields.clone();
                fields.insert(key, value);
                Value::from(fields)
            };
            all.push((
                "an alien",
                Some("alien".into()),
                with("alien".into(), json!(1)),
            ));
            for (key, value) in fields {
                let mut without = fields.clone();
                without.remove(key);
                all.push(("a field less", Some(key.clone()), without.into()));
                let twice = with(format!("TWICE:{key}"), value.clone());
                all.push(("a field twice", Some(key.clone()), twice));
            }
        }
        Value::Array(list) => {
            all.push(("an object", None, json!({})));
            if let Some(first) = list.first() {
                all.push(("one less", None, list[1..].into()));
                all.push((
                    "one twice",
                    None,
                    [list.as_slice(), std::slice::from_ref(first)]
                        .concat()
                        .into(),
                ));
            }
            all.push((
                "an alien",
                None,
                [list.as_slice(), &[json!(1.5)]].concat().into(),
            ));
        }
        Value::String(text) => {
            all.push(("a number", None, json!(7)));
            all.push(("more", None, json!(format!("{text}x"))));
            all.push(("none", None, json!("")));
            all.push(("a zero byte", None, json!(format!("{text}\0"))));
        }
        Value::Number(_) => {
            all.push(("a text", None, json!("7")));
            all.push(("beyond", None, json!(u64::MAX)));
            all.push(("another", None, json!(3)));
        }
        Value::Bool(is) => all.push(("the other", None, json!(!is))),
        Value::Null => {}
    }
    all
}

/// Whether a denial is of the field that was changed, or of one around it or in it.
fn is_about(told: &Told, request: &str, path: &str) -> bool {
    let field = told.field.strip_prefix(request).unwrap_or(&told.field);
    let field = field.trim_start_matches('.');
    let plain = |path: &str| {
        let parts = path.split(['.', '[']).filter(|part| !part.ends_with(']'));
        parts.map(str::to_owned).collect::<Vec<_>>()
    };
    let (field, path) = (plain(field), plain(path));
    field.iter().zip(&path).all(|(one, other)| one == other)
}

/// Tries all changes of a JSON in a request, and says how many were denied.
async fn try_all(
    name: &str,
    json: &str,
    at: usize,
    whole: &Value,
    make: impl Fn(Vec<u8>) -> Message,
) -> usize {
    let (mut denied, mut wrong) = (0, Vec::new());
    let sound = Guest::new(policy());
    sound.sound(life().into_iter().take(at)).await;
    sound.sound([make(whole.to_string().into_bytes())]).await;
    let passed = sound.last();
    let fresh = async || {
        let guest = Guest::new(policy());
        guest.sound(life().into_iter().take(at)).await;
        guest
    };
    let mut guest = fresh().await;
    for change in changes(json, whole) {
        let Change { path, what, text } = change;
        match guest.ask(make(text.into_bytes())).await {
            Err(line) => {
                denied += 1;
                if !is_about(&Told::read(&line), name, &path) {
                    wrong.push(format!("{path} {what}: {line}"));
                }
            }
            Ok(()) => {
                // What the gate drops, as it has its own, changes nothing.
                if guest.last() != passed && !is_free(&path) {
                    wrong.push(format!("{path} {what}: it passed"));
                }
                guest = fresh().await;
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {name}: {wrong:#?}", wrong.len());
    denied
}

#[test]
fn no_change_of_a_configuration_makes_another_container() {
    let at = creation_of("w1");
    let Some(Message::Create(request)) = life().into_iter().nth(at) else {
        panic!("it is made");
    };
    let whole = serde_json::from_slice(&request.configuration).expect("JSON");
    let make = |configuration| {
        Message::Create(trefoil_agent_protocol::service::CreateContainerRequest {
            configuration,
            ..request.clone()
        })
    };
    let denied = run(try_all(
        "CreateContainer",
        "configuration",
        at,
        &whole,
        make,
    ));
    assert!(denied >= 440, "{denied}");
}

#[test]
fn no_change_of_a_process_runs_another_one() {
    let at = place(|one| matches!(one, Message::Exec(_)));
    let Some(Message::Exec(request)) = life().into_iter().nth(at) else {
        panic!("it is run");
    };
    let whole = serde_json::from_slice(&request.configuration).expect("JSON");
    let make = |configuration| {
        Message::Exec(trefoil_agent_protocol::service::ExecRequest {
            configuration,
            ..request.clone()
        })
    };
    let denied = run(try_all("Exec", "configuration", at, &whole, make));
    assert!(denied >= 120, "{denied}");
}

#[test]
fn no_change_of_limits_gives_what_is_out_of_bounds() {
    let at = place(|one| matches!(one, Message::Update(_)));
    let Some(Message::Update(request)) = life().into_iter().nth(at) else {
        panic!("they are given");
    };
    let whole = serde_json::from_slice(&request.resources).expect("JSON");
    let make = |resources| {
        Message::Update(trefoil_agent_protocol::service::UpdateRequest {
            resources,
            ..request.clone()
        })
    };
    let denied = run(try_all("Update", "resources", at, &whole, make));
    assert!(denied >= 20, "{denied}");
}

/// Each message with a field that nobody knows, and each message in it.
pub(super) fn aliens() -> Vec<Case> {
    let alien = |special: &mut SpecialFields| special.mut_unknown_fields().add_varint(99, 1);
    let mut all = Vec::new();
    let mut add = |at: usize, field: &str, message: Message| {
        all.push(Case {
            name: format!("an unknown field of {field}"),
            policy,
            before: life().into_iter().take(at).collect(),
            message,
            codes: vec!["field-unknown"],
            field: field.into(),
        });
    };
    for (at, mut message) in life().into_iter().enumerate() {
        let nested = nested_aliens(&message);
        let name = match &mut message {
            Message::SetUp(one) => (alien(&mut one.special_fields), "SetUp").1,
            Message::Create(one) => (alien(&mut one.special_fields), "CreateContainer").1,
            Message::Start(one) => (alien(&mut one.special_fields), "StartContainer").1,
            Message::Delete(one) => (alien(&mut one.special_fields), "DeleteContainer").1,
            Message::Exec(one) => (alien(&mut one.special_fields), "Exec").1,
            Message::Wait(one) => (alien(&mut one.special_fields), "Wait").1,
            Message::Signal(one) => (alien(&mut one.special_fields), "Signal").1,
            Message::CloseStdin(one) => (alien(&mut one.special_fields), "CloseStdin").1,
            Message::Pause(one) => (alien(&mut one.special_fields), "Pause").1,
            Message::Resume(one) => (alien(&mut one.special_fields), "Resume").1,
            Message::Update(one) => (alien(&mut one.special_fields), "Update").1,
            Message::Stats(one) => (alien(&mut one.special_fields), "Stats").1,
            Message::Processes(one) => (alien(&mut one.special_fields), "Processes").1,
            Message::OutOfMemory(one) => (alien(&mut one.special_fields), "OutOfMemory").1,
            Message::PutFiles(one) => (alien(&mut one.special_fields), "PutFiles").1,
            Message::AdjustClock(one) => (alien(&mut one.special_fields), "AdjustClock").1,
            Message::PowerOff(one) => (alien(&mut one.special_fields), "PowerOff").1,
            _ => continue,
        };
        add(at, name, message);
        for (field, message) in nested {
            add(at, &format!("{name}.{field}"), message);
        }
    }
    all
}

fn nested_aliens(message: &Message) -> Vec<(&'static str, Message)> {
    let alien = |special: &mut SpecialFields| special.mut_unknown_fields().add_varint(99, 1);
    let mut all = Vec::new();
    match message {
        Message::SetUp(sound) => {
            let mut one = sound.clone();
            alien(&mut one.scratch.mut_or_insert_default().special_fields);
            all.push(("scratch", Message::SetUp(one)));
        }
        Message::Create(sound) => {
            let mut one = sound.clone();
            alien(&mut one.rootfs.mut_or_insert_default().special_fields);
            all.push(("rootfs", Message::Create(one)));
            let mut one = sound.clone();
            let rootfs = one.rootfs.mut_or_insert_default();
            alien(&mut rootfs.verified.mut_or_insert_default().special_fields);
            all.push(("rootfs.verified", Message::Create(one)));
            let mut one = sound.clone();
            alien(&mut one.streams.mut_or_insert_default().special_fields);
            all.push(("streams", Message::Create(one)));
        }
        Message::Exec(sound) => {
            let mut one = sound.clone();
            alien(&mut one.streams.mut_or_insert_default().special_fields);
            all.push(("streams", Message::Exec(one)));
        }
        Message::PutFiles(sound) => {
            let mut one = sound.clone();
            one.files
                .iter_mut()
                .for_each(|file| alien(&mut file.special_fields));
            all.push(("files[0]", Message::PutFiles(one)));
        }
        _ => {}
    }
    all
}

/// Whether a request of [`life`] is sound after these, by what the protocol says.
fn is_sound_after(message: &Message, done: &[Message]) -> bool {
    let has = |wanted: &dyn Fn(&Message) -> bool| done.iter().any(wanted);
    let is_set_up = has(&|one| matches!(one, Message::SetUp(_)));
    let made = |id: &str| has(&|one| matches!(one, Message::Create(one) if one.container == id));
    let runs = |id: &str| has(&|one| matches!(one, Message::Start(one) if one.container == id));
    let ended = |id: &str| has(&|one| matches!(one, Message::End(one, _) if one == id));
    let deleted = |id: &str| has(&|one| matches!(one, Message::Delete(one) if one.container == id));
    let put = |name: &str| has(&|one| matches!(one, Message::PutFiles(one) if one.volume == name));
    let gone = |name: &str| has(&|one| matches!(one, Message::Wait(one) if one.process == name));
    let exec = has(&|one| matches!(one, Message::Exec(_))) && !gone("e1");
    let there = |id: &str| made(id) && !deleted(id);
    match message {
        Message::PowerOff(_) => true,
        Message::SetUp(_) => !is_set_up,
        _ if !is_set_up => matches!(message, Message::End(..)),
        Message::PutFiles(one) => one.volume == "etc-hosts" || !put(&one.volume),
        Message::Create(one) => {
            let before = match one.container.as_str() {
                "i1" => !ended("i1"),
                "p1" => ended("i1"),
                _ => ended("i1") && runs("p1"),
            };
            put("etc-hosts") && put("settings") && before && !made(&one.container)
        }
        Message::Start(one) => there(&one.container) && !runs(&one.container),
        Message::Pause(one) | Message::Resume(one) => runs(&one.container),
        Message::Exec(_) => runs("w1") && !exec,
        Message::CloseStdin(_) => exec,
        Message::Wait(one) if one.process.is_empty() => there(&one.container),
        Message::Wait(_) => exec,
        Message::Signal(one) => there(&one.container),
        Message::Update(one) => there(&one.container),
        Message::Delete(one)
        | Message::Stats(one)
        | Message::Processes(one)
        | Message::OutOfMemory(one) => there(&one.container),
        _ => true,
    }
}

/// Each request at each earlier moment, and once more at each later one, where it is not sound then.
pub(super) fn out_of_order() -> Vec<Case> {
    let life = life();
    let mut all = Vec::new();
    for (at, message) in life.iter().enumerate() {
        for moment in 0..life.len() {
            let done = &life[..moment];
            if moment == at || matches!(message, Message::End(..)) || is_sound_after(message, done)
            {
                continue;
            }
            all.push(Case {
                name: format!("request {at} before request {moment}"),
                policy,
                before: done.to_vec(),
                message: message.clone(),
                codes: vec![
                    "not-set-up",
                    "set-up-twice",
                    "container-unmade",
                    "container-order",
                    "container-phase",
                    "container-alive",
                    "container-finished",
                    "process-twice",
                    "process-unknown",
                    "name-twice",
                    "volume-empty",
                    "volume-update",
                ],
                field: String::new(),
            });
        }
    }
    all
}

#[test]
fn every_request_out_of_order_is_denied() {
    let cases = out_of_order();
    assert!(cases.len() >= 200, "{}", cases.len());
    super::cases::check(&cases);
}

#[test]
fn a_field_that_nobody_knows_is_denied_in_every_message() {
    let cases = aliens();
    assert!(cases.len() >= 25, "{}", cases.len());
    super::cases::check(&cases);
}

#[test]
fn what_is_left_out_is_missed_later() {
    let life = life();
    let needed = |one: &Message| {
        let files = matches!(one, Message::PutFiles(one) if one.volume == "settings");
        files
            || matches!(
                one,
                Message::SetUp(_) | Message::Create(_) | Message::Start(_) | Message::End(..)
            )
    };
    for (at, _) in life.iter().enumerate().filter(|(_, one)| needed(one)) {
        let left = life.iter().enumerate().filter(|(other, _)| *other != at);
        let guest = Guest::new(policy());
        let denied = run(async {
            for (_, message) in left {
                if guest.ask(message.clone()).await.is_err() {
                    return true;
                }
            }
            false
        });
        assert!(denied, "nobody misses request {at}");
    }
}
