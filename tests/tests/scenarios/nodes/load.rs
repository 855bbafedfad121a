//! Clients that write through every node while something happens to the cluster.

use ccd_core::client::Answer;
use ccd_core::client::Refusal;
use ccd_tests::sim::asks::AskEnd;
use ccd_tests::sim::scenario::Cluster;
use core::time::Duration;

/// Updates that were asked for, in order: the value of each, and the token of its request.
#[derive(Debug, Default)]
pub struct Load {
    asked: Vec<(String, u64)>,
}

impl Load {
    /// For so long a client of each node that runs adds a row every few milliseconds.
    pub fn run_for(&mut self, cluster: &mut Cluster, span: Duration) {
        let end = cluster.now + span;
        while cluster.now < end {
            for server in 0..cluster.shape.nodes {
                if cluster.servers[server].process.is_some() {
                    let value = format!("load{:05}", self.asked.len());
                    let (_, body) = cluster.addition(&value);
                    let token = cluster.begin(server, body);
                    self.asked.push((value, token));
                }
            }
            cluster.run_for(Duration::from_millis(7));
        }
    }

    /// Every request has ended: what was acked is there, what was refused is not, and nothing is there twice. Returns how
    /// many were acked.
    pub fn check(self, cluster: &mut Cluster, reader: usize) -> usize {
        let ends: Vec<(String, AskEnd)> = (self.asked.into_iter())
            .map(|(value, token)| (value, cluster.await_end(token)))
            .collect();
        let rows = cluster.rows(reader).expect("it serves");
        let mut acked = 0;
        for (value, end) in &ends {
            let count = rows.iter().filter(|row| *row == value).count();
            match end {
                AskEnd::Reply(Ok(Answer::Committed { .. })) => {
                    acked += 1;
                    assert_eq!(count, 1, "{value} was acked");
                }
                AskEnd::Lost | AskEnd::Reply(Err(Refusal::Unknown { .. })) => assert!(count <= 1, "{value}"),
                other => assert_eq!(count, 0, "{value} was answered with {other:?}"),
            }
        }
        acked
    }
}
