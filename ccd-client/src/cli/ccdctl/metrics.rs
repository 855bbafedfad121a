//! `ccdctl metrics`: what the daemon tells monitoring, on standard output.

use crate::cli::Common;
use crate::cli::failure::{Doing, Stop};
use crate::cli::terminal::Terminal;
use crate::exit::Exit;
use crate::metrics::{Sample, fetch, samples};
use serde_json::{Value, json};
use std::time::Duration;

/// Without `--timeout`: making the page takes a millisecond.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Print the metrics of this node's daemon, as Prometheus reads them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The same text is at http://ccd/metrics on control.sock, for whoever may ask for the status.

Examples:
  ccdctl metrics
  ccdctl metrics --json | jq '.samples[] | select(.name == \"ccd_lease_seconds\")'
  ccdctl metrics > /var/lib/node_exporter/ccd.new && mv /var/lib/node_exporter/ccd.new \\
         /var/lib/node_exporter/ccd.prom
  curl --unix-socket /run/ccd/control.sock http://ccd/metrics

Exit codes: 69 the daemon is not reachable, 77 not permitted.")]
pub(super) struct Metrics {}

impl Metrics {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let timeout = common.timeout.unwrap_or(TIMEOUT);
        let page = fetch(&common.places, timeout).doing("read the metrics")?;
        if terminal.json {
            let samples: Vec<Value> = samples(&page).iter().map(document).collect();
            terminal.document(&json!({ "samples": samples }))?;
        } else {
            terminal.bytes(page.as_bytes())?;
        }
        Ok(Exit::Done)
    }
}

fn document(sample: &Sample) -> Value {
    json!({
        "name": sample.name,
        "labels": sample.labels,
        "value": sample.value,
    })
}
