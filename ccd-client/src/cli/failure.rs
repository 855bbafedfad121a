//! How a verb ends if not well.

use crate::error::{CcdError, op_message};
use crate::exit::Exit;
use crate::messages::{self, Message};
use ccd_core::client::Refusal;
use ccd_core::database::OpError;
use std::io;

/// Why a verb stopped.
#[derive(Debug)]
pub(super) enum Stop {
    Failed(Box<Failure>),
    /// Whoever read the output went away.
    ClosedPipe,
}

/// One error as it is printed: `PROGRAM: CCD-1042: cannot DOING: WHY`, then `try: …`.
#[derive(Debug)]
pub(super) struct Failure {
    pub message: &'static Message,
    /// Completes "cannot …".
    pub doing: String,
    pub why: String,
    /// In place of the catalogue's action, where more is known.
    pub action: Option<String>,
}

impl Failure {
    pub fn exit(&self) -> Exit {
        self.message.exit
    }

    pub fn action(&self) -> &str {
        self.action.as_deref().unwrap_or(self.message.action)
    }
}

impl Stop {
    pub fn new(message: &'static Message, doing: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Failed(Box::new(Failure {
            message,
            doing: doing.into(),
            why: why.into(),
            action: None,
        }))
    }

    /// With another action than the catalogue's.
    pub fn and_try(mut self, action: impl Into<String>) -> Self {
        if let Self::Failed(failure) = &mut self {
            failure.action = Some(action.into());
        }
        self
    }

    /// Standard output took no more.
    pub fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::ClosedPipe
        } else {
            Self::new(
                &messages::OUTPUT_FAILED,
                "write to standard output",
                error.to_string(),
            )
        }
    }
}

/// Says what was being done when an error came up.
pub(super) trait Doing<T> {
    /// `doing` completes "cannot …".
    fn doing(self, doing: &str) -> Result<T, Stop>;
}

impl<T> Doing<T> for Result<T, CcdError> {
    fn doing(self, doing: &str) -> Result<T, Stop> {
        self.map_err(|error| Stop::new(error.message(), doing, error.to_string()))
    }
}

/// Says what a daemon was asked to do that is no update: of that, an unknown outcome means something else.
pub(super) trait Asking<T> {
    /// `doing` completes "cannot …".
    fn asking(self, doing: &str) -> Result<T, Stop>;
}

impl<T> Asking<T> for Result<T, CcdError> {
    fn asking(self, doing: &str) -> Result<T, Stop> {
        self.map_err(|error| {
            let message = match &error {
                CcdError::Refused(Refusal::Unknown { .. }) => &messages::UNDECIDED,
                error => error.message(),
            };
            Stop::new(message, doing, error.to_string())
        })
    }
}

impl<T> Doing<T> for Result<T, OpError> {
    fn doing(self, doing: &str) -> Result<T, Stop> {
        self.map_err(|error| Stop::new(op_message(&error), doing, error.to_string()))
    }
}
