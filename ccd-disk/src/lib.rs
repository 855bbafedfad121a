//! ccd-disk
