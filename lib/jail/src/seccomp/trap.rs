//! What happens when a thread makes a call that its filter forbids: the kernel sends it a SIGSYS,
//! whose handler says which call it was and ends the process. Should somebody have got rid of the
//! handler or blocked the signal, the kernel ends the process by itself.

use std::cell::Cell;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::names::name;
use super::table::{Thread, When};
use crate::control;
use crate::exit::FORBIDDEN_CALL;

thread_local! {
    /// What the filter takes this thread for. Without a destructor and initialised at compile time:
    /// a plain load for the handler.
    static OWN: Cell<Option<&'static Thread>> = const { Cell::new(None) };
}

/// What the first filter takes its threads for: a thread that was not told is one of those.
static FIRST: OnceLock<&'static Thread> = OnceLock::new();

/// The calling thread is of this kind.
pub(super) fn this_thread_is(thread: &'static Thread) {
    OWN.set(Some(thread));
}

/// To be called before a filter is installed.
pub(super) fn prepare(thread: &'static Thread) -> Result<(), Errno> {
    FIRST.get_or_init(|| thread);
    // A fault ends the process as what it is. Rust's handlers would make a call that the filter
    // forbids, and that call would be told of.
    let trap = (Signal::SIGSYS, SigHandler::SigAction(on_signal));
    let faults = [Signal::SIGSEGV, Signal::SIGBUS].map(|fault| (fault, SigHandler::SigDfl));
    for (signal, handler) in [trap].into_iter().chain(faults) {
        let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler is async-signal-safe, and gets the arguments that it has: nix sets the flag
        // for them.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// What comes with a SIGSYS; the C library's type has no names for it.
#[repr(C)]
struct Information {
    signal: libc::c_int,
    error: libc::c_int,
    code: libc::c_int,
    address: *const libc::c_void,
    call: libc::c_int,
    architecture: libc::c_uint,
}

/// `si_code` of one that a filter sent.
const SYS_SECCOMP: libc::c_int = 1;

/// The registers that hold a call's arguments.
const ARGUMENTS: [libc::c_int; 6] = [
    libc::REG_RDI,
    libc::REG_RSI,
    libc::REG_RDX,
    libc::REG_R10,
    libc::REG_R8,
    libc::REG_R9,
];

extern "C" fn on_signal(
    _: libc::c_int,
    information: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let information = information.cast::<Information>();
    // SAFETY: the kernel passes a pointer to what it has put onto our stack.
    let (code, call) = unsafe { ((*information).code, (*information).call) };
    if code != SYS_SECCOMP {
        return;
    }
    let thread = OWN.get().or_else(|| FIRST.get().copied());
    let call = i64::from(call);
    // SAFETY: as above.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let argument = thread
        .and_then(|thread| restricted(thread, call))
        .map(|number| {
            let register = ARGUMENTS
                .get(usize::from(number))
                .copied()
                .unwrap_or_default();
            let index = usize::try_from(register).unwrap_or_default();
            registers
                .get(index)
                .copied()
                .unwrap_or_default()
                .cast_unsigned()
        });
    let (process, who) = thread.map_or(("jail", "unknown"), |thread| (thread.process, thread.name));
    let mut line = Text::new();
    line.add(process)
        .add(": the ")
        .add(who)
        .add(" thread may not ");
    line.add_call(call, argument).add(": killed\n");
    // Where it fails, nothing is left that could be done.
    let _ = rustix::io::write(rustix::stdio::stderr(), line.bytes());
    control::send_last_words(last_words(who, call, argument).bytes());
    // SAFETY: this ends the process at once.
    unsafe { libc::_exit(FORBIDDEN_CALL) };
}

/// The last message ([`Message::Ended`](crate::Message::Ended)), of an
/// [`Exit::Failed`](crate::Exit::Failed). Its parts need no escape.
fn last_words(who: &str, call: i64, argument: Option<u64>) -> Text {
    let mut text = Text::new();
    text.add(r#"{"ended":{"failed":{"part":""#)
        .add(who)
        .add(r#" thread","doing":""#);
    text.add_call(call, argument)
        .add(r#"","why":"its seccomp filter forbids it"}}}"#);
    text
}

/// The number of the argument that the call is restricted by, if it is allowed at all.
fn restricted(thread: &Thread, call: i64) -> Option<u8> {
    let (_, when) = thread.allowed().find(|(number, _)| *number == call)?;
    match when {
        When::Any => None,
        When::OneOf(argument, _) | When::Lacks(argument, _) => Some(argument),
    }
}

/// Text of bounded length, on the stack.
struct Text {
    bytes: [u8; 256],
    length: usize,
}

impl Text {
    fn new() -> Self {
        Self {
            bytes: [0; 256],
            length: 0,
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn add(&mut self, text: &str) -> &mut Self {
        text.bytes().for_each(|byte| self.push(byte));
        self
    }

    fn add_number(&mut self, value: u64, base: u64) -> &mut Self {
        let mut digits = [0_u8; 20];
        let mut rest = value;
        let mut count = 0;
        for digit in &mut digits {
            *digit = b"0123456789abcdef"
                .get(usize::try_from(rest % base).unwrap_or_default())
                .copied()
                .unwrap_or_default();
            rest /= base;
            count += 1;
            if rest == 0 {
                break;
            }
        }
        digits
            .iter()
            .take(count)
            .rev()
            .for_each(|digit| self.push(*digit));
        self
    }

    fn add_call(&mut self, call: i64, argument: Option<u64>) -> &mut Self {
        self.add("call ").add(name(call)).add(" (");
        self.add_number(call.unsigned_abs(), 10).add(")");
        if let Some(argument) = argument {
            self.add(" with 0x").add_number(argument, 16);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::Line;
    use super::*;
    use crate::{Exit, Message};

    fn text(call: i64, argument: Option<u64>) -> String {
        let mut line = Text::new();
        line.add_call(call, argument);
        String::from_utf8(line.bytes().to_vec()).expect("text")
    }

    #[test]
    fn calls_are_named_in_full() {
        assert_eq!(text(libc::SYS_openat, None), "call openat (257)");
        assert_eq!(
            text(libc::SYS_ioctl, Some(0xae80)),
            "call ioctl (16) with 0xae80"
        );
        assert_eq!(
            text(0, Some(u64::MAX)),
            "call read (0) with 0xffffffffffffffff"
        );
        assert_eq!(
            text(-5, Some(0)),
            "call an unknown system call (5) with 0x0"
        );
    }

    #[test]
    fn text_beyond_the_end_is_cut() {
        let mut line = Text::new();
        line.add(&"x".repeat(300));
        assert_eq!(line.bytes().len(), 256);
    }

    #[test]
    fn the_last_words_are_a_message_of_a_failure() {
        use crate::exit::tests::Sample;
        let text = last_words("vcpu", i64::MIN, Some(u64::MAX));
        let message: Message<(), Sample> = serde_json::from_slice(text.bytes()).expect("parse");
        let Message::Ended(exit @ Exit::Failed(_)) = message else {
            panic!("{message:?}");
        };
        assert_eq!(
            exit.to_string(),
            "sample: vcpu thread: call an unknown system call (9223372036854775808) with \
             0xffffffffffffffff: its seccomp filter forbids it"
        );
    }

    #[test]
    fn the_restricting_argument_is_known() {
        const TABLE: &[Line] = &[
            (libc::SYS_ioctl, &["a"], When::OneOf(1, &[7])),
            (libc::SYS_fcntl, &["a", "b"], When::Lacks(2, 4)),
            (libc::SYS_socketpair, &["b"], When::OneOf(0, &[1])),
            (libc::SYS_poll, &["a"], When::Any),
        ];
        let thread = Thread {
            process: "test",
            name: "a",
            table: TABLE,
        };
        assert_eq!(restricted(&thread, libc::SYS_ioctl), Some(1));
        assert_eq!(restricted(&thread, libc::SYS_fcntl), Some(2));
        assert_eq!(restricted(&thread, libc::SYS_mmap), Some(2));
        assert_eq!(restricted(&thread, libc::SYS_socketpair), None);
        assert_eq!(restricted(&thread, libc::SYS_poll), None);
        assert_eq!(restricted(&thread, libc::SYS_read), None);
    }
}
