//! Real daemons on loop devices, in network namespaces of their own, and the programs as people call them. Needs root.
//!
//! One program, so that tests of all subjects run side by side: they wait far more than they work.
//!
//! ```text
//! takeover.rs     a node dies, hangs, leaves            partition.rs  the network of a pair fails
//! devices.rs      a shared device fails and returns     networks.rs   several networks, ports, keys that change
//! startup.rs      daemons that must not run             refusals.rs   every refusal between nodes
//! nodes.rs        nodes come and go                     quorum.rs     five nodes without devices
//! joins.rs        one comes back that has missed much
//!
//! commands.rs     every verb, wrong input included      json.rs       what `--json` prints
//! checkpoints.rs  automatic checkpoints                 history.rs    history, diff, rollback
//! sync.rs         synchronization commands              watch.rs      watchers
//! access.rs       users other than root                 hostile.rs    users that mean no good
//! library.rs      C and Python programs                 pages.rs      manual pages
//! requests.rs     request ids and whose they are       room.rs       small replicas, a disk that fails
//! shares.rs       what one user takes of reads and dry runs
//! metrics.rs      what a node tells monitoring         large.rs      databases as large as replicas hold
//! fairness.rs     users whose requests are allowed and heavy
//! packets.rs      networks that lose large packets
//! first_line/     what an operator sees in each situation
//! watchers.rs     watchers that are slow, may not read all, or mean harm
//! late.rs         what a boot brings late, and what the system limits
//! ```

mod access;
mod checkpoints;
mod commands;
mod devices;
mod fairness;
mod first_line;
mod history;
mod hostile;
mod identity;
mod joins;
mod json;
mod large;
mod late;
mod library;
mod metrics;
mod networks;
mod nodes;
mod packets;
mod pages;
mod partition;
mod quorum;
mod refusals;
mod requests;
mod room;
mod shares;
mod startup;
mod sync;
mod takeover;
mod watch;
mod watchers;
