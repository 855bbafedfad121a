//! The thread that owns the watchers' sockets: who is where, and what each is told next.
//!
//! A watcher that has been told everything costs nothing until something happens that its group sees; then it costs one write.
//! One whose socket is full keeps one piece and its place, and goes on when the socket takes more.
//!
//! hub/telling.rs: what happened, and to whom it is told.

mod telling;

use super::group::{Group, Sight, encoded};
use super::inlet::{Inlet, Word};
use super::past::{Desk, Name, Past};
use super::ring::Ring;
use super::volley::Volley;
use super::watcher::{Gone, Stage, Watcher};
use super::{Start, refuse};
use crate::history::trail::{self, Trail};
use ccd_client::wire::{Fault, Told, WatchFrom, WatchItem, WatchPlace};
use ccd_core::client::Refusal;
use ccd_core::database::{Database, Key};
use ccd_core::ids::{Generation, Position};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks at who waits for something that does not happen by itself.
const TICK: Duration = Duration::from_millis(250);
/// A watcher that was told nothing for so long hears up to where it has seen everything, if that is news.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);
/// And if it is none: a sign of life.
const ALIVE_AFTER: Duration = Duration::from_secs(10);
/// A watcher that takes nothing for so long is hung up on. It may come back, and goes on where it was.
const STALL_MAX: Duration = Duration::from_secs(60);
/// All pieces that sockets did not take. When there are more, who does not take the next one is hung up on.
const HELD_BYTES_MAX: usize = 64 << 20;
/// Bytes that are sent to a watcher at once.
const PIECE_BYTES: usize = 256 << 10;
/// What was committed and is not on the disk so much later was not written there.
const DISK_PATIENCE: Duration = Duration::from_secs(1);
/// The inlet's, among the names of watchers.
const BELL: Name = Name::MAX;
const EVENTS_MAX: usize = 1024;

pub struct Hub {
    inlet: Arc<Inlet>,
    epoll: Epoll,
    past: Desk,
    watchers: Vec<Option<Watcher>>,
    /// Indexes without a watcher, and those that get free in this turn.
    free: Vec<u32>,
    freed: Vec<u32>,
    last_serial: u32,
    count: usize,
    groups: BTreeMap<usize, Group>,
    by_sight: BTreeMap<Arc<[u8]>, usize>,
    last_group: usize,
    /// Groups by the keys that they name, and those that name them by pattern.
    by_key: BTreeMap<Key, BTreeSet<usize>>,
    broad: BTreeSet<usize>,
    ring: Ring,
    /// Where the ring ends, while somebody watches.
    version: Option<Database>,
    not_serving: Option<String>,
    held_bytes: usize,
    volley: Volley,
    /// Those whose socket did not take everything.
    blocked: BTreeSet<u32>,
    /// Those that wait for the ring to go on where the disk ends.
    between: Vec<Name>,
}

fn name(serial: u32, index: u32) -> Name {
    Name::from(serial) << 32 | Name::from(index)
}

impl Hub {
    pub fn new(inlet: Arc<Inlet>, trail: Trail) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&*inlet, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        Ok(Self {
            past: Desk::start(trail, inlet.clone())?,
            inlet,
            epoll,
            watchers: Vec::new(),
            free: Vec::new(),
            freed: Vec::new(),
            last_serial: 0,
            count: 0,
            groups: BTreeMap::new(),
            by_sight: BTreeMap::new(),
            last_group: 0,
            by_key: BTreeMap::new(),
            broad: BTreeSet::new(),
            ring: Ring::default(),
            version: None,
            not_serving: None,
            held_bytes: 0,
            volley: Volley::single(),
            blocked: BTreeSet::new(),
            between: Vec::new(),
        })
    }

    /// Runs until it is told to end.
    pub fn run(mut self) {
        crate::history::be_nice();
        self.volley = Volley::together();
        let mut events = vec![EpollEvent::empty(); EVENTS_MAX];
        let mut ticked = Instant::now();
        loop {
            let wait = if self.count == 0 {
                EpollTimeout::NONE
            } else {
                EpollTimeout::try_from(TICK).unwrap_or(EpollTimeout::ZERO)
            };
            let found = match self.epoll.wait(&mut events, wait) {
                Ok(found) => found,
                Err(Errno::EINTR) => 0,
                Err(error) => {
                    tracing::error!(%error, "watchers are not served any more");
                    return;
                }
            };
            let now = Instant::now();
            for event in &events[..found] {
                if event.data() != BELL {
                    self.on_socket(event.data(), event.events(), now);
                }
            }
            for word in self.inlet.take() {
                match word {
                    Word::Start(start, version) => self.on_start(*start, version, now),
                    Word::Told(told) => self.on_told(told, now),
                    Word::Skipped(version) => self.jump(version, now),
                    Word::Answer(answer) => self.on_answer(*answer, now),
                    Word::Service(why) => self.on_service(why, now),
                    Word::Close => return,
                }
            }
            if now.duration_since(ticked) >= TICK {
                ticked = now;
                self.tick(now);
            }
            self.free.append(&mut self.freed);
            if self.count == 0 && self.version.take().is_some() {
                self.ring.reset(Position::EMPTY);
                self.inlet.rest();
            }
        }
    }

    fn watcher(&mut self, index: u32) -> Option<&mut Watcher> {
        self.watchers.get_mut(index as usize)?.as_mut()
    }

    /// The index of a watcher that is still there.
    fn index_of(&mut self, name: Name) -> Option<u32> {
        let (serial, index) = ((name >> 32) as u32, name as u32);
        let watcher = self.watcher(index)?;
        (watcher.serial == serial).then_some(index)
    }

    fn on_start(&mut self, start: Start, version: Database, now: Instant) {
        let Start {
            socket,
            ask,
            sight,
            seat,
        } = start;
        if self.count == 0 {
            self.ring.reset(version.position());
            self.version = Some(version);
        } else if !trail::is_same(self.ring.head(), version.position()) {
            self.jump(version, now);
        }
        let Some(version) = self.version.clone() else {
            return;
        };
        let head = version.position();
        let absent = match sight.view().check(&version) {
            Ok(absent) => absent,
            Err(error) => return refuse(&socket, Told::Refused(Refusal::Op(error))),
        };
        if let WatchFrom::Generation(generation) = ask.from
            && generation > head.stamp.generation
        {
            return refuse(&socket, not_reached(generation, head.stamp.generation));
        }
        let place = match ask.from {
            WatchFrom::Place(place) => place,
            _ => WatchPlace::at(head),
        };
        let in_ring = Some(place)
            .filter(|place| place.seen == place.round.stamp.generation)
            .and_then(|place| self.ring.after(place.round));
        let stage = match ask.from {
            WatchFrom::Now => Stage::Ring(self.ring.end()),
            WatchFrom::Rows => Stage::Past(Some(Box::new(Past::rows(&sight, &version)))),
            WatchFrom::Place(_) if let Some(number) = in_ring => Stage::Ring(number),
            WatchFrom::Generation(_) | WatchFrom::Place(_) => {
                Stage::Past(Some(Box::new(Past::since(&sight, ask.from, &version))))
            }
        };
        let group = self.group(sight);
        self.last_serial = self.last_serial.wrapping_add(1);
        let mut watcher = Watcher::new(self.last_serial, socket, group, place, seat);
        watcher.stage = stage;
        let index = self.free.pop().unwrap_or_else(|| {
            self.watchers.push(None);
            (self.watchers.len() - 1) as u32
        });
        let event = EpollEvent::new(quiet_interest(), name(watcher.serial, index));
        let registered = self.epoll.add(&watcher, event);
        if let Some(group) = self.groups.get_mut(&group) {
            watcher.member_at = group.members.len();
            group.members.push(index);
        }
        self.watchers[index as usize] = Some(watcher);
        self.count += 1;
        if let Err(error) = registered {
            tracing::warn!(%error, "a watcher could not be taken");
            self.remove(index);
            return;
        }
        let began = WatchItem::Began {
            position: head,
            absent,
        };
        if self.send(index, &encoded(began).into(), now).is_ok() {
            self.pump(index, now);
        }
    }

    /// The group of those who see this.
    fn group(&mut self, sight: Sight) -> usize {
        if let Some(number) = self.by_sight.get(&sight.name) {
            return *number;
        }
        self.last_group += 1;
        let number = self.last_group;
        self.by_sight.insert(sight.name.clone(), number);
        let group = Group::new(sight);
        match group.keys() {
            Some(keys) => {
                for key in keys {
                    self.by_key.entry(key).or_default().insert(number);
                }
            }
            None => {
                self.broad.insert(number);
            }
        }
        self.groups.insert(number, group);
        number
    }

    fn remove(&mut self, index: u32) {
        let Some(watcher) = self.watchers.get_mut(index as usize).and_then(Option::take) else {
            return;
        };
        self.count -= 1;
        if matches!(watcher.stage, Stage::Past(None)) {
            self.past.forget(name(watcher.serial, index));
        }
        self.held_bytes -= watcher.held_bytes();
        self.blocked.remove(&index);
        self.take_from_live(&watcher);
        self.freed.push(index);
        let Some(group) = self.groups.get_mut(&watcher.group) else {
            return;
        };
        group.members.swap_remove(watcher.member_at);
        if let Some(moved) = group.members.get(watcher.member_at).copied() {
            if let Some(moved) = self.watcher(moved) {
                moved.member_at = watcher.member_at;
            }
        } else if group.members.is_empty()
            && let Some(group) = self.groups.remove(&watcher.group)
        {
            self.by_sight.remove(&group.sight.name);
            self.broad.remove(&watcher.group);
            for key in group.keys().into_iter().flatten() {
                if let Some(numbers) = self.by_key.get_mut(&key) {
                    numbers.remove(&watcher.group);
                    if numbers.is_empty() {
                        self.by_key.remove(&key);
                    }
                }
            }
        }
    }

    /// It was told everything.
    fn enter_live(&mut self, index: u32, head: Position, now: Instant) {
        let Some(watcher) = self.watchers.get_mut(index as usize).and_then(Option::as_mut) else {
            return;
        };
        watcher.place = WatchPlace::at(head);
        watcher.stage = Stage::Live;
        watcher.live_since = now;
        if let Some(group) = self.groups.get_mut(&watcher.group) {
            watcher.live_at = Some(group.live.add(index, watcher.socket.as_raw_fd()));
        }
    }

    /// There is something that it was not told, after `place`. Returns whether it was live.
    fn leave_live(&mut self, index: u32, stage: Stage, place: Position) -> bool {
        let Some(mut watcher) = self.watchers.get_mut(index as usize).and_then(Option::take) else {
            return false;
        };
        let was_live = self.take_from_live(&watcher);
        if was_live {
            watcher.live_at = None;
            watcher.place = WatchPlace::at(place);
            watcher.stage = stage;
        }
        self.watchers[index as usize] = Some(watcher);
        was_live
    }

    fn take_from_live(&mut self, watcher: &Watcher) -> bool {
        let (Some(at), Some(group)) = (watcher.live_at, self.groups.get_mut(&watcher.group)) else {
            return false;
        };
        let moved = group.live.remove(at);
        if let Some(moved) = moved.and_then(|moved| self.watcher(moved)) {
            moved.live_at = Some(at);
        }
        true
    }

    /// Sends to a watcher that holds nothing. It is removed if its connection is over, or too much is held.
    fn send(&mut self, index: u32, bytes: &Arc<[u8]>, now: Instant) -> Result<(), Gone> {
        let Some(watcher) = self.watcher(index) else {
            return Err(Gone);
        };
        let sent = watcher.send(bytes, now);
        let held = watcher.held_bytes();
        self.after_write(index, sent, 0, held)
    }

    fn after_write(
        &mut self,
        index: u32,
        sent: Result<(), Gone>,
        before: usize,
        after: usize,
    ) -> Result<(), Gone> {
        // What `remove` takes off is what the watcher holds now.
        self.held_bytes = self.held_bytes - before + after;
        if sent.is_err() || after > 0 && self.held_bytes > HELD_BYTES_MAX {
            self.remove(index);
            return Err(Gone);
        }
        if (before > 0) != (after > 0) {
            let interest = if after > 0 {
                self.blocked.insert(index);
                quiet_interest() | EpollFlags::EPOLLOUT
            } else {
                self.blocked.remove(&index);
                quiet_interest()
            };
            let Some(Some(watcher)) = self.watchers.get(index as usize) else {
                return Err(Gone);
            };
            let mut event = EpollEvent::new(interest, name(watcher.serial, index));
            if self.epoll.modify(watcher, &mut event).is_err() {
                self.remove(index);
                return Err(Gone);
            }
        }
        Ok(())
    }

    fn on_socket(&mut self, name: Name, events: EpollFlags, now: Instant) {
        let Some(index) = self.index_of(name) else {
            return;
        };
        let Some(watcher) = self.watcher(index) else {
            return;
        };
        if !events.difference(EpollFlags::EPOLLOUT).is_empty() && watcher.is_gone() {
            self.remove(index);
        } else if watcher.is_blocked() {
            let before = watcher.held_bytes();
            let sent = watcher.flush(now);
            let after = watcher.held_bytes();
            if self.after_write(index, sent, before, after).is_ok() && after == 0 {
                self.pump(index, now);
            }
        }
    }

    /// Tells a watcher what comes next, until it has been told everything, or does not take more, or somebody has to read first.
    fn pump(&mut self, index: u32, now: Instant) {
        loop {
            let head = self.ring.head();
            let (first, end) = (self.ring.first(), self.ring.end());
            let Some(watcher) = self.watchers.get_mut(index as usize).and_then(Option::as_mut) else {
                return;
            };
            if watcher.is_blocked() {
                return;
            }
            match &mut watcher.stage {
                Stage::Live | Stage::Between(_) => return,
                Stage::Past(past) => {
                    if let Some(past) = past.take() {
                        self.past.ask(watcher.owner(), name(watcher.serial, index), past);
                    }
                    return;
                }
                Stage::Ring(next) if *next < first => {
                    let (Some(group), Some(version)) = (self.groups.get(&watcher.group), &self.version)
                    else {
                        return;
                    };
                    let from = WatchFrom::Place(watcher.place);
                    watcher.stage = Stage::Past(Some(Box::new(Past::since(&group.sight, from, version))));
                }
                Stage::Ring(next) if *next >= end => return self.enter_live(index, head, now),
                Stage::Ring(next) => {
                    let Some(group) = self.groups.get_mut(&watcher.group) else {
                        return;
                    };
                    let mut bytes = Vec::new();
                    while bytes.len() < PIECE_BYTES
                        && let Some(entry) = self.ring.entry(*next)
                    {
                        if let Some(encoded) = group.encode(watcher.group, entry) {
                            bytes.extend_from_slice(&encoded);
                        }
                        watcher.place = WatchPlace::at(entry.next);
                        *next += 1;
                    }
                    if !bytes.is_empty() && self.send(index, &bytes.into(), now).is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        self.look_between(now);
        let head = self.ring.head();
        let generation = head.stamp.generation.0;
        let mut alive: Option<Arc<[u8]>> = None;
        let serves = self.not_serving.is_none();
        for index in self.blocked.clone() {
            let stalled = self.watcher(index).and_then(|watcher| watcher.stalled);
            if stalled.is_some_and(|since| now.duration_since(since) > STALL_MAX) {
                self.remove(index);
            }
        }
        for index in self.quiet(now) {
            let Some(watcher) = self.watchers.get_mut(index as usize).and_then(Option::as_mut) else {
                continue;
            };
            let Some(group) = self.groups.get(&watcher.group) else {
                continue;
            };
            let (told_at, told) = group.told_last(watcher);
            let quiet = now.duration_since(told_at);
            let news = told != generation && serves;
            if quiet > ALIVE_AFTER || news && quiet > PROGRESS_AFTER {
                watcher.told = generation;
                let not_serving = &self.not_serving;
                let bytes = alive.get_or_insert_with(|| {
                    let item = match not_serving.clone() {
                        Some(why) => WatchItem::NotServing { why },
                        None => WatchItem::Progress { position: head },
                    };
                    encoded(item).into()
                });
                let bytes = bytes.clone();
                // One that is gone is removed; one that does not take this goes on behind it.
                if self.send(index, &bytes, now).is_ok()
                    && self.watcher(index).is_some_and(|watcher| watcher.is_blocked())
                {
                    self.leave_live(index, Stage::Ring(self.ring.end()), head);
                }
            }
        }
    }

    /// Those who were told everything, and perhaps nothing for a while.
    fn quiet(&self, now: Instant) -> Vec<u32> {
        let groups = self.groups.values();
        let quiet = groups.filter(|group| {
            group
                .told
                .is_none_or(|(at, _)| now.duration_since(at) > PROGRESS_AFTER)
        });
        quiet.flat_map(|group| group.live.indexes()).copied().collect()
    }
}

/// What wakes the hub for a watcher that holds nothing: that it hangs up.
fn quiet_interest() -> EpollFlags {
    EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP
}

fn not_reached(generation: Generation, newest: Generation) -> Told {
    let why = format!("generation {generation} has not been reached: the newest here is {newest}");
    Told::Failed(Fault::NotKept { why })
}
