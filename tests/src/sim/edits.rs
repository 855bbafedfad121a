//! An option is edited in the init database of one server, which is started again, and put right later: meanwhile it does not talk to those
//! that go by another text, and sees them on the devices at most.

use super::groups;
use super::happening::Happening;
use super::plan::{FaultBudget, FaultKind, Shape};
use super::random::Random;
use super::world::World;
use ccd_core::init::InitFile;
use core::time::Duration;

/// Two servers may have the same edit, and talk to each other. Some leases are shorter than the others', and some longer.
const ROWS: [&str; 4] = [
    "OPTION:sync_timeout_ms:7000\n",
    "OPTION:sync_timeout_ms:8000\n",
    "OPTION:lease_ms:400\n",
    "OPTION:lease_ms:2500\n",
];

pub(super) fn shape(random: &mut Random) -> Shape {
    if random.chance(500) {
        Shape::PAIR
    } else {
        groups::shape(random)
    }
}

pub(super) fn faults(random: &mut Random, shape: Shape) -> FaultBudget {
    let mut faults = FaultBudget::draw(random, shape);
    // A change of the nodes sends a whole text: who put an edit right by hand would put the text of before back.
    faults.kinds.retain(|kind| *kind != FaultKind::Replace);
    faults.kinds.extend([FaultKind::Edit; 2]);
    faults
}

impl World {
    pub(super) fn edit_begins(&mut self, server: usize, lasts: Duration) {
        let row = *self.chance.pick(&ROWS);
        let power = self.chance.chance(500);
        self.log.line(
            self.now,
            format_args!("FAULT Edit {server} {} for {lasts:?}", row.trim_end()),
        );
        self.crash(server, power);
        self.put_right(server);
        let text = format!("{}{row}", self.servers[server].inits.file.text);
        self.replace_init(server, &text);
        self.start(server);
        let kind = FaultKind::Edit;
        self.after(
            lasts,
            Happening::FaultEnds {
                kind,
                first: server,
                second: server,
            },
        );
    }

    pub(super) fn edit_ends(&mut self, server: usize) {
        let text = &self.servers[server].inits.file.text;
        if ROWS.iter().any(|row| text.contains(row)) {
            self.crash(server, false);
            self.put_right(server);
            self.start(server);
        }
    }

    fn put_right(&mut self, server: usize) {
        let text = self.servers[server].inits.file.text.clone();
        let right = ROWS
            .iter()
            .fold(text.to_string(), |text, row| text.replace(row, ""));
        if right != *text {
            self.replace_init(server, &right);
        }
    }

    fn replace_init(&mut self, server: usize, text: &str) {
        let file = InitFile::parse(text).expect("the row is a good one");
        self.servers[server].inits.replace(file);
    }
}
