//! How many bytes are held for somebody: one count with many hands on it. On the event loop's thread alone.

use std::cell::Cell;
use std::rc::Rc;

/// Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Rc<Cell<usize>>);

impl Gauge {
    pub fn bytes(&self) -> usize {
        self.0.get()
    }
    pub fn add(&self, bytes: usize) {
        self.0.set(self.0.get() + bytes);
    }
    /// At most what was added before.
    pub fn subtract(&self, bytes: usize) {
        self.0.set(self.0.get() - bytes);
    }
}

/// Bytes that are held: counted by all of its gauges, and no more once it is dropped.
#[derive(Debug, Default)]
pub struct Held {
    gauges: Vec<Gauge>,
    bytes: usize,
}

impl Held {
    pub fn new(gauges: impl Into<Vec<Gauge>>) -> Self {
        let gauges = gauges.into();
        Self { gauges, bytes: 0 }
    }

    pub fn set(&mut self, bytes: usize) {
        for gauge in &self.gauges {
            gauge.subtract(self.bytes);
            gauge.add(bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_held_no_more() {
        let (one, all) = (Gauge::default(), Gauge::default());
        let mut first = Held::new([one.clone(), all.clone()]);
        let mut second = Held::new([all.clone()]);
        first.set(10);
        second.set(5);
        first.set(3);
        assert_eq!((one.bytes(), all.bytes()), (3, 8));
        drop(first);
        assert_eq!((one.bytes(), all.bytes()), (0, 5));
    }
}
