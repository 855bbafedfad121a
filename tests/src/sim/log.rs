//! The event log of a history: always hashed, written out only when somebody wants to read it.

use super::moment::Moment;
use core::fmt::{Arguments, Write};

/// Hashes what happens and, if it records, keeps it as text.
#[derive(Debug, Default)]
pub struct Log {
    hash: u64,
    lines: Option<String>,
}

impl Log {
    pub fn new(recording: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            lines: recording.then(String::new),
        }
    }

    /// Equal for two runs of one seed, in all likelihood for no two others.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn lines(&self) -> &str {
        self.lines.as_deref().unwrap_or("")
    }

    pub fn is_recording(&self) -> bool {
        self.lines.is_some()
    }

    /// Takes numbers that tell this event from others into the hash.
    pub fn mix(&mut self, number: u64) {
        self.hash = (self.hash.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    pub fn mix_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        self.mix(bytes.len() as u64);
    }

    pub fn line(&mut self, now: Moment, text: Arguments<'_>) {
        if let Some(lines) = &mut self.lines {
            writeln!(lines, "{now:?} {text}").expect("a string takes all");
        }
    }
}
