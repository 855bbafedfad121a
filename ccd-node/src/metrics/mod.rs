//! What monitoring asks of a node: one page of text, made anew at each question. Nothing here is on the way of an update but a counter.
//!
//! ```text
//! counters.rs    counts what passes through the event loop
//! process.rs     what the kernel says of this process
//! page.rs        status and counters → families of metrics
//! exposition.rs  families → text, as Prometheus reads it
//! ```
//!
//! The page is asked for over HTTP on control.sock (`clients/scrape.rs`). `docs/metrics.md` lists what is on it.

mod counters;
mod exposition;
mod page;
mod process;

pub use counters::Counters;
pub use exposition::CONTENT_TYPE;
pub use page::{Facts, page};
pub use process::Process;
