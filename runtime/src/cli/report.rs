//! An error as people read it, with the exit code that goes with it.

use std::fmt;

/// Something did not work.
pub const FAILURE: u8 = 1;
/// The arguments or the configuration are wrong.
pub const USAGE: u8 = 2;

/// What went wrong, in words, and the exit code.
#[derive(Debug)]
pub struct Report {
    message: String,
    /// The exit code of the process.
    pub code: u8,
}

impl Report {
    /// Arguments or configuration are wrong: exit code 2.
    pub fn usage(error: impl fmt::Display) -> Report {
        Report { message: error.to_string(), code: USAGE }
    }

    /// Something did not work: exit code 1.
    pub fn failure(error: impl fmt::Display) -> Report {
        Report { message: error.to_string(), code: FAILURE }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<wasmill::broker::BrokerError> for Report {
    fn from(error: wasmill::broker::BrokerError) -> Report {
        Report::failure(error)
    }
}
