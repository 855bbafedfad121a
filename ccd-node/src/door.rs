//! The way to the event loop for tasks of its own thread: straight in while nothing waits, else onto a channel behind what does.
//!
//! A channel, a bell and another task's turn cost as much as the request that they carry, and an update goes that way three times.
//! What is always kept: what came first is handled first, for nobody goes in before what waits; the loop may refuse at any
//! time, and does so once it has let in as much in a row as it takes from the channel in one turn.

use crate::outlet::Outlet;
use std::fmt;
use std::rc::Rc;
use tokio::sync::mpsc::error::SendError;

/// Handles the item at once (`None`), or gives it back.
pub type AtOnce<T> = Rc<dyn Fn(T) -> Option<T>>;

pub struct Door<T> {
    outlet: Outlet<T>,
    at_once: AtOnce<T>,
}

impl<T> Door<T> {
    pub fn new(outlet: Outlet<T>, at_once: AtOnce<T>) -> Self {
        Self { outlet, at_once }
    }

    /// Waits for room, if it has to wait at all.
    ///
    /// # Errors
    /// When the loop has ended.
    pub async fn send(&self, item: T) -> Result<(), SendError<T>> {
        let item = if self.outlet.is_empty() {
            (self.at_once)(item)
        } else {
            Some(item)
        };
        match item {
            Some(item) => self.outlet.send(item).await,
            None => Ok(()),
        }
    }
}

impl<T> fmt::Debug for Door<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outlet::{self, Bell};
    use std::cell::{Cell, RefCell};

    #[tokio::test]
    async fn nothing_overtakes_what_waits() {
        let (outlet, mut inlet) = outlet::channel(8, &Bell::default());
        let handled = Rc::new(RefCell::new(Vec::new()));
        let open = Rc::new(Cell::new(true));
        let (seen, is_open) = (handled.clone(), open.clone());
        let at_once = move |item| {
            if !is_open.get() {
                return Some(item);
            }
            seen.borrow_mut().push(item);
            None
        };
        let door = Door::new(outlet, Rc::new(at_once));
        door.send(1).await.unwrap();
        open.set(false);
        door.send(2).await.unwrap();
        open.set(true);
        door.send(3).await.unwrap();
        assert_eq!(*handled.borrow(), [1], "2 waits, and 3 behind it");
        for expected in [2, 3] {
            assert_eq!(inlet.try_recv(), Ok(expected));
        }
        door.send(4).await.unwrap();
        assert_eq!(*handled.borrow(), [1, 4]);
        assert!(inlet.try_recv().is_err());
    }
}
