//! What clients and the daemon say to each other on `/run/ccd/ccdd.sock` and `/run/ccd/control.sock`.
//!
//! ```text
//! frame.rs     preamble, framing, limits: bytes <-> one message
//! history.rs   what is asked of a node's history
//! message.rs   the messages: ToDaemon { id, Ask }, FromDaemon { id, Told }
//! pieces.rs    long replies, made piece by piece
//! watch.rs     what a watcher asks for and is told
//! ```
//!
//! A connection starts with [`PREAMBLE`] each way: three letters and the version. Then frames follow: a length
//! (u32, little-endian) and that many bytes of postcard. The client numbers its requests and may send the next
//! one before the last is answered; the daemon answers each exactly once, in any order. Both sides use these
//! functions and nothing else (on control.sock, whoever collects metrics speaks HTTP instead; there the client speaks
//! first): the daemon on async sockets, the library on blocking ones. No function here does
//! input or output.

mod frame;
mod history;
mod message;
mod pieces;
mod watch;

pub use frame::{
    FRAME_PREFIX_BYTES, PREAMBLE, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, VERSION, WireError, append_reply,
    check_preamble, decode_reply, decode_request, encode_reply, encode_request, reply_len, request_bytes_max,
    request_id, request_len,
};
pub use history::{ChangesAsk, HistoryAsk, HistoryGap, HistoryItem, HistoryTold, HistoryUpdate, KeyChange};
pub use message::{
    Ask, BranchReport, ConnectionReport, DatedDecision, Fault, FromDaemon, LinkReport, LinkState, NodeName,
    Service, StatusReport, ToDaemon, Told, WorkKind, WorkReport,
};
pub use pieces::{ListReply, snapshot_head};
pub use watch::{
    MalformedPlace, WATCH_PATTERNS_MAX, WatchAsk, WatchChange, WatchEffects, WatchFrom, WatchItem, WatchPlace,
};
