//! Sums of sizes. They stop at the largest number there is instead of going beyond it: whoever compares them with a limit then
//! finds that it is exceeded.

/// Of all of these.
pub(super) fn total(sizes: impl IntoIterator<Item = usize>) -> usize {
    sizes.into_iter().fold(0, usize::saturating_add)
}
