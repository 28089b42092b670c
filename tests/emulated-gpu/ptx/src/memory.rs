//! The memory of the device: ranges of the host's memory. An access outside of them is an error.

/// An allocation: its first address, and the address behind its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: u64,
    pub end: u64,
}

/// How a kernel used an allocation, as bits.
pub const READ: u8 = 1;
pub const WRITE: u8 = 2;
pub(crate) const ATOMIC: u8 = 4;

/// All allocations of a device in ascending order, as they are while a kernel runs.
#[derive(Clone, Debug, Default)]
pub struct Spans(Vec<Span>);

impl Spans {
    /// From ranges in ascending order.
    pub fn new(spans: Vec<Span>) -> Spans {
        debug_assert!(spans.windows(2).all(|pair| pair[0].end <= pair[1].start));
        Spans(spans)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn at(&self, index: usize) -> Span {
        self.0[index]
    }

    /// The allocation that contains an address.
    pub fn find(&self, address: u64) -> Option<(usize, Span)> {
        let index = self.0.partition_point(|span| span.end <= address);
        let span = *self.0.get(index)?;
        (span.start <= address).then_some((index, span))
    }

    /// Describes an address that is in no allocation by the nearest one, for a message.
    pub fn describe(&self, address: u64) -> String {
        const NEAR: u64 = 1 << 20;
        let index = self.0.partition_point(|span| span.end <= address);
        let before = index.checked_sub(1).and_then(|index| self.0.get(index));
        let size = |span: &Span| span.end - span.start;
        match (before, self.0.get(index)) {
            (_, Some(span)) if span.start <= address => {
                format!("{} bytes before the end of an allocation of {} bytes", span.end - address, size(span))
            }
            (Some(span), _) if address - span.end < NEAR => {
                format!("{} bytes behind the end of an allocation of {} bytes", address - span.end, size(span))
            }
            (_, Some(span)) if span.start - address < NEAR => {
                format!("{} bytes before an allocation of {} bytes", span.start - address, size(span))
            }
            _ => "near no allocation".to_string(),
        }
    }
}

/// Bytes at an address that is a multiple of 16.
#[derive(Debug, Default)]
pub struct Buffer {
    blocks: Vec<u128>,
    len: usize,
}

impl Buffer {
    pub fn new(len: usize, byte: u8) -> Buffer {
        Buffer { blocks: vec![u128::from_ne_bytes([byte; 16]); len.div_ceil(16)], len }
    }

    pub fn from_bytes(bytes: &[u8]) -> Buffer {
        let mut buffer = Buffer::new(bytes.len(), 0);
        buffer.bytes_mut().copy_from_slice(bytes);
        buffer
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn address(&self) -> u64 {
        self.blocks.as_ptr() as u64
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the blocks have at least `len` initialized bytes.
        unsafe { std::slice::from_raw_parts_mut(self.blocks.as_mut_ptr().cast(), self.len) }
    }

    pub(crate) fn fill(&mut self, byte: u8) {
        self.blocks.fill(u128::from_ne_bytes([byte; 16]));
    }

    pub(crate) fn start(&mut self) -> *mut u8 {
        self.blocks.as_mut_ptr().cast()
    }

    /// The address of a byte. `offset` must be below the length.
    #[inline(always)]
    pub(crate) fn pointer(&mut self, offset: usize) -> *mut u8 {
        debug_assert!(offset < self.len);
        // SAFETY: the caller has checked the offset.
        unsafe { self.start().add(offset) }
    }
}
