//! Own addresses that this node cannot listen on now: the interface is broken, or comes later in the boot. The daemon runs on
//! the addresses that are there, and tries the others again with a growing pause.
//!
//! Called by `listen.rs`; what is missing is part of the status.

use super::listen::bind;
use super::ports;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::sleep;

/// Between the first two attempts; each pause is twice the one before, up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_LONGEST: Duration = Duration::from_secs(30);

/// An address of this node that could not be taken.
#[derive(Debug)]
pub struct LateAddress {
    pub first: SocketAddr,
    /// How many ports its range has.
    pub count: u16,
    pub error: io::Error,
}

/// The addresses that are missing, and why.
#[derive(Debug, Default)]
pub struct Missing(RefCell<BTreeMap<SocketAddr, String>>);

impl Missing {
    fn note(&self, address: SocketAddr, why: String) -> bool {
        self.0.borrow_mut().insert(address, why.clone()) != Some(why)
    }

    /// One line for the status; `None` if every address is there.
    pub fn text(&self) -> Option<String> {
        let missing = self.0.borrow();
        let each: Vec<String> = (missing.iter())
            .map(|(address, why)| format!("{address} ({why})"))
            .collect();
        (!each.is_empty()).then(|| {
            format!(
                "does not listen on {}: the other nodes cannot reach it there; it tries again and again",
                each.join(", ")
            )
        })
    }
}

/// The socket, once the address can be listened on.
pub(super) async fn bind_late(mut late: LateAddress, missing: &Missing) -> TcpListener {
    let mut pause = PAUSE_FIRST;
    loop {
        if missing.note(late.first, late.reason()) {
            tracing::warn!("cannot listen for the other nodes: {}", late.advice());
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_LONGEST);
        match bind(late.first, late.count) {
            Ok(listener) => {
                missing.0.borrow_mut().remove(&late.first);
                tracing::info!("listens for the other nodes on {} now", late.first);
                return listener;
            }
            Err(error) => late.error = error,
        }
    }
}

impl LateAddress {
    fn reason(&self) -> String {
        let ports: Vec<String> = (ports::range(self.first, self.count))
            .map(|address| address.port().to_string())
            .collect();
        if self.error.kind() == io::ErrorKind::AddrInUse {
            format!("all ports of the range are taken: {}", ports.join(", "))
        } else {
            self.error.to_string()
        }
    }

    /// What is wrong with the address, and what to try.
    pub fn advice(&self) -> String {
        let (first, why) = (self.first, self.reason());
        if self.error.kind() == io::ErrorKind::AddrInUse {
            format!(
                "{first}: {why}; find out with `ss -ltnp` by whom, or change the options port and port_range in init.ccd on \
                 all nodes"
            )
        } else {
            format!(
                "{first}: {why}; check with `ip address` that this machine has the address, and the ADDRESS rows of this node \
                 in init.ccd; ccdd goes on without it and tries again"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_until_it_is_there() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            let first = taken.local_addr().expect("it is bound");
            let missing = Missing::default();
            let error = bind(first, 1).expect_err("it is taken");
            let late = LateAddress {
                first,
                count: 1,
                error,
            };
            let told = async {
                sleep(Duration::from_millis(1)).await;
                let text = missing.text().expect("it is missing");
                assert!(text.contains(&first.to_string()), "{text}");
                drop(taken);
            };
            let (listener, ()) = tokio::join!(bind_late(late, &missing), told);
            assert_eq!(listener.local_addr().expect("it is bound"), first);
            assert_eq!(missing.text(), None);
        });
    }
}
