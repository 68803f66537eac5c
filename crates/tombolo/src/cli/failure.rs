//! Errors by who can mend them, as exit codes.

use std::fmt;
use std::process::ExitCode;

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// The user's mistake, in usage or configuration: exit code 1.
    Mistake(String),
    /// Something failed at run time: exit code 2.
    Runtime(String),
    /// The time of a wait ran out: exit code 3.
    TimedOut(String),
}

impl Failure {
    /// The exit code as a number.
    pub fn code(&self) -> u8 {
        match self {
            Self::Mistake(_) => 1,
            Self::Runtime(_) => 2,
            Self::TimedOut(_) => 3,
        }
    }

    /// A failure at run time from any error, with what was attempted.
    pub fn runtime(action: impl fmt::Display, error: impl fmt::Display) -> Self {
        Self::Runtime(format!("{action}: {error}"))
    }
}

/// A failure at run time that says enough by itself.
pub(crate) fn failed(error: impl fmt::Display) -> Failure {
    Failure::Runtime(error.to_string())
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mistake(message) | Self::Runtime(message) | Self::TimedOut(message) => {
                formatter.write_str(message)
            }
        }
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for ExitCode {
    fn from(failure: Failure) -> Self {
        Self::from(failure.code())
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::Mistake(error.to_string())
    }
}
