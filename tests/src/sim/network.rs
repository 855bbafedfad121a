//! The network between the nodes: every message may be late, lost, repeated or overtaken, and every direction of
//! every pair may be cut on its own.

use super::random::Random;
use core::time::Duration;

/// What the network does to messages while faults are on.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub delay_max: Duration,
    pub loss_per_mille: u64,
    pub repeat_per_mille: u64,
}

impl Weather {
    pub const FAIR: Self = Self {
        delay_max: Duration::from_micros(400),
        loss_per_mille: 0,
        repeat_per_mille: 0,
    };
}

const DELAY_MIN: Duration = Duration::from_micros(40);

/// How much later the second copy of a repeated message can come.
const ECHO_MAX: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub struct Network {
    pub weather: Weather,
    /// Every message takes so much longer, as behind a queue that is always full.
    pub lag: Duration,
    random: Random,
    /// `cuts[from][to]`: how many faults hold this direction cut.
    cuts: Vec<Vec<u32>>,
    /// Where longer messages than this are lost, as on a path with a wrong MTU: by sender, then receiver.
    long_lost: Vec<Vec<Option<usize>>>,
}

impl Network {
    pub fn new(nodes: usize, weather: Weather, random: Random) -> Self {
        Self {
            weather,
            lag: Duration::ZERO,
            random,
            cuts: vec![vec![0; nodes]; nodes],
            long_lost: vec![vec![None; nodes]; nodes],
        }
    }

    /// So many servers are there now.
    pub fn grow_to(&mut self, servers: usize) {
        self.cuts.resize(servers, Vec::new());
        self.cuts.iter_mut().for_each(|row| row.resize(servers, 0));
        self.long_lost.resize(servers, Vec::new());
        self.long_lost
            .iter_mut()
            .for_each(|row| row.resize(servers, None));
    }

    pub fn cut(&mut self, from: usize, to: usize) {
        self.cuts[from][to] += 1;
    }

    /// From now on messages longer than this are lost on that way; `None`: none is.
    pub fn lose_long(&mut self, from: usize, to: usize, bytes_max: Option<usize>) {
        self.long_lost[from][to] = bytes_max;
    }

    /// Whether a message of this length is lost whatever the weather.
    pub fn swallows(&self, from: usize, to: usize, bytes: usize) -> bool {
        self.long_lost
            .get(from)
            .and_then(|row| *row.get(to)?)
            .is_some_and(|max| bytes > max)
    }

    pub fn mend(&mut self, from: usize, to: usize) {
        self.cuts[from][to] = self.cuts[from][to].saturating_sub(1);
    }

    /// Everything is whole and fast again.
    pub fn mend_all(&mut self) {
        self.weather = Weather::FAIR;
        self.lag = Duration::ZERO;
        self.cuts.iter_mut().flatten().for_each(|cut| *cut = 0);
    }

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts[from][to] > 0
    }

    /// When the copies of a message that is sent now arrive, counted from now. None: it is lost.
    pub fn route(&mut self, from: usize, to: usize) -> Vec<Duration> {
        if self.is_cut(from, to) || self.random.chance(self.weather.loss_per_mille) {
            return Vec::new();
        }
        let mut arrivals = vec![self.delay(self.weather.delay_max)];
        if self.random.chance(self.weather.repeat_per_mille) {
            arrivals.push(self.delay(ECHO_MAX));
        }
        arrivals.iter_mut().for_each(|arrival| *arrival += self.lag);
        arrivals
    }

    fn delay(&mut self, max: Duration) -> Duration {
        let (min, max) = (DELAY_MIN.as_nanos() as u64, max.as_nanos() as u64);
        Duration::from_nanos(self.random.skewed(min, max.max(min)))
    }
}
