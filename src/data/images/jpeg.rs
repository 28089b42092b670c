//! Whether a JPEG is whole: every block of every scan is in the file, and the end marker behind them. Knows no pixel.
//!
//! `image` decodes with zune-jpeg's tolerant mode, which fills what is missing with grey or with zero coefficients, and
//! its strict mode finds neither data that end within the last row nor an end marker that comes too early. libjpeg
//! only warns about both. So the Huffman codes are read here once more (ITU-T T.81, annexes B, F and G), without
//! dequantization and transform.

use super::decode::MAX_PIXELS;

/// Scans of a picture; encoders write about ten.
const MAX_SCANS: usize = 100;

/// What is wrong with a JPEG, in the user's words.
type Wrong = String;

struct Component {
    id: u8,
    /// Blocks of a minimum coded unit.
    columns: usize,
    rows: usize,
    /// Blocks of a row, those of the padding included.
    stride: usize,
    /// Which coefficients of a block are not zero so far; of a progressive picture only.
    known: Vec<u64>,
    /// Whether a scan gave the mean of each block.
    seen: bool,
}

#[derive(Default)]
struct Frame {
    progressive: bool,
    width: usize,
    height: usize,
    /// Largest `columns` and `rows` of a component.
    columns: usize,
    rows: usize,
    components: Vec<Component>,
}

/// What a scan refines.
struct Band {
    first: usize,
    last: usize,
    /// Whether the higher bits of these coefficients came before.
    refines: bool,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    frame: Frame,
    direct: [Option<Table>; 4],
    alternating: [Option<Table>; 4],
    restart: usize,
}

/// Checks a JPEG. One that is too large or of a kind that is not read here (arithmetic codes, lossless) is left
/// to the decoder, which refuses it.
pub(crate) fn check_complete(bytes: &[u8]) -> Result<(), Wrong> {
    let frame = Frame::default();
    let (direct, alternating) = ([const { None }; 4], [const { None }; 4]);
    Reader { bytes, at: 2, frame, direct, alternating, restart: 0 }.read()
}

fn cut(what: &str) -> Wrong {
    format!("the JPEG is cut off: {what}")
}

fn damaged(what: &str) -> Wrong {
    format!("the JPEG is damaged: {what}")
}

impl<'a> Reader<'a> {
    fn read(mut self) -> Result<(), Wrong> {
        let mut scans = 0;
        loop {
            let marker = self.marker().ok_or_else(|| cut("its end marker is missing"))?;
            match marker {
                // Of no length: restarts behind the last one, and what stands for nothing.
                0x01 | 0xd0..=0xd8 => {}
                0xd9 => break,
                0xc4 => {
                    let segment = self.segment()?;
                    self.tables(segment)?;
                }
                0xc0..=0xc2 => {
                    let segment = self.segment()?;
                    if !self.frame.components.is_empty() {
                        return Err(damaged("it has two headers of a picture"));
                    }
                    match Frame::read(segment, marker == 0xc2)? {
                        Some(frame) => self.frame = frame,
                        None => return Ok(()),
                    }
                }
                0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => return Ok(()),
                0xdd => match *self.segment()? {
                    [high, low, ..] => self.restart = usize::from(u16::from_be_bytes([high, low])),
                    _ => return Err(damaged("a restart interval has no length")),
                },
                0xda => {
                    scans += 1;
                    if scans > MAX_SCANS {
                        return Err(damaged("it has more than 100 scans"));
                    }
                    let segment = self.segment()?;
                    self.scan(segment)?;
                }
                _ => {
                    self.segment()?;
                }
            }
        }
        if self.frame.components.is_empty() {
            return Err(cut("it ends within its header"));
        }
        if self.frame.components.iter().any(|component| !component.seen) {
            return Err(cut("data of one of its colours are missing"));
        }
        Ok(())
    }

    /// The next marker; bytes before it are passed over, as libjpeg does it.
    fn marker(&mut self) -> Option<u8> {
        loop {
            let ahead = self.bytes.get(self.at..)?;
            self.at += ahead.iter().position(|&byte| byte == 0xff)?;
            while *self.bytes.get(self.at)? == 0xff {
                self.at += 1;
            }
            let code = self.bytes[self.at];
            self.at += 1;
            if code != 0 {
                return Some(code);
            }
        }
    }

    /// What follows a marker with a length.
    fn segment(&mut self) -> Result<&'a [u8], Wrong> {
        let missing = || cut("it ends within its header");
        let ahead = self.bytes.get(self.at..).unwrap_or_default();
        let &[high, low, ..] = ahead else { return Err(missing()) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length < 2 {
            return Err(damaged("a segment has no length"));
        }
        self.at += length;
        ahead.get(2..length).ok_or_else(missing)
    }

    fn tables(&mut self, mut segment: &[u8]) -> Result<(), Wrong> {
        while let [kind, rest @ ..] = segment {
            let (table, rest) = Table::read(rest).ok_or_else(|| damaged("a Huffman table is none"))?;
            let class = if kind & 0xf0 == 0 { &mut self.direct } else { &mut self.alternating };
            class[usize::from(kind & 3)] = Some(table);
            segment = rest;
        }
        Ok(())
    }

    fn scan(&mut self, segment: &[u8]) -> Result<(), Wrong> {
        let header = || damaged("the header of a scan is none");
        let count = usize::from(*segment.first().ok_or_else(header)?);
        let (named, rest) = segment.get(1..).and_then(|rest| rest.split_at_checked(2 * count)).ok_or_else(header)?;
        let &[first, last, bits, ..] = rest else { return Err(header()) };
        let progressive = self.frame.progressive;
        let band = if progressive { (usize::from(first), usize::from(last)) } else { (0, 63) };
        let band = Band { first: band.0, last: band.1, refines: progressive && bits >> 4 != 0 };
        let only_means = band.first == 0 && band.last == 0;
        let fits = band.first <= band.last && band.last < 64;
        if count == 0 || !fits || progressive && !only_means && (band.first == 0 || count > 1) {
            return Err(header());
        }
        let mut parts = Vec::new();
        for pair in named.as_chunks::<2>().0 {
            let found = self.frame.components.iter().position(|component| component.id == pair[0]);
            parts.push((found.ok_or_else(header)?, usize::from(pair[1] >> 4) & 3, usize::from(pair[1]) & 3));
        }
        let mut bits = Bits::new(self.bytes, self.at);
        let result = self.blocks(&mut bits, &parts, &band);
        self.at = bits.at();
        result
    }

    /// Reads the blocks of a scan; `parts` are components with their tables.
    fn blocks(&mut self, bits: &mut Bits, parts: &[(usize, usize, usize)], band: &Band) -> Result<(), Wrong> {
        let frame = &self.frame;
        // A component alone has no padding to whole units.
        let alone = parts.len() == 1;
        let (across, down) = if alone { frame.own_blocks(parts[0].0) } else { frame.units() };
        let height = frame.height;
        let line = |row: usize| format!("line {} of {height}", (row * height / down.max(1)).min(height));
        let (mut left, mut expected, mut run) = (self.restart, 0, 0);
        for row in 0..down {
            for column in 0..across {
                if self.restart != 0 && left == 0 {
                    match bits.next_marker() {
                        Some(found @ 0xd0..=0xd7) if found & 7 == expected => {}
                        Some(0xd0..=0xd7) => return Err(damaged(&format!("data are missing at {}", line(row)))),
                        _ => return Err(cut(&format!("its data end at {}", line(row)))),
                    }
                    (left, expected, run) = (self.restart, (expected + 1) & 7, 0);
                }
                left = left.wrapping_sub(1);
                for &(index, direct, alternating) in parts {
                    let component = &mut self.frame.components[index];
                    component.seen |= band.first == 0;
                    let (columns, rows) = if alone { (1, 1) } else { (component.columns, component.rows) };
                    for place in 0..columns * rows {
                        let (x, y) = (column * columns + place % columns, row * rows + place / columns);
                        let tables = (self.direct[direct].as_ref(), self.alternating[alternating].as_ref());
                        let done = if self.frame.progressive {
                            let mut unused = 0;
                            let known = component.known.get_mut(y * component.stride + x).unwrap_or(&mut unused);
                            progressive(bits, tables, band, known, &mut run)
                        } else {
                            sequential(bits, tables)
                        };
                        done.map_err(|flaw| match flaw {
                            Flaw::Ends => cut(&format!("its data end at {}", line(row))),
                            Flaw::Code => damaged(&format!("its data cannot be read at {}", line(row))),
                            Flaw::Table => damaged("a Huffman table is missing"),
                        })?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Frame {
    /// The frame of a header; none for one that the decoder refuses.
    fn read(segment: &[u8], progressive: bool) -> Result<Option<Frame>, Wrong> {
        let header = || damaged("the header of its picture is none");
        let &[precision, h1, h0, w1, w0, count, ref rest @ ..] = segment else { return Err(header()) };
        let (height, width) = (u16::from_be_bytes([h1, h0]), u16::from_be_bytes([w1, w0]));
        // More pixels than are decoded would take memory for nothing.
        if precision != 8 || height == 0 || width == 0 || u64::from(width) * u64::from(height) > MAX_PIXELS {
            return Ok(None);
        }
        let parts = rest.get(..3 * usize::from(count)).ok_or_else(header)?.as_chunks::<3>().0;
        let size = |part: &[u8; 3]| (usize::from(part[1] >> 4), usize::from(part[1] & 15));
        if parts.is_empty() || parts.len() > 4 || parts.iter().map(size).any(|(x, y)| x * y == 0 || x.max(y) > 4) {
            return Err(header());
        }
        let columns = parts.iter().map(|part| size(part).0).max().unwrap_or(1);
        let rows = parts.iter().map(|part| size(part).1).max().unwrap_or(1);
        let (width, height) = (usize::from(width), usize::from(height));
        let mut frame = Frame { progressive, width, height, columns, rows, components: Vec::new() };
        let (across, down) = frame.units();
        for part in parts {
            let (columns, rows) = size(part);
            let stride = across * columns;
            let known = if progressive { vec![0; stride * down * rows] } else { Vec::new() };
            frame.components.push(Component { id: part[0], columns, rows, stride, known, seen: false });
        }
        Ok(Some(frame))
    }

    /// Minimum coded units of a scan of several components: across and down.
    fn units(&self) -> (usize, usize) {
        (self.width.div_ceil(8 * self.columns), self.height.div_ceil(8 * self.rows))
    }

    /// Blocks of a component alone: across and down.
    fn own_blocks(&self, index: usize) -> (usize, usize) {
        let component = &self.components[index];
        let blocks = |length: usize, own: usize, most: usize| (length * own).div_ceil(most).div_ceil(8);
        (blocks(self.width, component.columns, self.columns), blocks(self.height, component.rows, self.rows))
    }
}

type Tables<'a> = (Option<&'a Table>, Option<&'a Table>);

fn sequential(bits: &mut Bits, (direct, alternating): Tables) -> Result<(), Flaw> {
    let (direct, alternating) = (direct.ok_or(Flaw::Table)?, alternating.ok_or(Flaw::Table)?);
    let size = bits.symbol(direct)?;
    bits.skip(size)?;
    let mut at = 1;
    while at < 64 {
        let symbol = bits.symbol(alternating)?;
        let (zeros, size) = (usize::from(symbol >> 4), symbol & 15);
        if size == 0 && zeros != 15 {
            break;
        }
        bits.skip(size)?;
        at += zeros + 1;
    }
    Ok(())
}

fn progressive(
    bits: &mut Bits,
    (direct, alternating): Tables,
    band: &Band,
    known: &mut u64,
    run: &mut u32,
) -> Result<(), Flaw> {
    if band.first == 0 {
        let size = if band.refines { 1 } else { bits.symbol(direct.ok_or(Flaw::Table)?)? };
        return bits.skip(size);
    }
    let table = alternating.ok_or(Flaw::Table)?;
    let mut at = band.first;
    while *run == 0 && at <= band.last {
        let symbol = bits.symbol(table)?;
        let (mut zeros, size) = (symbol >> 4, symbol & 15);
        if size == 0 && zeros != 15 {
            // So many blocks have nothing more in this band, this one included.
            *run = (1 << zeros) + bits.take(zeros)?;
            break;
        }
        if band.refines && size > 1 {
            return Err(Flaw::Code);
        }
        bits.skip(size)?;
        while at <= band.last {
            if band.refines && *known >> at & 1 == 1 {
                bits.skip(1)?;
            } else if zeros == 0 {
                break;
            } else {
                zeros -= 1;
            }
            at += 1;
        }
        if size != 0 && at <= band.last {
            *known |= 1 << at;
        }
        at += 1;
    }
    if *run > 0 {
        if band.refines && at <= band.last {
            let ahead = *known >> at << (63 - band.last + at);
            for _ in 0..ahead.count_ones() {
                bits.skip(1)?;
            }
        }
        *run -= 1;
    }
    Ok(())
}

/// Bits that are looked up at once; longer codes are searched by length.
const QUICK: u32 = 9;

/// Why a block cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    /// The data end.
    Ends,
    /// No code begins with these bits.
    Code,
    /// No table was given.
    Table,
}

/// A Huffman table.
struct Table {
    /// Length and symbol by the first bits; length 0 for a longer code.
    quick: Vec<(u8, u8)>,
    /// By length: the first code that is too large, aligned to 16 bits, and what makes a code an index of `symbols`.
    limits: [(u32, i32); 17],
    symbols: Vec<u8>,
}

impl Table {
    /// Reads a table (B.2.4.2) and hands back what follows it.
    fn read(bytes: &[u8]) -> Option<(Table, &[u8])> {
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
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next bits, from the highest down; zeros behind them.
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8], at: usize) -> Bits<'a> {
        Bits { bytes, at, held: 0, count: 0 }
    }

    /// Where the reading stands: at a marker, or before one.
    fn at(&self) -> usize {
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
    fn symbol(&mut self, table: &Table) -> Result<u8, Flaw> {
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
    fn skip(&mut self, count: u8) -> Result<(), Flaw> {
        if count > 16 {
            return Err(Flaw::Code);
        }
        if self.count < u32::from(count) {
            self.fill();
        }
        self.pass(u32::from(count))
    }

    /// The next bits as a number.
    fn take(&mut self, count: u8) -> Result<u32, Flaw> {
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
    fn next_marker(&mut self) -> Option<u8> {
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
