//! `ccdd`: the daemon of a node.
fn main() {}
