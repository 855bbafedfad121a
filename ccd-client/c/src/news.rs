//! What comes of a watch, as C sees it: `ccd_news_t`, `ccd_effect_t`.

use crate::handles::{Held, Kind};
use crate::rows::{CcdRow, Values};
use ccd_client::WatchEvent;
use ccd_client::wire::{HistoryUpdate, WatchPlace};
use ccd_core::database::{Difference, FormatChange, Key, Row};
use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::Arc;

/// Kinds of `ccd_news_t`, numbered as in `ccd.h`.
pub(crate) mod kind {
    use std::ffi::c_int;

    pub(crate) const BEGAN: c_int = 1;
    pub(crate) const ROWS: c_int = 2;
    pub(crate) const ROWS_ANEW: c_int = 3;
    pub(crate) const ROWS_END: c_int = 4;
    pub(crate) const CHANGE: c_int = 5;
    pub(crate) const PROGRESS: c_int = 6;
    pub(crate) const MISSED: c_int = 7;
    pub(crate) const DIVERGED: c_int = 8;
    pub(crate) const AWAY: c_int = 9;
    pub(crate) const BACK: c_int = 10;
}

/// Kinds of `ccd_effect_t`, numbered as in `ccd.h`.
pub(crate) mod effect {
    use std::ffi::c_int;

    pub(crate) const ADDED: c_int = 1;
    pub(crate) const REMOVED: c_int = 2;
    pub(crate) const FORMAT_MADE: c_int = 3;
    pub(crate) const FORMAT_REMOVED: c_int = 4;
    pub(crate) const FORMAT_CHANGED: c_int = 5;
    pub(crate) const MANY: c_int = 6;
}

/// `ccd_effect_t`
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CcdEffect {
    kind: c_int,
    key: *const c_char,
    row: CcdRow,
}

/// `ccd_news_t`
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CcdNews {
    kind: c_int,
    node: c_int,
    generation: u64,
    after: u64,
    epoch: u64,
    date_ms: i64,
    uid: u32,
    pid: u32,
    program: *const c_char,
    reason: *const c_char,
    why: *const c_char,
    place: *const c_char,
    effects: *const CcdEffect,
    count: usize,
    pub(crate) held: *mut c_void,
}

impl CcdNews {
    pub(crate) const NONE: Self = Self {
        kind: 0,
        node: -1,
        generation: 0,
        after: 0,
        epoch: 0,
        date_ms: 0,
        uid: 0,
        pid: 0,
        program: null(),
        reason: null(),
        why: null(),
        place: null(),
        effects: null(),
        count: 0,
        held: null_mut(),
    };
}

/// One event, and what C's view of it points at.
#[derive(Debug)]
pub(crate) struct News {
    kind: c_int,
    generation: u64,
    after: u64,
    update: Option<Box<HistoryUpdate>>,
    program: Option<CString>,
    reason: Option<CString>,
    why: Option<CString>,
    place: Option<CString>,
    /// What `effects` point into.
    _keys: Vec<CString>,
    _values: Vec<Values>,
    effects: Box<[CcdEffect]>,
}

// SAFETY: the pointers point into what stands beside them, which nobody changes as long as it is there.
unsafe impl Send for News {}
// SAFETY: as above; there are only readers.
unsafe impl Sync for News {}

impl Kind for News {
    const NAME: &'static str = "event of a watch";

    fn held(this: Arc<Self>) -> Held {
        Held::News(this)
    }

    fn of(held: &Held) -> Option<&Arc<Self>> {
        match held {
            Held::News(news) => Some(news),
            _ => None,
        }
    }
}

/// A text that C can have: up to its first NUL, which few texts have.
fn text(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}

#[derive(Default)]
struct Effects {
    keys: Vec<CString>,
    values: Vec<Values>,
    effects: Vec<CcdEffect>,
}

impl Effects {
    fn add(&mut self, kind: c_int, key: &Key, values: &[String]) {
        let known = self
            .keys
            .last()
            .filter(|known| known.as_bytes() == key.as_str().as_bytes());
        if known.is_none() {
            self.keys.push(text(key.as_str()));
        }
        let values = Values::of(values);
        let row = values.as_c();
        self.values.push(values);
        // The text of a CString stays where it is when the CString moves.
        let key = self.keys.last().map_or(null(), |key| key.as_ptr());
        self.effects.push(CcdEffect { kind, key, row });
    }

    fn rows(&mut self, kind: c_int, rows: &[Row]) {
        rows.iter().for_each(|row| self.add(kind, &row.key, &row.values));
    }

    fn of(difference: &Difference) -> Self {
        let mut effects = Self::default();
        for (key, columns) in &difference.formats_removed {
            effects.add(effect::FORMAT_REMOVED, key, columns);
        }
        for (key, columns) in &difference.formats_added {
            effects.add(effect::FORMAT_MADE, key, columns);
        }
        for FormatChange { key, to, .. } in &difference.formats_changed {
            effects.add(effect::FORMAT_CHANGED, key, to);
        }
        effects.rows(effect::REMOVED, &difference.rows_removed);
        effects.rows(effect::ADDED, &difference.rows_added);
        effects
    }
}

impl News {
    fn new(kind: c_int, generation: u64) -> Self {
        Self {
            kind,
            generation,
            after: 0,
            update: None,
            program: None,
            reason: None,
            why: None,
            place: None,
            _keys: Vec::new(),
            _values: Vec::new(),
            effects: Box::default(),
        }
    }

    fn at(kind: c_int, place: WatchPlace) -> Self {
        let place_text = Some(text(&place.to_string()));
        Self {
            place: place_text,
            ..Self::new(kind, place.seen.0)
        }
    }

    fn with(self, effects: Effects) -> Self {
        Self {
            _keys: effects.keys,
            _values: effects.values,
            effects: effects.effects.into(),
            ..self
        }
    }

    pub fn of(event: WatchEvent) -> Self {
        match event {
            WatchEvent::Began { position, .. } => Self::new(kind::BEGAN, position.stamp.generation.0),
            WatchEvent::Rows { formats, rows } => {
                let mut effects = Effects::default();
                for (key, columns) in &formats {
                    effects.add(effect::FORMAT_MADE, key, columns);
                }
                effects.rows(effect::ADDED, &rows);
                Self::new(kind::ROWS, 0).with(effects)
            }
            WatchEvent::RowsAnew => Self::new(kind::ROWS_ANEW, 0),
            WatchEvent::AllRows { place } => Self::at(kind::ROWS_END, place),
            WatchEvent::Change(change) => {
                let update = change.update;
                let effects = match &update.rows {
                    Some(rows) => Effects::of(rows),
                    None => {
                        let mut effects = Effects::default();
                        for change in &update.keys {
                            effects.add(effect::MANY, &change.key, &[]);
                        }
                        effects
                    }
                };
                Self {
                    generation: update.generation.0,
                    program: Some(text(&update.who.program)),
                    reason: update.reason.as_deref().map(text),
                    update: Some(Box::new(update)),
                    ..Self::at(kind::CHANGE, change.place)
                }
                .with(effects)
            }
            WatchEvent::Progress { place } => Self::at(kind::PROGRESS, place),
            WatchEvent::Missed { after, place } => Self {
                after: after.0,
                ..Self::at(kind::MISSED, place)
            },
            WatchEvent::Diverged { after, place } => Self {
                after: after.0,
                ..Self::at(kind::DIVERGED, place)
            },
            WatchEvent::Away { why } => Self {
                why: Some(text(&why)),
                ..Self::new(kind::AWAY, 0)
            },
            WatchEvent::Back => Self::new(kind::BACK, 0),
        }
    }

    /// As C sees it. It points into this.
    pub fn as_c(&self) -> CcdNews {
        let pointer = |text: &Option<CString>| text.as_ref().map_or(null(), |text| text.as_ptr());
        let update = self.update.as_ref();
        CcdNews {
            kind: self.kind,
            node: update
                .and_then(|update| update.who.node)
                .map_or(-1, |node| c_int::from(u8::from(node))),
            generation: self.generation,
            after: self.after,
            epoch: update.map_or(0, |update| update.epoch.0),
            date_ms: update.map_or(0, |update| i64::try_from(update.date.0).unwrap_or(i64::MAX)),
            uid: update.map_or(0, |update| update.who.uid),
            pid: update.map_or(0, |update| update.who.pid),
            program: pointer(&self.program),
            reason: pointer(&self.reason),
            why: pointer(&self.why),
            place: pointer(&self.place),
            effects: if self.effects.is_empty() {
                null()
            } else {
                self.effects.as_ptr()
            },
            count: self.effects.len(),
            held: null_mut(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn effects_point_at_keys_and_values_wherever_they_are_moved() {
        let key = |name: &str| Key::new(name).expect("a key");
        let row = |name: &str, value: &str| Row::new(key(name), [value]).expect("a row");
        let formats = vec![(key("A"), vec!["a".to_owned()])];
        let rows = (0..500).map(|number| row(if number < 250 { "A" } else { "B" }, &number.to_string()));
        let news = News::of(WatchEvent::Rows {
            formats,
            rows: rows.collect(),
        });
        let moved = Box::new(news);
        let shown = moved.as_c();
        assert_eq!((shown.kind, shown.count), (kind::ROWS, 501));
        for index in 0..shown.count {
            // SAFETY: there are so many effects, each with a key and, here, one value.
            let (kind, key, value) = unsafe {
                let effect = &*shown.effects.add(index);
                (effect.kind, CStr::from_ptr(effect.key), effect.row.text(0))
            };
            let expected = if index > 250 { c"B" } else { c"A" };
            assert_eq!(key, expected, "{index}");
            match index {
                0 => assert_eq!((kind, value), (effect::FORMAT_MADE, "a".to_owned())),
                _ => assert_eq!((kind, value), (effect::ADDED, (index - 1).to_string())),
            }
        }
    }
}
