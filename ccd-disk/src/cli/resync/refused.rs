//! Why a device is not brought to what its twin holds: what failed, on what, why, and what to do.

use super::super::{Failure, exit};
use super::pair::Pair;
use crate::resync::Refusal;

/// The failure that this refusal is.
pub fn text(pair: &Pair, refusal: &Refusal, with_local: bool) -> Failure {
    let (target, twin) = (pair.target.path.display(), pair.twin.path.display());
    let role = pair.target.role;
    match refusal {
        Refusal::SourceDamaged { .. } => Failure::new(
            exit::INTEGRITY,
            format!(
                "CCD-2136 {refusal}; the {role} was not changed. See `ccd-disk check {twin}`; a node's own copy may still be whole: \
                 start ccdd"
            ),
        ),
        Refusal::TargetNewer { .. } | Refusal::TwinLeftOut { .. } => Failure::new(
            exit::STALE,
            format!(
                "CCD-2134 {refusal}; nothing was changed. See `ccd-disk show {target}`; the other way round: `ccd-disk resync {twin}`"
            ),
        ),
        Refusal::Diverged { .. } => Failure::new(
            exit::STALE,
            format!(
                "CCD-2135 {refusal}; nothing was changed. Start ccdd: it keeps what only the {role} holds aside, and brings it back \
                 by itself; or keep it yourself (`ccd-disk dump {target}`) and make the region anew"
            ),
        ),
        Refusal::NothingDecided
        | Refusal::VoteOpen { .. }
        | Refusal::Forgot { .. }
        | Refusal::NotCertain { .. }
        | Refusal::NoEvidence { .. }
        | Refusal::HeldByNode { .. } => {
            let elsewhere = match refusal {
                // It knows nothing yet, and its vote would still count.
                Refusal::Forgot { .. } => {
                    return Failure::new(
                        exit::REFUSED,
                        format!(
                            "CCD-2133 the {role} was not changed: {refusal}. Start ccdd (`systemctl start ccdd`) with the {} in place: it brings \
                             the device back by itself",
                            pair.twin.role
                        ),
                    );
                }
                Refusal::NotCertain { .. } if !with_local => {
                    ", or repeat this on a server whose node has a local copy (--state)"
                }
                _ => "",
            };
            Failure::new(
                exit::REFUSED,
                format!(
                    "CCD-2133 the {role} was not changed: {refusal}. Start ccdd (`systemctl start ccdd`): it brings the device back by \
                     itself{elsewhere}"
                ),
            )
        }
    }
}
