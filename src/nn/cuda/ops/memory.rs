//! Memory of a GPU that is kept for later use when it is freed: after the first steps nothing is asked of the driver.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::Result;

use super::driver::Driver;
use crate::device_error::OutOfMemory;

/// Freed memory by size. All work is on one stream, so freed memory can be used again immediately.
pub(super) struct Pool {
    driver: Rc<dyn Driver>,
    free: RefCell<BTreeMap<usize, Vec<u64>>>,
}

/// A range of memory. It returns to its pool when it is dropped.
pub(crate) struct Buffer {
    address: u64,
    bytes: usize,
    pool: Rc<Pool>,
}

/// The part of a buffer from `start` bytes on. A clone is the same memory.
#[derive(Clone)]
pub(crate) struct Part {
    buffer: Rc<Buffer>,
    start: usize,
}

impl Part {
    pub(super) fn new(buffer: &Rc<Buffer>, start: usize) -> Part {
        assert!(start <= buffer.bytes, "BUG: byte {start} of {}", buffer.bytes);
        Part { buffer: buffer.clone(), start }
    }

    pub(super) fn address(&self) -> u64 {
        self.buffer.address + self.start as u64
    }
}

impl From<Rc<Buffer>> for Part {
    fn from(buffer: Rc<Buffer>) -> Part {
        Part { buffer, start: 0 }
    }
}

impl Pool {
    pub(super) fn new(driver: Rc<dyn Driver>) -> Pool {
        Pool { driver, free: RefCell::default() }
    }

    /// Bytes of freed memory.
    pub(super) fn idle_bytes(&self) -> usize {
        self.free.borrow().iter().map(|(size, addresses)| size * addresses.len()).sum()
    }

    /// Memory with arbitrary content.
    ///
    /// # Errors
    /// [`OutOfMemory`], also after all free memory went back to the driver.
    pub(super) fn allocate(pool: &Rc<Pool>, bytes: usize) -> Result<Buffer> {
        let bytes = size_class(bytes);
        if let Some((address, bytes)) = pool.reuse(bytes) {
            return Ok(Buffer { address, bytes, pool: pool.clone() });
        }
        let address = match pool.driver.allocate(bytes) {
            Err(error) if error.root_cause().is::<OutOfMemory>() => {
                pool.release()?;
                pool.driver.allocate(bytes)?
            }
            address => address?,
        };
        Ok(Buffer { address, bytes, pool: pool.clone() })
    }

    /// Free memory of at least this size and at most a quarter more.
    fn reuse(&self, bytes: usize) -> Option<(u64, usize)> {
        let mut free = self.free.borrow_mut();
        let (&size, addresses) = free.range_mut(bytes..=bytes + bytes / 4).next()?;
        let address = addresses.pop()?;
        if addresses.is_empty() {
            free.remove(&size);
        }
        Some((address, size))
    }

    /// Gives free memory back to the driver.
    fn release(&self) -> Result<()> {
        for (_, addresses) in std::mem::take(&mut *self.free.borrow_mut()) {
            for address in addresses {
                self.driver.free(address)?;
            }
        }
        // The driver frees when the stream gets there.
        self.driver.synchronize()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::debug!("memory of the GPU is not given back: {error:#}");
        }
    }
}

impl Buffer {
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.free.borrow_mut().entry(self.bytes).or_default().push(self.address);
    }
}

/// The size in which memory is asked for: an eighth of a power of two, so that a slightly larger batch fits into the memory of
/// the one before.
fn size_class(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 16).max(256);
    bytes.max(1).next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_are_at_most_an_eighth_larger() {
        for bytes in [1, 255, 256, 257, 4096, 4097, 5000, 1 << 20, (1 << 20) + 1, 3 << 20, 1 << 33] {
            let class = size_class(bytes);
            assert!(class >= bytes && class - bytes <= (bytes / 8).max(256), "{bytes}: {class}");
            assert_eq!(size_class(class), class);
        }
    }
}
