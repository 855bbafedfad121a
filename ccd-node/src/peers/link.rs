//! The ways to one peer: a [`Network`] for each of its addresses, each with at most one connection in use and one that is
//! to replace it. Filled by `dial.rs`, sent on by `mod.rs`.
//!
//! Always holds: all connections in use belong to the same reconfiguration, or to an earlier one than what is staged;
//! once the first of a later one is used, those of the earlier are finished.

use super::FULL_EVERY;
use super::beats::Beats;
use super::clocks::PeerClock;
use super::packets::Packets;
use super::sealed::Sealer;
use super::segments::TcpInfo;
use super::version::Version;
use crate::outbox::Outbox;
use crate::quiet::Quiet;
use ccd_client::files::AuthkeyId;
use ccd_client::wire::{ConnectionReport, LinkReport, LinkState};
use ccd_core::ids::{Epoch, NodeId};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Names a connection of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkId(pub u64);

/// An open connection to a peer.
#[derive(Debug)]
pub(super) struct Link {
    pub id: LinkId,
    pub sealer: Sealer,
    pub outbox: Rc<Outbox<TcpStream>>,
    /// In which messages are encoded.
    pub version: Version,
    pub epoch: Epoch,
    pub key: AuthkeyId,
    pub address: SocketAddr,
    /// What it was limited to, if it was; and how large its packets are, which it has proven.
    pub limit_bytes: Option<u32>,
    pub packet_bytes: u32,
    /// Largest payload of a segment.
    pub segment_bytes: usize,
    pub beats: Beats,
    /// Tells the task that holds the connection to let it drain and end.
    pub retired: Rc<Notify>,
}

impl Link {
    /// Puts bytes that carry nothing before a heartbeat whose answer is to prove that packets of full size pass. What waits to be
    /// sent proves that by itself.
    pub fn pad_if_due(&mut self) {
        if self.beats.is_full_due(FULL_EVERY) && self.outbox.is_empty() {
            let (sealer, bytes) = (&mut self.sealer, self.segment_bytes);
            // A sealer that seals no more says so with the heartbeat.
            let _ = self.outbox.append(|out| sealer.pad(bytes, out));
        }
    }

    fn retire(self) {
        self.retired.notify_one();
    }
}

/// One address of a peer.
#[derive(Debug)]
pub(super) struct Network {
    /// With the first port of its range.
    pub address: SocketAddr,
    pub current: RefCell<Option<Link>>,
    /// Proven, and not used before its turn has come.
    pub staged: RefCell<Option<Link>>,
    /// Why there is no connection.
    pub trouble: RefCell<String>,
    /// The reason is that one of the two refuses the other.
    pub refused: Cell<bool>,
    /// How large packets may be.
    pub packets: Cell<Packets>,
    /// A newer key is to be tried once.
    pub rekey: Cell<bool>,
    /// Wakes the task that dials.
    pub changed: Notify,
}

/// Where the event loop sends from.
#[derive(Debug)]
pub(super) struct Peer {
    pub node: NodeId,
    pub networks: Vec<Network>,
    /// Index of the network that everything but heartbeats goes over.
    preferred: Cell<usize>,
    /// There was a connection on it: that it carries no more is news.
    carried: Cell<bool>,
    /// A heartbeat without an answer for so long makes a link silent.
    pub patience: Duration,
    pub clock: PeerClock,
    quiet: RefCell<Quiet>,
}

impl Peer {
    pub fn new(node: NodeId, addresses: &[SocketAddr], patience: Duration) -> Self {
        let network = |address: &SocketAddr| Network {
            address: *address,
            current: RefCell::default(),
            staged: RefCell::default(),
            trouble: RefCell::default(),
            refused: Cell::new(false),
            packets: Cell::default(),
            rekey: Cell::new(false),
            changed: Notify::new(),
        };
        Self {
            node,
            networks: addresses.iter().map(network).collect(),
            preferred: Cell::new(0),
            carried: Cell::new(false),
            patience,
            clock: PeerClock::default(),
            quiet: RefCell::default(),
        }
    }

    /// A new connection is proven. It is used at once unless the one that everything goes over is still to be
    /// replaced by one of the same reconfiguration.
    pub fn stage(&self, network: usize, link: Link) {
        let current = self.networks.iter().filter_map(|network| {
            let link = network.current.borrow();
            link.as_ref().map(|link| link.epoch)
        });
        let is_newest = current.max().is_none_or(|newest| link.epoch <= newest);
        if let Some(older) = self.networks[network].staged.replace(Some(link)) {
            older.retire();
        }
        let preferred = self.preferred.get();
        if is_newest || preferred == network || self.networks[preferred].current.borrow().is_none() {
            self.switch();
        }
    }

    /// Takes what is staged into use, everywhere, and finishes what belongs to earlier reconfigurations: so everything
    /// that was sent before is on its way before anything is sent on the new ones.
    pub fn switch(&self) {
        let staged = (self.networks.iter())
            .filter_map(|network| network.staged.borrow().as_ref().map(|link| link.epoch));
        let Some(epoch) = staged.max() else {
            return;
        };
        for network in &self.networks {
            let is_older = (network.current.borrow().as_ref()).is_some_and(|link| link.epoch < epoch);
            let staged = network.staged.take();
            if (staged.is_some() || is_older)
                && let Some(older) = network.current.take()
            {
                older.retire();
                network.changed.notify_one();
            }
            if staged.is_some() {
                *network.current.borrow_mut() = staged;
            }
        }
        self.choose(Instant::now());
    }

    /// The connection has ended.
    pub fn on_ended(&self, network: usize, id: LinkId) {
        let network = &self.networks[network];
        for slot in [&network.current, &network.staged] {
            let is_this = slot.borrow().as_ref().is_some_and(|link| link.id == id);
            if is_this {
                slot.take();
                if network.current.borrow().is_none() && network.trouble.borrow().is_empty() {
                    // Until the next attempt has ended: the network is known not to carry anything.
                    network.trouble.replace("the connection has ended".to_owned());
                }
            }
        }
        network.changed.notify_one();
        self.choose(Instant::now());
    }

    /// Stays with the network in use while that answers; else takes the first that does.
    pub fn choose(&self, now: Instant) {
        let before = self.preferred.get();
        let state = |index: usize| self.networks[index].state(now, self.patience);
        if state(before) == LinkState::Up {
            self.carried.set(true);
            return;
        }
        let indices = || 0..self.networks.len();
        let up = indices().find(|index| state(*index) == LinkState::Up);
        // A silent one is better than none.
        let any = || {
            (state(before) == LinkState::Down)
                .then(|| indices().find(|index| state(*index) == LinkState::Silent))
                .flatten()
        };
        let Some(now_preferred) = up.or_else(any) else {
            return;
        };
        self.preferred.set(now_preferred);
        if !self.carried.replace(true) {
            return;
        }
        let text = format!(
            "{} does not answer: what goes to this node goes over {}",
            self.networks[before].address, self.networks[now_preferred].address
        );
        if let Some(swallowed) = self.quiet.borrow_mut().admit(now, &text) {
            tracing::warn!(node = %self.node, swallowed, "{text}");
        }
    }

    /// The network that everything but heartbeats goes over.
    pub fn preferred(&self) -> &Network {
        &self.networks[self.preferred.get()]
    }

    pub fn report(&self, now: Instant) -> Vec<LinkReport> {
        let preferred = self.preferred.get();
        (0..)
            .zip(&self.networks)
            .map(|(index, network)| {
                let current = network.current.borrow();
                LinkReport {
                    node: self.node,
                    address: current.as_ref().map_or(network.address, |link| link.address),
                    state: network.state(now, self.patience),
                    preferred: index == preferred && current.is_some(),
                    connection: current.as_ref().map(|link| ConnectionReport {
                        version: link.version.0,
                        epoch: link.epoch,
                        authkey: link.key.to_string(),
                    }),
                    trouble: match network.packets.get().short_text() {
                        Some(text) => format!("the network {text}"),
                        None => network.trouble.borrow().clone(),
                    },
                    refused: network.refused.get() && current.is_none(),
                }
            })
            .collect()
    }
}

impl Network {
    fn state(&self, now: Instant, patience: Duration) -> LinkState {
        match &*self.current.borrow() {
            None => LinkState::Down,
            Some(link) if link.beats.is_silent(now, patience) => LinkState::Silent,
            Some(_) => LinkState::Up,
        }
    }

    /// The connection in use, if its heartbeats are not answered and the oldest segment on its way was sent again in vain; with
    /// the size of its packets.
    pub fn stalled(&self, now: Instant, patience: Duration) -> Option<(LinkId, u32)> {
        let current = self.current.borrow();
        let link = current
            .as_ref()
            .filter(|link| link.beats.is_silent(now, patience))?;
        let info = TcpInfo::of(link.outbox.socket()).ok()?;
        info.is_stalled().then_some((link.id, link.packet_bytes))
    }

    /// Whether this is still the connection in use, and stalled.
    pub fn is_stalled(&self, id: LinkId, patience: Duration) -> bool {
        self.stalled(Instant::now(), patience)
            .is_some_and(|(stalled, _)| stalled == id)
    }

    /// Lets `work` have the link of this name, if it is still there.
    pub fn with_link<T>(&self, id: LinkId, work: impl FnOnce(&mut Link) -> T) -> Option<T> {
        let mut work = Some(work);
        for slot in [&self.current, &self.staged] {
            if let Some(link) = slot.borrow_mut().as_mut().filter(|link| link.id == id)
                && let Some(work) = work.take()
            {
                return Some(work(link));
            }
        }
        None
    }

    /// Whether there is a connection that needs no replacing.
    pub fn is_served(&self, epoch: Epoch, mut is_valid: impl FnMut(AuthkeyId) -> bool) -> bool {
        let mut fits = |slot: &RefCell<Option<Link>>| {
            let link = slot.borrow();
            link.as_ref().is_some_and(|link| {
                link.epoch == epoch
                    && is_valid(link.key)
                    && link.limit_bytes == self.packets.get().limit_bytes()
            })
        };
        let served = fits(&self.staged) || fits(&self.current);
        served && !self.rekey.get()
    }

    /// Ends the connections that are proven by a key that is no more.
    pub fn revoke(&self, is_valid: impl Fn(AuthkeyId) -> bool) {
        for slot in [&self.current, &self.staged] {
            if let Some(link) = slot.borrow().as_ref().filter(|link| !is_valid(link.key)) {
                link.outbox.end();
            }
        }
    }
}
