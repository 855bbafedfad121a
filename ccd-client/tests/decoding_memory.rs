//! What decoding a request takes of memory, counted: whatever its bytes say, a small multiple of them.

use ccd_client::wire::{self, Ask, FRAME_PREFIX_BYTES, ToDaemon, WatchAsk, WatchFrom};
use ccd_core::client::{Request, RequestBody, UpdateRequest};
use ccd_core::configuration::RestoreFlag;
use ccd_core::database::{Content, Key, OPERATIONS_MAX, Op, Pattern, Precondition, Row};
use ccd_core::ids::Generation;
use ccd_core::time::Date;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

/// What the daemon counts for a large request while it works on it (`DECODED_TIMES` of its server of clients).
const TIMES_MAX: usize = 40;

/// Operations and conditions take a byte or two each, and have a limit of their own: room for as many as there may be, while
/// their list grows.
const OPERATIONS_ROOM: usize = OPERATIONS_MAX * size_of::<Op>() * 9 / 4;

/// Of each request here: large enough that the multiple counts and nothing else.
const REQUEST_BYTES: usize = 1 << 20;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

impl Counting {
    fn add(bytes: usize) {
        let now = NOW.get() + bytes;
        NOW.set(now);
        PEAK.set(PEAK.get().max(now));
    }

    fn sub(bytes: usize) {
        NOW.set(NOW.get().saturating_sub(bytes));
    }
}

// SAFETY: everything is handed on to the system's allocator; what is counted beside has no destructor and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::add(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Self::sub(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The old and the new block may be there at once.
        Self::add(size);
        Self::sub(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Whether the request is taken, and the most memory that decoding it took at once.
fn decoded(ask: Ask) -> (bool, usize, usize) {
    let request = ToDaemon { id: 1, body: ask };
    let frame = wire::encode_request(&request).expect("it is not too long");
    drop(request);
    let bytes = &frame[FRAME_PREFIX_BYTES..];
    let before = NOW.get();
    PEAK.set(before);
    let taken = wire::decode_request(bytes).is_ok();
    (taken, PEAK.get() - before, bytes.len())
}

fn key() -> Key {
    Key::new("K").expect("a key")
}

fn update(preconditions: Vec<Precondition>, ops: Vec<Op>) -> Ask {
    Ask::Request(Request {
        timeout: Duration::from_secs(5),
        body: RequestBody::Update(UpdateRequest {
            request: Default::default(),
            who: Default::default(),
            date: Date(1),
            reason: None,
            preconditions,
            ops,
            no_wait: false,
            dry_run: false,
            no_sync: false,
        }),
    })
}

fn restore(content: Content) -> Ask {
    let restore = RestoreFlag::AllActive;
    update(Vec::new(), vec![Op::ReplaceAll { content, restore }])
}

fn row(values: usize) -> Row {
    Row {
        key: key(),
        values: vec![String::new(); values],
    }
}

fn pattern(columns: usize, named: usize) -> Pattern {
    Pattern {
        columns: vec![None; columns],
        named: vec![(String::new(), String::new()); named],
        ..Pattern::all(key())
    }
}

fn query(pattern: Pattern) -> Ask {
    Ask::Request(Request {
        timeout: Duration::from_secs(5),
        body: RequestBody::Query { pattern, stale: true },
    })
}

fn watch(patterns: usize) -> Ask {
    Ask::Watch(WatchAsk {
        patterns: vec![pattern(0, 0); patterns],
        from: WatchFrom::Now,
        timeout: Duration::from_secs(5),
    })
}

#[test]
fn no_request_takes_more_memory_than_is_counted_for_it() {
    let many = REQUEST_BYTES;
    let rows = |values: usize| Content {
        formats: Vec::new(),
        rows: vec![row(values); many / (3 + values)],
    };
    let formats = |columns: usize, count: usize| Content {
        formats: vec![(key(), vec![String::new(); columns]); count],
        rows: Vec::new(),
    };
    let table = [
        (
            "a row of a million empty values",
            false,
            update(Vec::new(), vec![Op::Add(row(many))]),
        ),
        (
            "a condition with such a row",
            false,
            update(vec![Precondition::RowAbsent(row(many))], Vec::new()),
        ),
        ("a pattern of a million columns", false, query(pattern(many, 0))),
        (
            "a pattern of half a million names",
            false,
            query(pattern(0, many / 2)),
        ),
        (
            "a removal by such a pattern",
            false,
            update(Vec::new(), vec![Op::Remove(pattern(many, 0))]),
        ),
        ("a watch of a hundred thousand patterns", false, watch(many / 5)),
        (
            "a format of a million columns",
            false,
            update(
                Vec::new(),
                vec![Op::Format {
                    key: key(),
                    columns: vec![String::new(); many],
                }],
            ),
        ),
        ("the same in a restore", false, restore(formats(many, 1))),
        (
            "a restore of formats without columns",
            true,
            restore(formats(0, many / 3)),
        ),
        ("a restore of rows without values", true, restore(rows(0))),
        ("a restore of rows with one empty value", true, restore(rows(1))),
        (
            "a restore of rows with as many as are decoded",
            true,
            restore(rows(64)),
        ),
        (
            "a million operations",
            false,
            update(Vec::new(), vec![Op::Purify; many]),
        ),
        (
            "as many conditions as there may be",
            true,
            update(vec![Precondition::Generation(Generation(1)); 1 << 18], Vec::new()),
        ),
        ("an ordinary row", true, update(Vec::new(), vec![Op::Add(row(3))])),
    ];
    for (what, expected, ask) in table {
        let (taken, peak, bytes) = decoded(ask);
        println!(
            "{what}: {bytes} bytes, {peak} of memory, {:.1} times",
            peak as f64 / bytes as f64
        );
        assert_eq!(taken, expected, "{what}");
        let short = what.contains("operations") || what.contains("conditions");
        // Lists are given room before they are known to be short: a little, however small the request.
        let room = if short { OPERATIONS_ROOM } else { 64 << 10 };
        assert!(
            peak <= TIMES_MAX * bytes + room,
            "{what}: {peak} for {bytes} bytes"
        );
    }
}
