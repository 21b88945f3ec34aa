//! Things by number, where a number is never used for two things.

/// Things by number. Numbers begin at 1; zero is nothing's.
#[derive(Debug)]
pub struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    /// How often it was used before; the upper half of a number.
    uses: u32,
    thing: Option<T>,
}

impl<T> Slots<T> {
    /// None yet.
    pub fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Keeps a thing, and tells its number. `None` if there are too many to be numbered.
    pub fn insert(&mut self, thing: T) -> Option<u64> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.slots.len()).ok()?;
                index.checked_add(1)?;
                self.slots.push(Slot {
                    uses: 0,
                    thing: None,
                });
                index
            }
        };
        let slot = self.slots.get_mut(index as usize)?;
        slot.thing = Some(thing);
        Some(u64::from(slot.uses) << 32 | u64::from(index + 1))
    }

    fn index(&self, number: u64) -> Option<usize> {
        let index = (number as u32).checked_sub(1)? as usize;
        let slot = self.slots.get(index)?;
        (u64::from(slot.uses) == number >> 32).then_some(index)
    }

    /// The thing with this number.
    pub fn get(&self, number: u64) -> Option<&T> {
        self.slots.get(self.index(number)?)?.thing.as_ref()
    }

    /// The thing with this number, to be changed.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let index = self.index(number)?;
        self.slots.get_mut(index)?.thing.as_mut()
    }

    /// Gives the thing up.
    pub fn remove(&mut self, number: u64) -> Option<T> {
        let index = self.index(number)?;
        let slot = self.slots.get_mut(index)?;
        let thing = slot.thing.take()?;
        // A slot whose numbers are used up is not used again.
        if let Some(uses) = slot.uses.checked_add(1) {
            slot.uses = uses;
            self.free.push(number as u32 - 1);
        }
        Some(thing)
    }

    /// Gives up all things whose numbers are not this one, and hands them out.
    pub fn clear(&mut self, but: Option<u64>) -> Vec<T> {
        let mut gone = Vec::new();
        for index in 0..self.slots.len() {
            let uses = self.slots.get(index).map_or(0, |slot| slot.uses);
            let number = u64::from(uses) << 32 | (index as u64 + 1);
            if Some(number) != but {
                gone.extend(self.remove(number));
            }
        }
        gone
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|slot| slot.thing.as_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_not_used_again() {
        let mut slots = Slots::new();
        assert_eq!(slots.insert('a'), Some(1));
        assert_eq!(slots.insert('b'), Some(2));
        assert_eq!(slots.remove(1), Some('a'));
        assert_eq!(slots.remove(1), None);
        assert_eq!(slots.insert('c'), Some(1 << 32 | 1));
        assert_eq!(slots.get(1), None);
        assert_eq!(slots.get(1 << 32 | 1), Some(&'c'));
        assert_eq!(slots.len(), 2);
        for number in [0, 3, 1 << 32, 2 << 32 | 1, u64::MAX] {
            assert_eq!(slots.get_mut(number), None);
            assert_eq!(slots.remove(number), None);
        }
    }
}
