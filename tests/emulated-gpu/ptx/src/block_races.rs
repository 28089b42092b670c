//! Finds blocks of one launch that use the same global memory, one of them with a write that is not atomic.

use std::collections::HashMap;

#[derive(Clone, Copy)]
struct Uses {
    writer: Option<u64>,
    reader: Option<u64>,
    several_readers: bool,
    atomic: bool,
}

/// The uses of every four bytes by one launch. Blocks are numbered.
#[derive(Default)]
pub(crate) struct BlockRaces {
    uses: HashMap<u64, Uses>,
    pub(crate) count: u64,
    /// The first race: the address and two blocks.
    pub(crate) first: Option<(u64, u64, u64)>,
}

impl BlockRaces {
    pub(crate) fn access(&mut self, address: u64, bytes: u64, block: u64, writes: bool, atomic: bool) {
        if bytes < 4 {
            return;
        }
        for word in address / 4..(address + bytes) / 4 {
            let new = Uses { writer: None, reader: None, several_readers: false, atomic: false };
            let uses = self.uses.entry(word).or_insert(new);
            let other = match uses.writer {
                Some(writer) if writer != block && !(atomic && uses.atomic) => Some(writer),
                _ if !writes => None,
                _ => match uses.reader {
                    Some(reader) if reader != block || uses.several_readers => Some(reader),
                    _ => None,
                },
            };
            if writes {
                (uses.writer, uses.atomic) = (Some(block), atomic);
            } else {
                uses.several_readers |= uses.reader.is_some_and(|reader| reader != block);
                uses.reader = Some(block);
            }
            if let Some(other) = other {
                self.count += 1;
                self.first.get_or_insert((address, block, other));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_blocks_race_unless_both_are_atomic() {
        let mut races = BlockRaces::default();
        races.access(64, 4, 0, true, false);
        races.access(64, 4, 0, false, false);
        races.access(68, 4, 1, true, false);
        assert_eq!(races.count, 0);
        races.access(64, 4, 1, false, false);
        assert_eq!(races.first, Some((64, 1, 0)));
        races.access(128, 4, 0, true, true);
        races.access(128, 4, 1, true, true);
        assert_eq!(races.count, 1);
        races.access(128, 4, 2, false, false);
        assert_eq!(races.count, 2);
    }
}
