//! How much may be under way: what the guest may send us ([`Window`]), what we may send it
//! ([`Allowance`]), and how the memory for the former is shared ([`Budget`]).
//!
//! All counts are of bytes since the connection began and wrap at 2³², as in the packets.
//!
//! A window has an end: the count up to which the guest was told that it may send. It never moves
//! back, so a guest that keeps to what it was told, however long ago, is never wrong. A window
//! becomes smaller only as data is passed on without its end moving as far.

/// What every connection may have under way, come what may.
pub const LEAST: u32 = 4 << 10;
/// What a connection begins with, if there is enough.
const FIRST: u32 = 64 << 10;
/// What a connection that is used gets, if there is enough: as much as Linux's guests can use, whose
/// own buffers' default is the same.
pub const MOST: u32 = 256 << 10;

/// The memory for data from the guest that the host's side has not taken yet.
///
/// The guest decides how much of what it was promised it uses, so what is shared out is the
/// promises. Each connection's first [`LEAST`] bytes are set aside for it from the start; the rest is
/// shared.
#[derive(Debug)]
pub struct Budget {
    total: u64,
    spare: u64,
}

impl Budget {
    /// `total` bytes for at most so many connections; at least [`LEAST`] for each.
    pub fn new(total: u64, connections: u16) -> Self {
        let set_aside = u64::from(LEAST) * u64::from(connections);
        Self {
            total: total.max(set_aside),
            spare: total.saturating_sub(set_aside),
        }
    }

    /// What one of `open` connections should have: a power of two.
    fn fair(&self, open: usize) -> u32 {
        let share = self.total / (open.max(1) as u64);
        let share = u32::try_from(share).unwrap_or(u32::MAX).clamp(LEAST, MOST);
        1 << share.ilog2()
    }

    /// What is not promised to anybody.
    #[cfg(test)]
    pub fn spare(&self) -> u64 {
        self.spare
    }
}

/// What the guest may send on one connection.
#[derive(Debug, Default)]
pub struct Window {
    /// How much it has sent.
    received: u32,
    /// How much of that the host's side has taken.
    forwarded: u32,
    /// Up to where it may send.
    end: u32,
    /// `forwarded` as it was told last.
    told: u32,
    /// How much of the budget's shared part is promised here.
    held: u32,
    /// Whether it has been worth giving more than at first.
    used: bool,
}

impl Window {
    /// Takes note of `count` bytes from the guest; `false` if it was not allowed to send as many.
    pub fn receive(&mut self, count: u32) -> bool {
        let allowed = self.end.wrapping_sub(self.received);
        if count > allowed {
            return false;
        }
        self.received = self.received.wrapping_add(count);
        true
    }

    /// Takes note that the host's side has taken `count` bytes.
    pub fn forward(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.forwarded = self.forwarded.wrapping_add(count);
    }

    /// Whether it is time to tell the guest. `guests` is the guest's own buffer: Linux's guests never
    /// have more under way than that.
    ///
    /// At half of what it may have, so that it hears of it before it has to stop.
    pub fn is_due(&mut self, guests: u32) -> bool {
        let taken = self.forwarded.wrapping_sub(self.told);
        let mut size = self.end.wrapping_sub(self.told);
        if guests > 0 {
            size = size.min(guests);
        }
        let due = taken >= (size / 2).max(1);
        self.used |= due;
        due
    }

    /// What a packet to the guest tells it: `buf_alloc` and `fwd_cnt`. The window becomes what is
    /// fair among `open` connections, as far as its end allows.
    pub fn tell(&mut self, budget: &mut Budget, open: usize) -> (u32, u32) {
        let mut size = budget.fair(open);
        if !self.used {
            size = size.min(FIRST);
        }
        let promised = self.end.wrapping_sub(self.forwarded);
        budget.spare += u64::from(self.held);
        let spare = u32::try_from(budget.spare).unwrap_or(u32::MAX);
        size = size.min(spare.saturating_add(LEAST)).max(promised);
        self.held = size.saturating_sub(LEAST);
        // What was promised before was held before.
        budget.spare = budget.spare.saturating_sub(self.held.into());
        self.end = self.forwarded.wrapping_add(size);
        self.told = self.forwarded;
        (size, self.forwarded)
    }

    /// Gives what was promised back, as the guest can't send any more.
    pub fn release(&mut self, budget: &mut Budget) {
        budget.spare += u64::from(self.held);
        self.held = 0;
        self.end = self.received;
    }
}

/// What we may send to the guest on one connection.
#[derive(Debug, Default)]
pub struct Allowance {
    room: u32,
    forwarded: u32,
    sent: u32,
}

impl Allowance {
    /// Takes over what a packet of the guest's says.
    pub fn hear(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.room = buf_alloc;
        self.forwarded = fwd_cnt;
    }

    /// How much may be sent now. A guest that claims to have passed on more than it was sent gets
    /// nothing.
    pub fn free(&self) -> u32 {
        self.room
            .saturating_sub(self.sent.wrapping_sub(self.forwarded))
    }

    /// Takes note of `count` bytes sent.
    pub fn send(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.sent = self.sent.wrapping_add(count);
    }

    /// How much was sent.
    pub fn sent(&self) -> u32 {
        self.sent
    }

    /// The size of the guest's buffer.
    pub fn room(&self) -> u32 {
        self.room
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn windows_begin_small_grow_with_use_and_are_shared_fairly() {
        let mut budget = Budget::new(64 << 20, 4096);
        let mut window = Window::default();
        assert!(!window.receive(1), "nothing was promised yet");
        assert_eq!(window.tell(&mut budget, 1), (FIRST, 0));
        assert!(window.receive(FIRST / 2));
        assert!(!window.is_due(MOST));
        window.forward(FIRST as usize / 2);
        assert!(window.is_due(MOST));
        assert_eq!(window.tell(&mut budget, 1), (MOST, FIRST / 2));
        assert!(!window.is_due(MOST));
        // With many open it shrinks, but its end stays where it was.
        assert_eq!(window.tell(&mut budget, 1024), (MOST, FIRST / 2));
        assert!(window.receive(MOST));
        assert!(!window.receive(1));
        window.forward(MOST as usize - 1000);
        assert_eq!(window.tell(&mut budget, 1024).0, 64 << 10);
        window.release(&mut budget);
        assert_eq!(budget.spare(), 48 << 20);
    }

    #[test]
    fn a_guest_with_a_small_buffer_is_told_in_time() {
        let mut budget = Budget::new(64 << 20, 4096);
        let mut window = Window::default();
        window.tell(&mut budget, 1);
        assert!(window.receive(2000));
        window.forward(2000);
        assert!(!window.is_due(0));
        assert!(window.is_due(4000));
        window.tell(&mut budget, 1);
        assert!(!window.is_due(1), "there is nothing to tell");
    }

    #[test]
    fn a_guest_that_lies_about_its_room_gets_nothing() {
        let mut allowance = Allowance::default();
        assert_eq!(allowance.free(), 0);
        allowance.hear(u32::MAX, 0);
        allowance.send(10);
        assert_eq!(allowance.free(), u32::MAX - 10);
        allowance.hear(100, 11);
        assert_eq!(allowance.free(), 0);
        allowance.hear(5, 0);
        assert_eq!(allowance.free(), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Receive(u32),
        Forward(u32),
        Tell(usize),
        Close,
    }

    fn step() -> impl Strategy<Value = (usize, Step)> {
        let step = prop_oneof![
            (0..300_000_u32).prop_map(Step::Receive),
            (0..300_000_u32).prop_map(Step::Forward),
            (0..5000_usize).prop_map(Step::Tell),
            Just(Step::Close),
        ];
        (0..8_usize, step)
    }

    proptest! {
        #[test]
        fn promises_never_exceed_the_budget(
            begin in any::<u32>(),
            steps in prop::collection::vec(step(), 0..200),
        ) {
            const TOTAL: u64 = 600 << 10;
            let mut budget = Budget::new(TOTAL, 8);
            let new = || Window {
                received: begin,
                forwarded: begin,
                end: begin,
                told: begin,
                ..Window::default()
            };
            let mut windows: Vec<Window> = (0..8).map(|_| new()).collect();
            for (number, step) in steps {
                let window = &mut windows[number];
                let buffered = window.received.wrapping_sub(window.forwarded);
                let allowed = window.end.wrapping_sub(window.received);
                match step {
                    Step::Receive(count) => {
                        prop_assert_eq!(window.receive(count), count <= allowed);
                    }
                    Step::Forward(count) => window.forward(count.min(buffered) as usize),
                    Step::Tell(open) => {
                        let end = window.end;
                        let (size, forwarded) = window.tell(&mut budget, open);
                        prop_assert!((LEAST..=MOST).contains(&size));
                        let now = forwarded.wrapping_add(size);
                        prop_assert!(now.wrapping_sub(end) <= MOST, "the end moved back");
                    }
                    Step::Close => {
                        window.release(&mut budget);
                        *window = new();
                    }
                }
                let promised: u64 = windows
                    .iter()
                    .map(|window| u64::from(window.end.wrapping_sub(window.forwarded)))
                    .sum();
                prop_assert!(promised <= TOTAL);
            }
            for window in &mut windows {
                window.release(&mut budget);
            }
            prop_assert_eq!(budget.spare(), TOTAL - 8 * u64::from(LEAST));
        }
    }
}
