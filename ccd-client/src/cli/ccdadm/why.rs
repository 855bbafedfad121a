//! `ccdadm why`: what this node decided, and on what evidence; `ccdadm explain`: what a message means.

use super::PROGRAM;
use crate::cli::Common;
use crate::cli::failure::{Doing, Stop};
use crate::cli::table::date_text;
use crate::cli::terminal::Terminal;
use crate::exit::Exit;
use crate::messages;
use crate::wire::DatedDecision;
use serde_json::{Value, json};

/// Print this node's last decisions: the evidence seen and the rule applied
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm why
  ccdadm why -c 50
  ccdadm why --json | jq 'select(.kind == \"refused\")'")]
pub(super) struct Why {
    /// How many
    #[arg(short, long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
}

impl Why {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = "read the decisions of this node";
        let client = common.attach(PROGRAM, doing)?;
        for dated in client.decisions(self.count).doing(doing)? {
            if terminal.json {
                terminal.document(&document(&dated))?;
            } else {
                terminal.line(&line(&dated))?;
                if let Some(configuration) = &dated.decision.configuration {
                    terminal.line(&format!("    {configuration}"))?;
                }
            }
        }
        Ok(Exit::Done)
    }
}

/// One decision, and how often it was made.
fn line(dated: &DatedDecision) -> String {
    let times = match dated.count {
        0 | 1 => String::new(),
        count => format!(" ({count} times since {})", date_text(dated.first)),
    };
    let (date, node, text) = (date_text(dated.date), dated.node, &dated.decision.text);
    format!("{date} node {node} {}: {text}{times}", kind(dated))
}

/// One decision a line.
pub(super) fn document(dated: &DatedDecision) -> Value {
    let configuration = dated.decision.configuration.as_ref();
    json!({
        "date": date_text(dated.date),
        "node": u8::from(dated.node),
        "kind": kind(dated),
        "text": dated.decision.text,
        "count": dated.count,
        "first": date_text(dated.first),
        "epoch": configuration.map(|configuration| configuration.epoch.0),
        "configuration": configuration.map(ToString::to_string),
    })
}

/// `stopped_serving`
fn kind(dated: &DatedDecision) -> String {
    match serde_json::to_value(dated.decision.kind) {
        Ok(Value::String(kind)) => kind,
        _ => format!("{:?}", dated.decision.kind),
    }
}

/// Explain a message: cause, effect, action
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm explain CCD-1101
  ccdadm explain 2002                       of ccd-disk
  ccdadm explain                            all messages")]
pub(super) struct Explain {
    /// CCD-1101, or 1101; without it, all messages
    id: Option<String>,
}

impl Explain {
    pub fn run(&self, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let wanted: Vec<_> = match &self.id {
            None => messages::every().collect(),
            Some(id) => messages::find(id).into_iter().collect(),
        };
        if wanted.is_empty() {
            return Err(Stop::new(
                &messages::USAGE,
                "explain the message",
                "there is no such message",
            )
            .and_try("ccdadm explain, which lists all"));
        }
        for message in wanted {
            if terminal.json {
                terminal.document(&json!({
                    "id": message.to_string(), "exit": message.exit.code(), "cause": message.cause,
                    "effect": message.effect, "action": message.action,
                }))?;
            } else {
                terminal.line(&format!("{message} (exit code {})", message.exit.code()))?;
                terminal.line(&format!("  cause:  {}", message.cause))?;
                terminal.line(&format!("  effect: {}", message.effect))?;
                terminal.line(&format!("  action: {}", message.action))?;
            }
        }
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::ids::NodeId;
    use ccd_core::protocol::{Decision, DecisionKind};
    use ccd_core::time::Date;

    #[test]
    fn a_repeated_decision_says_how_often_and_since_when() {
        let decision = Decision {
            kind: DecisionKind::Damage,
            configuration: None,
            text: "the primary failed".into(),
        };
        let once = DatedDecision::once(Date(861_184_187_000), NodeId::new(0).unwrap(), decision);
        assert_eq!(
            line(&once),
            "1997-04-16T09:49:47.000Z node 0 damage: the primary failed"
        );
        let repeated = DatedDecision {
            count: 3,
            date: Date(once.date.0 + 1_000),
            ..once
        };
        assert_eq!(
            line(&repeated),
            "1997-04-16T09:49:48.000Z node 0 damage: the primary failed (3 times since 1997-04-16T09:49:47.000Z)"
        );
        assert_eq!(document(&repeated)["count"], 3);
        assert_eq!(document(&repeated)["first"], "1997-04-16T09:49:47.000Z");
    }
}
