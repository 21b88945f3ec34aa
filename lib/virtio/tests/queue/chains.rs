//! What becomes of descriptors: chains that are as they should be come out as they are, and chains that lie
//! are refused, whatever lies around them.

use proptest::prelude::*;
use trefoil_virtio::{Broken, Chain, MAX_BUFFERS};

use crate::driver::{
    AVAILABLE, BUFFERS, Descriptor, Driver, END, INDIRECT, INDIRECT_TABLE, NEXT, SEAM, SIZE, TABLE,
    USED, WRITE, guests,
};

fn buffer(address: u64, length: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor {
        address,
        length,
        flags,
        next,
    }
}

/// What a device gets of a queue whose table is this, and of which the first descriptor is offered.
fn popped(table: &[Descriptor]) -> Result<Option<Chain>, Broken> {
    let mut driver = Driver::new(false);
    driver.fill(TABLE, table);
    driver.offer(0);
    driver.pop()
}

fn broken(table: &[Descriptor]) -> Broken {
    popped(table).map(drop).expect_err("it should be refused")
}

/// What a device gets where the chain has a table of its own: of so many descriptors, each like this one,
/// the last without a next one, or with this.
fn of_own_table(count: usize, length: u32, last: Option<u16>) -> Result<Option<Chain>, Broken> {
    let mut driver = Driver::new(false);
    // The whole table is in memory only as far as memory goes.
    let room = ((END - INDIRECT_TABLE) / 16) as usize;
    for number in 1..=count.min(room) {
        let is_last = number == count;
        let next = last.filter(|_| is_last).unwrap_or(number as u16);
        let flags = match is_last && last.is_none() {
            true => WRITE,
            false => WRITE | NEXT,
        };
        let descriptor = buffer(BUFFERS, length, flags, next);
        driver.describe(INDIRECT_TABLE, (number - 1) as u16, descriptor);
    }
    let bytes = 16 * count as u32;
    driver.describe(TABLE, 0, buffer(INDIRECT_TABLE, bytes, INDIRECT, 0));
    driver.offer(0);
    driver.pop()
}

#[test]
fn an_empty_queue_has_no_chain() {
    let mut driver = Driver::new(false);
    assert!(driver.pop().expect("a ring").is_none());
    assert!(!driver.queue.has_more().expect("a ring"));
}

#[test]
fn a_chain_is_what_the_driver_described() {
    let mut driver = Driver::new(false);
    driver.put(BUFFERS, b"request");
    driver.fill(
        TABLE,
        &[
            buffer(BUFFERS, 7, NEXT, 3),
            Descriptor::default(),
            Descriptor::default(),
            buffer(BUFFERS + 64, 4, NEXT | WRITE, 5),
            Descriptor::default(),
            buffer(BUFFERS + 128, 8, WRITE, 0),
        ],
    );
    driver.offer(0);
    let chain = driver.pop().expect("a chain").expect("one");
    assert_eq!(chain.head, 0);
    let mut request = [0; 7];
    chain.readable.read(&mut request).expect("all of it");
    assert_eq!(&request, b"request");
    assert_eq!(
        guests(&driver.ram, chain.writable.iovecs()),
        [(BUFFERS + 64, 4), (BUFFERS + 128, 8)]
    );
    assert!(driver.pop().expect("a ring").is_none());
}

#[test]
fn a_chain_that_is_put_back_comes_again() {
    let mut driver = Driver::new(false);
    driver.describe(TABLE, 2, buffer(BUFFERS, 1, WRITE, 0));
    driver.offer(2);
    for _ in 0..3 {
        let chain = driver.pop().expect("a chain").expect("one");
        assert_eq!(chain.head, 2);
        driver.queue.put_back();
        assert!(driver.queue.has_more().expect("a ring"));
    }
}

#[test]
fn a_buffer_may_cross_where_regions_touch() {
    let chain = popped(&[buffer(SEAM - 4, 8, WRITE, 0)])
        .expect("a chain")
        .expect("one");
    assert_eq!(chain.writable.len(), 8);
    let lengths: Vec<_> = chain
        .writable
        .iovecs()
        .iter()
        .map(|one| one.iov_len)
        .collect();
    assert_eq!(lengths, [4, 4]);
}

#[test]
fn a_buffer_outside_of_memory_is_refused() {
    for (address, length) in [
        (END - 4, 5),
        (END, 1),
        (u64::MAX, 1),
        (u64::MAX - 3, 8),
        (0, u32::MAX),
        ((1 << 32) - 1, 2),
        ((1 << 32) + 0xfff, 2),
    ] {
        let table = [buffer(address, length, WRITE, 0)];
        assert_eq!(broken(&table), Broken::Address, "{address:#x} {length}");
    }
    // One without bytes is nowhere.
    let chain = popped(&[buffer(u64::MAX, 0, 0, 0)]).expect("a chain");
    assert!(chain.expect("one").readable.is_empty());
}

#[test]
fn what_is_read_comes_before_what_is_written() {
    let table = [
        buffer(BUFFERS, 1, NEXT | WRITE, 1),
        buffer(BUFFERS, 1, 0, 0),
    ];
    assert_eq!(broken(&table), Broken::Order);
}

#[test]
fn a_chain_has_an_end_that_is_not_far() {
    for length in [0, 1] {
        let chain = of_own_table(MAX_BUFFERS, length, None).expect("a chain");
        assert_eq!(
            chain.expect("one").writable.len(),
            MAX_BUFFERS * length as usize
        );
        for count in [MAX_BUFFERS + 1, 65535] {
            let why = of_own_table(count, length, None).map(drop);
            assert_eq!(why, Err(Broken::Buffers));
        }
    }
}

#[test]
fn a_chain_that_comes_back_to_itself_has_none() {
    for (count, next) in [(1, 0), (5, 0), (5, 4), (600, 3), (5, 5), (5, 65535)] {
        for length in [0, 1] {
            let why = of_own_table(count, length, Some(next)).map(drop);
            assert_eq!(why, Err(Broken::Chain), "{count} {next}");
        }
    }
    // The same in the queue itself.
    let ring: Vec<_> = (0..4)
        .map(|number| buffer(BUFFERS, 1, WRITE | NEXT, (number + 1) % 4))
        .collect();
    assert_eq!(broken(&ring), Broken::Chain);
}

#[test]
fn a_table_that_is_none_is_refused() {
    let mut driver = Driver::new(false);
    // In it, a further table; a table of an odd length; of none; with too many; where no memory is.
    driver.describe(INDIRECT_TABLE, 0, buffer(INDIRECT_TABLE, 16, INDIRECT, 0));
    for (address, length) in [
        (INDIRECT_TABLE, 16),
        (INDIRECT_TABLE, 15),
        (INDIRECT_TABLE, 0),
        (INDIRECT_TABLE, 16 * 65536),
        (u64::MAX - 7, 16),
        (END, 16),
    ] {
        driver.describe(TABLE, 1, buffer(address, length, INDIRECT, 0));
        driver.offer(1);
        let why = driver.pop().map(drop);
        assert_eq!(why, Err(Broken::Chain), "{address:#x} {length}");
    }
}

#[test]
fn a_head_beyond_the_table_is_refused() {
    for head in [SIZE, SIZE + 1, u16::MAX] {
        let mut driver = Driver::new(false);
        driver.offer(head);
        assert_eq!(driver.pop().map(drop), Err(Broken::Chain), "{head}");
    }
}

#[test]
fn more_chains_than_there_is_room_for_are_refused() {
    let mut driver = Driver::new(false);
    driver.put(AVAILABLE + 2, &(SIZE + 1).to_le_bytes());
    assert_eq!(driver.pop().map(drop), Err(Broken::Ring));
}

/// A chain by the words of the specification (virtio 1.2, 2.7.5): each descriptor by its number, until one
/// has no next one. `None` where a driver has lied.
fn walk(queue: &[Descriptor], own: &[Descriptor], head: u16) -> Option<Vec<Descriptor>> {
    let (mut table, mut number, mut steps) = (queue, head, 0);
    let mut chain = Vec::new();
    let mut is_own = false;
    loop {
        // One that has taken more steps than there are descriptors comes back to itself.
        if steps == table.len() {
            return None;
        }
        let one = *table.get(usize::from(number))?;
        if one.flags & INDIRECT != 0 {
            if is_own {
                return None;
            }
            // It takes the place of what the queue's own descriptors would lead to.
            table = own.get(..one.length as usize / 16)?;
            (number, steps, is_own) = (0, 0, true);
            continue;
        }
        chain.push(one);
        steps += 1;
        if one.flags & NEXT == 0 {
            return Some(chain);
        }
        number = one.next;
    }
}

fn is_within(one: &Descriptor) -> bool {
    let end = one.address.checked_add(one.length.into());
    one.length == 0 || end.is_some_and(|end| end <= END)
}

/// Nothing is read after what is written. An empty buffer is neither, as long as nothing has been written.
fn is_in_order(chain: &[Descriptor]) -> bool {
    let is_writable = |one: &Descriptor| one.flags & WRITE != 0;
    let mut rest = chain.iter();
    let _ = rest.find(|one| is_writable(one) && one.length > 0);
    rest.all(is_writable)
}

fn a_descriptor() -> impl Strategy<Value = Descriptor> {
    let address = prop_oneof![
        8 => BUFFERS..END,
        1 => Just(END - 1),
        1 => any::<u64>(),
    ];
    let length = prop_oneof![8 => 0..64_u32, 1 => any::<u32>()];
    let next = prop_oneof![8 => 0..SIZE, 1 => any::<u16>()];
    let plain = (address, length, 0..4_u16, next)
        .prop_map(|(address, length, flags, next)| buffer(address, length, flags, next));
    let table = (0..=u32::from(SIZE), 0..4_u16)
        .prop_map(|(count, flags)| buffer(INDIRECT_TABLE, 16 * count, INDIRECT | flags, 1));
    prop_oneof![6 => plain, 1 => table]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_chain_is_what_the_specification_makes_of_its_descriptors(
        queue in proptest::collection::vec(a_descriptor(), usize::from(SIZE)),
        own in proptest::collection::vec(a_descriptor(), usize::from(SIZE)),
        head in 0..SIZE,
    ) {
        let mut driver = Driver::new(false);
        driver.fill(TABLE, &queue);
        driver.fill(INDIRECT_TABLE, &own);
        driver.offer(head);
        let popped = driver.pop();
        let Some(expected) = walk(&queue, &own, head) else {
            // Which of its lies is seen first does not matter.
            prop_assert!(popped.is_err());
            return Ok(());
        };
        let is_writable = |one: &Descriptor| one.flags & WRITE != 0;
        let sum = |writable| -> usize {
            let some = expected.iter().filter(|one| is_writable(one) == writable);
            some.map(|one| one.length as usize).sum()
        };
        let whole = expected.iter().try_fold(0_u32, |sum, one| sum.checked_add(one.length));
        let is_sound = expected.iter().all(is_within)
            && is_in_order(&expected)
            && whole.is_some();
        match popped {
            Err(_) => prop_assert!(!is_sound),
            Ok(None) => prop_assert!(false, "there is a chain"),
            Ok(Some(chain)) => {
                prop_assert!(is_sound);
                prop_assert_eq!(chain.head, head);
                prop_assert_eq!(chain.readable.len(), sum(false));
                prop_assert_eq!(chain.writable.len(), sum(true));
                for (buffers, writable) in [(&chain.readable, false), (&chain.writable, true)] {
                    let mut places = guests(&driver.ram, buffers.iovecs()).into_iter();
                    for one in expected.iter().filter(|one| is_writable(one) == writable) {
                        let mut at = one.address;
                        while at < one.address + u64::from(one.length) {
                            let (place, length) = places.next().expect("a piece");
                            prop_assert_eq!(place, at);
                            at += length as u64;
                        }
                    }
                    prop_assert_eq!(places.next(), None);
                }
            }
        }
    }

    #[test]
    fn no_memory_is_too_strange(
        bytes in proptest::collection::vec(any::<u8>(), 0x800),
        places in [TABLE..USED, TABLE..USED, TABLE..USED],
    ) {
        let [table, available, used] = places.map(|place| place & !0xf);
        let mut driver = Driver::at(true, [table, available, used]);
        driver.put(TABLE, &bytes);
        // As often as a device would before it gives others their turn.
        for _ in 0..2 * SIZE {
            match driver.pop() {
                Err(_) | Ok(None) => break,
                Ok(Some(chain)) => {
                    for buffers in [&chain.readable, &chain.writable] {
                        let places = guests(&driver.ram, buffers.iovecs());
                        let sum: usize = places.iter().map(|(_, length)| length).sum();
                        prop_assert_eq!(sum, buffers.len());
                    }
                    driver.queue.push(chain.head, 0).expect("a ring in memory");
                    driver.queue.signal().expect("a ring in memory");
                }
            }
        }
    }
}
