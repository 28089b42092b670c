//! Checks that a JPEG is complete: every block of every scan is in the file, followed by the end marker.
//!
//! `image` decodes with zune-jpeg's tolerant mode, which fills missing data with grey or zero coefficients. Its strict
//! mode finds neither data that end in the last row nor an early end marker; libjpeg only warns about both. So the
//! Huffman codes are decoded here again (ITU-T T.81, annexes B, F and G), without dequantization and transform.

/// Maximum number of pixels of an image of any format; a larger one is refused before decoding.
pub(super) const MAX_PIXELS: u64 = 1 << 26;

/// Maximum number of scans; encoders write about ten.
const MAX_SCANS: usize = 100;

struct Component {
    id: u8,
    /// Sampling factors: blocks per minimum coded unit.
    columns: usize,
    rows: usize,
    /// Blocks per row, including padding.
    stride: usize,
    /// Bit mask per block of the coefficients that are nonzero so far; for progressive images only.
    nonzero: Vec<u64>,
    /// Whether a scan contained the DC coefficients.
    has_dc: bool,
}

#[derive(Default)]
struct Frame {
    progressive: bool,
    width: usize,
    height: usize,
    /// Maximum `columns` and `rows` of a component.
    columns: usize,
    rows: usize,
    components: Vec<Component>,
}

/// The coefficients of a scan (spectral selection).
struct Band {
    first: usize,
    last: usize,
    /// Whether earlier scans contained the higher bits of these coefficients.
    refines: bool,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    frame: Frame,
    dc_tables: [Option<HuffmanTable>; 4],
    ac_tables: [Option<HuffmanTable>; 4],
    restart: usize,
}

/// Checks a JPEG. A JPEG that is too large or of an unsupported kind (arithmetic coding, lossless) is left to the
/// decoder, which refuses it.
pub(crate) fn check_complete(bytes: &[u8]) -> Result<(), String> {
    let frame = Frame::default();
    let (dc_tables, ac_tables) = ([const { None }; 4], [const { None }; 4]);
    Reader { bytes, at: 2, frame, dc_tables, ac_tables, restart: 0 }.read()
}

fn truncated(what: &str) -> String {
    format!("the JPEG is truncated: {what}")
}

fn damaged(what: &str) -> String {
    format!("the JPEG is damaged: {what}")
}

impl<'a> Reader<'a> {
    fn read(mut self) -> Result<(), String> {
        let mut scans = 0;
        loop {
            let marker = self.marker().ok_or_else(|| truncated("its end marker is missing"))?;
            match marker {
                // Markers without a length: restarts after the last scan, and markers without meaning.
                0x01 | 0xd0..=0xd8 => {}
                0xd9 => break,
                0xc4 => {
                    let segment = self.segment()?;
                    self.tables(segment)?;
                }
                0xc0..=0xc2 => {
                    let segment = self.segment()?;
                    if !self.frame.components.is_empty() {
                        return Err(damaged("it has two frame headers"));
                    }
                    match Frame::read(segment, marker == 0xc2)? {
                        Some(frame) => self.frame = frame,
                        None => return Ok(()),
                    }
                }
                0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => return Ok(()),
                0xdd => match *self.segment()? {
                    [high, low, ..] => self.restart = usize::from(u16::from_be_bytes([high, low])),
                    _ => return Err(damaged("a restart interval is missing")),
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
            return Err(truncated("it ends in its header"));
        }
        if self.frame.components.iter().any(|component| !component.has_dc) {
            return Err(truncated("data of one colour component are missing"));
        }
        Ok(())
    }

    /// The next marker. Bytes before it are skipped, as in libjpeg.
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

    /// The data of a segment, which has a length after its marker.
    fn segment(&mut self) -> Result<&'a [u8], String> {
        let missing = || truncated("it ends in its header");
        let ahead = self.bytes.get(self.at..).unwrap_or_default();
        let &[high, low, ..] = ahead else { return Err(missing()) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length < 2 {
            return Err(damaged("a segment has no length"));
        }
        self.at += length;
        ahead.get(2..length).ok_or_else(missing)
    }

    fn tables(&mut self, mut segment: &[u8]) -> Result<(), String> {
        while let [kind, rest @ ..] = segment {
            let (table, rest) = HuffmanTable::read(rest).ok_or_else(|| damaged("a Huffman table is invalid"))?;
            let class = if kind & 0xf0 == 0 { &mut self.dc_tables } else { &mut self.ac_tables };
            class[usize::from(kind & 3)] = Some(table);
            segment = rest;
        }
        Ok(())
    }

    fn scan(&mut self, segment: &[u8]) -> Result<(), String> {
        let header = || damaged("a scan header is invalid");
        let count = usize::from(*segment.first().ok_or_else(header)?);
        let (named, rest) = segment.get(1..).and_then(|rest| rest.split_at_checked(2 * count)).ok_or_else(header)?;
        let &[first, last, bits, ..] = rest else { return Err(header()) };
        let progressive = self.frame.progressive;
        let band = if progressive { (usize::from(first), usize::from(last)) } else { (0, 63) };
        let band = Band { first: band.0, last: band.1, refines: progressive && bits >> 4 != 0 };
        let dc_only = band.first == 0 && band.last == 0;
        let fits = band.first <= band.last && band.last < 64;
        if count == 0 || !fits || progressive && !dc_only && (band.first == 0 || count > 1) {
            return Err(header());
        }
        let mut parts = Vec::new();
        for pair in named.as_chunks::<2>().0 {
            let found = self.frame.components.iter().position(|component| component.id == pair[0]);
            parts.push((found.ok_or_else(header)?, usize::from(pair[1] >> 4) & 3, usize::from(pair[1]) & 3));
        }
        let mut bits = BitReader::new(self.bytes, self.at);
        let result = self.blocks(&mut bits, &parts, &band);
        self.at = bits.at();
        result
    }

    /// Reads the blocks of a scan. `parts` are components with their tables.
    fn blocks(&mut self, bits: &mut BitReader, parts: &[(usize, usize, usize)], band: &Band) -> Result<(), String> {
        let frame = &self.frame;
        // A scan of a single component has no padding to whole units.
        let alone = parts.len() == 1;
        let (across, down) = if alone { frame.component_blocks(parts[0].0) } else { frame.mcus() };
        let height = frame.height;
        let line = |row: usize| format!("line {} of {height}", (row * height / down.max(1)).min(height));
        let (mut left, mut expected, mut eob_run) = (self.restart, 0, 0);
        for row in 0..down {
            for column in 0..across {
                if self.restart != 0 && left == 0 {
                    match bits.next_marker() {
                        Some(found @ 0xd0..=0xd7) if found & 7 == expected => {}
                        Some(0xd0..=0xd7) => return Err(damaged(&format!("data are missing at {}", line(row)))),
                        _ => return Err(truncated(&format!("its data end at {}", line(row)))),
                    }
                    (left, expected, eob_run) = (self.restart, (expected + 1) & 7, 0);
                }
                left = left.wrapping_sub(1);
                for &(index, dc_table, ac_table) in parts {
                    let component = &mut self.frame.components[index];
                    component.has_dc |= band.first == 0;
                    let (columns, rows) = if alone { (1, 1) } else { (component.columns, component.rows) };
                    for place in 0..columns * rows {
                        let (x, y) = (column * columns + place % columns, row * rows + place / columns);
                        let tables = (self.dc_tables[dc_table].as_ref(), self.ac_tables[ac_table].as_ref());
                        let done = if self.frame.progressive {
                            let mut unused = 0;
                            let nonzero = component.nonzero.get_mut(y * component.stride + x).unwrap_or(&mut unused);
                            progressive(bits, tables, band, nonzero, &mut eob_run)
                        } else {
                            sequential(bits, tables)
                        };
                        done.map_err(|error| match error {
                            ScanError::Truncated => truncated(&format!("its data end at {}", line(row))),
                            ScanError::InvalidCode => damaged(&format!("its data cannot be read at {}", line(row))),
                            ScanError::MissingTable => damaged("a Huffman table is missing"),
                        })?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Frame {
    /// Parses a frame header; `None` for a frame that the decoder refuses.
    fn read(segment: &[u8], progressive: bool) -> Result<Option<Frame>, String> {
        let header = || damaged("the frame header is invalid");
        let &[precision, h1, h0, w1, w0, count, ref rest @ ..] = segment else { return Err(header()) };
        let (height, width) = (u16::from_be_bytes([h1, h0]), u16::from_be_bytes([w1, w0]));
        // The decoder refuses images with more pixels.
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
        let (across, down) = frame.mcus();
        for part in parts {
            let (columns, rows) = size(part);
            let stride = across * columns;
            let nonzero = if progressive { vec![0; stride * down * rows] } else { Vec::new() };
            frame.components.push(Component { id: part[0], columns, rows, stride, nonzero, has_dc: false });
        }
        Ok(Some(frame))
    }

    /// Minimum coded units per row and column, for a scan of several components.
    fn mcus(&self) -> (usize, usize) {
        (self.width.div_ceil(8 * self.columns), self.height.div_ceil(8 * self.rows))
    }

    /// Blocks per row and column, for a scan of one component.
    fn component_blocks(&self, index: usize) -> (usize, usize) {
        let component = &self.components[index];
        let blocks = |length: usize, own: usize, most: usize| (length * own).div_ceil(most).div_ceil(8);
        (blocks(self.width, component.columns, self.columns), blocks(self.height, component.rows, self.rows))
    }
}

type TablePair<'a> = (Option<&'a HuffmanTable>, Option<&'a HuffmanTable>);

fn sequential(bits: &mut BitReader, (dc_table, ac_table): TablePair) -> Result<(), ScanError> {
    let (dc_table, ac_table) = (dc_table.ok_or(ScanError::MissingTable)?, ac_table.ok_or(ScanError::MissingTable)?);
    let size = bits.symbol(dc_table)?;
    bits.skip(size)?;
    let mut at = 1;
    while at < 64 {
        let symbol = bits.symbol(ac_table)?;
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
    bits: &mut BitReader,
    (dc_table, ac_table): TablePair,
    band: &Band,
    nonzero: &mut u64,
    eob_run: &mut u32,
) -> Result<(), ScanError> {
    if band.first == 0 {
        let size = if band.refines { 1 } else { bits.symbol(dc_table.ok_or(ScanError::MissingTable)?)? };
        return bits.skip(size);
    }
    let table = ac_table.ok_or(ScanError::MissingTable)?;
    let mut at = band.first;
    while *eob_run == 0 && at <= band.last {
        let symbol = bits.symbol(table)?;
        let (mut zeros, size) = (symbol >> 4, symbol & 15);
        if size == 0 && zeros != 15 {
            // The length of a run of blocks without further coefficients in this band, including this block.
            *eob_run = (1 << zeros) + bits.take(zeros)?;
            break;
        }
        if band.refines && size > 1 {
            return Err(ScanError::InvalidCode);
        }
        bits.skip(size)?;
        while at <= band.last {
            if band.refines && *nonzero >> at & 1 == 1 {
                bits.skip(1)?;
            } else if zeros == 0 {
                break;
            } else {
                zeros -= 1;
            }
            at += 1;
        }
        if size != 0 && at <= band.last {
            *nonzero |= 1 << at;
        }
        at += 1;
    }
    if *eob_run > 0 {
        if band.refines && at <= band.last {
            let ahead = *nonzero >> at << (63 - band.last + at);
            for _ in 0..ahead.count_ones() {
                bits.skip(1)?;
            }
        }
        *eob_run -= 1;
    }
    Ok(())
}

/// Code length that is decoded with a lookup table; longer codes are searched by length.
const LOOKUP_BITS: u32 = 9;

/// Why a block cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScanError {
    Truncated,
    /// No code begins with these bits.
    InvalidCode,
    /// The scan uses a table that is not defined.
    MissingTable,
}

/// A Huffman table.
struct HuffmanTable {
    /// Length and symbol by the first bits; length 0 means a longer code.
    lookup: Vec<(u8, u8)>,
    /// By code length: the first code that is too large, aligned to 16 bits, and the offset from a code to its index in
    /// `symbols`.
    limits: [(u32, i32); 17],
    symbols: Vec<u8>,
}

impl HuffmanTable {
    /// Parses a table (B.2.4.2) and returns the remaining bytes.
    fn read(bytes: &[u8]) -> Option<(HuffmanTable, &[u8])> {
        let (counts, rest) = bytes.split_at_checked(16)?;
        let total: usize = counts.iter().map(|&count| usize::from(count)).sum();
        let (symbols, rest) = rest.split_at_checked(total)?;
        let mut table =
            HuffmanTable { lookup: vec![(0, 0); 1 << LOOKUP_BITS], limits: [(0, 0); 17], symbols: symbols.to_vec() };
        let (mut code, mut index) = (0u32, 0usize);
        for (length, &count) in (1u32..).zip(counts) {
            let offset = index as i32 - code as i32;
            for _ in 0..count {
                if code >> length != 0 {
                    return None;
                }
                if length <= LOOKUP_BITS {
                    let first = (code << (LOOKUP_BITS - length)) as usize;
                    table.lookup[first..first + (1 << (LOOKUP_BITS - length))].fill((length as u8, symbols[index]));
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

/// Reads the bits of a scan up to its next marker.
struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next bits, from the highest bit down, followed by zeros.
    buffer: u64,
    count: u32,
}

impl<'a> BitReader<'a> {
    fn new(bytes: &'a [u8], at: usize) -> BitReader<'a> {
        BitReader { bytes, at, buffer: 0, count: 0 }
    }

    /// Position in the file: at a marker, or before one.
    fn at(&self) -> usize {
        self.at
    }

    /// Fills the buffer to at least 32 bits, unless a marker or the end of the file is reached.
    fn fill(&mut self) {
        if self.count <= 32
            && let Some(four) = self.bytes.get(self.at..).and_then(|ahead| ahead.first_chunk::<4>())
            && !four.contains(&0xff)
        {
            self.buffer |= u64::from(u32::from_be_bytes(*four)) << (32 - self.count);
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
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    fn consume(&mut self, count: u32) -> Result<(), ScanError> {
        if count > self.count {
            return Err(ScanError::Truncated);
        }
        self.buffer <<= count;
        self.count -= count;
        Ok(())
    }

    /// Decodes the next symbol.
    fn symbol(&mut self, table: &HuffmanTable) -> Result<u8, ScanError> {
        if self.count < 32 {
            self.fill();
        }
        let (length, symbol) = table.lookup[(self.buffer >> (64 - LOOKUP_BITS)) as usize];
        if length != 0 {
            self.consume(u32::from(length))?;
            return Ok(symbol);
        }
        let ahead = (self.buffer >> 48) as u32;
        for length in LOOKUP_BITS + 1..=16 {
            let (limit, offset) = table.limits[length as usize];
            if ahead < limit {
                self.consume(length)?;
                let index = (ahead >> (16 - length)) as i32 + offset;
                return table.symbols.get(index as usize).copied().ok_or(ScanError::InvalidCode);
            }
        }
        Err(if self.count < 16 { ScanError::Truncated } else { ScanError::InvalidCode })
    }

    /// Skips up to 16 bits.
    fn skip(&mut self, count: u8) -> Result<(), ScanError> {
        if count > 16 {
            return Err(ScanError::InvalidCode);
        }
        if self.count < u32::from(count) {
            self.fill();
        }
        self.consume(u32::from(count))
    }

    /// Reads up to 16 bits as a number.
    fn take(&mut self, count: u8) -> Result<u32, ScanError> {
        let count = u32::from(count);
        if count == 0 {
            return Ok(0);
        }
        if count > 16 {
            return Err(ScanError::InvalidCode);
        }
        if self.count < count {
            self.fill();
        }
        let number = (self.buffer >> (64 - count)) as u32;
        self.consume(count)?;
        Ok(number)
    }

    /// Skips to the next marker and past it; remaining bits are dropped.
    fn next_marker(&mut self) -> Option<u8> {
        (self.buffer, self.count) = (0, 0);
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
