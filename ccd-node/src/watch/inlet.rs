//! What the hub is told by other threads, in order, and the bell that wakes it.
//!
//! Always holds: as long as nobody watches, nothing is told of updates; what waits is bounded, and what does not fit is left out
//! and said to be: whoever watches reads it from the disk.

use super::Start;
use super::past::Answer;
use crate::history::{Listener, Told};
use ccd_core::database::Database;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One thing that the hub is told.
#[derive(Debug)]
pub enum Word {
    /// Somebody wants to watch; this is what was told last.
    Start(Box<Start>, Database),
    /// This was committed.
    Told(Vec<Told>),
    /// More was committed than waits here: this version is the newest.
    Skipped(Database),
    /// From the thread that reads the past.
    Answer(Box<Answer>),
    /// Why this node does not serve; `None`: it does.
    Service(Option<String>),
    Close,
}

/// Tellings that wait for the hub. Each is what was committed within some 20 ms.
const TOLD_MAX: usize = 64;

#[derive(Debug, Default)]
struct Waiting {
    words: Vec<Word>,
    told: usize,
    skipped: Option<Database>,
}

#[derive(Debug)]
pub struct Inlet {
    waiting: Mutex<Waiting>,
    bell: EventFd,
    /// Somebody watches, or is about to.
    busy: AtomicBool,
    service: Mutex<Option<String>>,
}

impl Inlet {
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            waiting: Mutex::default(),
            bell: EventFd::from_value_and_flags(0, flags)?,
            busy: AtomicBool::new(false),
            service: Mutex::default(),
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Pushing and taking leave nothing half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, word: Word) {
        let mut waiting = self.waiting();
        if matches!(word, Word::Start(..)) {
            self.busy.store(true, Ordering::Release);
        }
        waiting.words.push(word);
        if waiting.words.len() == 1 {
            // Its counter does not overflow: it is rung once for each time that the hub looks.
            let _ = self.bell.write(1);
        }
    }

    fn tell(&self, told: Vec<Told>) {
        let mut waiting = self.waiting();
        if waiting.told < TOLD_MAX && waiting.skipped.is_none() {
            waiting.told += 1;
            drop(waiting);
            self.push(Word::Told(told));
        } else if let Some(last) = told.into_iter().next_back() {
            waiting.skipped = Some(last.after);
        }
    }

    /// Everything since the last time.
    pub fn take(&self) -> Vec<Word> {
        let mut waiting = self.waiting();
        // It is empty if the hub looks without having been rung for.
        let _ = self.bell.read();
        let Waiting {
            mut words, skipped, ..
        } = std::mem::take(&mut *waiting);
        words.extend(skipped.map(Word::Skipped));
        words
    }

    /// Nobody watches any more, unless somebody has come meanwhile.
    pub fn rest(&self) {
        let waiting = self.waiting();
        if !waiting.words.iter().any(|word| matches!(word, Word::Start(..))) {
            self.busy.store(false, Ordering::Release);
        }
    }

    /// Tells the hub of it if it is news.
    pub fn note_service(&self, why_not: Option<String>) {
        let mut service = self.service.lock().unwrap_or_else(PoisonError::into_inner);
        if *service != why_not {
            service.clone_from(&why_not);
            drop(service);
            self.push(Word::Service(why_not));
        }
    }
}

impl AsFd for Inlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Listener for Arc<Inlet> {
    fn is_listening(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    fn told(&mut self, told: Vec<Told>) {
        self.tell(told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_in_order_and_news_of_the_service_once() {
        let inlet = Inlet::new().expect("a descriptor");
        assert!(inlet.take().is_empty());
        inlet.note_service(Some("waiting".into()));
        inlet.note_service(Some("waiting".into()));
        inlet.push(Word::Close);
        inlet.note_service(None);
        let words = inlet.take();
        assert!(
            matches!(
                &words[..],
                [Word::Service(Some(_)), Word::Close, Word::Service(None)]
            ),
            "{words:?}"
        );
        assert!(inlet.take().is_empty());
        assert!(!Arc::new(inlet).is_listening());
    }

    #[test]
    fn what_does_not_fit_is_said_to_be_left_out() {
        let inlet = Inlet::new().expect("a descriptor");
        let told = || {
            vec![Told {
                steps: vec![],
                before: None,
                after: Database::default(),
            }]
        };
        for _ in 0..TOLD_MAX + 3 {
            inlet.tell(told());
        }
        let words = inlet.take();
        assert_eq!(words.len(), TOLD_MAX + 1);
        assert!(matches!(words.last(), Some(Word::Skipped(_))), "{words:?}");
        inlet.tell(told());
        assert!(matches!(&inlet.take()[..], [Word::Told(_)]));
    }
}
