//! Damage: what mutations of an input are tried. Everything follows from one number.

/// A source of damaged inputs.
#[derive(Clone, Debug)]
pub struct Mutator {
    state: u64,
}

/// Inputs do not grow beyond this.
const INPUT_BYTES_MAX: usize = 16 << 10;

/// Bytes that decoders tend to misread.
const ODD: [u8; 10] = [0, 1, 0x7f, 0x80, 0xff, 0xfe, b':', b'%', b'\n', b'*'];

/// Lengths that are too long, as a varint and as four bytes of either order.
const LONG: [&[u8]; 4] = [
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xff, 0xff, 0xff, 0x7f],
    &[0x7f, 0xff, 0xff, 0xff],
];

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// One of the seeds, damaged up to eight times.
    pub fn damaged(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut data = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(8) {
            self.damage(&mut data, seeds);
        }
        data.truncate(INPUT_BYTES_MAX);
        data
    }

    fn damage(&mut self, data: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(data.len() + 1);
        let odd = ODD[self.below(ODD.len())];
        match self.below(8) {
            0 if at < data.len() => data[at] ^= 1 << self.below(8),
            1 if at < data.len() => data[at] = odd,
            2 => data.insert(at, odd),
            3 => data.truncate(at),
            4 => {
                let end = at + self.below(data.len() - at + 1);
                data.drain(at..end);
            }
            5 => {
                let end = at + self.below((data.len() - at + 1).min(64));
                let again = data[at..end].to_vec();
                data.splice(at..at, again);
            }
            6 => {
                let long = LONG[self.below(LONG.len())];
                let end = (at + long.len()).min(data.len());
                data.splice(at..end, long.iter().copied());
            }
            _ => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len() + 1);
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
        }
    }
}
