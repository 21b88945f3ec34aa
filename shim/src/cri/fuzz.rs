//! What holds for any bytes, for the property tests and the fuzz target.
//!
//! Messages are written here by the library that containerd's own are generated with.

#![allow(clippy::expect_used, reason = "a finding is a panic")]

use containerd_shim_protos::protobuf::CodedOutputStream;

use super::{Mapping, Mode, Namespaces, PodSandboxConfig, SeLinux, Texts, Users};

/// A field that no message has.
const UNKNOWN: u32 = 1000;

/// Reads bytes. What is a pod is the same pod when it is written and read again, and whatever else its message
/// may have.
pub fn fuzz(bytes: &[u8]) {
    let Ok(config) = PodSandboxConfig::parse(bytes) else {
        return;
    };
    let again = PodSandboxConfig::parse(&pod(&config).0);
    assert_eq!(again.expect("what was written is read"), config);
    let more = Message(bytes.to_vec()).text(UNKNOWN, "more");
    let more = PodSandboxConfig::parse(&more.0);
    assert_eq!(more.expect("an unknown field is left out"), config);
}

fn pod(config: &PodSandboxConfig) -> Message {
    let mut pod = Message::default().text(2, &config.hostname);
    if let Some(dns) = &config.dns {
        let lists = [&dns.servers, &dns.searches, &dns.options];
        let lists = (1..)
            .zip(lists)
            .fold(Message::default(), |dns, (number, list)| {
                list.iter().fold(dns, |dns, line| dns.text(number, line))
            });
        pod = pod.message(4, &lists);
    }
    entries(pod, 7, &config.annotations).message(8, &linux(config))
}

fn linux(config: &PodSandboxConfig) -> Message {
    let limits = &config.resources;
    let limits = Message::default()
        .number(1, limits.cpu_period)
        .number(2, limits.cpu_quota)
        .number(4, limits.memory);
    let mut security = Message::default().message(1, &namespaces(&config.namespaces));
    if let Some(label) = &config.selinux {
        security = security.message(2, &selinux(label));
    }
    let linux = Message::default()
        .text(1, &config.cgroup_parent)
        .message(2, &security.number(6, config.privileged.into()));
    entries(linux, 3, &config.sysctls).message(5, &limits)
}

fn namespaces(from: &Namespaces) -> Message {
    let modes = Message::default()
        .number(1, mode(from.network))
        .number(2, mode(from.pid))
        .number(3, mode(from.ipc));
    match &from.users {
        Some(from) => modes.message(5, &users(from)),
        None => modes,
    }
}

fn mode(mode: Mode) -> i64 {
    match mode {
        Mode::Pod => 0,
        Mode::Container => 1,
        Mode::Node => 2,
        Mode::Other => 3,
    }
}

fn users(users: &Users) -> Message {
    let ids = |message, number, all: &[Mapping]| {
        all.iter().fold(message, |message: Message, one| {
            let one = Message::default()
                .number(1, one.host.into())
                .number(2, one.container.into())
                .number(3, one.length.into());
            message.message(number, &one)
        })
    };
    let message = Message::default().number(1, mode(users.mode));
    ids(ids(message, 2, &users.uids), 3, &users.gids)
}

fn selinux(label: &SeLinux) -> Message {
    Message::default()
        .text(1, &label.user)
        .text(2, &label.role)
        .text(3, &label.kind)
        .text(4, &label.level)
}

fn entries(message: Message, number: u32, texts: &Texts) -> Message {
    texts.iter().fold(message, |message, (key, value)| {
        message.entry(number, key, value)
    })
}

/// A message, written field by field.
#[derive(Default)]
pub struct Message(pub Vec<u8>);

impl Message {
    pub fn text(self, number: u32, text: &str) -> Self {
        self.bytes(number, text.as_bytes())
    }

    pub fn message(self, number: u32, message: &Self) -> Self {
        self.bytes(number, &message.0)
    }

    pub fn bytes(mut self, number: u32, bytes: &[u8]) -> Self {
        let mut stream = CodedOutputStream::vec(&mut self.0);
        stream.write_bytes(number, bytes).expect("written");
        stream.flush().expect("written");
        drop(stream);
        self
    }

    pub fn number(mut self, number: u32, value: i64) -> Self {
        let mut stream = CodedOutputStream::vec(&mut self.0);
        stream.write_int64(number, value).expect("written");
        stream.flush().expect("written");
        drop(stream);
        self
    }

    pub fn entry(self, number: u32, key: &str, value: &str) -> Self {
        let entry = Self::default().text(1, key).text(2, value);
        self.message(number, &entry)
    }
}
