//! Variables, and what is not known of them.

use trefoil_policy::{Content, Digest, Typed, VolumeKind};

use super::*;

#[test]
fn variables_are_what_kubelet_and_containerd_make_of_them() {
    let container = first(
        "image: tools
    resources: {limits: {memory: 64Mi, cpu: 1500m}}
    env:
    - {name: A, value: one}
    - {name: B, value: $(A)-two}
    - {name: VERSION, value: '2'}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: URL, value: http://$(IP)}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: CPUS, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    - {name: MEBIBYTES, valueFrom: {resourceFieldRef: {resource: requests.memory, divisor: 1Mi}}}
    - {name: DISK, valueFrom: {resourceFieldRef: {resource: limits.ephemeral-storage}}}",
        "enableServiceLinks: false",
    );
    let value = |name: &str| env(&container, name).map(|one| one.value.clone());
    for (name, expected) in [
        ("A", Pattern::exact("one")),
        ("B", Pattern::exact("one-two")),
        ("VERSION", Pattern::exact("2")),
        ("PATH", Pattern::exact("/usr/bin:/bin")),
        ("HOSTNAME", Pattern::exact("web")),
        ("NAME", Pattern::exact("web")),
        ("IP", Pattern::Typed(Typed::Ip)),
        ("URL", Pattern::Typed(Typed::Text)),
        ("CPUS", Pattern::exact("2")),
        ("MEBIBYTES", Pattern::exact("64")),
        ("DISK", Pattern::Typed(Typed::Number)),
        ("KUBERNETES_SERVICE_HOST", Pattern::Typed(Typed::Ip)),
    ] {
        assert_eq!(value(name), Some(expected), "{name}");
    }
    let of_services = Pattern::Typed(Typed::ServiceVariable);
    assert!(
        container
            .process
            .env
            .iter()
            .all(|one| one.name != of_services)
    );
    let linked = first("image: tools", "");
    assert!(
        linked
            .process
            .env
            .iter()
            .any(|one| one.name == of_services && one.optional)
    );
    assert_eq!(
        env(&first("image: empty\n    command: [a]", ""), "PATH"),
        None
    );
}

#[test]
fn a_secret_is_not_written_into_the_policy() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {plain: hunter2, kept: sealed.a.b.c}\n---\n";
    let container = "image: tools\n    envFrom: [{prefix: S_, secretRef: {name: s}}]";
    let derived = derived(&format!("{secret}{}", pod(container, "")));
    let json = String::from_utf8(derived.policy.to_json().expect("JSON")).expect("text");
    assert!(
        !json.contains("hunter2") && json.contains("sealed.a.b.c"),
        "{json}"
    );
    let plain = env(&derived.policy.containers[0], "S_plain").expect("a variable");
    assert!(plain.secret && plain.value == Pattern::Typed(Typed::Text));
    assert!(
        derived
            .notes
            .iter()
            .any(|note| note.contains("Secret s") && note.contains("seal it")),
        "{:?}",
        derived.notes
    );
}

#[test]
fn a_secret_that_no_guest_would_take_is_refused() {
    let with = |value: &str| {
        let secret = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{key: {value}}}\n---\n"
        );
        let container =
            "image: tools\n    env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: key}}}]";
        derived_with(
            &format!("{secret}{}", pod(container, "")),
            &Knobs::default(),
        )
    };
    let long = "x".repeat(4097);
    let told = with(&long).expect_err("too long");
    assert!(
        told.contains(
            "env[0].valueFrom.secretKeyRef: the key \"key\" of the Secret \"s\" is too long"
        ),
        "{told}"
    );
    for sound in [&long[1..], &format!("sealed.{long}")] {
        with(sound).expect("a policy");
    }
}

#[test]
fn a_key_that_is_no_text_can_be_no_variable() {
    let object = |kind: &str, field: &str| {
        format!(
            "apiVersion: v1\nkind: {kind}\nmetadata: {{name: o}}\n{field}: {{a: /w==, b: eA==}}\n---\n"
        )
    };
    let with = |object: String, reference: &str| {
        let container = format!("image: tools\n    envFrom: [{{{reference}: {{name: o}}}}]");
        derived_with(&(object + &pod(&container, "")), &Knobs::default())
    };
    let told = with(object("Secret", "data"), "secretRef").expect_err("no text");
    assert!(
        told.contains("envFrom[0].secretRef: the key \"a\" of the Secret \"o\" is no text"),
        "{told}"
    );
    with(object("ConfigMap", "binaryData"), "configMapRef").expect("left out");
}

#[test]
fn a_sealed_file_is_named_before_it_comes() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {plain: hunter2, kept: sealed.a.b.c}\n---\n";
    let container = "image: tools\n    volumeMounts: [{name: s, mountPath: /s}]";
    let volume = "volumes: [{name: s, secret: {secretName: s}}]";
    let derived = derived(&format!("{secret}{}", pod(container, volume)));
    let volume = derived.policy.volume("s").expect("a volume");
    let VolumeKind::Files { files, .. } = &volume.kind else {
        panic!("{volume:?}");
    };
    let contents: Vec<_> = files.iter().map(|file| &file.content).collect();
    let (kept, plain) = (
        Content::Sealed("sealed.a.b.c".into()),
        Content::Digest(Digest::of(b"hunter2")),
    );
    assert_eq!(contents, [&kept, &plain]);
    let said = derived.policy.explain().join("\n");
    assert!(
        said.contains("kept\", a sealed secret that the guest unseals"),
        "{said}"
    );
}

#[test]
fn what_is_not_in_the_file_is_up_to_the_host_and_said_so() {
    let container = "image: tools
    env: [{name: A, valueFrom: {configMapKeyRef: {name: away, key: a, optional: true}}}]
    volumeMounts: [{name: c, mountPath: /c}]";
    let derived = derived(&pod(
        container,
        "volumes: [{name: c, configMap: {name: away}}]",
    ));
    let variable = env(&derived.policy.containers[0], "A").expect("a variable");
    assert!(variable.optional && variable.value == Pattern::Typed(Typed::Text));
    let volume = derived.policy.volume("c").expect("a volume");
    let VolumeKind::Files { files, update, .. } = &volume.kind else {
        panic!("{volume:?}");
    };
    assert!(*update && files[0].path == Pattern::Prefix(String::new()));
    assert!(matches!(files[0].content, Content::AtMost(_)));
    assert!(
        derived
            .notes
            .iter()
            .any(|note| note.contains("the ConfigMap away is not in this file"))
    );
    let told = refused(
        "image: tools\n    envFrom: [{configMapRef: {name: away}}]",
        "",
    );
    assert!(
        told.contains("envFrom[0].configMapRef: the ConfigMap \"away\" is not in this file"),
        "{told}"
    );
}

#[test]
fn a_terminal_of_what_may_be_run_has_its_variable() {
    let of = |container: &str, command: Option<&str>| {
        let knobs = Knobs {
            exec: command
                .map(|words| ("web".to_owned(), vec![words.to_owned()]))
                .into_iter()
                .collect(),
            ..Knobs::default()
        };
        let text = pod(&format!("image: tools\n    {container}"), "");
        let policy = derived_with(&text, &knobs).expect("a policy").policy;
        env(&policy.containers[0], "TERM").map(|one| (one.value.clone(), one.optional))
    };
    let xterm = Pattern::exact("xterm");
    let either = Pattern::OneOf(["vt100".to_owned(), "xterm".to_owned()].into());
    let own = "env: [{name: TERM, value: vt100}]";
    let probe = "livenessProbe: {exec: {command: [ls]}}";
    for (container, command, expected) in [
        ("tty: false", None, None),
        (probe, None, None),
        ("tty: false", Some("ls"), Some((xterm.clone(), true))),
        ("tty: true", Some("ls"), Some((xterm.clone(), false))),
        ("tty: true", None, Some((xterm, false))),
        (own, None, Some((Pattern::exact("vt100"), false))),
        (own, Some("ls"), Some((either, false))),
    ] {
        assert_eq!(of(container, command), expected, "{container} {command:?}");
    }
}

#[test]
fn each_container_of_an_indexed_job_has_its_index() {
    let job = |mode: &str, env: &str| {
        let text = format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: sum}}\nspec:\n  completions: 2\n  \
             completionMode: {mode}\n  template:\n    spec:\n      hostname: other\n      restartPolicy: Never\n      \
             initContainers: [{{name: first, image: tools}}]\n      containers: [{{name: sum, image: tools, env: [{env}]}}]\n"
        );
        derived(&text).policy
    };
    let index = |policy: &Policy, at: usize| {
        env(&policy.containers[at], "JOB_COMPLETION_INDEX").map(|one| one.value.clone())
    };
    let number = Some(Pattern::Typed(Typed::Number));
    let policy = job("Indexed", "{name: A, value: a$(JOB_COMPLETION_INDEX)}");
    assert_eq!(
        (index(&policy, 0), index(&policy, 1)),
        (number.clone(), number.clone())
    );
    let earlier = env(&policy.containers[1], "A").expect("a variable");
    assert_eq!(earlier.value, Pattern::exact("a$(JOB_COMPLETION_INDEX)"));
    // The controller sets the host name.
    assert_eq!(policy.sandbox.hostname, Pattern::Prefix("sum-".to_owned()));
    let policy = job("Indexed", "{name: JOB_COMPLETION_INDEX, value: '7'}");
    assert_eq!(
        (index(&policy, 0), index(&policy, 1)),
        (number.clone(), Some(Pattern::exact("7")))
    );
    let policy = job(
        "Indexed",
        "{name: A, value: b}], livenessProbe: {exec: {command: [$(A), '-$(JOB_COMPLETION_INDEX)-']}}, args: [",
    );
    // Of a value that is elsewhere the kubelet puts nothing into a probe.
    assert_eq!(
        policy.containers[1].exec[0].command.arguments,
        [Pattern::exact("b"), Pattern::exact("--")]
    );
    let by_annotation = "{name: I, valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['batch.kubernetes.io/job-completion-index']\"}}}";
    let policy = job("NonIndexed", by_annotation);
    assert_eq!(index(&policy, 1), None);
    assert_eq!(policy.sandbox.hostname, Pattern::exact("other"));
    let policy = job("Indexed", by_annotation);
    let shown = env(&policy.containers[1], "I").expect("a variable");
    assert_eq!(Some(&shown.value), number.as_ref());
}
