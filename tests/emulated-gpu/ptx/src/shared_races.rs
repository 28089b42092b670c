//! Finds threads of different warps that use the same shared memory without a barrier between them.
//!
//! Every two bytes have an entry with the last use, and a use belongs to the interval between two barriers. Accesses of one
//! byte are not checked, nor are two threads of one warp.

/// Who used two bytes last: the number of the interval, and the warp in the lowest 8 bits.
#[derive(Clone, Copy, Default)]
struct Uses {
    write: u32,
    read: u32,
}

const SEVERAL: u32 = 0xfe;
const ATOMIC: u32 = 0xfd;

pub(crate) struct SharedRaces {
    uses: Vec<Uses>,
    interval: u32,
    pub(crate) count: u64,
    /// The first race: the offset in shared memory, and two warps.
    pub(crate) first: Option<(usize, u32, u32)>,
}

impl SharedRaces {
    pub(crate) fn new(bytes: usize) -> SharedRaces {
        SharedRaces { uses: vec![Uses::default(); bytes.div_ceil(2)], interval: 1, count: 0, first: None }
    }

    /// A barrier of all threads of the block, or the beginning of a block.
    pub(crate) fn barrier(&mut self) {
        self.interval += 1;
        if self.interval >= 1 << 24 {
            self.uses.fill(Uses::default());
            self.interval = 1;
        }
    }

    #[inline]
    pub(crate) fn access(&mut self, offset: usize, bytes: usize, warp: u32, writes: bool, atomic: bool) {
        let base = self.interval << 8;
        let own = base | if atomic { ATOMIC } else { warp };
        let mut other = None;
        for uses in &mut self.uses[offset / 2..][..bytes / 2] {
            if uses.write >= base && uses.write != own {
                other = Some(uses.write & 0xff);
            }
            if writes {
                if uses.read >= base && uses.read != own {
                    other = Some(uses.read & 0xff);
                }
                uses.write = own;
            } else if uses.read < base {
                uses.read = own;
            } else if uses.read != own {
                uses.read = base | SEVERAL;
            }
        }
        if let Some(other) = other {
            self.count += 1;
            self.first.get_or_insert((offset, warp, other));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_warps_race_until_there_is_a_barrier() {
        let mut races = SharedRaces::new(16);
        races.access(0, 4, 0, true, false);
        races.access(0, 4, 0, false, false);
        assert_eq!(races.count, 0);
        races.access(4, 4, 1, true, false);
        assert_eq!(races.count, 0, "other bytes");
        races.access(2, 2, 1, false, false);
        assert_eq!(races.count, 1);
        races.barrier();
        races.access(0, 4, 2, false, false);
        races.access(0, 4, 3, false, false);
        assert_eq!(races.count, 1, "two warps may read");
        races.access(0, 4, 3, true, false);
        assert_eq!(races.count, 2);
        races.barrier();
        races.access(0, 4, 1, true, true);
        races.access(0, 4, 2, true, true);
        assert_eq!(races.count, 2, "atomics do not race with each other");
    }
}
