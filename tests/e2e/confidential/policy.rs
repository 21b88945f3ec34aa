//! Pods under a policy that `trefoil policy` has derived from their manifest.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use rig::author::Author;
use rig::command;
use rig::images::{BASE, WEB};
use rig::kubelet::{Manifest, idle, shell, write};
use serde_json::{Value, json};

use super::{Configured, refused_for, run};
use crate::e2e::{Env, patience, same};

/// What a container's log has in place of what it wrote.
const NO_LOGS: &str =
    "The pod's policy keeps its containers' output from the host: knobs.logs is off.\n";

/// Says something, and then waits to be asked to end.
const TALKS: &str = "echo shown; trap 'exit 0' TERM; sleep 3600 & wait";

/// The host may run, end and start again what the manifest has, and see nothing of it.
pub fn without_knobs(env: &Env) -> Result<()> {
    let _configured = Configured::new(env)?;
    let author = Author::new(&env.rig, &[BASE])?;
    let job = "echo told > /dev/termination-log && test $(hostname) = shop && exit 7";
    let manifest = Manifest::of(vec![shell("web", BASE, TALKS), shell("job", BASE, job)]);
    let kubelet = run(env, &author, &manifest, &[], None)?;
    let pod = kubelet.pod();

    let mut with_input = kubelet.spec(manifest.container("web")?)?;
    with_input.stdin = true;
    refused_for(
        pod.start(&with_input),
        "the policy denies CreateContainer.streams.stdin (knob-stdin)",
    )?;
    let web = pod.start(&kubelet.spec(manifest.container("web")?)?)?;
    refused_for(
        web.exec(&["cat", "/etc/hosts"])?.success(),
        "the policy denies Exec.configuration.args (knob-exec)",
    )?;
    web.logs("knobs.logs is off")?;
    let logged = String::from_utf8(web.logged("stdout")?)?;
    same("the log", logged.as_str(), NO_LOGS)?;
    same("what is heard of it", heard(env, &web.id)?, String::new())?;

    // A container ends, and comes again: nobody but this node is asked.
    for _ in 0..2 {
        let job = pod.start(&kubelet.spec(manifest.container("job")?)?)?;
        same("the job's end", job.ended()?.0, 7)?;
        env.rig.crictl(&["rm", &job.id])?.success()?;
    }
    refused_for(
        pod.start(&kubelet.spec(manifest.container("web")?)?),
        "the policy denies CreateContainer.name (container-alive)",
    )?;
    env.rig.crictl(&["stop", "-t", "60", &web.id])?.success()?;
    same("the end", web.ended()?.0, 0)?;
    let again = pod.start(&kubelet.spec(manifest.container("web")?)?)?;
    again.logs("knobs.logs is off")?;
    kubelet.stop()
}

/// What comes by attaching to a container.
fn heard(env: &Env, container: &str) -> Result<String> {
    let mut attached = env
        .rig
        .crictl_command(&["attach", container])?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    std::thread::sleep(patience(Duration::from_millis(500)));
    attached.kill()?;
    let output = attached.wait_with_output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// With knobs the host may do what each of them says, and no more.
pub fn with_knobs(env: &Env) -> Result<()> {
    let _configured = Configured::new(env)?;
    let author = Author::new(&env.rig, &[BASE])?;
    let manifest = Manifest::of(vec![shell("web", BASE, TALKS)]);
    let knobs = ["--allow-logs", "--allow-exec", "web:cat ..."];
    let kubelet = run(env, &author, &manifest, &knobs, None)?;
    let web = kubelet
        .pod()
        .start(&kubelet.spec(manifest.container("web")?)?)?;
    web.logs("shown")?;
    let hosts = web.exec(&["cat", "/etc/hosts"])?.text()?;
    same("/etc/hosts", hosts.as_str(), "127.0.0.1 localhost")?;
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    same(
        "the token",
        web.exec(&["cat", token])?.text()?.as_str(),
        "a token",
    )?;
    refused_for(
        web.exec(&["ls"])?.success(),
        "the policy denies Exec.configuration.args (knob-exec): [\"ls\"] came; allowed: \"cat\"",
    )?;
    kubelet.stop()
}

/// What the host asks for differs from the manifest in one thing, which the denial names. Then it asks for
/// the container of the manifest, and has it.
pub fn another_container(env: &Env) -> Result<()> {
    let _configured = Configured::new(env)?;
    let author = Author::new(&env.rig, &[BASE, WEB])?;
    let mut container = idle("web", BASE);
    container["env"] = json!([{"name": "MODE", "value": "careful"}]);
    let manifest = Manifest::of(vec![container]);
    let kubelet = run(env, &author, &manifest, &[], None)?;
    kubelet.volume("kubernetes.io~empty-dir", "more")?;
    let changed = |change: &dyn Fn(&mut Value)| -> Result<_> {
        let mut declared = manifest.container("web")?.clone();
        change(&mut declared);
        kubelet.spec(&declared)
    };
    // Each has a number of its own: containerd keeps a name for a container that could not be started.
    let within = |name: &str, context: Value| -> Result<_> {
        let mut spec = kubelet.spec(manifest.container("web")?)?;
        spec.more["linux"]["security_context"][name] = context;
        Ok(spec)
    };
    let of = "the policy denies CreateContainer.";
    for (spec, said) in [
        (
            changed(&|all| all["command"][2] = "id".into())?,
            "configuration.process.args[2] (process-command): \"id\" came",
        ),
        (
            changed(&|all| all["env"][0]["value"] = "careless".into())?,
            "(env-value): MODE=\"careless\" came; allowed: \"careful\"",
        ),
        (
            changed(&|all| all["env"][0]["name"] = "LD_PRELOAD".into())?,
            "(env-name): \"LD_PRELOAD\" came",
        ),
        (
            changed(&|all| all["env"] = json!([]))?,
            "configuration.process.env (env-missing): \"MODE\" is missing",
        ),
        (
            changed(&|all| all["volumeMounts"] = json!([{"name": "more", "mountPath": "/bin"}]))?,
            "(mount-destination): \"/bin\" came",
        ),
        (
            changed(&|all| all["name"] = "other".into())?,
            "name (container-unknown)",
        ),
        (
            changed(&|all| all["image"] = WEB.into())?,
            "rootfs.verified.parts (layer-count): 2 came; allowed: 1",
        ),
        (
            within("run_as_user", json!({"value": 1000}))?,
            "configuration.process.user.uid (process-uid): 1000 came; allowed: 0",
        ),
        (
            within("capabilities", json!({"add_capabilities": ["SYS_ADMIN"]}))?,
            "(process-capabilities): CAP_SYS_ADMIN came",
        ),
        (
            within("readonly_rootfs", json!(true))?,
            "configuration.root.readonly (root-read-only)",
        ),
        (
            within("no_new_privs", json!(true))?,
            "configuration.process.noNewPrivileges (process-new-privileges)",
        ),
        (
            within(
                "namespace_options",
                json!({"pid": 0, "network": 0, "ipc": 0}),
            )?,
            "configuration.linux.namespaces (namespaces)",
        ),
    ] {
        let outcome = kubelet.pod().start(&spec);
        let why = super::refusal(outcome);
        ensure!(
            why.contains(of) && why.contains(said),
            "not {said:?}, but {why:?}"
        );
    }
    let sound = kubelet.spec(manifest.container("web")?)?;
    let web = kubelet.pod().start(&sound)?;
    web.logs("knobs.logs is off")?;
    kubelet.stop()
}

/// A ConfigMap that is not in the author's file is the host's to choose, and to change.
pub fn config_map(env: &Env) -> Result<()> {
    let _configured = Configured::new(env)?;
    let author = Author::new(&env.rig, &[BASE])?;
    let mut container = idle("web", BASE);
    container["volumeMounts"] = json!([
        {"name": "conf", "mountPath": "/conf"},
        {"name": "bound", "mountPath": "/bound"},
    ]);
    let mut manifest = Manifest::of(vec![container]);
    manifest.volumes = vec![
        json!({"name": "conf", "configMap": {"name": "elsewhere"}}),
        json!({"name": "bound", "configMap": {"name": "here"}}),
    ];
    manifest.objects = vec![json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "here"},
        "data": {"key": "as written"},
    })];
    // The files are root's, but for their group, and none but that may read them.
    manifest.security = json!({"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000});
    let knobs = [
        "--allow-exec",
        "web:cat ...",
        "--allow-exec",
        "web:stat ...",
    ];
    let kubelet = run(env, &author, &manifest, &knobs, None)?;
    let maps = "kubernetes.io~configmap";
    let (conf, bound) = (
        kubelet.volume(maps, "conf")?,
        kubelet.volume(maps, "bound")?,
    );
    write(&conf, "key", "one")?;
    write(&bound, "key", "another")?;
    fs::set_permissions(conf.join("key"), Permissions::from_mode(0o440))?;
    let token = kubelet.volume("kubernetes.io~projected", "kube-api-access-x7k2p")?;
    fs::set_permissions(token.join("token"), Permissions::from_mode(0o600))?;
    let declared = manifest.container("web")?;
    let spec = || kubelet.spec_as(declared, &manifest.security);
    refused_for(
        kubelet.pod().start(&spec()?),
        "the policy denies PutFiles.files[0].contents (file-content)",
    )?;
    write(&bound, "key", "as written")?;
    let web = kubelet.pod().start(&spec()?)?;
    let read = |path: &str| web.exec(&["cat", path])?.text();
    let owner = |path: &str| web.exec(&["stat", "-L", "-c", "%u %g %a", path])?.text();
    same(
        "whose the file is",
        owner("/conf/key")?.as_str(),
        "0 2000 440",
    )?;
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    same(
        "whose the token is",
        owner(token)?.as_str(),
        "1000 2000 600",
    )?;
    same("the token", read(token)?.as_str(), "a token")?;
    same("the file", read("/conf/key")?.as_str(), "one")?;
    same("what is bound", read("/bound/key")?.as_str(), "as written")?;
    write(&conf, "key", "two")?;
    write(&bound, "key", "changed later")?;
    command::until("the change", patience(Duration::from_secs(20)), || {
        Ok(read("/conf/key")? == "two")
    })?;
    same("what is bound", read("/bound/key")?.as_str(), "as written")?;
    kubelet.stop()
}
