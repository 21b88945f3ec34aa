//! What goes back to the driver, and who tells whom of it.

use proptest::prelude::*;
use trefoil_virtio::Broken;

use crate::driver::{AVAILABLE, BUFFERS, Descriptor, Driver, END, SIZE, TABLE, USED, WRITE};

/// Where the driver says which used index it waits for, and the device which available one.
const USED_EVENT: u64 = AVAILABLE + 4 + 2 * SIZE as u64;
const AVAILABLE_EVENT: u64 = USED + 4 + 8 * SIZE as u64;

#[test]
fn what_is_pushed_is_seen_in_order() {
    let mut driver = Driver::new(false);
    driver.queue.push(3, 100).expect("push");
    driver.queue.push_all(&[(1, 0), (2, 7)]).expect("push");
    assert_eq!(driver.used_index(), 3);
    let used: Vec<_> = (0..3).map(|slot| driver.used(slot)).collect();
    assert_eq!(used, [(3, 100), (1, 0), (2, 7)]);
}

#[test]
fn the_used_ring_goes_round() {
    let mut driver = Driver::new(false);
    for number in 0..u32::from(SIZE) + 2 {
        driver.queue.push(1, number).expect("push");
    }
    assert_eq!(driver.used_index(), SIZE + 2);
    assert_eq!(driver.used(0), (1, u32::from(SIZE)));
    assert_eq!(driver.used(1), (1, u32::from(SIZE) + 1));
    assert_eq!(driver.used(2), (1, 2));
}

#[test]
fn a_driver_that_wants_no_interrupts_gets_none() {
    let mut driver = Driver::new(false);
    driver.queue.signal().expect("nothing was pushed");
    assert_eq!(driver.interrupts(), 0);
    driver.queue.push(0, 0).expect("push");
    driver.queue.signal().expect("signal");
    driver.queue.signal().expect("it has been told");
    assert_eq!(driver.interrupts(), 1);
    driver.put(AVAILABLE, &1_u16.to_le_bytes());
    driver.queue.push(0, 0).expect("push");
    driver.queue.signal().expect("signal");
    assert_eq!(driver.interrupts(), 1);
}

#[test]
fn a_device_asks_for_kicks_and_sees_what_came_before() {
    for event_index in [false, true] {
        let mut driver = Driver::new(event_index);
        driver.queue.hush().expect("hush");
        if !event_index {
            assert_eq!(driver.word(USED), 1, "the flag that no kick is needed");
        }
        assert!(!driver.queue.listen().expect("listen"));
        assert_eq!(driver.word(USED), 0);
        driver.describe(
            TABLE,
            0,
            Descriptor {
                address: BUFFERS,
                length: 1,
                flags: WRITE,
                next: 0,
            },
        );
        driver.offer(0);
        assert!(driver.queue.listen().expect("listen"), "no kick will come");
        driver.pop().expect("a chain").expect("one");
        assert!(!driver.queue.listen().expect("listen"));
        if event_index {
            assert_eq!(
                driver.word(AVAILABLE_EVENT),
                1,
                "the next one is waited for"
            );
        }
    }
}

#[test]
fn a_device_that_has_more_to_do_is_called_again() {
    let driver = Driver::new(false);
    driver.queue.kick().read().expect_err("nobody has kicked");
    driver.queue.kick_again();
    driver.queue.kick_again();
    assert_eq!(driver.queue.kick().read().expect("kicked"), 2);
}

#[test]
fn rings_outside_of_memory_are_refused() {
    // Each of the rings by itself; the last is in memory with its first bytes alone.
    for (available, used) in [(END, USED), (AVAILABLE, END), (AVAILABLE, END - 4)] {
        let mut driver = Driver::at(true, [TABLE, available, used]);
        let taken = driver.pop().map(drop);
        let told = driver.queue.push(0, 0).and_then(|()| driver.queue.signal());
        match available {
            END => assert_eq!(taken, Err(Broken::Ring)),
            _ => taken.expect("there is no chain"),
        }
        assert_eq!(told, Err(Broken::Ring), "{available:#x} {used:#x}");
    }
}

proptest! {
    /// Linux's rule (`vring_need_event`): an interrupt if the index that is waited for was passed by what was
    /// pushed since the last time.
    #[test]
    fn an_interrupt_comes_when_the_index_that_is_waited_for_was_passed(
        before in 0..70_000_u32, pushed in 1..=SIZE, event: u16, near in 0..4_u16, is_near: bool,
    ) {
        let mut driver = Driver::new(true);
        for _ in 0..before % 300 {
            driver.queue.push(0, 0).expect("push");
        }
        driver.queue.wants_signal().expect("a ring");
        let first = driver.used_index();
        let event = match is_near {
            true => first.wrapping_add(near).wrapping_sub(2),
            false => event,
        };
        driver.put(USED_EVENT, &event.to_le_bytes());
        let used: Vec<_> = (0..pushed).map(|head| (head, 0)).collect();
        driver.queue.push_all(&used).expect("push");
        let passed = (0..pushed).any(|number| first.wrapping_add(number) == event);
        prop_assert_eq!(driver.queue.wants_signal().expect("a ring"), passed);
        prop_assert!(!driver.queue.wants_signal().expect("nothing is new"));
    }
}
