//! Memory that begins on a page: what is read or written past the kernel's cache has to.

use std::ops::{Deref, DerefMut};

const PAGE: usize = 4096;

/// So many zeroed bytes, from the start of a page on.
pub(crate) struct Aligned {
    memory: Vec<u8>,
    from: usize,
    length: usize,
}

impl Aligned {
    pub(crate) fn new(length: usize) -> Result<Self, String> {
        let mut memory = Vec::new();
        memory
            .try_reserve_exact(length + PAGE)
            .map_err(|_| format!("there are no {length} bytes of memory"))?;
        memory.resize(length + PAGE, 0);
        let from = memory.as_ptr().align_offset(PAGE);
        if from > PAGE {
            return Err("memory can't be aligned".to_owned());
        }
        Ok(Self {
            memory,
            from,
            length,
        })
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory
            .get(self.from..self.from + self.length)
            .unwrap_or_default()
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory
            .get_mut(self.from..self.from + self.length)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_as_long_as_asked_and_begins_on_a_page() {
        for length in [0, 1, 4096, 10_000] {
            let mut memory = Aligned::new(length).unwrap();
            assert_eq!(memory.len(), length);
            assert_eq!(memory.as_ptr() as usize % PAGE, 0);
            memory.fill(1);
        }
    }
}
