//! Keeps a log readable when a peer or a client can make the same thing happen many times a second.

use std::time::{Duration, Instant};

/// The same text is let through once in this time.
const REPEAT: Duration = Duration::from_secs(30);

/// Different texts are let through so many a second.
const BURST: usize = 4;

/// Texts that are remembered.
const REMEMBERED_MAX: usize = 32;

/// Remembers what was said lately.
#[derive(Debug, Default)]
pub struct Quiet {
    /// What was said, when, and how often it was swallowed since; the latest last.
    said: Vec<(String, Instant, u64)>,
    /// Swallowed because there were too many different ones.
    swallowed: u64,
}

impl Quiet {
    /// Whether to say this now, and how often it was swallowed since it was said before. A text is let through once in
    /// 30 s, and at most four different ones a second, so that whoever can choose the text cannot fill the log either.
    pub fn admit(&mut self, now: Instant, text: &str) -> Option<u64> {
        let since = |at: Instant| now.saturating_duration_since(at);
        let before = self.said.iter().position(|(said, ..)| said == text);
        if let Some(index) = before
            && since(self.said[index].1) < REPEAT
        {
            self.said[index].2 += 1;
            return None;
        }
        let lately = self
            .said
            .iter()
            .filter(|(_, at, _)| since(*at) < Duration::from_secs(1));
        if lately.count() >= BURST {
            self.swallowed += 1;
            return None;
        }
        let repeated = before.map_or(0, |index| self.said.remove(index).2);
        if self.said.len() == REMEMBERED_MAX {
            self.swallowed += self.said.remove(0).2;
        }
        self.said.push((text.to_owned(), now, 0));
        Some(repeated + std::mem::take(&mut self.swallowed))
    }

    /// What went wrong is over: the next trouble is news.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_text_is_said_once_in_a_while() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut quiet = Quiet::default();
        assert_eq!(quiet.admit(at(0), "refused"), Some(0));
        for ms in 1..100 {
            assert_eq!(quiet.admit(at(ms), "refused"), None);
        }
        assert_eq!(quiet.admit(at(200), "other"), Some(0));
        assert_eq!(
            quiet.admit(at(300), "refused"),
            None,
            "taking turns with another text"
        );
        assert_eq!(quiet.admit(at(29_999), "refused"), None);
        assert_eq!(quiet.admit(at(30_000), "refused"), Some(101));
        quiet.reset();
        assert_eq!(quiet.admit(at(30_001), "refused"), Some(0));
    }

    #[test]
    fn texts_that_are_always_different_are_bounded_too() {
        let start = Instant::now();
        let mut quiet = Quiet::default();
        let said = (0..10_000).filter(|ms| {
            let now = start + Duration::from_millis(*ms);
            quiet.admit(now, &format!("refused {ms}")).is_some()
        });
        assert!(said.count() <= 44);
        assert!(quiet.said.len() <= REMEMBERED_MAX);
        assert!(quiet.swallowed > 900);
    }
}
