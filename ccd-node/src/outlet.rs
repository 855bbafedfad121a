//! Ways to the event loop. It sleeps on one bell, which rings whenever something was put on any of them, and then looks at
//! each without waiting: polling every channel by itself cost more than what came through it.

use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendError;

/// Wakes the event loop, from any thread.
pub type Bell = Arc<tokio::sync::Notify>;

/// The sending end of a bounded channel that the event loop empties.
#[derive(Debug)]
pub struct Outlet<T> {
    sender: mpsc::Sender<T>,
    bell: Bell,
}

impl<T> Clone for Outlet<T> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            bell: self.bell.clone(),
        }
    }
}

/// A channel on which so much may wait.
pub fn channel<T>(waiting_max: usize, bell: &Bell) -> (Outlet<T>, mpsc::Receiver<T>) {
    let (sender, inlet) = mpsc::channel(waiting_max);
    let bell = bell.clone();
    (Outlet { sender, bell }, inlet)
}

impl<T> Outlet<T> {
    /// Waits for room.
    ///
    /// # Errors
    /// When the loop has ended.
    pub async fn send(&self, item: T) -> Result<(), SendError<T>> {
        self.sender.send(item).await?;
        self.bell.notify_one();
        Ok(())
    }

    /// Whether the loop has taken everything that was sent.
    pub fn is_empty(&self) -> bool {
        self.sender.capacity() == self.sender.max_capacity()
    }

    /// As [`send`](Self::send), on a thread that may block.
    ///
    /// # Errors
    /// When the loop has ended.
    pub fn blocking_send(&self, item: T) -> Result<(), SendError<T>> {
        self.sender.blocking_send(item)?;
        self.bell.notify_one();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn whoever_sleeps_on_the_bell_finds_what_was_sent_from_here_or_a_thread() {
        let bell = Bell::default();
        let (outlet, mut inlet) = channel(2, &bell);
        let patience = Duration::from_secs(10);
        outlet.send(1).await.unwrap();
        tokio::time::timeout(patience, bell.notified()).await.unwrap();
        assert_eq!(inlet.try_recv(), Ok(1));
        let far = outlet.clone();
        let thread = std::thread::spawn(move || far.blocking_send(2).unwrap());
        tokio::time::timeout(patience, bell.notified()).await.unwrap();
        assert_eq!(inlet.try_recv(), Ok(2));
        thread.join().unwrap();
        drop(inlet);
        assert!(outlet.send(3).await.is_err());
    }
}
