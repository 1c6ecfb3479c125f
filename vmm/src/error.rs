//! What can end the VMM before or beside the guest's own end, and the exit status each has.
//!
//! Three kinds, because the exit status is a contract: wrong usage or input is the user's to cure (2), a host
//! call that fails is the host's (1), a guest that crashed is the guest's (3). Every message is one line that
//! names the thing, and where one is known the cure.

use std::error::Error as StdError;
use std::fmt;

/// A failure of a part of the VMM.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Wrong usage or input: found out before anything is touched.
    #[error("{what}: {problem}")]
    Input {
        /// The argument or file.
        what: String,
        /// What is wrong with it, and the cure.
        problem: String,
    },
    /// The host refused something.
    #[error("{context}: {source}")]
    Host {
        /// What was being done.
        context: String,
        /// Why the host refused.
        source: Box<dyn StdError + Send + Sync>,
    },
}

/// The result of a part of the VMM.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An input error: `what` names the argument or file, `problem` says what is wrong and what to do.
    pub fn input(what: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::Input { what: what.to_string(), problem: problem.to_string() }
    }

    /// An input error as one of another argument, which means the same.
    #[must_use]
    pub fn with_argument(self, argument: impl fmt::Display) -> Self {
        match self {
            Self::Input { problem, .. } => Self::input(argument, problem),
            host @ Self::Host { .. } => host,
        }
    }

    /// A host failure while `doing` something.
    pub fn host(context: impl fmt::Display, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Host { context: context.to_string(), source: source.into() }
    }

    /// The exit status of the process that ends with this error.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Input { .. } => 2,
            Self::Host { .. } => 1,
        }
    }
}

/// Adds what was being done to a failed host call.
pub trait Context<T> {
    /// Turns the error into a host failure while `doing` something.
    ///
    /// # Errors
    /// The host failure, when `self` is an error.
    fn context(self, context: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context(self, context: impl fmt::Display) -> Result<T> {
        self.map_err(|source| Error::host(context, source))
    }
}
