//! Finds threads of different warps that use the same shared memory without a barrier between them.
//!
//! Every two bytes have an entry with the last use, and a use belongs to the interval between two barriers. Accesses of one
//! byte are not checked, nor are two threads of one warp.

use crate::memory::{ATOMIC, READ, WRITE};

/// Who used two bytes last: the number of the interval, and the warp in the lowest 8 bits.
#[derive(Clone, Copy, Default)]
struct Uses {
    write: u32,
    read: u32,
}

const SEVERAL: u32 = 0xfe;
const ANY_ATOMIC: u32 = 0xfd;

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

    /// An access of any size and kind.
    pub(crate) fn access_any(&mut self, offset: usize, bytes: u64, warp: u32, how: u8) {
        let how = how & (READ | WRITE | ATOMIC);
        for at in (offset..offset + bytes as usize).step_by(2) {
            match (bytes, how) {
                (1, _) => {}
                (_, READ) => self.access::<2, READ>(at, warp),
                (_, WRITE) => self.access::<2, WRITE>(at, warp),
                _ => self.access::<2, { READ | WRITE | ATOMIC }>(at, warp),
            }
        }
    }

    /// An access of `BYTES` bytes inside of the shared memory.
    #[inline(always)]
    pub(crate) fn access<const BYTES: u64, const HOW: u8>(&mut self, offset: usize, warp: u32) {
        let base = self.interval << 8;
        let own = base | if HOW & ATOMIC != 0 { ANY_ATOMIC } else { warp };
        let writes = HOW & WRITE != 0;
        let is_other = |user: u32| user >= base && user != own;
        for uses in &mut self.uses[offset / 2..][..BYTES as usize / 2] {
            if is_other(uses.write) || (writes && is_other(uses.read)) {
                let other = if is_other(uses.write) { uses.write } else { uses.read };
                return self.found(offset, BYTES as usize, own, other & 0xff, writes);
            }
            // Threads of a warp often use the same memory: a store only if there is a change makes the loads independent.
            if writes {
                if uses.write != own {
                    uses.write = own;
                }
            } else if uses.read != own && uses.read != base | SEVERAL {
                uses.read = if uses.read >= base { base | SEVERAL } else { own };
            }
        }
    }

    #[cold]
    fn found(&mut self, offset: usize, bytes: usize, own: u32, other: u32, writes: bool) {
        self.count += 1;
        self.first.get_or_insert((offset, own & 0xff, other));
        // The access is the last one from now on, so that one missing barrier is not counted for every thread.
        for uses in &mut self.uses[offset / 2..][..bytes / 2] {
            *uses = if writes { Uses { write: own, read: 0 } } else { Uses { write: 0, read: own } };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_warps_race_until_there_is_a_barrier() {
        let mut races = SharedRaces::new(16);
        races.access::<4, WRITE>(0, 0);
        races.access::<4, READ>(0, 0);
        assert_eq!(races.count, 0);
        races.access::<4, WRITE>(4, 1);
        assert_eq!(races.count, 0, "other bytes");
        races.access::<2, READ>(2, 1);
        assert_eq!(races.count, 1);
        races.barrier();
        races.access::<4, READ>(0, 2);
        races.access::<4, READ>(0, 3);
        assert_eq!(races.count, 1, "two warps may read");
        races.access::<4, WRITE>(0, 3);
        assert_eq!(races.count, 2);
        races.barrier();
        races.access_any(0, 4, 1, READ | WRITE | ATOMIC);
        races.access_any(0, 4, 2, READ | WRITE | ATOMIC);
        assert_eq!(races.count, 2, "atomics do not race with each other");
    }
}
