//! Pods, containers and processes against an agent that keeps the protocol.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::{LinuxResources, Spec};
use tokio::time::timeout;
use trefoil_core::{
    Container, ErrorKind, ExecConfig, Input, Output, Process, Result, Stdio, TerminalSize,
};

use crate::container::{GuestContainer, NewContainer};
use crate::content::share::Shared;
use crate::guest::Guest;
use crate::guest::agent::Agent;
use crate::machine::size::Size;
use crate::testing::{Gate, Manners, guest, machine};

pub(crate) const SIZE: Size = Size {
    cpus: 2,
    memory: 100,
};

/// By then containerd is to know of a dead pod.
pub(crate) const SOON: Duration = Duration::from_secs(1);

fn spec() -> Spec {
    serde_json::from_str(
        r#"{"ociVersion": "1.0.2", "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]}}"#,
    )
    .expect("spec")
}

pub(crate) async fn container(
    guest: &Arc<Guest>,
    id: &str,
    stdio: Stdio,
) -> Result<GuestContainer> {
    let new = NewContainer {
        name: "c".into(),
        id: id.into(),
        spec: spec(),
        stdio,
        shared: Shared::nothing(),
        own_pids: None,
    };
    GuestContainer::create(guest, SIZE, new).await
}

fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("pipe")
}

/// Streams, and containerd's ends of them: what it writes to, and what it reads from.
fn stdio(terminal: bool) -> (Stdio, File, [File; 2]) {
    let (read, input) = pipe();
    let (output, write) = pipe();
    let (errors, write_errors) = pipe();
    let stdio = Stdio {
        terminal,
        stdin: Some(Input { read, hold: None }),
        stdout: Some(Output { write, hold: None }),
        stderr: Some(Output {
            write: write_errors,
            hold: None,
        }),
    };
    (stdio, input.into(), [output.into(), errors.into()])
}

/// What is read until the end, while the event loop goes on.
async fn all(mut file: impl Read + Send + 'static) -> Vec<u8> {
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map(|_| bytes)
    });
    while !reader.is_finished() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    reader.join().expect("reader").expect("read")
}

#[tokio::test(flavor = "current_thread")]
async fn an_agent_that_says_something_else_is_not_served() {
    for (words, why) in [
        ("steady as she goes\n", "understand the guest's agent"),
        ("", "it has hung up"),
        (&*"ready ".repeat(100), "doesn't end with a newline"),
    ] {
        let (machine, gate) = machine();
        let mut agent = gate.connect(1024);
        agent.write_all(words.as_bytes()).expect("write");
        drop(agent);
        let stream = machine.agent(None).await.expect("connection");
        let error = Agent::greet(stream).await.err().expect(why).to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_guest_that_connects_again_is_turned_away() {
    let (_guest, gate, _fake, _server) = guest().await;
    let again = gate.connect(1024);
    assert_eq!(all(again).await, b"");
}

/// Answers each connection with its port.
#[derive(Debug)]
struct Greeter;

#[async_trait::async_trait]
impl crate::Listener for Greeter {
    fn port(&self) -> u32 {
        1027
    }

    async fn serve(&self, mut connection: UnixStream) {
        connection.write_all(b"broker").expect("write");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn connections_to_a_listeners_port_are_served_and_none_before_the_agents() {
    let (machine, gate) = machine();
    let early = gate.connect(1027);
    let mut agent = gate.connect(1024);
    agent.write_all(b"ready").expect("write");
    let mut heard = machine
        .agent(Some(Arc::new(Greeter)))
        .await
        .expect("connection");
    let mut line = [0; 5];
    heard.read_exact(&mut line).expect("line");
    assert_eq!(&line, b"ready");
    assert_eq!(all(early).await, b"");
    for (port, answer) in [(1027, &b"broker"[..]), (1024, b""), (1028, b"")] {
        assert_eq!(all(gate.connect(port)).await, answer, "{port}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_container_lives_and_its_exit_code_is_its_own() {
    let (guest, _gate, fake, _server) = guest().await;
    let container = container(&guest, "c", Stdio::default())
        .await
        .expect("made");
    let init = container.init();
    assert_eq!(
        (init.pid(), init.exit_status()),
        (guest.machine.pid(), None)
    );
    container.start().await.expect("started");
    fake.end("c", "", 77);
    assert_eq!(init.wait().await.code, 77);
    assert_eq!(init.exit_status().map(|status| status.code), Some(77));
    let why = init.kill(libc::SIGTERM).await.expect_err("ended");
    assert_eq!(why.kind(), ErrorKind::NotFound);
    container.delete().await.expect("deleted");
    container.delete().await.expect("deleted again");
    let asked = fake.asked.lock().expect("lock").clone();
    assert_eq!(asked, ["create c", "start c", "delete c"]);
}

#[tokio::test(flavor = "current_thread")]
async fn what_the_agent_refuses_is_told_in_its_words() {
    let (guest, _gate, _fake, _server) = guest().await;
    let made = container(&guest, "refused", Stdio::default()).await;
    let why = made.err().expect("refused");
    assert_eq!(why.kind(), ErrorKind::InvalidArgument);
    assert_eq!(
        why.to_string(),
        "create container refused in the guest: no such image"
    );
}

#[tokio::test(flavor = "current_thread")]
async fn streams_reach_their_process_and_end_with_it() {
    let (guest, gate, fake, _server) = guest().await;
    let (stdio, mut input, [output, errors]) = stdio(false);
    let container = container(&guest, "c", stdio).await.expect("made");
    let names = fake
        .created
        .lock()
        .expect("lock")
        .take()
        .expect("asked")
        .streams;
    let [stdin, stdout, stderr] = [
        gate.stream().await,
        gate.stream().await,
        gate.stream().await,
    ];
    assert_eq!(
        (names.stdin, names.stdout, names.stderr),
        (stdin.0, stdout.0, stderr.0)
    );
    input.write_all(b"in").expect("write");
    let (mut stdout, mut stderr) = (stdout.1, stderr.1);
    stdout.write_all(b"out").expect("write");
    stderr.write_all(b"err").expect("write");
    // The input ends though its writer stays.
    container.init().close_stdin().await;
    assert_eq!(all(stdin.1).await, b"in");
    drop((stdout, stderr));
    fake.end("c", "", 0);
    container.init().wait().await;
    container.init().drain().await;
    assert_eq!(all(output).await, b"out");
    assert_eq!(all(errors).await, b"err");
    drop(input);
}

#[tokio::test(flavor = "current_thread")]
async fn a_reader_that_stops_reading_stops_its_writer_and_nothing_else() {
    let (guest, gate, _fake, _server) = guest().await;
    let (stdio, _input, [output, errors]) = stdio(false);
    let _container = container(&guest, "c", stdio).await.expect("made");
    let (_, mut stdout) = {
        let _stdin = gate.stream().await;
        gate.stream().await
    };
    let (_, mut stderr) = gate.stream().await;
    stdout.set_nonblocking(true).expect("non-blocking");
    let mut written = 0;
    let mut refused = 0;
    // Full when it takes nothing though the event loop has had its turns.
    while refused < 20 {
        match stdout.write(&[7; 65536]) {
            Ok(count) => (written, refused) = (written + count, 0),
            Err(_) => refused += 1,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(written < 4 << 20, "{written} bytes went nowhere");
    stderr.write_all(b"still there").expect("write");
    drop(stderr);
    assert_eq!(all(errors).await, b"still there");
    drop(stdout);
    assert_eq!(all(output).await, vec![7; written]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_terminal_has_one_output_and_a_size() {
    let (guest, gate, fake, _server) = guest().await;
    let container = container(&guest, "c", Stdio::default())
        .await
        .expect("made");
    let (stdio, _input, [output, errors]) = stdio(true);
    let process = serde_json::from_str(
        r#"{"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/", "apparmorProfile": ""}"#,
    );
    let config = ExecConfig {
        id: "e".into(),
        process: process.expect("process"),
        stdio,
    };
    let exec = container.exec(config).await.expect("run");
    assert_eq!(exec.pid(), guest.machine.pid());
    let names = fake
        .run
        .lock()
        .expect("lock")
        .take()
        .expect("asked")
        .streams;
    assert!(names.terminal && names.stderr == 0, "{names:?}");
    assert_eq!(gate.stream().await.0, names.stdin);
    let (number, mut stdout) = gate.stream().await;
    assert_eq!(number, names.stdout);
    stdout.write_all(b"# ").expect("write");
    drop(stdout);
    assert_eq!(all(errors).await, b"");
    assert_eq!(all(output).await, b"# ");
    let size = TerminalSize {
        width: 80,
        height: 24,
    };
    // The fake has no terminals, and says so.
    let why = exec.resize(size).await.expect_err("unserved").to_string();
    assert!(
        why.starts_with("resize the terminal of process e of container c: "),
        "{why}"
    );
    container.init().resize(size).await.expect("no terminal");
    exec.kill(libc::SIGKILL).await.expect("killed");
    assert_eq!(exec.wait().await.code, 137);
}

/// Everything that waits is told within a second, and nothing that is asked afterwards hangs or fails
/// where it need not.
pub(crate) async fn all_is_over(guest: &Guest, container: &GuestContainer, exec: &dyn Process) {
    let ends = async {
        let ends = tokio::join!(container.init.wait(), exec.wait(), guest.machine.ended());
        assert_eq!((ends.0.code, ends.1.code), (137, 137));
    };
    timeout(SOON, ends).await.expect("in time");
    let after = async {
        container
            .kill_all(libc::SIGKILL)
            .await
            .expect("nobody is left");
        container.stats().await.expect_err("nobody is left to ask");
        container.delete().await.expect("deleted");
        guest.stop().await.expect("stopped");
    };
    timeout(SOON, after).await.expect("in time");
}

pub(crate) async fn with_exec(guest: &Arc<Guest>) -> (GuestContainer, Arc<dyn Process>) {
    let container = container(guest, "c", Stdio::default()).await.expect("made");
    let process = r#"{"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"}"#;
    let config = ExecConfig {
        id: "e".into(),
        process: serde_json::from_str(process).expect("process"),
        stdio: Stdio::default(),
    };
    let exec = container.exec(config).await.expect("run");
    (container, exec)
}

#[tokio::test(flavor = "current_thread")]
async fn a_vmm_that_dies_takes_everything_along_at_once() {
    let (guest, _gate, _fake, _server) = guest().await;
    let (container, exec) = with_exec(&guest).await;
    let pid = i32::try_from(guest.machine.pid()).expect("pid");
    // SAFETY: it is our child, which is not reaped yet.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    let reason = timeout(SOON, guest.ended()).await.expect("in time");
    assert_eq!(reason, "the VMM was killed");
    all_is_over(&guest, &container, &*exec).await;
}

#[tokio::test(flavor = "current_thread")]
async fn an_agent_that_hangs_up_takes_everything_along_at_once() {
    let (guest, _gate, fake, _server) = guest().await;
    let (container, exec) = with_exec(&guest).await;
    fake.hang_up();
    let reason = timeout(SOON, guest.ended()).await.expect("in time");
    assert_eq!(reason, "the guest's agent is gone");
    all_is_over(&guest, &container, &*exec).await;
}

#[tokio::test(flavor = "current_thread")]
async fn an_agent_that_does_not_answer_can_be_stopped() {
    let (guest, _gate, fake, _server) = guest().await;
    let container = container(&guest, "c", Stdio::default())
        .await
        .expect("made");
    *fake.manners.lock().expect("lock") = Manners::Deaf;
    let init = container.init();
    let kill = init.kill(libc::SIGKILL);
    timeout(Duration::from_millis(100), kill)
        .await
        .expect_err("it does not answer");
    let (stopped, its) = tokio::join!(guest.stop(), init.wait());
    stopped.expect("stopped");
    assert_eq!(its.code, 137);
    assert!(guest.machine.end().is_some(), "its machine runs on");
    timeout(SOON, guest.ended())
        .await
        .expect_err("that was asked for");
}

#[tokio::test(flavor = "current_thread")]
async fn a_kill_for_want_of_memory_is_told_once() {
    let (guest, _gate, fake, _server) = guest().await;
    let container = container(&guest, "c", Stdio::default())
        .await
        .expect("made");
    let at_once = Duration::ZERO;
    timeout(at_once, container.out_of_memory())
        .await
        .expect_err("none");
    fake.kill.notify_one();
    timeout(SOON, container.out_of_memory()).await.expect("one");
    timeout(at_once, container.out_of_memory())
        .await
        .expect_err("once");
    // One that is told before the end is there when the end is.
    fake.kill.notify_one();
    tokio::time::sleep(Duration::from_millis(50)).await;
    fake.end("c", "", 137);
    container.init().wait().await;
    timeout(at_once, container.out_of_memory())
        .await
        .expect("one");
}

#[tokio::test(flavor = "current_thread")]
async fn limits_that_the_machine_has_no_room_for_are_refused_in_words() {
    let (guest, _gate, _fake, _server) = guest().await;
    let container = container(&guest, "c", Stdio::default())
        .await
        .expect("made");
    for (limits, words) in [
        (
            r#"{"memory": {"limit": 104857601}}"#,
            "more than the 104857600",
        ),
        (
            r#"{"cpu": {"quota": 200001, "period": 100000}}"#,
            "the 2 processors",
        ),
        // The fake serves no updates: that it was asked is what counts.
        (r#"{"memory": {"limit": 104857600}}"#, "is not supported"),
        (
            r#"{"cpu": {"quota": 200000, "period": 100000}}"#,
            "is not supported",
        ),
        (
            r#"{"cpu": {"quota": -1, "period": 100000}}"#,
            "is not supported",
        ),
    ] {
        let limits: LinuxResources = serde_json::from_str(limits).expect("limits");
        let why = container
            .update(&limits)
            .await
            .expect_err(words)
            .to_string();
        assert!(why.starts_with("update container c: "), "{why}");
        assert!(why.contains(words), "{why}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_machine_that_nobody_needs_is_killed() {
    let (machine, gate) = machine();
    let pid = machine.pid();
    drop(machine);
    let gone = async {
        while std::path::Path::new(&format!("/proc/{pid}")).exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, gone).await.expect("in time");
    drop::<Gate>(gate);
}
