//! What a test and the agent in a guest say to each other: one JSON value a line, over a virtio serial port.
//!
//! The agent greets after each boot; whatever was asked before and not answered is lost then. Ids are the test's.

use serde::{Deserialize, Serialize};

/// Name of the serial port, as the guest finds it below `/sys/class/virtio-ports`.
pub const PORT_NAME: &str = "agent";

/// From the test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Run it to its end; it is killed, with all it started, when the time is over.
    Run {
        id: u64,
        words: Vec<String>,
        input: String,
        deadline_ms: u64,
    },
    /// Start it, and tell each line that it writes.
    Start { id: u64, words: Vec<String> },
}

/// From the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tell {
    /// The guest has booted.
    Hello {
        kernel: String,
    },
    Started {
        id: u64,
        pid: i32,
    },
    Line {
        id: u64,
        text: String,
    },
    /// The last about this id. What was told as lines is not repeated.
    Ended {
        id: u64,
        code: i32,
        out: String,
        err: String,
    },
}

/// One line, with its end.
pub fn line_of(value: &impl Serialize) -> String {
    let mut line = serde_json::to_string(value).expect("these types have a text form");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::{Tell, line_of};

    #[test]
    fn a_value_is_one_line_whatever_it_holds() {
        let told = Tell::Ended {
            id: 7,
            code: -1,
            out: "one\ntwo\r\n".to_owned(),
            err: "\u{0}\u{1b}[31m\"".to_owned(),
        };
        let line = line_of(&told);
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(serde_json::from_str::<Tell>(&line).expect("it is ours"), told);
    }
}
