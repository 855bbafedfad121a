//! ccd-client
