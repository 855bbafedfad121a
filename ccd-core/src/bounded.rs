//! Lists that are decoded only up to a limit: what comes from a client, a peer or a disk says how many elements follow, and an
//! element can take one byte there and hundreds in memory.
//!
//! Used by the types that travel. The limit is looked at before each element is kept, so decoding stops where a list goes on
//! too long, whatever count was announced.

use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// For so many elements of those that are announced there is room at once. A longer list gets a quarter more each time.
const BELIEVED_MAX: usize = 64;

/// Decodes a list of at most `MAX` elements.
///
/// # Errors
/// When the list is longer, or an element does not decode.
pub fn at_most<'de, D, T, const MAX: usize>(decoder: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    decoder.deserialize_seq(Bounded::<T, T, MAX>(core::convert::identity, PhantomData))
}

/// The same of elements that are decoded as `W`, which has limits of its own.
///
/// # Errors
/// When the list is longer, or an element does not decode.
pub fn at_most_of<'de, D, W, T, const MAX: usize>(decoder: D, plain: fn(W) -> T) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    W: Deserialize<'de>,
{
    decoder.deserialize_seq(Bounded::<W, T, MAX>(plain, PhantomData))
}

struct Bounded<W, T, const MAX: usize>(fn(W) -> T, PhantomData<W>);

impl<'de, W: Deserialize<'de>, T, const MAX: usize> Visitor<'de> for Bounded<W, T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let announced = items.size_hint().unwrap_or_default();
        let mut taken = Vec::new();
        taken.reserve_exact(announced.min(MAX).min(BELIEVED_MAX));
        while let Some(item) = items.next_element::<W>()? {
            if taken.len() == MAX {
                return Err(A::Error::invalid_length(MAX.saturating_add(1), &self));
            }
            if taken.len() == taken.capacity() {
                taken.reserve_exact((taken.len() / 4).max(BELIEVED_MAX));
            }
            taken.push((self.0)(item));
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    struct Few(#[serde(deserialize_with = "at_most::<_, _, 3>")] Vec<u8>);

    #[test]
    fn a_list_is_taken_up_to_its_limit_and_no_further() {
        let decoded = |count: u8| {
            let bytes: Vec<u8> = core::iter::once(count).chain(0..count).collect();
            postcard::from_bytes::<Few>(&bytes)
        };
        assert_eq!(decoded(0), Ok(Few(Vec::new())));
        assert_eq!(decoded(3), Ok(Few(alloc::vec![0, 1, 2])));
        assert!(decoded(4).is_err());
        // Announced, and not there.
        assert!(postcard::from_bytes::<Few>(&[0xff, 0xff, 0xff, 0x7f, 0, 1, 2, 3, 4]).is_err());
    }
}
