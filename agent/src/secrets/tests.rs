use serde_json::json;
use trefoil_agent_protocol::service::File;
use trefoil_attestation::Simulated;

use super::*;

const SEALED: &str = "sealed.a.b.c";

fn secrets(cdh: Option<&str>, named: &[&str], is_simulated: bool) -> Result<PodSecrets> {
    let mut initdata = Initdata::default();
    if let Some(cdh) = cdh {
        initdata.set_cdh(cdh);
    }
    let named = named.iter().map(|&value| value.to_owned()).collect();
    let evidence = Box::new(Simulated::new(&[1], &[2]));
    PodSecrets::of(&initdata, b"", named, evidence, is_simulated)
}

fn refused(cdh: Option<&str>, named: &[&str], is_simulated: bool) -> String {
    match secrets(cdh, named, is_simulated) {
        Ok(_) => panic!("not refused"),
        Err(why) => why.to_string(),
    }
}

#[test]
fn the_sealed_values_of_a_policy_are_known_beforehand() {
    let policy: Policy = serde_json::from_value(json!({
        "version": 1,
        "sandbox": {"hostname": {"exact": "web"}},
        "volumes": [
            {"name": "conf", "kind": {"files": {"files": [
                {"path": {"exact": "a"}, "content": {"sealed": "sealed.d.e.f\n"}, "mode": 0o644},
                {"path": {"exact": "b"}, "content": {"at_most": 9}, "mode": 0o644},
            ]}}},
            {"name": "tmp", "kind": {"empty_dir": {"medium": "memory", "size": 1}}},
        ],
        "containers": [{
            "name": "web", "kind": "app", "image": "cd".repeat(32), "layers": [], "restart": "always",
            "process": {
                "command": ["/web"], "user": {"uid": 1, "gid": 2}, "cwd": "/", "capabilities": {},
                "env": [
                    {"name": {"exact": "A"}, "value": {"exact": SEALED}},
                    {"name": {"exact": "B"}, "value": {"exact": "plain"}},
                    {"name": {"exact": "C"}, "value": {"typed": "text"}},
                ],
            },
            "mounts": [], "namespaces": [], "seccomp": "unconfined",
            "oom_score": {"least": 0, "most": 1000}, "signals": [],
        }],
    }))
    .expect("a policy");
    assert_eq!(sealed_values(&policy), [SEALED, "sealed.d.e.f"]);
}

#[test]
fn a_sealed_secret_without_a_broker_is_refused_at_once() {
    assert!(refused(None, &[SEALED], true).contains("names no broker"));
}

#[test]
fn a_broker_that_the_host_could_pose_as_is_for_a_simulated_tee_alone() {
    let plain = "[kbc]\nname = 'cc_kbc'\nurl = 'http://10.0.0.1:8080'\n";
    secrets(Some(plain), &[], true).expect("simulated");
    assert!(refused(Some(plain), &[], false).contains("does not speak TLS"));
    let nameless = plain.replace("http:", "https:");
    assert!(refused(Some(&nameless), &[], true).contains("kbs_cert"));
    assert!(refused(Some("[kbc"), &[], true).contains("cdh.toml"));
}

#[tokio::test]
async fn without_a_broker_what_is_sealed_is_refused_and_the_rest_left() {
    let secrets = secrets(None, &[], true).expect("no broker");
    secrets.begin();
    let mut plain = [
        "A=sealed".to_owned(),
        "sealed.x".to_owned(),
        "B=x=sealed.".to_owned(),
    ];
    let before = plain.clone();
    secrets
        .unseal_environment(&mut plain, &[])
        .await
        .expect("nothing is sealed");
    assert_eq!(plain, before);
    let mut sealed = ["A=sealed.a.b.c".to_owned()];
    let bound = sealed.clone();
    let why = secrets
        .unseal_environment(&mut sealed, &bound)
        .await
        .expect_err("sealed");
    assert!(why.to_string().contains("names no broker"), "{why}");

    let file = |path: &str, contents: &[u8]| File {
        path: path.into(),
        contents: contents.to_vec(),
        ..File::default()
    };
    let mut request = PutFilesRequest {
        volume: "conf".into(),
        files: vec![file("a", b"text"), file("b", b" sealed.")],
        ..PutFilesRequest::default()
    };
    let before = request.clone();
    secrets
        .unseal_files(&mut request, &[])
        .await
        .expect("nothing is sealed");
    assert_eq!(request, before);
    request.files.push(file("password", b"sealed.a.b.c\n"));
    let why = secrets
        .unseal_files(&mut request, &["password".to_owned()])
        .await
        .expect_err("sealed");
    let why = why.to_string();
    assert!(
        why.contains("file \"password\" of volume \"conf\""),
        "{why}"
    );
}

/// The host has every sealed text, as it is published: it may not say where one is unsealed.
#[tokio::test]
async fn what_the_policy_does_not_bind_is_not_unsealed() {
    let plain = "[kbc]\nname = 'cc_kbc'\nurl = 'http://10.0.0.1:8080'\n";
    let secrets = secrets(Some(plain), &[], true).expect("a broker");
    let bound = format!("PASSWORD={SEALED}");
    let mut environment = [bound.clone(), format!("GREETING={SEALED}")];
    let why = secrets
        .unseal_environment(&mut environment, &[bound])
        .await
        .expect_err("it is the host's");
    let why = why.to_string();
    assert!(
        why.contains("variable GREETING") && why.contains("has not its value"),
        "{why}"
    );
    let file = |path: &str| File {
        path: path.into(),
        contents: SEALED.into(),
        ..File::default()
    };
    let mut request = PutFilesRequest {
        volume: "conf".into(),
        files: vec![file("motd")],
        ..PutFilesRequest::default()
    };
    let why = secrets
        .unseal_files(&mut request, &["password".to_owned()])
        .await
        .expect_err("it is the host's");
    let why = why.to_string();
    assert!(
        why.contains("file \"motd\" of volume \"conf\"") && why.contains("has not its text"),
        "{why}"
    );
}
