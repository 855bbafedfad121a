//! A range of ports: the listener takes the first that is free, and dialers try them in turn.

use super::dial::DialError;
use std::io;
use std::net::SocketAddr;

/// After so many attempts at a port that does not answer at all, another gets its turn.
const SILENT_TURNS: u32 = 4;

/// The addresses of a range, the first port first; it ends with the last port there is.
pub(super) fn range(first: SocketAddr, count: u16) -> impl Iterator<Item = SocketAddr> {
    let last = first.port().saturating_add(count.saturating_sub(1));
    (first.port()..=last).map(move |port| SocketAddr::new(first.ip(), port))
}

/// Which port of a peer's address to try next.
///
/// The one that worked last is tried every other time, so that ports which a firewall swallows cost little.
#[derive(Debug)]
pub(super) struct PortTurn {
    ports: Vec<SocketAddr>,
    best: usize,
    /// The last other one that was tried.
    other: usize,
    /// Attempts at the best one that failed since another was tried, and how many it takes.
    failed: u32,
    wait: u32,
}

impl PortTurn {
    /// `own` are this node's own addresses, which may lie in the range of a node on the same machine.
    pub fn new(first: SocketAddr, count: u16, own: &[SocketAddr]) -> Self {
        let ports = range(first, count)
            .filter(|address| *address == first || !own.contains(address))
            .collect();
        Self {
            ports,
            best: 0,
            other: 0,
            failed: 0,
            wait: 1,
        }
    }

    pub fn turn(&mut self) -> SocketAddr {
        if self.failed < self.wait || self.ports.len() == 1 {
            return self.ports[self.best];
        }
        self.failed = 0;
        self.other = (self.other + 1) % self.ports.len();
        if self.other == self.best {
            self.other = (self.other + 1) % self.ports.len();
        }
        self.ports[self.other]
    }

    pub fn is_best(&self, address: SocketAddr) -> bool {
        self.ports[self.best] == address
    }

    pub fn worked(&mut self, address: SocketAddr) {
        if let Some(index) = self.ports.iter().position(|port| *port == address) {
            self.best = index;
        }
        self.failed = 0;
    }

    /// The peer has come: the turn is the best one's again.
    pub fn came(&mut self) {
        self.failed = 0;
    }

    pub fn failed(&mut self, address: SocketAddr, error: &DialError) {
        if !self.is_best(address) {
            return;
        }
        self.failed += 1;
        // No port of a machine that is down or cut off answers.
        let nobody = match error {
            DialError::Silent(_) => true,
            DialError::Connect(error) => error.kind() != io::ErrorKind::ConnectionRefused,
            DialError::Cut(_) | DialError::Refused(_) | DialError::Narrow { .. } => false,
        };
        self.wait = if nobody { SILENT_TURNS } else { 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn turns(turn: &mut PortTurn, count: usize, error: &DialError) -> Vec<u16> {
        (0..count)
            .map(|_| {
                let address = turn.turn();
                turn.failed(address, error);
                address.port()
            })
            .collect()
    }

    #[test]
    fn a_range_is_counted_from_its_first_port_and_ends_with_the_last_there_is() {
        let ports = |first, count| -> Vec<u16> {
            range(address(first), count)
                .map(|address| address.port())
                .collect()
        };
        assert_eq!(ports(5640, 4), [5640, 5641, 5642, 5643]);
        assert_eq!(ports(5640, 1), [5640]);
        assert_eq!(ports(65_534, 4), [65_534, 65_535]);
    }

    #[test]
    fn ports_are_tried_in_turn_and_the_one_that_worked_is_remembered() {
        let refused = DialError::Connect(io::ErrorKind::ConnectionRefused.into());
        let mut turn = PortTurn::new(address(5640), 4, &[address(5641)]);
        assert_eq!(
            turns(&mut turn, 6, &refused),
            [5640, 5642, 5640, 5643, 5640, 5642]
        );
        turn.worked(address(5643));
        assert_eq!(turn.turn(), address(5643));
        assert_eq!(turns(&mut turn, 4, &refused), [5643, 5640, 5643, 5642]);
        let mut single = PortTurn::new(address(5640), 1, &[]);
        assert_eq!(turns(&mut single, 3, &refused), [5640, 5640, 5640]);
    }

    #[test]
    fn a_machine_that_is_down_is_asked_at_the_port_that_worked() {
        let silent = DialError::Silent(Duration::from_millis(500));
        let mut turn = PortTurn::new(address(5640), 4, &[]);
        assert_eq!(turns(&mut turn, 6, &silent), [5640, 5640, 5640, 5640, 5641, 5640]);
    }
}
