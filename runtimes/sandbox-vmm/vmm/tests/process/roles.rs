//! What this program is when it is started as a machine, or as a parent.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::process::exit;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trefoil_vmm::control::{Answer, Message, Request, Stats};
use trefoil_vmm::exit::{Exit, Stop};
use trefoil_vmm::jail::seccomp::{self, Thread};
use trefoil_vmm::jail::{self, Jail};
use trefoil_vmm::machine::control::{Control, Failure};
use trefoil_vmm::process;

use crate::trials;

/// A role never returns.
type Role = fn() -> !;

pub const ROLES: &[(&str, Role)] = &[
    ("obedient", obedient),
    ("looking", looking),
    ("ending", ending),
    ("babbling", babbling),
    ("sleeping", sleeping),
    ("parent", parent),
    ("jailed", jailed),
];

fn control() -> Control {
    // SAFETY: nothing has been opened yet.
    unsafe { Control::take() }.expect("control")
}

/// Does nothing, and says that it did.
fn obedient() -> ! {
    let mut control = control();
    control.launch::<Value>().expect("launch");
    control.send(&Message::Running);
    let mut paused = false;
    loop {
        match control.receive() {
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Ok(Some((Request::PowerOff, _))) => exit(control.end(Exit::Done(Stop::PoweredOff))),
            Ok(Some((Request::Kill, _))) | Err(Failure::Gone) => exit(control.end(Exit::Killed)),
            Ok(Some(request)) => {
                paused = match request.0 {
                    Request::Pause => true,
                    Request::Resume => false,
                    _ => paused,
                };
                control.send(&Message::Answer(Answer::Done(Stats { paused })));
            }
            Err(why) => panic!("{why}"),
        }
    }
}

/// Writes what it sees of itself into the file it is handed.
fn looking() -> ! {
    // Before `take` closes what ought not to be there.
    let mut descriptors: Vec<i32> = fs::read_dir("/proc/self/fd")
        .expect("look")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .to_string_lossy()
                .parse()
                .expect("number")
        })
        .collect();
    // The last one was for looking.
    descriptors.sort_unstable();
    descriptors.pop();
    let target = |number: i32| fs::read_link(format!("/proc/self/fd/{number}")).expect("link");
    let standard: Vec<_> = (0..3).map(target).collect();
    let control = control();
    let (_, files) = control.launch::<Value>().expect("launch");
    let mut death = 0;
    // SAFETY: the call writes a number to where the pointer points.
    unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut death) };
    let blocked = SigSet::thread_get_mask().expect("mask");
    let namespaces = ["pid", "mnt", "net", "ipc", "uts", "user"]
        .map(|name| fs::read_link(format!("/proc/self/ns/{name}")).expect("namespace"));
    let seen = json!({
        "pid": std::process::id(),
        "session": nix::unistd::getsid(None).expect("session").as_raw(),
        "descriptors": descriptors,
        "standard": standard,
        "arguments": std::env::args().collect::<Vec<_>>(),
        "environment": std::env::vars().count(),
        "death": death,
        "blocked": blocked.contains(Signal::SIGUSR1),
        "oom": fs::read_to_string("/proc/self/oom_score_adj").expect("oom").trim(),
        "namespaces": namespaces,
    });
    let mut file = File::from(files.into_iter().next().expect("a file"));
    file.write_all(seen.to_string().as_bytes()).expect("write");
    exit(control.end(Exit::Done(Stop::PoweredOff)))
}

/// Ends as it is told, whatever it says.
fn ending() -> ! {
    let control = control();
    let (how, _) = control.launch::<Value>().expect("launch");
    if let Ok(said) = serde_json::from_value::<Exit>(how["say"].clone()) {
        control.send(&Message::Ended(said));
    }
    if how["crash"] == true {
        // The first process of a namespace does not see its own SIGABRT; what follows is a fault.
        std::process::abort();
    }
    exit(how["code"].as_i64().unwrap_or_default() as i32)
}

/// Says what makes no sense, or answers what nobody asked.
fn babbling() -> ! {
    let control = control();
    let (words, _) = control.launch::<Value>().expect("launch");
    for word in words.as_array().expect("a list") {
        let text = word.as_str().expect("text");
        let socket = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&control));
        // SAFETY: the bytes are readable.
        unsafe { libc::send(socket, text.as_ptr().cast(), text.len(), 0) };
    }
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

/// Takes no notice of anything.
fn sleeping() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

/// Starts a machine that takes no notice, says its number, and waits.
fn parent() -> ! {
    let machine = process::start(&trials::start(&["sleeping"])).expect("start");
    println!("{}", machine.pid());
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

/// What a jailed role is to be, and to do then.
#[derive(Serialize, Deserialize)]
pub struct Jailed {
    pub jail: Jail,
    pub events: bool,
    pub then: Then,
}

/// What it does in there.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// Makes a call that its filter forbids.
    Trespass,
    /// Touches memory that is not there.
    Crash,
    /// Waits to be powered off.
    Obey,
}

/// Enters the jail, and does there what it is told.
fn jailed() -> ! {
    let mut control = control();
    let (role, _) = control.launch::<Jailed>().expect("launch");
    jail::enter(&role.jail, 1).expect("enter");
    let thread = match role.events {
        true => Thread::Events,
        false => Thread::Vcpu,
    };
    let filter = seccomp::compile(thread).expect("compile");
    seccomp::install(&filter).expect("install");
    control.send(&Message::Running);
    match role.then {
        Then::Trespass => drop(File::open("/")),
        // SAFETY: it is not: nothing is there, which the processor says.
        Then::Crash => unsafe { std::ptr::dangling_mut::<u8>().write_volatile(1) },
        Then::Obey => await_power_off(&mut control),
    }
    exit(control.end(Exit::Done(Stop::PoweredOff)))
}

/// Waits as the VMM's loop may, whatever signals come.
fn await_power_off(control: &mut Control) {
    loop {
        let mut polled = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
        // A signal ends it early.
        let _ = poll(&mut polled, PollTimeout::NONE);
        if let Ok(Some((Request::PowerOff, _))) = control.receive() {
            return;
        }
    }
}
