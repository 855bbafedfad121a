//! Writing to a socket from the event loop without ever waiting for it.
//!
//! The loop appends bytes and flushes: what the kernel takes is gone at once, with no other task in between; the rest
//! stays here and is written by [`Outbox::drain`], which a task of the connection runs. A receiver that lets more
//! than the limit pile up is disconnected.

use crate::gauge::{Gauge, Held};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use tokio::net::TcpStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Notify;

/// A message of more bytes is not copied.
const LONG_BYTES: usize = 64 << 10;

/// What both kinds of sockets can do.
pub trait Socket {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    fn writable(&self) -> impl Future<Output = io::Result<()>>;
}

impl Socket for TcpStream {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        TcpStream::try_write(self, bytes)
    }
    fn writable(&self) -> impl Future<Output = io::Result<()>> {
        TcpStream::writable(self)
    }
}

impl Socket for OwnedWriteHalf {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        OwnedWriteHalf::try_write(self, bytes)
    }
    fn writable(&self) -> impl Future<Output = io::Result<()>> {
        OwnedWriteHalf::writable(self)
    }
}

/// The sending side of one connection.
#[derive(Debug)]
pub struct Outbox<S> {
    socket: Rc<S>,
    /// What is sent now.
    backlog: RefCell<Vec<u8>>,
    /// What comes after it, in order: a long message is not copied behind another.
    later: RefCell<VecDeque<Vec<u8>>>,
    later_bytes: Cell<usize>,
    /// Bytes of it that are with the kernel already. They go when they are the larger part: what is left is not moved after each write.
    sent_bytes: Cell<usize>,
    held: RefCell<Held>,
    backlog_bytes_max: usize,
    /// Bytes of memory that are kept when nothing waits. One big message must not keep its own for ever; but one piece of a copy
    /// follows another, and memory that was given back is filled with zeros anew for each.
    kept_bytes: usize,
    /// The connection must end: the receiver is gone or too slow.
    broken: Cell<bool>,
    changed: Notify,
}

impl<S: Socket> Outbox<S> {
    pub fn new(socket: Rc<S>, backlog_bytes_max: usize) -> Self {
        Self {
            socket,
            backlog: RefCell::default(),
            later: RefCell::default(),
            later_bytes: Cell::new(0),
            sent_bytes: Cell::new(0),
            held: RefCell::default(),
            backlog_bytes_max,
            kept_bytes: 1 << 20,
            broken: Cell::new(false),
            changed: Notify::new(),
        }
    }

    /// As [`new`](Self::new) for one of many connections: what is not sent yet is counted by these gauges, and little is kept.
    pub fn counted(socket: Rc<S>, backlog_bytes_max: usize, gauges: impl Into<Vec<Gauge>>) -> Self {
        Self {
            held: RefCell::new(Held::new(gauges)),
            kept_bytes: 1 << 16,
            ..Self::new(socket, backlog_bytes_max)
        }
    }

    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// Lets `append` add bytes to what is to be sent.
    pub fn append<T>(&self, append: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut later = self.later.borrow_mut();
        if later.is_empty() {
            return append(&mut self.backlog.borrow_mut());
        }
        if later.back().is_none_or(|last| last.len() > LONG_BYTES) {
            later.push_back(Vec::new());
        }
        let Some(last) = later.back_mut() else {
            return append(&mut self.backlog.borrow_mut());
        };
        let before = last.len();
        let appended = append(last);
        self.later_bytes.set(self.later_bytes.get() + last.len() - before);
        appended
    }

    /// Adds a message that may be long, without copying it.
    pub fn append_whole(&self, message: Vec<u8>) {
        if message.len() <= LONG_BYTES {
            return self.append(|out| out.extend_from_slice(&message));
        }
        if self.is_empty() {
            self.sent_bytes.set(0);
            self.backlog.replace(message);
        } else {
            self.later_bytes.set(self.later_bytes.get() + message.len());
            self.later.borrow_mut().push_back(message);
        }
    }

    /// Hands over to the kernel what it takes now.
    pub fn flush(&self) {
        if self.broken.get() {
            return;
        }
        if self.write().is_err() || self.backlog_bytes() > self.backlog_bytes_max {
            self.end();
        } else if !self.is_empty() {
            self.changed.notify_one();
        }
    }

    fn write(&self) -> io::Result<()> {
        let mut backlog = self.backlog.borrow_mut();
        let mut sent = self.sent_bytes.get();
        let outcome = loop {
            if sent == backlog.len() {
                let Some(next) = self.later.borrow_mut().pop_front() else {
                    break Ok(());
                };
                self.later_bytes.set(self.later_bytes.get() - next.len());
                *backlog = next;
                sent = 0;
                continue;
            }
            match self.socket.try_write(&backlog[sent..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => sent += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if sent > backlog.len() / 2 {
            backlog.drain(..std::mem::take(&mut sent));
        }
        if backlog.is_empty() {
            backlog.shrink_to(self.kept_bytes);
        }
        self.sent_bytes.set(sent);
        self.held
            .borrow_mut()
            .set(backlog.len() - sent + self.later_bytes.get());
        outcome
    }

    /// What the receiver has not taken yet.
    pub fn backlog_bytes(&self) -> usize {
        self.backlog.borrow().len() - self.sent_bytes.get() + self.later_bytes.get()
    }

    /// The socket, if nobody else has it and nothing is left to be sent.
    pub fn into_socket(self) -> Option<S> {
        let is_clean = self.is_empty() && !self.broken.get();
        Rc::into_inner(self.socket).filter(|_| is_clean)
    }

    pub fn is_empty(&self) -> bool {
        self.backlog_bytes() == 0
    }

    /// Ends the connection: [`drain`](Self::drain) returns.
    pub fn end(&self) {
        self.broken.set(true);
        self.changed.notify_one();
    }

    /// Writes what [`flush`](Self::flush) left over, until nothing is left or the connection must end.
    pub async fn drained(&self) {
        while !self.broken.get() && !self.is_empty() {
            if self.socket.writable().await.is_err() || self.write().is_err() {
                self.broken.set(true);
            }
        }
    }

    /// Writes what [`flush`](Self::flush) left over, until the connection must end.
    pub async fn drain(&self) {
        while !self.broken.get() {
            if self.is_empty() {
                self.changed.notified().await;
                continue;
            }
            tokio::select! {
                ready = self.socket.writable() => {
                    if ready.is_err() || self.write().is_err() {
                        self.broken.set(true);
                    }
                }
                () = self.changed.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that takes so many bytes at each of these writes, and nothing at a zero.
    struct Slow {
        takes: RefCell<Vec<usize>>,
        taken: RefCell<Vec<u8>>,
    }

    impl Socket for Slow {
        fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
            let takes = self.takes.borrow_mut().pop().unwrap_or_default().min(bytes.len());
            if takes == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.taken.borrow_mut().extend_from_slice(&bytes[..takes]);
            Ok(takes)
        }

        async fn writable(&self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest::proptest! {
        #[test]
        fn everything_goes_out_once_and_in_order_however_little_is_taken_at_a_time(
            appended in proptest::collection::vec(proptest::prop_oneof![0..200_usize, LONG_BYTES..LONG_BYTES + 2000], 1..20),
            takes in proptest::collection::vec(proptest::prop_oneof![0..90_usize, 0..100_000_usize], 0..60),
        ) {
            let socket = Rc::new(Slow { takes: RefCell::new(takes), taken: RefCell::default() });
            let outbox = Outbox::new(socket.clone(), usize::MAX);
            let mut sent = Vec::new();
            for len in appended {
                let next = (sent.len()..sent.len() + len).map(|index| index as u8);
                sent.extend(next.clone());
                if len % 2 == 0 {
                    outbox.append(|out| out.extend(next));
                } else {
                    outbox.append_whole(next.collect());
                }
                outbox.flush();
                proptest::prop_assert_eq!(outbox.backlog_bytes(), sent.len() - socket.taken.borrow().len());
                proptest::prop_assert_eq!(outbox.is_empty(), outbox.backlog_bytes() == 0);
            }
            while !outbox.is_empty() {
                socket.takes.borrow_mut().push(70_000);
                outbox.flush();
            }
            proptest::prop_assert_eq!(&*socket.taken.borrow(), &sent);
            proptest::prop_assert!(outbox.backlog.borrow().is_empty(), "nothing is kept that was sent");
        }
    }
}
