//! The values that the fused operations compute with: numbers, and a place for their gradient. Knows no operation.

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;

use super::super::buffer::Buffer;
use super::super::kernels::elementwise::accumulate;
use super::super::kernels::matmul::Accumulate;

/// Numbers, a token per row, and what a backward pass finds of their gradient. A clone is the same value.
#[derive(Clone)]
pub(crate) struct Value(Rc<Inner>);

struct Inner {
    numbers: Buffer,
    width: usize,
    gradient: Gradient,
}

impl Value {
    /// Rows of `width` numbers.
    pub(super) fn new(numbers: Buffer, width: usize) -> Value {
        Value(Rc::new(Inner { numbers, width, gradient: Gradient::default() }))
    }

    pub(super) fn width(&self) -> usize {
        self.0.width
    }

    pub(super) fn rows(&self) -> usize {
        self.0.numbers.len() / self.0.width.max(1)
    }

    pub(super) fn gradient(&self) -> Gradient {
        self.0.gradient.clone()
    }

    /// Its numbers to be changed: a copy, if others need them as they are.
    pub(super) fn into_numbers(self) -> Buffer {
        Rc::try_unwrap(self.0).map_or_else(|shared| Buffer::copy(&shared.numbers), |inner| inner.numbers)
    }
}

impl Deref for Value {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0.numbers
    }
}

/// The gradient of a value, empty until the first of the operations that use the value adds to it. A clone is the same
/// gradient; it does not hold the value.
#[derive(Clone, Default)]
pub(super) struct Gradient(Rc<RefCell<Option<Rc<Buffer>>>>);

impl Gradient {
    /// What has arrived for a value of so many numbers. The value's own operation reads it, once.
    pub(super) fn take(&self, count: usize) -> Rc<Buffer> {
        self.0.take().unwrap_or_else(|| Rc::new(Buffer::zeros(count)))
    }

    /// The same, to be changed.
    pub(super) fn take_numbers(&self, count: usize) -> Buffer {
        Rc::unwrap_or_clone(self.take(count))
    }

    /// Adds to it with something that adds or, the first time, replaces what is there.
    pub(super) fn receive(&self, count: usize, receive: impl FnOnce(&mut [f32], Accumulate)) {
        let mut held = self.0.borrow_mut();
        match &mut *held {
            Some(gradient) => receive(own(gradient), Accumulate::Yes),
            None => receive(own(held.insert(Rc::new(Buffer::unset(count)))), Accumulate::No),
        }
    }

    /// The same with something that can only add.
    pub(super) fn add(&self, count: usize, add: impl FnOnce(&mut [f32])) {
        add(own(self.0.borrow_mut().get_or_insert_with(|| Rc::new(Buffer::zeros(count)))));
    }

    /// Adds numbers to it, which others may hold too.
    pub(super) fn put(&self, numbers: Rc<Buffer>) {
        let mut held = self.0.borrow_mut();
        match &mut *held {
            Some(gradient) => accumulate(own(gradient), &numbers),
            None => *held = Some(numbers),
        }
    }
}

/// Numbers to be changed: a copy takes their place, if others hold them too.
fn own(numbers: &mut Rc<Buffer>) -> &mut Buffer {
    Rc::make_mut(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gradient_is_the_sum_of_what_arrives_whichever_way() {
        let value = Value::new(Buffer::copy(&[1.0, 2.0]), 2);
        let gradient = value.gradient();
        let first = Rc::new(Buffer::copy(&[3.0, 4.0]));
        gradient.put(first.clone());
        gradient.put(Rc::new(Buffer::copy(&[1.0, 1.0])));
        assert_eq!(first[..], [3.0, 4.0], "it is somebody else's, too");
        gradient.add(2, |sum| sum[0] += 0.5);
        gradient.receive(2, |sum, into| {
            assert!(into == Accumulate::Yes);
            sum[1] += 0.5;
        });
        assert_eq!(value.gradient().take(2)[..], [4.5, 5.5]);
        assert_eq!(gradient.take_numbers(2)[..], [0.0, 0.0], "it has been read");
        gradient.receive(2, |sum, into| {
            assert!(into == Accumulate::No);
            sum.copy_from_slice(&[7.0, 8.0]);
        });
        assert_eq!(gradient.take(2)[..], [7.0, 8.0]);
    }

    #[test]
    fn numbers_are_changed_in_place_unless_others_hold_them() {
        let value = Value::new(Buffer::copy(&[1.0, 2.0]), 1);
        let (held, place) = (value.clone(), value.as_ptr());
        let mut copy = value.into_numbers();
        copy[0] = 9.0;
        assert_eq!((held[..].to_vec(), held.rows(), held.width()), (vec![1.0, 2.0], 2, 1));
        assert_eq!(held.into_numbers().as_ptr(), place);
    }
}
