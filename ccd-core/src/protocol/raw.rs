//! Bytes that travel as one piece: serde would take a `Vec<u8>` number by number. The encoding is the same.

use alloc::vec::Vec;
use core::fmt;
use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};

pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    deserializer.deserialize_byte_buf(Bytes)
}

struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }
}

/// A record that travels as the bytes that it was made with.
pub(super) mod record {
    use super::Bytes;
    use crate::database::Record;
    use alloc::sync::Arc;
    use serde::de::Error;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(record: &Arc<Record>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&record.bytes())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Record>, D::Error> {
        let bytes = deserializer.deserialize_byte_buf(Bytes)?;
        Record::received(bytes).map(Arc::new).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Raw(#[serde(with = "super")] alloc::vec::Vec<u8>);

    #[test]
    fn the_encoding_is_that_of_a_list_of_numbers() {
        let bytes: alloc::vec::Vec<u8> = (0..=255).cycle().take(1000).collect();
        let encoded = postcard::to_allocvec(&Raw(bytes.clone())).unwrap();
        assert_eq!(encoded, postcard::to_allocvec(&bytes).unwrap());
        assert_eq!(postcard::from_bytes::<Raw>(&encoded).unwrap(), Raw(bytes));
        assert!(postcard::from_bytes::<Raw>(&encoded[..500]).is_err());
    }
}
