//! What C holds in place of pointers: numbers that this process never uses twice. Called by all modules that export calls.
//!
//! Always holds: a handle that was given back, or never given out, stands for nothing, whatever its bits; what a call
//! works on stays whole until the call ends, even if another thread gives the handle back meanwhile; and after a fork
//! the child knows none of its parent's handles, whose connections are the parent's.

use crate::boundary::Failure;
use ccd_client::messages;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::initial::Initial;
use crate::news::News;
use crate::rows::Rows;
use crate::session::Session;
use crate::watch::Watching;

/// What a handle stands for.
#[derive(Clone, Debug)]
pub(crate) enum Held {
    Session(Arc<Session>),
    Initial(Arc<Initial>),
    Rows(Arc<Rows>),
    Watching(Arc<Watching>),
    News(Arc<News>),
}

/// A kind of thing that handles stand for.
pub(crate) trait Kind: Sized {
    /// As `ccd.h` calls the type of its handles.
    const NAME: &'static str;
    fn held(this: Arc<Self>) -> Held;
    fn of(held: &Held) -> Option<&Arc<Self>>;
}

#[derive(Debug)]
struct Registry {
    process: u32,
    /// A tree: leak checkers see what it holds, as they do not see into a hash table.
    held: RwLock<BTreeMap<usize, Held>>,
    /// Keeps a parent's handles within reach of leak checkers. They are never used.
    _parent: *const Registry,
}

/// Of this process, or of the one that it was forked from.
static REGISTRY: AtomicPtr<Registry> = AtomicPtr::new(ptr::null_mut());

/// Counts handles. It goes on in a forked child, so no number of its parent comes again there.
static SERIAL: AtomicUsize = AtomicUsize::new(0);

/// Odd, so that multiplying by it makes different numbers of different ones; large, so that small integers and addresses
/// are not among the first of them: 2⁶⁴ divided by the golden ratio.
const SPREAD: usize = 0x9e37_79b9_7f4a_7c15;

/// The registry of this process. No lock is taken that a thread of the parent may have held when it forked.
fn registry() -> &'static Registry {
    let process = std::process::id();
    loop {
        let current = REGISTRY.load(Ordering::Acquire);
        // SAFETY: it is null or came from `Box::into_raw` below, and such a box is never freed once it was stored.
        if let Some(registry) = unsafe { current.as_ref() }
            && registry.process == process
        {
            return registry;
        }
        let fresh = Box::into_raw(Box::new(Registry {
            process,
            held: RwLock::default(),
            _parent: current,
        }));
        let stored = REGISTRY.compare_exchange(current, fresh, Ordering::AcqRel, Ordering::Acquire);
        if stored.is_err() {
            // SAFETY: it came from `Box::into_raw` above, and was not stored, so nobody else has it.
            drop(unsafe { Box::from_raw(fresh) });
        }
    }
}

/// A new handle.
pub(crate) fn hold<K: Kind>(what: K) -> *mut c_void {
    hold_shared(Arc::new(what))
}

/// A new handle for what the caller has, too.
pub(crate) fn hold_shared<K: Kind>(what: Arc<K>) -> *mut c_void {
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed) + 1;
    let number = serial.wrapping_mul(SPREAD);
    let mut held = registry().held.write().unwrap_or_else(PoisonError::into_inner);
    held.insert(number, K::held(what));
    ptr::without_provenance_mut(number)
}

/// What a handle stands for.
pub(crate) fn find<K: Kind>(handle: *mut c_void) -> Result<Arc<K>, Failure> {
    let held = registry().held.read().unwrap_or_else(PoisonError::into_inner);
    let found = held.get(&handle.addr()).and_then(K::of);
    found.cloned().ok_or_else(|| not_held::<K>(handle))
}

/// Takes a handle back. What it stood for goes when the last call that works on it ends.
pub(crate) fn release<K: Kind>(handle: *mut c_void) -> Result<(), Failure> {
    let mut held = registry().held.write().unwrap_or_else(PoisonError::into_inner);
    if held.get(&handle.addr()).and_then(K::of).is_none() {
        return Err(not_held::<K>(handle));
    }
    let released = held.remove(&handle.addr());
    // Closing connections or freeing a large result is nothing that others should wait for.
    drop(held);
    drop(released);
    Ok(())
}

fn not_held<K: Kind>(handle: *mut c_void) -> Failure {
    let text = match handle.addr() {
        0 => format!("the {} is null", K::NAME),
        number => format!("{number:#x} is no {} of this process", K::NAME),
    };
    Failure::new(&messages::HANDLE_BAD, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        Rows::of(&[])
    }

    #[test]
    fn a_handle_is_found_until_it_is_given_back_and_never_again() {
        let handle = hold(rows());
        let found = find::<Rows>(handle).expect("it is held");
        release::<Rows>(handle).expect("it is held");
        assert_eq!(Arc::strong_count(&found), 1);
        for failure in [
            find::<Rows>(handle).expect_err("it was given back"),
            release::<Rows>(handle).expect_err("it was given back"),
        ] {
            assert_eq!(failure.message.id, messages::HANDLE_BAD.id);
        }
        assert_ne!(hold(rows()).addr(), handle.addr());
    }

    #[test]
    fn a_handle_of_another_kind_and_a_wild_one_are_refused_and_stay() {
        let handle = hold(rows());
        release::<Session>(handle).expect_err("it is no session");
        find::<Initial>(handle).expect_err("it is no init database");
        for wild in [0, 1, 8, 0x1000, handle.addr() + 1, usize::MAX] {
            find::<Rows>(ptr::without_provenance_mut(wild)).expect_err("it is no handle");
        }
        find::<Rows>(handle).expect("it is still held");
    }
}
