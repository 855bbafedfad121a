//! How grave a line of the log is: what somebody should look at is a warning or an error, so that `journalctl -p warning` shows that and
//! nothing else.

use ccd_core::configuration::Configuration;
use ccd_core::protocol::{Decision, DecisionKind, ServingState, Status};
use tracing::Level;

/// Severity of a decision of this node.
pub fn of_decision(decision: &Decision) -> Level {
    match decision.kind {
        DecisionKind::Alarm | DecisionKind::BranchKept | DecisionKind::UpdatesLost => Level::ERROR,
        DecisionKind::Damage
        | DecisionKind::Fenced
        | DecisionKind::Degraded
        | DecisionKind::Override
        | DecisionKind::Refused
        | DecisionKind::Synchronization => Level::WARN,
        // A takeover, and whatever else leaves something out.
        DecisionKind::Decided | DecisionKind::Opened
            if decision.configuration.as_ref().is_some_and(leaves_out) =>
        {
            Level::WARN
        }
        DecisionKind::Start
        | DecisionKind::Propose
        | DecisionKind::Decided
        | DecisionKind::Opened
        | DecisionKind::Sealed
        | DecisionKind::StoppedServing
        | DecisionKind::Left
        | DecisionKind::Nodes
        | DecisionKind::Membership
        | DecisionKind::Maintenance => Level::INFO,
    }
}

fn leaves_out(configuration: &Configuration) -> bool {
    configuration.members != configuration.cluster
}

/// Severity of the state that the node is in and sees.
pub fn of_status(status: &Status) -> Level {
    match status.state {
        ServingState::Serving if status.problems.iter().any(|problem| problem.cause.degrades()) => {
            Level::WARN
        }
        ServingState::Serving | ServingState::Starting | ServingState::Reconfiguring | ServingState::Left => {
            Level::INFO
        }
        ServingState::Closed | ServingState::Waiting => Level::WARN,
    }
}

/// Writes a line of this level.
macro_rules! log_at {
    ($level:expr, $($line:tt)+) => {
        match $level {
            tracing::Level::ERROR => tracing::error!($($line)+),
            tracing::Level::WARN => tracing::warn!($($line)+),
            _ => tracing::info!($($line)+),
        }
    };
}
pub(crate) use log_at;

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::configuration::Mode;
    use ccd_core::ids::{DeviceRole, NodeId, NodeSet};

    fn decision(kind: DecisionKind, configuration: Option<Configuration>) -> Decision {
        Decision {
            kind,
            configuration,
            text: String::new(),
        }
    }

    #[test]
    fn what_somebody_should_look_at_is_a_warning_or_an_error() {
        let of = |kind| of_decision(&decision(kind, None));
        assert_eq!(of(DecisionKind::Alarm), Level::ERROR);
        assert_eq!(of(DecisionKind::BranchKept), Level::ERROR);
        assert_eq!(of(DecisionKind::UpdatesLost), Level::ERROR);
        assert_eq!(of(DecisionKind::Damage), Level::WARN);
        assert_eq!(of(DecisionKind::Fenced), Level::WARN);
        assert_eq!(of(DecisionKind::Start), Level::INFO);
    }

    #[test]
    fn a_takeover_is_a_warning_and_a_configuration_with_all_nodes_is_none() {
        let [a, b] = [0, 1].map(|number| NodeId::new(number).unwrap());
        let both = NodeSet::of(a).with(b);
        let paired = Configuration::genesis(both, DeviceRole::ALL.into_iter().collect());
        let solo = Configuration {
            members: NodeSet::of(a),
            mode: Mode::Solo(a),
            ..paired.clone()
        };
        for kind in [DecisionKind::Decided, DecisionKind::Opened] {
            assert_eq!(of_decision(&decision(kind, Some(solo.clone()))), Level::WARN);
            let whole = Configuration {
                members: both,
                ..paired.clone()
            };
            assert_eq!(of_decision(&decision(kind, Some(whole))), Level::INFO);
        }
    }
}
