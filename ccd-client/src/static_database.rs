//! The init database seen as a database: queried with nothing running (patent: `ccd_query_static`).

use crate::error::CcdError;
use crate::files;
use crate::places::Places;
use ccd_core::client::Refusal;
use ccd_core::database::{Database, Key, Op, OpError, Pattern, Row, Update, Who};
use ccd_core::ids::RequestId;
use ccd_core::init::ClusterInit;
use ccd_core::time::Date;

/// The static rows. Reads the file once, when it is attached.
#[derive(Clone, Debug)]
pub struct StaticDatabase {
    database: Database,
}

impl StaticDatabase {
    pub fn attach(places: &Places) -> Result<Self, CcdError> {
        let init = files::read_init(places)?;
        Self::of(&init).map_err(|error| Refusal::Op(error).into())
    }

    /// Of an init database that is at hand.
    pub fn of(init: &ClusterInit) -> Result<Self, OpError> {
        let formats = init.formats().iter().map(|(key, columns)| Op::Format {
            key: key.clone(),
            columns: columns.clone(),
        });
        let rows = init.rows().iter().map(|row| {
            let columns = init.formats().iter().find(|(key, _)| *key == row.key);
            let mut row = row.clone();
            // A NODE row may leave out its id.
            let count = columns
                .map_or(0, |(_, columns)| columns.len())
                .max(row.values.len());
            row.values.resize(count, String::new());
            Op::Add(row)
        });
        let update = Update {
            request: RequestId::default(),
            who: Who::default(),
            date: Date::default(),
            reason: None,
            preconditions: Vec::new(),
            ops: formats.chain(rows).collect(),
        };
        let (database, _) = Database::default().admit(&update)?;
        Ok(Self { database })
    }

    pub fn query(&self, pattern: &Pattern) -> Result<Vec<Row>, CcdError> {
        self.database
            .query(pattern)
            .map_err(|error| Refusal::Op(error).into())
    }

    /// Keys with their columns and number of rows.
    pub fn keys(&self) -> Vec<(Key, Vec<String>, u64)> {
        self.database.keys()
    }
}
