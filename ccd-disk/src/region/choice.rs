//! What a checkpoint is written as: one more segment, or a whole image.
//!
//! A segment costs what has changed, an image what the database holds. An image is written when the segments since the last
//! one cost as much as it does: so images at most double what segments cost, however large the database is, and a restart reads
//! no more than twice the database. Called when a checkpoint is begun.

use crate::format::segment::SEGMENTS_MAX;

/// What there is to choose from. All sizes in blocks, heads included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Costs {
    /// The image that would be continued; `None`: there is none.
    pub base_blocks: Option<u64>,
    /// The image that would be written.
    pub image_blocks: u64,
    /// How many segments continue the base, and what they take.
    pub segments: u32,
    pub segments_blocks: u32,
    /// The segment that would be written.
    pub segment_blocks: u32,
    /// What the room for segments has in all.
    pub room_blocks: u32,
    /// Nothing may be written behind these segments any more.
    pub is_closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Segment,
    Image,
}

pub(super) fn choose(costs: Costs) -> Choice {
    let Some(base_blocks) = costs.base_blocks else {
        return Choice::Image;
    };
    let blocks = costs.segments_blocks.saturating_add(costs.segment_blocks);
    let is_possible = !costs.is_closed && costs.segments < SEGMENTS_MAX && blocks <= costs.room_blocks;
    // A base that was small when much is added since is worth another image soon, and so is one when the database has shrunk.
    let is_cheaper = u64::from(blocks) <= base_blocks.min(costs.image_blocks);
    if is_possible && is_cheaper {
        Choice::Segment
    } else {
        Choice::Image
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_written_while_all_of_them_cost_less_than_an_image() {
        use Choice::{Image, Segment};
        // base, image now; segments, their blocks; this one; room; closed.
        let table = [
            (None, 100, 0, 0, 1, 2048, false, Image),
            (Some(100), 100, 0, 0, 90, 2048, false, Segment),
            (Some(100), 100, 1, 90, 10, 2048, false, Segment),
            (Some(100), 100, 1, 90, 11, 2048, false, Image),
            // Much was added since, or removed.
            (Some(10), 1000, 0, 0, 11, 2048, false, Image),
            (Some(1000), 10, 0, 0, 11, 2048, false, Image),
            // No room, too many, or a head behind them that was being written.
            (Some(9000), 9000, 10, 2000, 48, 2048, false, Segment),
            (Some(9000), 9000, 10, 2000, 49, 2048, false, Image),
            (Some(9000), 9000, 63, 63, 1, 2048, false, Segment),
            (Some(9000), 9000, 64, 64, 1, 2048, false, Image),
            (Some(9000), 9000, 1, 1, 1, 2048, true, Image),
        ];
        for (base, image, count, taken, segment, room, is_closed, expected) in table {
            let costs = Costs {
                base_blocks: base,
                image_blocks: image,
                segments: count,
                segments_blocks: taken,
                segment_blocks: segment,
                room_blocks: room,
                is_closed,
            };
            assert_eq!(choose(costs), expected, "{costs:?}");
        }
    }

    #[test]
    fn images_at_most_double_what_segments_cost() {
        for database_blocks in [50, 500, 2600, 8000] {
            let (mut written, mut dense) = (0, 0);
            let (mut count, mut taken) = (0, 0);
            for _ in 0..1000 {
                let costs = Costs {
                    base_blocks: Some(database_blocks),
                    image_blocks: database_blocks,
                    segments: count,
                    segments_blocks: taken,
                    segment_blocks: 97,
                    room_blocks: 1 << 18,
                    is_closed: false,
                };
                dense += 97;
                match choose(costs) {
                    Choice::Segment => {
                        (count, taken) = (count + 1, taken + 97);
                        written += 97;
                    }
                    Choice::Image => {
                        (count, taken) = (0, 0);
                        written += database_blocks;
                    }
                }
            }
            // Each of at most 64 segments of a large database costs its share of the next image.
            let bound = if database_blocks <= 6000 { 2.0 } else { 2.4 };
            assert!(
                written as f64 <= bound * dense as f64,
                "{database_blocks}: {written} for {dense}"
            );
        }
    }
}
