//! ccd-node
