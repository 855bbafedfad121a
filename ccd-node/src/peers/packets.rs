//! How large packets may be on the way to one address of a peer, as far as connections have shown it. No input or output.
//!
//! A network may pass small packets and lose large ones without a word: a switch or a tunnel with a smaller MTU than the
//! hosts'. There heartbeats say that all is well, and the first large update stops the connection. So each connection proves
//! a packet of full size before it is used. Where the full size is lost a smaller one is tried, and the largest that
//! passes is looked for.
//!
//! ```text
//! Whole ── a full-size packet is lost, a smaller one passes ──→ Suspected ── lost again, largest found ──→ Limited
//!   │                                                              │                                          │
//!   ├──────────────────── full size passes ───────────────────────┴──────────────────────────────────────────┘
//!   └── none of the sizes passes ──→ Unusable ── one passes ──→ Whole or Suspected
//! ```

use std::time::Duration;

/// Sizes of packets to try below one that is lost: ethernet, the least of IPv6, the least of IPv4. All in bytes, with headers.
const FALLBACKS_BYTES: [u32; 3] = [1_500, 1_280, 576];

/// A smaller one than this is never tried.
pub(super) const LEAST_BYTES: u32 = FALLBACKS_BYTES[2];

/// The next size to try after this one was lost.
pub(super) fn next_below(lost_bytes: u32) -> Option<u32> {
    FALLBACKS_BYTES.into_iter().find(|bytes| *bytes < lost_bytes)
}

/// What is known; sizes are those of packets, with headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packets {
    /// As large as the interface allows.
    #[default]
    Whole,
    /// One of `lost_bytes` was lost while smaller ones passed. It may have been an accident.
    Suspected { limit_bytes: u32, lost_bytes: u32 },
    /// None that is larger passes.
    Limited { limit_bytes: u32, interface_bytes: u32 },
    /// Small ones pass, and not even the least size does.
    Unusable { interface_bytes: u32 },
}

impl Packets {
    /// What connections are limited to.
    pub(super) fn limit_bytes(self) -> Option<u32> {
        match self {
            Self::Whole | Self::Unusable { .. } => None,
            Self::Suspected { limit_bytes, .. } | Self::Limited { limit_bytes, .. } => Some(limit_bytes),
        }
    }

    /// A connection with packets of this size was proven, perhaps after one of `lost_bytes` was lost.
    pub(super) fn proven(self, packet_bytes: u32, lost_bytes: Option<u32>) -> Self {
        match (lost_bytes, self) {
            (Some(lost_bytes), _) => Self::Suspected {
                limit_bytes: packet_bytes,
                lost_bytes,
            },
            // Nothing was limited.
            (None, Self::Unusable { .. }) => Self::Whole,
            (None, known) => known,
        }
    }

    /// It is known for certain, and somebody has to mend it.
    pub fn is_trouble(self) -> bool {
        self.short_text().is_some()
    }

    /// What is wrong, in a few words; `None` if nothing is known to be.
    pub fn short_text(self) -> Option<String> {
        match self {
            Self::Whole | Self::Suspected { .. } => None,
            Self::Limited {
                limit_bytes,
                interface_bytes,
            } => Some(format!(
                "passes no packets of more than {limit_bytes} bytes (interface: {interface_bytes})"
            )),
            Self::Unusable { interface_bytes } => Some(format!(
                "passes no packets of {LEAST_BYTES} bytes or more (interface: {interface_bytes})"
            )),
        }
    }

    /// What is wrong with the network to this node, what it means, and what to do.
    pub fn text(self, to: &str) -> Option<String> {
        let wrong = self.short_text()?;
        let what = match self {
            Self::Unusable { .. } => {
                "it cannot be used, although small packets pass; mend it (MTU of switches, tunnels, firewalls), then see \
                 `ccdadm status`"
                    .to_owned()
            }
            _ => {
                let limit_bytes = self.limit_bytes().unwrap_or(LEAST_BYTES);
                format!(
                    "connections are limited to that; set the MTU of the interfaces at both ends to {limit_bytes} (`ip link set dev \
                     INTERFACE mtu {limit_bytes}`), or mend what is between them"
                )
            }
        };
        Some(format!("the network to {to} {wrong}: {what}"))
    }
}

/// Until a network of which no size passes is tried again; each pause is twice the one before, up to the longest.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LONGEST: Duration = Duration::from_secs(15);

/// Which size the next connection is to have.
#[derive(Debug)]
pub(super) struct Sizes {
    /// The largest that was lost since a connection was proven, and the next to try.
    falling: Option<(u32, u32)>,
    /// The last attempt failed before any size could be proven: the way is cut, whatever the size.
    is_cut: bool,
    /// Between two sizes, and the next before all are tried again.
    pause: Duration,
    pause_next: Duration,
}

impl Sizes {
    pub fn new(pause: Duration) -> Self {
        Self {
            falling: None,
            is_cut: false,
            pause,
            pause_next: PAUSE_FIRST,
        }
    }

    /// For the next attempt; `stalled_bytes` is the size of packets of the connection in use, if nothing of it arrives any more.
    pub fn next(&self, packets: Packets, stalled_bytes: Option<u32>) -> Option<u32> {
        match (self.falling, stalled_bytes) {
            (Some((_, next_bytes)), _) => Some(next_bytes),
            (None, Some(stalled_bytes)) if !self.is_cut => {
                Some(next_below(stalled_bytes).unwrap_or(LEAST_BYTES))
            }
            (None, _) => packets.limit_bytes(),
        }
    }

    /// There is a connection that carries.
    pub fn on_served(&mut self) {
        *self = Self::new(self.pause);
    }

    /// It could not be connected.
    pub fn on_cut(&mut self) {
        self.falling = None;
        self.is_cut = true;
    }

    /// It could, and a packet of this size was lost. Returns what is known now, if it is news, and how long to wait.
    pub fn on_lost(&mut self, packet_bytes: u32) -> (Option<Packets>, Duration) {
        self.is_cut = false;
        let first_bytes = self.falling.take().map_or(packet_bytes, |(first, _)| first);
        if let Some(next_bytes) = next_below(packet_bytes) {
            self.falling = Some((first_bytes, next_bytes));
            return (None, Duration::ZERO);
        }
        let pause = self.pause_next;
        self.pause_next = (pause * 2).min(PAUSE_LONGEST);
        let interface_bytes = first_bytes;
        (Some(Packets::Unusable { interface_bytes }), pause)
    }

    /// The largest size that was lost before the one that is proven now.
    pub fn take_lost(&mut self) -> Option<u32> {
        self.falling.take().map(|(first_bytes, _)| first_bytes)
    }
}

/// The search for the largest size that passes, between one that does and one that does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Search {
    passed_bytes: u32,
    lost_bytes: u32,
}

impl Search {
    pub fn between(passed_bytes: u32, lost_bytes: u32) -> Self {
        Self {
            passed_bytes,
            lost_bytes,
        }
    }

    /// What to try next; `None` when the largest that passes is known.
    pub fn next(self) -> Option<u32> {
        let middle = self.passed_bytes + self.lost_bytes.saturating_sub(self.passed_bytes) / 2;
        (middle > self.passed_bytes).then_some(middle)
    }

    pub fn on_tried(&mut self, bytes: u32, passed: bool) {
        if passed {
            self.passed_bytes = self.passed_bytes.max(bytes);
        } else {
            self.lost_bytes = self.lost_bytes.min(bytes);
        }
    }

    pub fn largest_passed(self) -> u32 {
        self.passed_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaller_sizes_are_tried_down_to_the_least_that_ip_knows() {
        for (lost, next) in [
            (9_000, Some(1_500)),
            (1_501, Some(1_500)),
            (1_500, Some(1_280)),
            (1_400, Some(1_280)),
            (1_280, Some(576)),
            (577, Some(576)),
            (576, None),
            (40, None),
        ] {
            assert_eq!(next_below(lost), next, "after {lost}");
        }
    }

    #[test]
    fn a_size_that_is_lost_is_followed_by_a_smaller_one_and_a_network_that_is_cut_by_none() {
        let mut sizes = Sizes::new(Duration::from_millis(50));
        assert_eq!(sizes.next(Packets::Whole, None), None);
        assert_eq!(sizes.next(Packets::Whole, Some(1_500)), Some(1_280));
        // Nothing answers at all: it is tried as usual.
        sizes.on_cut();
        assert_eq!(sizes.next(Packets::Whole, Some(1_500)), None);
        assert_eq!(sizes.on_lost(1_500), (None, Duration::ZERO));
        assert_eq!(sizes.next(Packets::Whole, None), Some(1_280));
        assert_eq!(sizes.on_lost(1_280), (None, Duration::ZERO));
        assert_eq!(sizes.next(Packets::Whole, None), Some(576));
        let unusable = Packets::Unusable {
            interface_bytes: 1_500,
        };
        assert_eq!(sizes.on_lost(576), (Some(unusable), PAUSE_FIRST));
        // From the beginning, after longer and longer pauses.
        let mut pauses = Vec::new();
        for _ in 0..5 {
            assert_eq!(sizes.next(unusable, None), None);
            sizes.on_lost(1_500);
            sizes.on_lost(1_280);
            pauses.push(sizes.on_lost(576).1.as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 15, 15]);
        sizes.on_lost(1_500);
        assert_eq!(sizes.take_lost(), Some(1_500));
        assert_eq!(sizes.take_lost(), None);
    }

    #[test]
    fn the_search_finds_the_largest_size_that_passes() {
        for (passed, lost) in [(1_280, 1_500), (576, 1_280), (1_500, 9_000), (576, 577)] {
            for largest in passed..lost {
                let mut search = Search::between(passed, lost);
                let mut tried = 0;
                while let Some(bytes) = search.next() {
                    search.on_tried(bytes, bytes <= largest);
                    tried += 1;
                }
                assert_eq!(search.largest_passed(), largest, "between {passed} and {lost}");
                assert!(tried <= 13, "{tried} tries");
            }
        }
        // A network that changes meanwhile ends the search, too.
        let mut search = Search::between(1_280, 1_500);
        search.on_tried(1_390, false);
        search.on_tried(1_500, true);
        assert_eq!(search.next(), None);
    }

    #[test]
    fn what_is_only_suspected_is_not_told() {
        let suspected = Packets::Whole.proven(1_280, Some(1_500));
        let limited = Packets::Limited {
            limit_bytes: 1_400,
            interface_bytes: 1_500,
        };
        assert_eq!(
            [Packets::Whole, suspected].map(|packets| packets.text("beta")),
            [None, None]
        );
        assert_eq!(suspected.limit_bytes(), Some(1_280));
        let text = limited.text("beta").expect("it is known");
        assert!(
            text.starts_with(
                "the network to beta passes no packets of more than 1400 bytes (interface: 1500): "
            ),
            "{text}"
        );
        assert!(text.contains("mtu 1400"), "{text}");
        let unusable = Packets::Unusable {
            interface_bytes: 1_500,
        };
        assert_eq!(unusable.limit_bytes(), None);
        assert!(
            unusable
                .text("beta")
                .is_some_and(|text| text.contains("cannot be used"))
        );
        assert_eq!(unusable.proven(1_500, None), Packets::Whole);
        assert_eq!(limited.proven(1_400, None), limited);
        assert_eq!(
            limited.proven(576, Some(1_400)),
            Packets::Suspected {
                limit_bytes: 576,
                lost_bytes: 1_400
            }
        );
    }
}
