//! A connection that becomes a watcher's: from the task that served it to the event loop, which sees to it that this node
//! serves, and on to the thread that serves watchers.
//!
//! Always holds: nothing is under way on a connection that is handed over, so whoever gets it is the only one to write to it.

use super::access::{Caller, Rights};
use super::serve::Shared;
use super::{Connection, FromClient};
use crate::watch::Start;
use ccd_client::wire::{Ask, Fault, Told, WATCH_PATTERNS_MAX, WatchAsk};
use std::rc::Rc;
use tokio::net::unix::OwnedReadHalf;

/// Whether the request takes the whole connection: then what is asked for (`Err(Ok)`), or why it cannot be had (`Err(Err)`).
/// `is_alone`: nothing was asked on it before, nor behind.
pub(super) fn taken(ask: Ask, is_alone: bool) -> Result<Ask, Result<WatchAsk, Fault>> {
    let watch = match ask {
        Ask::Watch(watch) => watch,
        other => return Ok(other),
    };
    let why = if !is_alone {
        "a watch has a connection of its own, on which nothing else is asked"
    } else if watch.patterns.len() > WATCH_PATTERNS_MAX {
        "a watch has at most 64 patterns"
    } else {
        return Err(Ok(watch));
    };
    Err(Err(Fault::BadRequest { why: why.to_owned() }))
}

/// Hands the connection over, if its user may watch and there is a seat.
pub(super) async fn hand_over(
    shared: &Shared,
    reader: OwnedReadHalf,
    connection: Rc<Connection>,
    ask: WatchAsk,
    caller: &Caller,
    rights: &Rights,
) -> anyhow::Result<()> {
    let granted = rights
        .sight(&ask)
        .map_err(|why| Fault::NotPermitted { why })
        .and_then(|sight| {
            let trusted = shared.rules().is_trusted(caller.uid);
            Ok((sight, shared.seats.take(caller.uid, trusted)?))
        });
    let (sight, seat) = match granted {
        Ok(granted) => granted,
        Err(fault) => {
            connection.tell(0, Told::Failed(fault));
            return Ok(());
        }
    };
    let connection = Rc::into_inner(connection).and_then(|connection| connection.outbox.into_socket());
    let writer = connection.ok_or_else(|| anyhow::anyhow!("somebody else writes to the connection"))?;
    let start = Box::new(Start {
        socket: reader.reunite(writer)?.into_std()?,
        ask,
        sight,
        seat,
    });
    let client = shared.clients.token();
    shared.to_core.send(FromClient::Watch { client, start }).await?;
    Ok(())
}
