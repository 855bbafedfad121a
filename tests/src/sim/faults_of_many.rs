//! Faults that hit several nodes at once, and faults that come and go: drawn for groups (`groups.rs`).
//!
//! Each schedules its own end when it begins. Nothing of them begins after the faults have ended.

use super::happening::Happening;
use super::plan::FaultKind;
use super::world::World;
use core::time::Duration;

/// The shortest and the longest time of one turn of something that flaps: from a beat to more than a lease.
const TURN_SHORTEST: Duration = Duration::from_millis(30);
const TURN_LONGEST: Duration = Duration::from_millis(1_500);

const DATE_JUMP_MS_MAX: u64 = 10 * 365 * 24 * 3_600 * 1_000;

impl World {
    /// Whether the fault is one of these.
    pub(super) fn fault_of_many_begins(&mut self, kind: FaultKind, first: usize, lasts: Duration) -> bool {
        match kind {
            FaultKind::CrashSome => self.crash_some(lasts),
            FaultKind::Partition => {
                let links = self.draw_partition();
                self.cut_for(links, lasts);
            }
            FaultKind::CutsOneWay => {
                let links = self.draw_directions();
                self.cut_for(links, lasts);
            }
            FaultKind::FlapLink => self.flap_link(first, lasts),
            FaultKind::FlapProcess => self.flap_process(first, lasts),
            FaultKind::DateJump => {
                let forward = self.chance.chance(500);
                let jump = self.chance.skewed(1, DATE_JUMP_MS_MAX) as i64;
                self.servers[first].date_error_ms = if forward { jump } else { -jump };
            }
            _ => return false,
        }
        self.log
            .line(self.now, format_args!("FAULT {kind:?} {first} for {lasts:?}"));
        true
    }

    fn crash_some(&mut self, lasts: Duration) {
        let mut indices: Vec<usize> = (0..self.shape.nodes).collect();
        self.chance.shuffle(&mut indices);
        let count = self.chance.between(2, indices.len() as u64) as usize;
        let power = self.chance.chance(300);
        let together = self.chance.chance(500);
        for server in indices.into_iter().take(count) {
            self.crash(server, power);
            let down = if together {
                lasts
            } else {
                self.draw(Duration::from_millis(50), Duration::from_secs(6))
            };
            self.after(down, Happening::Start { server });
        }
    }

    /// Two or three groups; every direction between two of them.
    fn draw_partition(&mut self) -> Vec<(usize, usize)> {
        let groups = self.chance.between(2, 3);
        let group: Vec<u64> = (0..self.shape.nodes).map(|_| self.chance.below(groups)).collect();
        self.directions()
            .into_iter()
            .filter(|(from, to)| group[*from] != group[*to])
            .collect()
    }

    fn draw_directions(&mut self) -> Vec<(usize, usize)> {
        let per_mille = self.chance.between(100, 600);
        let mut directions = self.directions();
        directions.retain(|_| self.chance.chance(per_mille));
        directions
    }

    fn directions(&self) -> Vec<(usize, usize)> {
        let nodes = self.shape.nodes;
        (0..nodes)
            .flat_map(|from| (0..nodes).map(move |to| (from, to)))
            .filter(|(from, to)| from != to)
            .collect()
    }

    fn flap_link(&mut self, index: usize, lasts: Duration) {
        let mut links = self.directions();
        let one_way = self.chance.chance(300);
        links.retain(|(from, to)| *from == index || *to == index && !one_way);
        let (on, off) = (
            self.draw(TURN_SHORTEST, TURN_LONGEST),
            self.draw(TURN_SHORTEST, TURN_LONGEST),
        );
        let mut begins = Duration::ZERO;
        while begins < lasts {
            self.after(begins, Happening::Cut { links: links.clone() });
            self.after(begins + on, Happening::Mend { links: links.clone() });
            begins += on + off;
        }
    }

    fn flap_process(&mut self, server: usize, lasts: Duration) {
        let (up, down) = (
            self.draw(TURN_SHORTEST, TURN_LONGEST),
            self.draw(TURN_SHORTEST, TURN_LONGEST),
        );
        let mut begins = Duration::ZERO;
        while begins < lasts {
            self.after(begins, Happening::Dies { server });
            self.after(begins + down, Happening::Start { server });
            begins += up + down;
        }
    }

    fn cut_for(&mut self, links: Vec<(usize, usize)>, lasts: Duration) {
        self.cut_links(&links);
        self.after(lasts, Happening::Mend { links });
    }

    pub(super) fn cut_links(&mut self, links: &[(usize, usize)]) {
        self.log.line(self.now, format_args!("cut: {links:?}"));
        for (from, to) in links {
            self.network.cut(*from, *to);
        }
    }

    pub(super) fn mend_links(&mut self, links: &[(usize, usize)]) {
        self.log.line(self.now, format_args!("mended: {links:?}"));
        for (from, to) in links {
            self.network.mend(*from, *to);
        }
    }
}
