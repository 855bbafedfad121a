//! Values of any type that can be decoded, made from choices: new ones, or a real one with a few of its parts changed.
//!
//! A decoder of serde is told what is wanted next: a number called `Epoch`, a list, one of so many variants. This one answers with
//! what it chose, so that whatever is added to a message is tried without a line here. Of a real value it follows the encoding
//! (postcard's) and replaces the parts whose numbers were chosen.

use super::choices::{Choices, Seen};
use ccd_core::database::Record;
use serde::de::value::{Error, U8Deserializer, U32Deserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer,
    SeqAccess, VariantAccess, Visitor,
};
use std::collections::BTreeSet;

/// Numbers around which arithmetic goes wrong; the epochs and generations that are believed end at the fourth.
const LIMITS: [u128; 12] = [
    u64::MAX as u128,
    u64::MAX as u128 - 1,
    1 << 56,
    (1 << 56) - 1,
    (1 << 56) + 1,
    u32::MAX as u128,
    1 << 32,
    1 << 63,
    u16::MAX as u128,
    255,
    1_000_000_000,
    1 << 20,
];

const TEXTS: [&str; 14] = [
    "",
    "K",
    "L",
    "CCD_SYNC",
    "1",
    "x*",
    "?",
    "realloc",
    "node0",
    "node1",
    "node9",
    "K:1:2",
    "not\u{7f}e",
    "why",
];

/// Deeper than any value nests.
const DEPTH_MAX: u32 = 24;

#[derive(Debug)]
struct Values<'a, 'c> {
    choices: &'a mut Choices<'c>,
    seen: &'a mut Seen,
    /// What is left of the real value's encoding, while it is followed.
    real: Option<&'a [u8]>,
    /// Which parts of it are replaced.
    replaced: BTreeSet<usize>,
    part: usize,
    /// Name of the type or the field that is decoded.
    name: &'static str,
    /// The number of nodes that most values are about.
    nodes: usize,
    depth: u32,
}

/// A new value.
pub fn new<T: DeserializeOwned>(choices: &mut Choices<'_>, seen: &mut Seen, nodes: usize) -> Option<T> {
    decode(choices, seen, None, BTreeSet::new(), nodes).0
}

/// A real value, as postcard encodes it, with one to three parts replaced.
pub fn changed<T: DeserializeOwned>(
    encoded: &[u8],
    choices: &mut Choices<'_>,
    seen: &mut Seen,
    nodes: usize,
) -> Option<T> {
    let (_, parts) = decode::<T>(
        &mut Choices::new(&[]),
        seen,
        Some(encoded),
        BTreeSet::new(),
        nodes,
    );
    let count = 1 + choices.below(3);
    let replaced = (0..count)
        .map(|_| (usize::from(choices.byte()) << 4 | usize::from(choices.byte()) & 15) % parts.max(1))
        .collect();
    decode(choices, seen, Some(encoded), replaced, nodes).0
}

/// Keeps the parts of a real value for others.
pub fn note<T: DeserializeOwned>(encoded: &[u8], seen: &mut Seen) {
    same::<T>(encoded, seen);
}

/// The real value as it is.
pub fn same<T: DeserializeOwned>(encoded: &[u8], seen: &mut Seen) -> Option<T> {
    decode(&mut Choices::new(&[]), seen, Some(encoded), BTreeSet::new(), 1).0
}

fn decode<T: DeserializeOwned>(
    choices: &mut Choices<'_>,
    seen: &mut Seen,
    real: Option<&[u8]>,
    replaced: BTreeSet<usize>,
    nodes: usize,
) -> (Option<T>, usize) {
    let mut values = Values {
        choices,
        seen,
        real,
        replaced,
        part: 0,
        name: "",
        nodes,
        depth: 0,
    };
    let value = T::deserialize(&mut values).ok();
    (value, values.part)
}

impl Values<'_, '_> {
    /// The next part begins: whether it is to be another than the real one.
    fn is_replaced(&mut self) -> bool {
        self.part += 1;
        self.replaced.contains(&(self.part - 1))
    }

    fn take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        let (taken, rest) = self.real?.split_at_checked(bytes)?;
        self.real = Some(rest);
        Some(taken.to_vec())
    }

    fn real_varint(&mut self) -> Option<u128> {
        let mut number = 0;
        for shift in (0..128).step_by(7) {
            let byte = *self.take(1)?.first()?;
            number |= u128::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn number(&mut self, max: u128) -> u128 {
        let real = if max == u128::from(u8::MAX) {
            self.take(1).map(|byte| u128::from(byte[0]))
        } else {
            self.real_varint()
        };
        let replaced = self.is_replaced();
        match real {
            Some(number) if !replaced => {
                self.seen.number(self.name, number);
                number
            }
            _ => self.new_number(real.unwrap_or(0), max).min(max),
        }
    }

    fn new_number(&mut self, real: u128, max: u128) -> u128 {
        if max == u128::from(u8::MAX) {
            let raw = self.choices.byte();
            // Mostly the number of a node.
            return u128::from(if raw < 240 {
                raw % self.nodes as u8
            } else {
                raw % 34
            });
        }
        if self.name == "NodeSet" {
            let mask = if self.choices.rarely(8) {
                u32::MAX
            } else {
                (1 << self.nodes) - 1
            };
            return u128::from(self.choices.word() as u32 & mask);
        }
        match self.choices.below(10) {
            0 => self.choices.below(4) as u128,
            1..4 => self.seen.a_number(self.name, self.choices).unwrap_or(1),
            4 => self
                .seen
                .a_number(self.name, self.choices)
                .unwrap_or(1)
                .saturating_add(1),
            5 => real.saturating_add(1),
            6 => real.saturating_sub(1),
            7 => LIMITS[self.choices.below(LIMITS.len())],
            8 => u128::from(self.choices.byte()) * 512,
            _ => u128::from(self.choices.word()),
        }
    }

    fn flag(&mut self) -> (bool, Option<bool>) {
        let real = self.take(1).map(|byte| byte[0] == 1);
        let replaced = self.is_replaced();
        match real {
            Some(flag) => (flag != replaced, real),
            None => (self.choices.byte() & 1 == 1, None),
        }
    }

    fn text(&mut self) -> String {
        let len = self.real_varint().and_then(|len| usize::try_from(len).ok());
        let real = len
            .and_then(|len| self.take(len))
            .and_then(|text| String::from_utf8(text).ok());
        match real {
            Some(text) if !self.is_replaced() => {
                self.seen.text(self.name, &text);
                text
            }
            _ => match self.choices.below(8) {
                0..4 => self.seen.a_text(self.name, self.choices).unwrap_or_default(),
                4 => "x".repeat(usize::from(self.choices.byte()) * 96),
                _ => TEXTS[self.choices.below(TEXTS.len())].to_owned(),
            },
        }
    }

    fn bytes(&mut self, wanted: &dyn Expected) -> Vec<u8> {
        let len = self.real_varint().and_then(|len| usize::try_from(len).ok());
        let real = len.and_then(|len| self.take(len));
        let replaced = self.is_replaced();
        let is_hash = wanted.to_string() == "32 bytes";
        let name = if is_hash { "hash" } else { self.name };
        match real {
            Some(bytes) if !replaced => {
                self.seen.bytes(name, &bytes);
                bytes
            }
            _ if is_hash => match self.choices.below(4) {
                0 => vec![0; 32],
                1 => vec![self.choices.byte(); 32],
                _ => (self.seen.some_bytes(name, self.choices)).unwrap_or_else(|| vec![0; 32]),
            },
            real if name == "record" => {
                let record: Option<Record> = match &real {
                    Some(bytes) => changed(bytes, self.choices, self.seen, self.nodes),
                    None => new(self.choices, self.seen, self.nodes),
                };
                record
                    .map(|record| record.bytes().into_owned())
                    .unwrap_or_default()
            }
            _ => {
                let mut bytes = self.seen.some_bytes(name, self.choices).unwrap_or_default();
                let at = usize::from(self.choices.byte()) * 2;
                match self.choices.below(4) {
                    0 => bytes.truncate(at),
                    1 => bytes.extend(vec![self.choices.byte(); at]),
                    2 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 0x41),
                    _ => {}
                }
                bytes
            }
        }
    }

    /// Runs this with another name for what is decoded.
    fn called<T>(&mut self, name: &'static str, decode: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.name, name);
        self.depth += 1;
        let decoded = decode(self);
        self.depth -= 1;
        self.name = before;
        decoded
    }

    fn fields<'de, V: Visitor<'de>>(
        &mut self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let names = Names::Fields(fields);
        self.items(names, fields.len(), usize::MAX, visitor)
    }

    /// So many items, of which the first ones are those of the real value, if that is followed.
    fn items<'de, V: Visitor<'de>>(
        &mut self,
        names: Names,
        count: usize,
        real: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.depth > DEPTH_MAX {
            return Err(Error::custom("too deep"));
        }
        let name = self.name;
        self.called(name, |values| {
            visitor.visit_seq(Items {
                values,
                names,
                at: 0,
                count,
                real,
            })
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Names {
    Fields(&'static [&'static str]),
    /// That of the list.
    Same,
}

struct Items<'v, 'a, 'c> {
    values: &'v mut Values<'a, 'c>,
    names: Names,
    at: usize,
    count: usize,
    /// How many the real value has.
    real: usize,
}

impl<'de> SeqAccess<'de> for Items<'_, '_, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if self.at == self.count {
            return Ok(None);
        }
        let name = match self.names {
            Names::Fields(fields) => fields[self.at],
            Names::Same => self.values.name,
        };
        let is_more = self.at >= self.real;
        self.at += 1;
        let followed = if is_more { self.values.real.take() } else { None };
        let item = self.values.called(name, |values| seed.deserialize(values));
        if is_more {
            self.values.real = followed;
        }
        // Fewer than there are: where the next part of the real value begins is not known.
        if self.at == self.count && self.count < self.real && self.real != usize::MAX {
            self.values.real = None;
        }
        item.map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.count - self.at)
    }
}

struct Variant<'v, 'a, 'c> {
    values: &'v mut Values<'a, 'c>,
    number: u32,
}

impl<'de, 'v, 'a, 'c> EnumAccess<'de> for Variant<'v, 'a, 'c> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Error> {
        let number: U32Deserializer<Error> = self.number.into_deserializer();
        Ok((seed.deserialize(number)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, '_, '_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.values)
    }
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.values.items(Names::Same, len, usize::MAX, visitor)
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.values.fields(fields, visitor)
    }
}

/// Bytes of an array, one by one.
struct Array<'b>(&'b [u8]);

impl<'de> SeqAccess<'de> for Array<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((first, rest)) = self.0.split_first() else {
            return Ok(None);
        };
        self.0 = rest;
        let byte: U8Deserializer<Error> = first.into_deserializer();
        seed.deserialize(byte).map(Some)
    }
}

/// Arrays of so many are identities and digests, and are replaced as a whole.
const IDENTITY_BYTES: [(usize, &str); 2] = [(16, "identity"), (32, "digest")];

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit(self.number(<$type>::MAX as u128) as $type)
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Values<'_, '_> {
    type Error = Error;

    numbers!(deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
             deserialize_u64 visit_u64 u64, deserialize_u128 visit_u128 u128);

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(self.flag().0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let (some, real) = self.flag();
        match (some, real) {
            (true, Some(false)) => {
                let followed = self.real.take();
                let value = visitor.visit_some(&mut *self);
                self.real = followed;
                value
            }
            (true, _) => visitor.visit_some(self),
            (false, Some(true)) => {
                self.real = None;
                visitor.visit_none()
            }
            (false, _) => visitor.visit_none(),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let real = self.real_varint().and_then(|count| usize::try_from(count).ok());
        let replaced = self.is_replaced();
        let count = match real {
            Some(count) if !replaced => count,
            Some(count) => (count + 1).saturating_sub(2 * self.choices.below(2)),
            None if self.choices.rarely(16) => usize::from(self.choices.byte()),
            None => self.choices.below(4),
        };
        self.items(Names::Same, count, real.unwrap_or(usize::MAX), visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        let Some((_, name)) = IDENTITY_BYTES.into_iter().find(|(bytes, _)| *bytes == len) else {
            return self.items(Names::Same, len, usize::MAX, visitor);
        };
        let real = self.take(len);
        let bytes = match real {
            Some(bytes) if !self.is_replaced() => {
                self.seen.bytes(name, &bytes);
                bytes
            }
            _ => match self.choices.below(4) {
                0 => vec![self.choices.byte(); len],
                _ => (self.seen.some_bytes(name, self.choices)).unwrap_or_else(|| vec![0; len]),
            },
        };
        visitor.visit_seq(Array(&bytes))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.fields(fields, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.called(name, |values| visitor.visit_newtype_struct(values))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let real = self.real_varint().and_then(|number| u32::try_from(number).ok());
        let replaced = self.is_replaced();
        let number = match real {
            Some(number) if !replaced => number,
            _ => {
                self.real = None;
                self.choices.below(variants.len()) as u32
            }
        };
        visitor.visit_enum(Variant { values: self, number })
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.text())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.text())
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_char(self.text().chars().next().unwrap_or('*'))
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let bytes = self.bytes(&visitor as &dyn Expected);
        visitor.visit_bytes(&bytes)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let bytes = self.bytes(&visitor as &dyn Expected);
        visitor.visit_byte_buf(bytes)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("no message asks for this"))
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 f32 f64 unit_struct tuple_struct map identifier ignored_any
    }
}
