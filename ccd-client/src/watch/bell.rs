//! One descriptor to wait on: readable when the connection of the moment has something, or a time has come, or events wait.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Nobody waits longer at once; who wants to, waits again.
const WAIT_MAX: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(super) struct Bell {
    epoll: Epoll,
    timer: TimerFd,
    held: EventFd,
}

impl Bell {
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let held = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        epoll.add(&held, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self { epoll, timer, held })
    }

    /// Also for what this receives, until it is closed.
    pub fn watch(&self, connection: &impl AsFd) {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, 0);
        if self.epoll.add(connection, event).is_err() {
            // Without it the timer alone leads back here.
            self.ring_within(Duration::from_millis(100));
        }
    }

    /// Also when this time is over; in place of any time that was set before.
    pub fn ring_within(&self, time: Duration) {
        let time = time.max(Duration::from_millis(1));
        let expiration = Expiration::OneShot(TimeSpec::from_duration(time));
        // It fails for times that no clock has.
        let _ = self.timer.set(expiration, TimerSetTimeFlags::empty());
    }

    /// The time has come and was noticed.
    pub fn silence(&self) {
        if matches!(self.timer.get(), Ok(None)) {
            // Nothing is there to be read if it has not rung.
            let _ = nix::unistd::read(&self.timer, &mut [0; 8]);
        }
    }

    /// Rings as long as events wait.
    pub fn hold(&self, waiting: bool) {
        // What cannot be read was not written, and what was written twice is read once.
        let _ = self.held.read();
        if waiting {
            let _ = self.held.write(1);
        }
    }

    /// Waits until it rings, or the time is over, or a signal came.
    pub fn wait(&self, time: Duration) {
        let time = time.min(WAIT_MAX);
        // Rounded up: a wait that ends too early is done again.
        let millis = i32::try_from(time.as_millis() + 1).unwrap_or(i32::MAX);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        let mut descriptors = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut descriptors, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            // It cannot be waited for; asking without a pause would take a processor.
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}
