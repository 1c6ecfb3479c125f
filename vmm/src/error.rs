//! Errors of the VMM, and their exit statuses.
//!
//! The exit status is a contract: 2 for wrong usage or input, 1 for a failed host call. [`crate::outcome`] has the statuses of
//! guests that crashed or panicked. Every message is one line that names the subject and, if known, the remedy. Control characters of
//! arguments, paths and images are escaped ([`crate::printable`]).

use std::error::Error as StdError;
use std::fmt;

use crate::printable::Printable;

/// A failure of a part of the VMM.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Wrong usage or input.
    #[error("{}", Printable(format_args!("{what}: {problem}")))]
    Input {
        /// The argument or file.
        what: String,
        /// The problem and its remedy.
        problem: String,
    },
    /// A host call failed.
    #[error("{}", Printable(format_args!("{context}: {source}")))]
    Host {
        /// The operation that failed.
        context: String,
        /// The host's error.
        source: Box<dyn StdError + Send + Sync>,
    },
}

/// The result of a part of the VMM.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An input error. `what` names the argument or file. `problem` states the problem and the remedy.
    pub fn input(what: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::Input { what: what.to_string(), problem: problem.to_string() }
    }

    /// Attributes an input error to another argument.
    #[must_use]
    pub fn with_argument(self, argument: impl fmt::Display) -> Self {
        match self {
            Self::Input { problem, .. } => Self::input(argument, problem),
            host @ Self::Host { .. } => host,
        }
    }

    /// A host error during the operation `context`.
    pub fn host(context: impl fmt::Display, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Host { context: context.to_string(), source: source.into() }
    }

    /// The exit status of a process that ends with this error.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Input { .. } => 2,
            Self::Host { .. } => 1,
        }
    }
}

/// Adds the operation to a failed host call.
pub trait Context<T> {
    /// Converts an error into [`Error::Host`] with this operation.
    ///
    /// # Errors
    /// [`Error::Host`] if `self` is an error.
    fn context(self, context: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context(self, context: impl fmt::Display) -> Result<T> {
        self.map_err(|source| Error::host(context, source))
    }
}
