//! An image that comes in parts is written where it will lie before all of it is there; only its head makes it count. A fourth
//! part of `own.rs`.
//!
//! Always holds: parts lie in the slot that does not count, as those of a running checkpoint do, so a power cut leaves the old
//! state; whatever else goes to that slot forgets what was staged. Nothing here can fail for want of parts: what is not
//! staged is written whole.

use super::checkpoint::ImagePlace;
use super::handle::Handle;
use super::own::OwnArea;
use crate::error::RegionError;
use crate::format::checkpoint::ImageSealer;
use ccd_core::ids::Position;

/// What has come of an image.
#[derive(Debug)]
pub(super) struct Staged {
    place: ImagePlace,
    /// Of the whole image.
    len_bytes: u64,
    sealer: ImageSealer,
}

/// Part of an image.
#[derive(Clone, Copy, Debug)]
pub struct ImagePart<'a> {
    pub position: Position,
    /// Of the whole image.
    pub len_bytes: u64,
    pub offset: u64,
    pub bytes: &'a [u8],
}

impl OwnArea {
    /// Writes a part, not flushed, if it is the first or follows what was staged. Another one ends what was staged.
    pub fn stage_image(&mut self, handle: &mut Handle, part: ImagePart) -> Result<(), RegionError> {
        let staged = match self.staged.take() {
            _ if part.offset == 0 => self.begin_staging(handle, part)?,
            staged => staged.filter(|staged| staged.is_followed_by(part)),
        };
        let Some(mut staged) = staged else {
            return Ok(());
        };
        let is_last = part.offset + part.bytes.len() as u64 == part.len_bytes;
        if let Some((block, blocks)) = staged.sealer.seal(part.bytes, is_last) {
            handle.write_unflushed(block, blocks)?;
        }
        self.staged = Some(staged);
        Ok(())
    }

    /// `None`: it does not fit, or the area is damaged, and nothing of it is touched before there is something better.
    fn begin_staging(&mut self, handle: &mut Handle, part: ImagePart) -> Result<Option<Staged>, RegionError> {
        let place = self.next_place(part.position);
        let slot = self.places[place.slot as usize];
        if self.damage.is_some()
            || part.len_bytes > slot.image_bytes_max()
            || part.bytes.len() as u64 > part.len_bytes
        {
            return Ok(None);
        }
        self.running = None;
        self.retire_left_over(handle)?;
        Ok(Some(Staged {
            place,
            len_bytes: part.len_bytes,
            sealer: ImageSealer::new(slot, part.position, place.sequence),
        }))
    }

    /// As [`OwnArea::write_image`] of the image that was staged, if all of it was.
    pub fn adopt_image(
        &mut self,
        handle: &mut Handle,
        position: Position,
        image: impl FnOnce() -> Vec<u8>,
    ) -> Result<(), RegionError> {
        let place = self.next_place(position);
        match self.staged.take() {
            Some(staged) if staged.place == place && staged.is_whole() => {
                self.replace_by(handle, place, &staged.sealer)
            }
            _ => self.write_image(handle, position, image()),
        }
    }
}

impl Staged {
    fn is_followed_by(&self, part: ImagePart) -> bool {
        let end = part.offset.checked_add(part.bytes.len() as u64);
        self.place.position == part.position
            && self.len_bytes == part.len_bytes
            && self.sealer.len_bytes() == part.offset
            && end.is_some_and(|end| end <= self.len_bytes)
    }

    fn is_whole(&self) -> bool {
        self.sealer.len_bytes() == self.len_bytes
    }
}
