//! All connections: by their ports, by the token of their socket, and in the order in which they
//! have their turn at the guest's buffers.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::super::watch::Watch;
use super::connection::{Connection, Key};
use super::credit::Budget;
use super::packet::Op;

/// The most connections there can be: a token has 16 bits for the place, of which a few are others'.
pub const MAX_CONNECTIONS: u16 = 0xff00;

/// A connection's place.
pub type Place = u16;

#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    /// Whether this place is in the queue for a turn. It may be there for a connection that is no
    /// more, or for its successor: then there is nothing to do, or something earlier than it had to.
    queued: bool,
}

/// The connections.
pub struct Table {
    slots: Vec<Slot>,
    free: Vec<Place>,
    places: HashMap<Key, Place>,
    turns: VecDeque<Place>,
    budget: Budget,
    most: u16,
    open: usize,
    generation: u16,
}

impl Table {
    /// Room for at most so many, with this much memory for the data that waits for the host. The
    /// first token follows `generation`, where the table before this one ended.
    pub fn new(most: u16, memory: u64, generation: u16) -> Self {
        let most = most.min(MAX_CONNECTIONS);
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            places: HashMap::new(),
            turns: VecDeque::new(),
            budget: Budget::new(memory, most),
            most,
            open: 0,
            generation,
        }
    }

    /// For the table after this one.
    pub fn generation(&self) -> u16 {
        self.generation
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.open
    }

    /// Whether there can be no more.
    pub fn is_full(&self) -> bool {
        self.open >= usize::from(self.most)
    }

    /// Whether these ports are taken.
    pub fn has(&self, key: Key) -> bool {
        self.places.contains_key(&key)
    }

    /// Where the connection with these ports is.
    pub fn find(&self, key: Key) -> Option<Place> {
        self.places.get(&key).copied()
    }

    /// The connection that a token stands for, unless it is no more.
    pub fn find_token(&self, token: u32) -> Option<Place> {
        let place = Place::try_from(token & 0xffff).ok()?;
        let there = self.slots.get(usize::from(place))?.connection.as_ref()?;
        (there.token == token).then_some(place)
    }

    /// The connection there.
    pub fn get(&mut self, place: Place) -> Option<&mut Connection> {
        self.slots.get_mut(usize::from(place))?.connection.as_mut()
    }

    /// Takes a connection in; there is room, and its ports are free.
    pub fn add(&mut self, mut connection: Connection) -> Option<Place> {
        if self.is_full() {
            return None;
        }
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                let place = Place::try_from(self.slots.len()).ok()?;
                self.slots.push(Slot::default());
                place
            }
        };
        // A token of a connection that was there before is not taken for one of this one's, unless
        // it is 32768 connections old.
        self.generation = self.generation.wrapping_add(1) & 0x7fff;
        connection.token = u32::from(self.generation) << 16 | u32::from(place);
        self.places.insert(connection.key, place);
        self.open += 1;
        self.slots.get_mut(usize::from(place))?.connection = Some(connection);
        Some(place)
    }

    /// Closes a connection and forgets it.
    pub fn remove(&mut self, place: Place, watch: &Watch) {
        let Some(slot) = self.slots.get_mut(usize::from(place)) else {
            return;
        };
        let Some(mut connection) = slot.connection.take() else {
            return;
        };
        connection.close(watch);
        connection.window.release(&mut self.budget);
        if self.places.get(&connection.key) == Some(&place) {
            self.places.remove(&connection.key);
        }
        self.open -= 1;
        self.free.push(place);
    }

    /// Lets others use the connection's ports.
    pub fn free_ports(&mut self, key: Key) {
        self.places.remove(&key);
    }

    /// Closes all; the table is not used any more.
    pub fn clear(&mut self, watch: &Watch) {
        for place in 0..self.slots.len() {
            if let Ok(place) = Place::try_from(place) {
                self.remove(place, watch);
            }
        }
    }

    /// What a packet of this connection's tells of credit.
    pub fn tell(&mut self, place: Place) -> (u32, u32) {
        let open = self.open;
        match self.slots.get_mut(usize::from(place)) {
            Some(Slot {
                connection: Some(connection),
                ..
            }) => {
                connection.pending.take(Op::CreditUpdate);
                connection.window.tell(&mut self.budget, open)
            }
            _ => (0, 0),
        }
    }

    /// Puts a connection into the queue for a turn, if it has something for the guest.
    pub fn queue(&mut self, place: Place) {
        let Some(slot) = self.slots.get_mut(usize::from(place)) else {
            return;
        };
        let wants = slot.connection.as_ref().is_some_and(Connection::wants_turn);
        if wants && !slot.queued {
            slot.queued = true;
            self.turns.push_back(place);
        }
    }

    /// Puts it back to the front: it could not have its turn.
    pub fn queue_first(&mut self, place: Place) {
        if let Some(slot) = self.slots.get_mut(usize::from(place))
            && !slot.queued
        {
            slot.queued = true;
            self.turns.push_front(place);
        }
    }

    /// Whose turn it is.
    pub fn next_turn(&mut self) -> Option<Place> {
        while let Some(place) = self.turns.pop_front() {
            if let Some(slot) = self.slots.get_mut(usize::from(place)) {
                slot.queued = false;
                if slot.connection.as_ref().is_some_and(Connection::wants_turn) {
                    return Some(place);
                }
            }
        }
        None
    }

    /// Whether somebody may be waiting for a turn.
    pub fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// The places whose time was over at `now`, and whether there are others with a limit.
    pub fn expired(&self, now: Instant, expired: &mut Vec<Place>) -> bool {
        let mut others = false;
        for (place, slot) in self.slots.iter().enumerate() {
            match slot.connection.as_ref().and_then(|it| it.deadline) {
                Some(deadline) if deadline <= now => {
                    expired.extend(Place::try_from(place).ok());
                }
                Some(_) => others = true,
                None => {}
            }
        }
        others
    }

    /// Panics where something in here does not fit the rest.
    #[cfg(any(test, fuzzing))]
    pub fn check(&self) {
        let there = self
            .slots
            .iter()
            .filter_map(|slot| slot.connection.as_ref());
        assert_eq!(there.count(), self.open);
        assert_eq!(self.free.len() + self.open, self.slots.len());
        let queued = self.slots.iter().filter(|slot| slot.queued).count();
        assert_eq!(queued, self.turns.len());
        for (key, &place) in &self.places {
            let connection = self.slots[usize::from(place)].connection.as_ref();
            assert_eq!(connection.map(|it| it.key), Some(*key));
        }
        for slot in &self.slots {
            let Some(connection) = &slot.connection else {
                continue;
            };
            assert!(!connection.wants_turn() || slot.queued, "{connection:?}");
        }
    }
}
