//! ccd-mirror
