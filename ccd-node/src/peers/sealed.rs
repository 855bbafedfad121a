//! Messages of any length inside sealed frames of at most 64 KiB. No input or output.
//!
//! Messages go one way, from who dialed. The other way come only answers, one to each heartbeat: how many came by now.
//!
//! Inside the frames runs one stream: a length (u32, little-endian) and that many bytes for each message. An empty
//! frame carries nothing and only proves the key, and, with others, that packets of a size pass. Memory grows with what has arrived, never with what a length
//! promises.

use snow::TransportState;

/// Largest message: one round of updates (16 MiB) or a chunk of an image, and what surrounds it.
pub const MESSAGE_BYTES_MAX: usize = 18 << 20;

/// Largest frame of Noise, and what its authentication takes.
const FRAME_BYTES_MAX: usize = 65_535;
const TAG_BYTES: usize = 16;
const PLAIN_BYTES_MAX: usize = FRAME_BYTES_MAX - TAG_BYTES;

/// Before each message, its length.
const LENGTH_BYTES: usize = 4;

/// What an answer to a heartbeat says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// How many heartbeats came over this connection.
    pub count: u64,
    /// What the clock of the other side showed then, in milliseconds since 1970.
    pub date_ms: u64,
}

const ANSWER_PLAIN_BYTES: usize = 16;

/// An answer on the wire: its frame's length, count and date, and the authentication.
pub const ANSWER_BYTES: usize = 2 + ANSWER_PLAIN_BYTES + TAG_BYTES;

/// The channel cannot go on; the connection must end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealedError {
    #[error("a message of {got} bytes is longer than {MESSAGE_BYTES_MAX}")]
    TooLong { got: usize },
    #[error("a frame does not open: it was damaged, repeated or made by a stranger")]
    NotGenuine,
}

/// The sending half.
#[derive(Debug)]
pub struct Sealer {
    transport: TransportState,
    /// The first frame of a message, before it is sealed.
    plain: Vec<u8>,
}

impl Sealer {
    pub fn new(transport: TransportState) -> Self {
        Self {
            transport,
            plain: Vec::new(),
        }
    }

    /// Appends the frame that proves the key.
    pub fn prove(&mut self, out: &mut Vec<u8>) -> Result<(), SealedError> {
        self.append_frame(&[], out)
    }

    /// Appends at least so many bytes of frames that carry nothing: what proves that packets of this size pass.
    pub fn pad(&mut self, bytes: usize, out: &mut Vec<u8>) -> Result<(), SealedError> {
        let end = out.len() + bytes;
        while out.len() < end {
            self.append_frame(&[], out)?;
        }
        Ok(())
    }

    /// Reads an answer.
    pub fn read_answer(&mut self, answer: &[u8; ANSWER_BYTES]) -> Result<HeartbeatAnswer, SealedError> {
        let mut plain = [0; ANSWER_PLAIN_BYTES + TAG_BYTES];
        let len_bytes = self
            .transport
            .read_message(&answer[2..], &mut plain)
            .map_err(|_| SealedError::NotGenuine)?;
        let plain: [u8; ANSWER_PLAIN_BYTES] = plain[..len_bytes]
            .try_into()
            .map_err(|_| SealedError::NotGenuine)?;
        let [count, date_ms] = [0, 8].map(|at| {
            let mut number = [0; 8];
            number.copy_from_slice(&plain[at..at + 8]);
            u64::from_le_bytes(number)
        });
        Ok(HeartbeatAnswer { count, date_ms })
    }

    /// Appends the frames of one message.
    pub fn seal(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), SealedError> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(SealedError::TooLong { got: message.len() });
        }
        // Only the first frame, which has the length, is put together; the others are sealed from where the message lies.
        let (first, rest) = message.split_at(message.len().min(PLAIN_BYTES_MAX - LENGTH_BYTES));
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        plain.extend_from_slice(&(message.len() as u32).to_le_bytes());
        plain.extend_from_slice(first);
        let sealed = self.append_frame(&plain, out);
        self.plain = plain;
        sealed?;
        rest.chunks(PLAIN_BYTES_MAX)
            .try_for_each(|plain| self.append_frame(plain, out))
    }

    fn append_frame(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealedError> {
        let sealed_bytes = plain.len() + TAG_BYTES;
        let at = out.len();
        out.extend_from_slice(&(sealed_bytes as u16).to_le_bytes());
        out.resize(at + 2 + sealed_bytes, 0);
        self.transport
            .write_message(plain, &mut out[at + 2..])
            .map_err(|_| SealedError::NotGenuine)?;
        Ok(())
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct Opener {
    transport: TransportState,
    /// What has come of the message under way, its length first; behind that, memory that was written before.
    message: Vec<u8>,
    filled_bytes: usize,
    /// It was handed out, and makes room for the next.
    whole: bool,
}

impl Opener {
    pub fn new(transport: TransportState) -> Self {
        Self {
            transport,
            message: Vec::new(),
            filled_bytes: 0,
            whole: false,
        }
    }

    /// The answer as it travels.
    pub fn answer(&mut self, said: HeartbeatAnswer) -> Result<[u8; ANSWER_BYTES], SealedError> {
        let mut plain = [0; ANSWER_PLAIN_BYTES];
        plain[..8].copy_from_slice(&said.count.to_le_bytes());
        plain[8..].copy_from_slice(&said.date_ms.to_le_bytes());
        let mut answer = [0; ANSWER_BYTES];
        answer[..2].copy_from_slice(&((ANSWER_BYTES - 2) as u16).to_le_bytes());
        self.transport
            .write_message(&plain, &mut answer[2..])
            .map_err(|_| SealedError::NotGenuine)?;
        Ok(answer)
    }

    /// Takes one frame; returns the message that it completes. A sender puts at most one message into a frame.
    pub fn open_frame(&mut self, frame: &[u8]) -> Result<Option<&[u8]>, SealedError> {
        if std::mem::take(&mut self.whole) {
            self.filled_bytes = 0;
            // One big message must not keep its memory for ever.
            self.message.truncate(1 << 20);
            self.message.shrink_to(1 << 20);
        }
        let start = self.filled_bytes;
        let end = start + frame.len();
        if self.message.len() < end {
            self.message.resize(end, 0);
        }
        let len_bytes = self
            .transport
            .read_message(frame, &mut self.message[start..end])
            .map_err(|_| SealedError::NotGenuine)?;
        self.filled_bytes = start + len_bytes;
        let came = &self.message[..self.filled_bytes];
        let Some((prefix, message)) = came.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let message_bytes = u32::from_le_bytes(*prefix) as usize;
        if message_bytes > MESSAGE_BYTES_MAX || message.len() > message_bytes {
            return Err(SealedError::TooLong {
                got: message_bytes.max(message.len()),
            });
        }
        self.whole = message.len() == message_bytes;
        Ok(self.whole.then_some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Sealer, Opener) {
        let builder = || snow::Builder::new("Noise_NN_25519_ChaChaPoly_BLAKE2s".parse().unwrap());
        let (mut one, mut two) = (
            builder().build_initiator().unwrap(),
            builder().build_responder().unwrap(),
        );
        let (mut wire, mut sink) = ([0; 256], [0; 256]);
        let len = one.write_message(&[], &mut wire).unwrap();
        two.read_message(&wire[..len], &mut sink).unwrap();
        let len = two.write_message(&[], &mut wire).unwrap();
        one.read_message(&wire[..len], &mut sink).unwrap();
        (
            Sealer::new(one.into_transport_mode().unwrap()),
            Opener::new(two.into_transport_mode().unwrap()),
        )
    }

    fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut frames = Vec::new();
        while let Some((prefix, rest)) = bytes.split_first_chunk::<2>() {
            let (frame, rest) = rest.split_at(u16::from_le_bytes(*prefix) as usize);
            frames.push(frame);
            bytes = rest;
        }
        frames
    }

    #[test]
    fn messages_of_every_length_come_back() {
        let (mut sealer, mut opener) = pair();
        for len in [
            0,
            1,
            100,
            PLAIN_BYTES_MAX - 4,
            PLAIN_BYTES_MAX - 3,
            200_000,
            3 << 20,
            MESSAGE_BYTES_MAX,
        ] {
            let message: Vec<u8> = (0..len).map(|index| index as u8).collect();
            let mut wire = Vec::new();
            sealer.prove(&mut wire).unwrap();
            sealer.pad(1_500, &mut wire).unwrap();
            assert!(wire.len() > 1_500);
            sealer.seal(&message, &mut wire).unwrap();
            let frames = frames(&wire);
            let (last, before) = frames.split_last().unwrap();
            for frame in before {
                assert_eq!(opener.open_frame(frame).unwrap(), None);
            }
            assert!(
                opener.open_frame(last).unwrap() == Some(message.as_slice()),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn a_length_beyond_the_limit_ends_the_connection() {
        let (mut sealer, mut opener) = pair();
        assert!(
            sealer
                .seal(&vec![0; MESSAGE_BYTES_MAX + 1], &mut Vec::new())
                .is_err()
        );
        // A peer that does not care about the limit.
        let mut wire = Vec::new();
        sealer.append_frame(&u32::MAX.to_le_bytes(), &mut wire).unwrap();
        assert!(matches!(
            opener.open_frame(frames(&wire)[0]),
            Err(SealedError::TooLong { .. })
        ));
    }

    #[test]
    fn answers_come_back_and_only_genuine_ones() {
        let (mut sealer, mut opener) = pair();
        for count in [1, 2, u64::MAX] {
            let said = HeartbeatAnswer {
                count,
                date_ms: !count,
            };
            let answer = opener.answer(said).unwrap();
            assert_eq!(sealer.read_answer(&answer), Ok(said));
            assert_eq!(
                sealer.read_answer(&answer),
                Err(SealedError::NotGenuine),
                "repeated"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_frame_makes_the_opener_panic(frame in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let (mut sealer, mut opener) = pair();
            assert_eq!(opener.open_frame(&frame), Err(SealedError::NotGenuine));
            let mut answer = [0; ANSWER_BYTES];
            answer.iter_mut().zip(frame).for_each(|(to, from)| *to = from);
            assert_eq!(sealer.read_answer(&answer), Err(SealedError::NotGenuine));
        }

        #[test]
        fn a_holder_of_the_key_that_sends_nonsense_makes_no_panic(
            plain in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)
        ) {
            let (mut sealer, mut opener) = pair();
            let mut wire = Vec::new();
            sealer.append_frame(&plain, &mut wire).unwrap();
            let _ = opener.open_frame(frames(&wire)[0]);
        }
    }

    #[test]
    fn a_damaged_frame_ends_the_connection() {
        let (mut sealer, mut opener) = pair();
        let mut wire = Vec::new();
        sealer.seal(b"hello", &mut wire).unwrap();
        wire[5] ^= 1;
        assert_eq!(opener.open_frame(frames(&wire)[0]), Err(SealedError::NotGenuine));
        assert_eq!(opener.open_frame(&[]), Err(SealedError::NotGenuine));
    }
}
