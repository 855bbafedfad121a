//! Keeps a log readable when a peer or a client can make the same thing happen many times a second.

use std::time::{Duration, Instant};

/// The same text is let through once in this time.
const REPEAT: Duration = Duration::from_secs(30);

/// Remembers what was said last.
#[derive(Debug, Default)]
pub struct Quiet {
    last: Option<(String, Instant)>,
    swallowed: u64,
}

impl Quiet {
    /// Whether to say this now, and how often it was swallowed since it was said before. A text that differs from
    /// the last is let through at most once a second.
    pub fn admit(&mut self, now: Instant, text: &str) -> Option<u64> {
        let wait = match &self.last {
            None => Duration::ZERO,
            Some((last, _)) if last == text => REPEAT,
            Some(_) => Duration::from_secs(1),
        };
        if self
            .last
            .as_ref()
            .is_some_and(|(_, at)| now.duration_since(*at) < wait)
        {
            self.swallowed += 1;
            return None;
        }
        self.last = Some((text.to_owned(), now));
        Some(std::mem::take(&mut self.swallowed))
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
        assert_eq!(quiet.admit(at(200), "other"), None);
        assert_eq!(quiet.admit(at(1_500), "other"), Some(100));
        assert_eq!(quiet.admit(at(31_000), "other"), None);
        assert_eq!(quiet.admit(at(31_500), "other"), Some(1));
        quiet.reset();
        assert_eq!(quiet.admit(at(31_501), "other"), Some(0));
    }
}
