//! Nodes by their names in texts that name them by number: `node 1`, `nodes 0,2`.

use crate::wire::StatusReport;
use ccd_core::ids::NodeId;

/// The text with the name of each node that the cluster has in the place of its number, and with what a command that it advises needs.
pub(super) fn with_names(report: &StatusReport, text: &str) -> String {
    let text = whole_commands(text, &report.cluster_name);
    with_node_names(report, &text)
}

/// An override wants the cluster's name, which the node that advises it leaves out.
fn whole_commands(text: &str, cluster: &str) -> String {
    const OVERRIDE: &str = "takeover --force";
    let mut parts = text.split(OVERRIDE);
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        whole.push_str(OVERRIDE);
        if !part.starts_with(" --cluster") {
            whole.push_str(" --cluster ");
            whole.push_str(cluster);
        }
        whole.push_str(part);
    }
    whole
}

fn with_node_names(report: &StatusReport, text: &str) -> String {
    let mut named = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("node") {
        let is_word =
            !rest[..at].ends_with(|before: char| before.is_alphanumeric() || "-_/.".contains(before));
        let (before, from_word) = rest.split_at(at);
        named.push_str(before);
        let after = from_word
            .strip_prefix("nodes ")
            .or_else(|| from_word.strip_prefix("node "));
        match after.filter(|_| is_word).and_then(|after| names(report, after)) {
            Some((names, left)) => {
                named.push_str(&names);
                rest = left;
            }
            None => {
                named.push_str("node");
                rest = &from_word["node".len()..];
            }
        }
    }
    named.push_str(rest);
    named
}

/// Names in the place of the numbers that the text begins with, and what follows them.
fn names<'a>(report: &StatusReport, text: &'a str) -> Option<(String, &'a str)> {
    let end = text
        .char_indices()
        .find(|(at, c)| {
            !(c.is_ascii_digit()
                || *c == ',' && text[at + 1..].starts_with(|next: char| next.is_ascii_digit()))
        })
        .map_or(text.len(), |(at, _)| at);
    let (numbers, left) = text.split_at(end);
    // `node 1a` is no number.
    if left.starts_with(|next: char| next.is_alphanumeric() || "_-/".contains(next)) {
        return None;
    }
    let name = |number: &str| {
        let id = NodeId::new(number.parse().ok()?)?;
        let known = report.node_names.iter().find(|node| node.id == id)?;
        Some(known.name.as_str())
    };
    let names: Option<Vec<&str>> = numbers.split(',').map(name).collect();
    Some((names?.join(", "), left))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::whole;
    use super::with_names;

    #[test]
    fn numbers_of_nodes_become_names_and_nothing_else_changes() {
        let report = whole(3, true);
        for (text, expected) in [
            ("without node 1: it left", "without beta: it left"),
            ("missing: nodes 0,2", "missing: alpha, gamma"),
            (
                "missing: node 1, primary, or nodes 0,1",
                "missing: beta, primary, or alpha, beta",
            ),
            (
                "node 0 owns the devices and node 1, too",
                "alpha owns the devices and beta, too",
            ),
            (
                "another ccdd runs as node 2 (incarnation 00)",
                "another ccdd runs as gamma (incarnation 00)",
            ),
            ("node 7 is none", "node 7 is none"),
            (
                "`ccdctl takeover --force` there, or takeover --force --cluster x",
                "`ccdctl takeover --force --cluster prod` there, or takeover --force --cluster x",
            ),
            (
                "node 1a, node, nodes, a node 1/2, /etc/ccd/node 1",
                "node 1a, node, nodes, a node 1/2, /etc/ccd/node 1",
            ),
            ("restart with nodes 0", "restart with alpha"),
            ("", ""),
        ] {
            assert_eq!(with_names(&report, text), expected, "{text}");
        }
    }
}
