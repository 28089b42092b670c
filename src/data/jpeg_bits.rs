//! The bits and Huffman codes of a JPEG's scans. Knows no picture.

/// Bits that are looked up at once; longer codes are searched by length.
const QUICK: u32 = 9;

/// Why a block cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The data end.
    Ends,
    /// No code begins with these bits.
    Code,
    /// No table was given.
    Table,
}

/// A Huffman table.
pub(super) struct Table {
    /// Length and symbol by the first bits; length 0 for a longer code.
    quick: Vec<(u8, u8)>,
    /// By length: the first code that is too large, aligned to 16 bits, and what makes a code an index of `symbols`.
    limits: [(u32, i32); 17],
    symbols: Vec<u8>,
}

impl Table {
    /// Reads a table (B.2.4.2) and hands back what follows it.
    pub(super) fn read(bytes: &[u8]) -> Option<(Table, &[u8])> {
        let (counts, rest) = bytes.split_at_checked(16)?;
        let total: usize = counts.iter().map(|&count| usize::from(count)).sum();
        let (symbols, rest) = rest.split_at_checked(total)?;
        let mut table = Table { quick: vec![(0, 0); 1 << QUICK], limits: [(0, 0); 17], symbols: symbols.to_vec() };
        let (mut code, mut index) = (0u32, 0usize);
        for (length, &count) in (1u32..).zip(counts) {
            let offset = index as i32 - code as i32;
            for _ in 0..count {
                if code >> length != 0 {
                    return None;
                }
                if length <= QUICK {
                    let first = (code << (QUICK - length)) as usize;
                    table.quick[first..first + (1 << (QUICK - length))].fill((length as u8, symbols[index]));
                }
                code += 1;
                index += 1;
            }
            table.limits[length as usize] = (code << (16 - length), offset);
            code <<= 1;
        }
        Some((table, rest))
    }
}

/// The bits of a scan up to its next marker.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next bits, from the highest down; zeros behind them.
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Bits<'a> {
        Bits { bytes, at, held: 0, count: 0 }
    }

    /// Where the reading stands: at a marker, or before one.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Holds 32 bits or more, unless a marker or the end comes before.
    fn fill(&mut self) {
        if self.count <= 32
            && let Some(four) = self.bytes.get(self.at..).and_then(|ahead| ahead.first_chunk::<4>())
            && !four.contains(&0xff)
        {
            self.held |= u64::from(u32::from_be_bytes(*four)) << (32 - self.count);
            self.count += 32;
            self.at += 4;
            return;
        }
        while self.count <= 56 {
            let byte = match self.bytes.get(self.at) {
                Some(0xff) => match self.bytes.get(self.at + 1) {
                    Some(0) => {
                        self.at += 2;
                        0xff
                    }
                    Some(0xff) => {
                        self.at += 1;
                        continue;
                    }
                    _ => return,
                },
                Some(&byte) => {
                    self.at += 1;
                    byte
                }
                None => return,
            };
            self.held |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    fn pass(&mut self, count: u32) -> Result<(), Flaw> {
        if count > self.count {
            return Err(Flaw::Ends);
        }
        self.held <<= count;
        self.count -= count;
        Ok(())
    }

    /// The symbol of the next code.
    pub(super) fn symbol(&mut self, table: &Table) -> Result<u8, Flaw> {
        if self.count < 32 {
            self.fill();
        }
        let (length, symbol) = table.quick[(self.held >> (64 - QUICK)) as usize];
        if length != 0 {
            self.pass(u32::from(length))?;
            return Ok(symbol);
        }
        let ahead = (self.held >> 48) as u32;
        for length in QUICK + 1..=16 {
            let (limit, offset) = table.limits[length as usize];
            if ahead < limit {
                self.pass(length)?;
                let index = (ahead >> (16 - length)) as i32 + offset;
                return table.symbols.get(index as usize).copied().ok_or(Flaw::Code);
            }
        }
        Err(if self.count < 16 { Flaw::Ends } else { Flaw::Code })
    }

    /// Passes over up to 16 bits.
    pub(super) fn skip(&mut self, count: u8) -> Result<(), Flaw> {
        if count > 16 {
            return Err(Flaw::Code);
        }
        if self.count < u32::from(count) {
            self.fill();
        }
        self.pass(u32::from(count))
    }

    /// The next bits as a number.
    pub(super) fn take(&mut self, count: u8) -> Result<u32, Flaw> {
        let count = u32::from(count);
        if count == 0 {
            return Ok(0);
        }
        if count > 16 {
            return Err(Flaw::Code);
        }
        if self.count < count {
            self.fill();
        }
        let number = (self.held >> (64 - count)) as u32;
        self.pass(count)?;
        Ok(number)
    }

    /// The marker at which the data end, passed over; what is left before it is dropped.
    pub(super) fn next_marker(&mut self) -> Option<u8> {
        (self.held, self.count) = (0, 0);
        loop {
            match (self.bytes.get(self.at)?, self.bytes.get(self.at + 1)?) {
                (0xff, 0xff) => self.at += 1,
                (0xff, 0) => self.at += 2,
                (0xff, code) => {
                    self.at += 2;
                    return Some(*code);
                }
                _ => self.at += 1,
            }
        }
    }
}
