//! A thread for each virtual CPU: it runs the guest, hands its accesses to the bus, and stops when it
//! is told to.
//!
//! A thread in the guest is brought out by a signal, whose handler sets KVM's flag for an immediate
//! exit: should the signal come just before the guest is entered, it is not entered.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering, compiler_fence};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Failure;
use crate::bus::Bus;
use crate::client::exit::{Exit, Registers, Stop};
use crate::metrics::Shared;

/// A virtual CPU's stack: its deepest calls are a device's activation.
const STACK: usize = 128 << 10;

/// What all threads are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Order {
    Run,
    Pause,
    Stop,
}

/// How the machine ended: what was said first counts.
#[derive(Debug)]
pub struct Ending {
    exit: Mutex<Option<Exit>>,
    event: EventFd,
}

impl Ending {
    /// Nothing has ended yet.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            exit: Mutex::new(None),
            event: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
        })
    }

    /// Ends the machine.
    pub fn end(&self, exit: Exit) {
        self.exit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(exit);
        let _ = self.event.write(1);
    }

    /// How it ended, if it has.
    pub fn get(&self) -> Option<Exit> {
        self.exit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Readable once it has ended.
impl AsFd for Ending {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

struct SharedState {
    order: AtomicU8,
    /// How many threads are out of the guest, waiting.
    waiting: Mutex<usize>,
    changed: Condvar,
    bus: Bus,
    metrics: Arc<Shared>,
    ending: Arc<Ending>,
}

/// The threads.
pub struct Threads {
    shared: Arc<SharedState>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts a thread for each virtual CPU, which first calls `confine` and then waits for
    /// [`Threads::resume`].
    pub fn start(
        vcpus: Vec<VcpuFd>,
        bus: Bus,
        metrics: Arc<Shared>,
        ending: Arc<Ending>,
        confine: impl Fn() -> Result<(), String> + Clone + Send + 'static,
    ) -> Result<Self, Failure> {
        handle_signal()?;
        let shared = Arc::new(SharedState {
            order: AtomicU8::new(Order::Pause as u8),
            waiting: Mutex::new(0),
            changed: Condvar::new(),
            bus,
            metrics,
            ending,
        });
        let mut threads = Self {
            shared,
            handles: Vec::new(),
        };
        for (number, vcpu) in vcpus.into_iter().enumerate() {
            let shared = Arc::clone(&threads.shared);
            let confine = confine.clone();
            let handle = std::thread::Builder::new()
                .name(format!("vcpu{number}"))
                .stack_size(STACK)
                .spawn(move || match confine() {
                    Ok(()) => shared.run(vcpu),
                    Err(why) => {
                        shared.ending.end(failed("confine its thread", why));
                        shared.wait_while_paused();
                    }
                })
                .map_err(|why| Failure::new("start a virtual CPU's thread", why))?;
            threads.handles.push(handle);
        }
        threads.await_all();
        Ok(threads)
    }

    /// Lets the guest run.
    pub fn resume(&self) {
        self.shared.command(Order::Run);
    }

    /// Stops the guest; when this returns, no virtual CPU runs.
    pub fn pause(&self) {
        self.shared.command(Order::Pause);
        self.signal();
        self.await_all();
    }

    /// Ends the threads; when this returns, nobody touches a device's registers any more.
    pub fn stop(self) {
        self.shared.command(Order::Stop);
        self.signal();
        for handle in self.handles {
            // A thread that panicked has ended as well.
            drop(handle.join());
        }
    }

    fn signal(&self) {
        for handle in &self.handles {
            // SAFETY: the thread has not been joined, so the handle is valid; the signal's handler
            // does nothing but set a flag.
            unsafe { libc::pthread_kill(handle.as_pthread_t(), signal_number()) };
        }
    }

    fn await_all(&self) {
        let waiting = self.shared.lock_waiting();
        drop(
            self.shared
                .changed
                .wait_while(waiting, |waiting| *waiting < self.handles.len())
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

impl SharedState {
    fn lock_waiting(&self) -> std::sync::MutexGuard<'_, usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self, order: Order) {
        // Under the lock, so that a thread about to wait does not miss it.
        let _waiting = self.lock_waiting();
        self.order.store(order as u8, Ordering::Release);
        self.changed.notify_all();
    }

    fn is(&self, order: Order) -> bool {
        self.order.load(Ordering::Acquire) == order as u8
    }

    fn wait_while_paused(&self) {
        let mut waiting = self.lock_waiting();
        *waiting += 1;
        self.changed.notify_all();
        while self.is(Order::Pause) {
            waiting = self
                .changed
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *waiting -= 1;
    }

    fn run(&self, mut vcpu: VcpuFd) {
        CURRENT.with(|current| current.set(vcpu.get_kvm_run()));
        loop {
            // First the flag, then the order: who gives an order does it before the signal that sets
            // the flag, so that one of the two is seen.
            vcpu.set_kvm_immediate_exit(0);
            compiler_fence(Ordering::SeqCst);
            if !self.is(Order::Run) {
                self.wait_while_paused();
                if self.is(Order::Stop) {
                    break;
                }
                // Else the guest would take the pause for a hang. A virtual CPU that was never
                // started has no clock yet, which is no failure.
                let _ = vcpu.kvmclock_ctrl();
                continue;
            }
            if let Err(exit) = self.enter(&mut vcpu) {
                self.ending.end(exit);
                // Until all are told to stop: what happened is final.
                self.order
                    .compare_exchange(
                        Order::Run as u8,
                        Order::Pause as u8,
                        Ordering::AcqRel,
                        Ordering::Relaxed,
                    )
                    .ok();
            }
        }
        CURRENT.with(Current::clear);
    }

    /// Runs the guest until it needs us.
    fn enter(&self, vcpu: &mut VcpuFd) -> Result<(), Exit> {
        let exits = &self.metrics.exits;
        let what = match vcpu.run() {
            Ok(VcpuExit::MmioRead(address, bytes)) => {
                self.bus.read(address, bytes);
                return Ok(());
            }
            Ok(VcpuExit::MmioWrite(address, bytes)) => return self.bus.write(address, bytes),
            Ok(VcpuExit::IoIn(port, bytes)) => {
                self.bus.port_in(port, bytes);
                return Ok(());
            }
            Ok(VcpuExit::IoOut(port, bytes)) => return self.bus.port_out(port, bytes),
            Ok(VcpuExit::Shutdown) => {
                let registers = registers(vcpu);
                return Err(Exit::Done(Stop::TripleFault {
                    registers: (!registers.are_of_reset()).then_some(registers),
                }));
            }
            Ok(VcpuExit::InternalError) => internal_error(vcpu),
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                format!("the processor {cpu} refuses to enter the guest: {reason:#x}")
            }
            Ok(VcpuExit::SystemEvent(kind, _)) => format!("system event {kind}"),
            Ok(VcpuExit::Intr) => {
                exits.interrupted.add(1);
                return Ok(());
            }
            Ok(other) => format!("{other:?}"),
            Err(why) if [libc::EINTR, libc::EAGAIN].contains(&why.errno()) => {
                exits.interrupted.add(1);
                return Ok(());
            }
            Err(why) => why.to_string(),
        };
        exits.other.add(1);
        Err(failed(
            "run the guest",
            format!("{what}; {}", registers(vcpu)),
        ))
    }
}

/// How the machine ends when a virtual CPU can't go on.
fn failed(doing: &str, why: String) -> Exit {
    trefoil_jail::Failure::new(doing, why)
        .of("virtual CPU")
        .into()
}

/// What KVM could not emulate, as far as it says.
fn internal_error(vcpu: &mut VcpuFd) -> String {
    // SAFETY: after this exit the union holds the internal error.
    let error = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal };
    let kind = match error.suberror {
        1 => "it can't emulate an instruction",
        2 => "an unexpected exit while it delivered an event",
        3 => "it could not deliver an event",
        4 => "an exit it does not know",
        _ => "of a kind without a name",
    };
    format!("KVM's internal error {}: {kind}", error.suberror)
}

fn registers(vcpu: &VcpuFd) -> Registers {
    let general = vcpu.get_regs().unwrap_or_default();
    let special = vcpu.get_sregs().unwrap_or_default();
    Registers {
        rip: general.rip,
        rsp: general.rsp,
        rflags: general.rflags,
        cr0: special.cr0,
        cr2: special.cr2,
        cr3: special.cr3,
        cr4: special.cr4,
        efer: special.efer,
        gdt_base: special.gdt.base,
        idt_base: special.idt.base,
    }
}

/// Where the thread's virtual CPU has its shared page, for the signal's handler.
struct Current(AtomicPtr<kvm_run>);

impl Current {
    const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    fn set(&self, run: &mut kvm_run) {
        self.0.store(run, Ordering::Release);
    }

    fn clear(&self) {
        self.0.store(ptr::null_mut(), Ordering::Release);
    }
}

thread_local! {
    static CURRENT: Current = const { Current::new() };
}

fn signal_number() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn on_signal(_: libc::c_int) {
    // Without a destructor and initialised at compile time, the thread's copy is a plain load away.
    let _ = CURRENT.try_with(|current| {
        let run = current.0.load(Ordering::Acquire);
        if !run.is_null() {
            // SAFETY: the page is mapped until the thread clears the pointer, and the thread is ours.
            unsafe { ptr::addr_of_mut!((*run).immediate_exit).write_volatile(1) };
        }
    });
}

fn handle_signal() -> Result<(), Failure> {
    // nix knows no real-time signals.
    // SAFETY: an all-zero sigaction is one; the handler is async-signal-safe.
    let outcome = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        libc::sigaction(signal_number(), &action, ptr::null_mut())
    };
    nix::errno::Errno::result(outcome)
        .map(drop)
        .map_err(|why| Failure::new("handle the signal that stops virtual CPUs", why))
}
