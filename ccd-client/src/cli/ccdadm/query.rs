//! `ccdadm query` and `ccdadm keys`.

use super::PROGRAM;
use crate::cli::Common;
use crate::cli::failure::{Doing, Stop};
use crate::cli::table::table;
use crate::cli::terminal::Terminal;
use crate::client::Freshness;
use crate::exit::Exit;
use crate::messages;
use crate::static_database::StaticDatabase;
use ccd_core::database::{Key, Pattern, Row, WILDCARD};
use ccd_core::ids::Position;
use serde_json::{Map, Value, json};

/// Print the rows of a key that match
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm query MY_KEY                     all rows of the key, KEY:value:value
  ccdadm query MY_KEY 'clust*' '*' sci    patterns by position; missing ones match anything
  ccdadm query MY_KEY network_type=sci    by column name
  ccdadm query --exact MY_KEY 'a*'        the value a*, and nothing else
  ccdadm query --wildcard % MY_KEY 'a%'   another wildcard character
  ccdadm query --static NODE              the init database, with nothing running
  ccdadm query --stale MY_KEY             the local copy, even if it may be old

Exit codes: 0 rows were printed, 1 no row matches, 105 there is no such key, 64 no such column.")]
pub(super) struct Query {
    #[command(flatten)]
    matching: Matching,
    /// Answer from the local copy, even if it may be old
    #[arg(long)]
    stale: bool,
    /// Read the init database, with nothing running
    #[arg(long = "static", conflicts_with = "stale")]
    from_init: bool,
}

/// Which rows: a key and patterns.
#[derive(Debug, clap::Args)]
pub(super) struct Matching {
    pub key: String,
    /// Patterns by position, or COLUMN=PATTERN by name
    #[arg(value_name = "PATTERN", allow_negative_numbers = true)]
    pub patterns: Vec<String>,
    /// Character that matches any run of characters, also none
    #[arg(long, value_name = "CHAR", default_value_t = WILDCARD)]
    pub wildcard: char,
    /// No character is a wildcard
    #[arg(long, conflicts_with = "wildcard")]
    pub exact: bool,
}

impl Matching {
    pub fn pattern(&self, doing: &str) -> Result<Pattern, Stop> {
        let key = parse_key(&self.key, doing)?;
        let wildcard = (!self.exact).then_some(self.wildcard);
        Ok(Pattern::from_arguments(key, &self.patterns).with_wildcard(wildcard))
    }

    /// Whether every row of the key matches.
    pub fn is_all(&self) -> bool {
        let anything =
            |pattern: &str| !self.exact && !pattern.is_empty() && pattern.chars().all(|c| c == self.wildcard);
        self.patterns.iter().all(|pattern| {
            anything(pattern)
                || pattern
                    .split_once('=')
                    .is_some_and(|(_, pattern)| anything(pattern))
        })
    }
}

pub(super) fn parse_key(key: &str, doing: &str) -> Result<Key, Stop> {
    Key::new(key).map_err(|error| Stop::new(&messages::KEY_BAD, doing, error.to_string()))
}

impl Query {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = format!("query {}", self.matching.key);
        let pattern = self.matching.pattern(&doing)?;
        let key = pattern.key.clone();
        let (position, rows, keys) = if self.from_init {
            let init = StaticDatabase::attach(&common.places).doing(&doing)?;
            (None, init.query(&pattern).doing(&doing)?, init.keys())
        } else {
            let client = common.attach(PROGRAM, &doing)?;
            let freshness = freshness(self.stale);
            let found = client.query(pattern, freshness).doing(&doing)?;
            // Only JSON names the columns.
            let keys = match terminal.json {
                true => client.keys(freshness).doing(&doing)?.keys,
                false => Vec::new(),
            };
            (Some(found.position), found.rows, keys)
        };
        if terminal.json {
            let columns = keys.into_iter().find(|(known, ..)| *known == key);
            let columns = columns.map(|(_, columns, _)| columns).unwrap_or_default();
            terminal.document(&rows_document(&key, &columns, position, &rows))?;
        } else {
            for row in &rows {
                terminal.line(&row.to_text())?;
            }
        }
        if let Some(position) = position {
            terminal.detail(&format!("{} rows at {position}", rows.len()));
        }
        Ok(if rows.is_empty() { Exit::No } else { Exit::Done })
    }
}

fn freshness(stale: bool) -> Freshness {
    if stale {
        Freshness::Stale
    } else {
        Freshness::Strict
    }
}

/// Rows as objects by column name. A format that was replaced between the two questions leaves lists of values.
fn rows_document(key: &Key, columns: &[String], position: Option<Position>, rows: &[Row]) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            if row.values.len() == columns.len() {
                let pairs = columns.iter().zip(&row.values);
                Value::Object(
                    pairs
                        .map(|(column, value)| (column.clone(), json!(value)))
                        .collect::<Map<_, _>>(),
                )
            } else {
                json!(row.values)
            }
        })
        .collect();
    let mut document = json!({ "key": key.as_str(), "columns": columns, "rows": rows });
    add_position(&mut document, position);
    document
}

fn add_position(document: &mut Value, position: Option<Position>) {
    if let Some(position) = position {
        document["epoch"] = json!(position.stamp.epoch.0);
        document["generation"] = json!(position.stamp.generation.0);
        document["lineage"] = json!(position.lineage.to_string());
    }
}

/// List the keys with their columns and number of rows
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm keys
  ccdadm keys --json | jq -r '.keys[].key'
  ccdadm keys --static                    those of the init database, with nothing running")]
pub(super) struct Keys {
    /// Answer from the local copy, even if it may be old
    #[arg(long)]
    stale: bool,
    /// Read the init database, with nothing running
    #[arg(long = "static", conflicts_with = "stale")]
    from_init: bool,
}

impl Keys {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = "list the keys";
        let (position, keys) = if self.from_init {
            let init = StaticDatabase::attach(&common.places).doing(doing)?;
            (None, init.keys())
        } else {
            let client = common.attach(PROGRAM, doing)?;
            let found = client.keys(freshness(self.stale)).doing(doing)?;
            (Some(found.position), found.keys)
        };
        if terminal.json {
            let keys: Vec<Value> = keys
                .iter()
                .map(|(key, columns, rows)| json!({ "key": key.as_str(), "columns": columns, "rows": rows }))
                .collect();
            let mut document = json!({ "keys": keys });
            add_position(&mut document, position);
            terminal.document(&document)?;
        } else if !keys.is_empty() {
            let rows = keys
                .iter()
                .map(|(key, columns, rows)| vec![key.to_string(), rows.to_string(), columns.join(" ")]);
            terminal.line(&table(&["KEY", "ROWS", "COLUMNS"], rows.collect()))?;
        }
        Ok(Exit::Done)
    }
}
