//! Lists of processors ("0-3,7"), and running on them only.

use nix::errno::Errno;
use oci_spec::runtime::{Process, Spec};

use super::error::{Doing, Failure};

/// More processors than any machine has; bounds the mask for nonsense such as "0-4000000000".
const MOST: usize = 64 * 1024;
const WORD: usize = u64::BITS as usize;

/// A set of processors, as sched_setaffinity takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CpuList(Vec<u64>);

impl CpuList {
    fn everywhere() -> Self {
        Self(vec![u64::MAX; MOST / WORD])
    }

    /// Reads a list; an empty one is none.
    fn parse(text: &str) -> Result<Option<Self>, Failure> {
        let malformed = || Failure::new(format!("{text:?} is not a list of processors"));
        let number = |digits: &str| {
            digits
                .trim()
                .parse::<usize>()
                .ok()
                .filter(|cpu| *cpu < MOST)
                .ok_or_else(malformed)
        };
        let mut mask = Vec::new();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(malformed());
            }
            if mask.len() <= last / WORD {
                mask.resize(last / WORD + 1, 0);
            }
            for cpu in first..=last {
                if let Some(word) = mask.get_mut(cpu / WORD) {
                    *word |= 1 << (cpu % WORD);
                }
            }
        }
        Ok((!mask.is_empty()).then_some(Self(mask)))
    }

    fn apply(&self) -> Result<(), Errno> {
        let size = std::mem::size_of_val(self.0.as_slice());
        // SAFETY: the kernel reads `size` bytes, which are exactly the vector's, of a bit mask.
        let result = unsafe { libc::sched_setaffinity(0, size, self.0.as_ptr().cast()) };
        Errno::result(result).map(drop)
    }
}

/// Where to run before and after the process is moved into the container's cgroups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Affinity {
    initial: Option<CpuList>,
    last: Option<CpuList>,
}

impl Affinity {
    /// What the process, or else the container, asks for.
    pub(crate) fn new(process: &Process, spec: &Spec) -> Result<Self, Failure> {
        let containers = || {
            spec.process()
                .as_ref()
                .and_then(|init| init.exec_cpu_affinity().as_ref())
        };
        let Some(asked) = process.exec_cpu_affinity().as_ref().or_else(containers) else {
            return Ok(Self::default());
        };
        let list = |text: &Option<String>| CpuList::parse(text.as_deref().unwrap_or_default());
        Ok(Self {
            initial: list(asked.initial())?,
            last: list(asked.cpu_affinity_final())?,
        })
    }

    /// Before the container's cgroups are joined.
    pub(crate) fn before_cgroups(&self) -> Result<(), Failure> {
        let apply = |list: &CpuList| list.apply().doing(|| "set the initial processor affinity");
        self.initial.as_ref().map_or(Ok(()), apply)
    }

    /// After they were joined. A process of which nothing is asked must not inherit the affinity
    /// of the runtime, but may run wherever its cgroup lets it.
    pub(crate) fn after_cgroups(&self) -> Result<(), Failure> {
        match (&self.last, &self.initial) {
            (Some(list), _) => list.apply().doing(|| "set the final processor affinity"),
            (None, Some(_)) => Ok(()),
            (None, None) => {
                // Best effort: where it fails, the process runs where the runtime does.
                let _ = CpuList::everywhere().apply();
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_become_masks() {
        assert_eq!(
            CpuList::parse("0-3,7").unwrap(),
            Some(CpuList(vec![0b1000_1111]))
        );
        assert_eq!(CpuList::parse("64").unwrap(), Some(CpuList(vec![0, 1])));
        assert_eq!(CpuList::parse("").unwrap(), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "a",
            "3-1",
            "-",
            "1-",
            "0-4000000000",
            "65536",
            "99999999999999999999999",
        ] {
            assert!(CpuList::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_mask_has_exactly_the_listed(cpus in prop::collection::btree_set(0_usize..300, 1..20)) {
            let text = cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let CpuList(mask) = CpuList::parse(&text).unwrap().unwrap();
            let set: std::collections::BTreeSet<usize> = (0..mask.len() * WORD)
                .filter(|cpu| mask[cpu / WORD] & (1 << (cpu % WORD)) != 0)
                .collect();
            prop_assert_eq!(set, cpus);
        }

        #[test]
        fn no_text_breaks_it(text in "[0-9,\\- a]{0,20}") {
            let _ = CpuList::parse(&text);
        }
    }
}
