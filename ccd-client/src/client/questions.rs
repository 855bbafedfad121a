//! What a client asks: of the database, and of the node about itself.

use super::{Client, Freshness, Keys, Rows};
use crate::error::CcdError;
use crate::wire::{
    Ask, BranchReport, ChangesAsk, DatedDecision, HistoryAsk, HistoryTold, StatusReport, Told,
};
use ccd_core::client::{RequestBody, VerifiedCopy};
use ccd_core::database::{Database, Difference, Pattern};
use ccd_core::drill::DrillReport;
use ccd_core::ids::{Generation, RequestId};

impl Client {
    /// Rows that match.
    pub fn query(&self, pattern: Pattern, freshness: Freshness) -> Result<Rows, CcdError> {
        let stale = freshness == Freshness::Stale;
        match self.request(RequestBody::Query { pattern, stale })? {
            Told::Rows { position, rows } => Ok(Rows { position, rows }),
            _ => Err(self.unexpected()),
        }
    }

    /// All keys.
    pub fn keys(&self, freshness: Freshness) -> Result<Keys, CcdError> {
        let stale = freshness == Freshness::Stale;
        match self.request(RequestBody::Keys { stale })? {
            Told::Keys { position, keys } => Ok(Keys { position, keys }),
            _ => Err(self.unexpected()),
        }
    }

    /// The whole database.
    pub fn snapshot(&self, freshness: Freshness) -> Result<Database, CcdError> {
        let stale = freshness == Freshness::Stale;
        match self.request(RequestBody::Snapshot { stale })? {
            Told::Snapshot { image } => Ok(Database::from_image(&image)?),
            _ => Err(self.unexpected()),
        }
    }

    /// What every member's copy holds, computed anew; with `repair`, inconsistent ones are replaced.
    pub fn verify(&self, repair: bool) -> Result<Vec<VerifiedCopy>, CcdError> {
        match self.request(RequestBody::Verify { repair })? {
            Told::Verified(copies) => Ok(copies),
            _ => Err(self.unexpected()),
        }
    }

    /// Rehearses losses on today's state, and tests the devices without disturbing anything.
    pub fn drill(&self) -> Result<DrillReport, CcdError> {
        match self.request(RequestBody::Drill)? {
            Told::Drilled(report) => Ok(report),
            _ => Err(self.unexpected()),
        }
    }

    /// The generation since which an earlier update is part of the database, if it is.
    pub fn outcome(&self, request: RequestId) -> Result<Option<Generation>, CcdError> {
        match self.request(RequestBody::Outcome { request })? {
            Told::Outcome { committed } => Ok(committed),
            _ => Err(self.unexpected()),
        }
    }

    /// Of this node and what it sees; answered also when it does not serve.
    pub fn status(&self) -> Result<StatusReport, CcdError> {
        match self.ask_again(&Ask::Status, self.last_moment())? {
            Told::Status(report) => Ok(*report),
            other => Err(self.other(other)),
        }
    }

    /// This node's last decisions, oldest first.
    pub fn decisions(&self, count: u32) -> Result<Vec<DatedDecision>, CcdError> {
        match self.ask_again(&Ask::Why { count }, self.last_moment())? {
            Told::Decisions(decisions) => Ok(decisions),
            other => Err(self.other(other)),
        }
    }

    /// Updates of the past, as this node keeps them.
    pub fn history(&self, ask: HistoryAsk) -> Result<HistoryTold, CcdError> {
        match self.ask_again(&Ask::History(ask), self.last_moment())? {
            Told::History(told) => Ok(told),
            other => Err(self.other(other)),
        }
    }

    /// What leads from one generation to another one, later or earlier, by this node's history.
    pub fn changes(&self, ask: ChangesAsk) -> Result<Difference, CcdError> {
        match self.ask_again(&Ask::Changes(ask), self.last_moment())? {
            Told::Changes(difference) => Ok(difference),
            other => Err(self.other(other)),
        }
    }

    /// The branches that lost and are kept on this node, newest first.
    pub fn branches(&self) -> Result<Vec<BranchReport>, CcdError> {
        match self.ask_again(&Ask::Branches, self.last_moment())? {
            Told::Branches(branches) => Ok(branches),
            other => Err(self.other(other)),
        }
    }

    /// The text form of one of them.
    pub fn branch(&self, name: &str) -> Result<Vec<u8>, CcdError> {
        let name = name.to_owned();
        match self.ask_again(&Ask::Branch { name }, self.last_moment())? {
            Told::Branch { text } => Ok(text),
            other => Err(self.other(other)),
        }
    }
}
