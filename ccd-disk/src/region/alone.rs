//! What is done to a region while no daemon has it: `ccd-disk resync` reads all of it and writes an image and a configuration, each in
//! this node's own area, where the node itself would write them.

use super::own::OwnArea;
use super::recovery;
use super::survey::{self, AreaControl};
use super::{Region, SCRATCH_AT};
use crate::error::RegionError;
use ccd_core::configuration::Configuration;
use ccd_core::ids::{Position, Stamp};

impl Region {
    /// The control blocks of all areas.
    pub fn control(&mut self) -> Result<Vec<AreaControl>, RegionError> {
        survey::read_all(&mut self.handle, &self.superblock)
    }

    /// What other nodes' areas have lost that would still matter if this node's own area held a state of this age: only they
    /// can mend it.
    pub fn damage_elsewhere(&mut self, own: Stamp) -> Result<Vec<String>, RegionError> {
        let mut found = Vec::new();
        for node in self.superblock.geometry.nodes().filter(|node| *node != self.node) {
            let area = recovery::recover(&mut self.handle, &self.superblock, node, true)?;
            let matters = recovery::damage_matters(node, area.damage_newest, Some((self.node, own)));
            if let Some(what) = area.damage.filter(|_| matters) {
                found.push(format!("area of node {node}: {what}"));
            }
        }
        Ok(found)
    }

    /// Writes zeros where zeros are: whether writes are taken is known before something is changed.
    pub fn try_write(&mut self) -> Result<(), RegionError> {
        let block = self.superblock.geometry.control(self.node) + SCRATCH_AT;
        self.handle.try_zeros(block)
    }

    pub fn write_configuration(&mut self, configuration: &Configuration) -> Result<(), RegionError> {
        self.write_control(configuration, |turns| &mut turns.configuration)
    }

    /// How many bytes an image may have.
    pub fn image_bytes_max(&self) -> u64 {
        super::slots::slot_place(&self.superblock, self.node, crate::format::geometry::Slot::A)
            .image_bytes_max()
    }

    /// As `WriteImage`; see [`OwnArea::write_image_in_steps`].
    pub fn write_image_in_steps(
        &mut self,
        position: Position,
        image: Vec<u8>,
        goes_on: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<bool, RegionError> {
        self.with_own(|own: &mut OwnArea, handle| own.write_image_in_steps(handle, position, image, goes_on))
    }
}
