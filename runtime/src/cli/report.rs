//! An error as people read it, with the exit code that goes with it.

use std::fmt;

use wasmill::broker::BrokerError;

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
    /// Whether what was asked for may have been done all the same: no answer came.
    pub uncertain: bool,
}

impl Report {
    /// Arguments or configuration are wrong: exit code 2.
    pub fn usage(error: impl fmt::Display) -> Report {
        Report { message: error.to_string(), code: USAGE, uncertain: false }
    }

    /// What was asked for may have been done all the same.
    pub fn uncertain(self) -> Report {
        Report { uncertain: true, ..self }
    }

    /// Something did not work: exit code 1.
    pub fn failure(error: impl fmt::Display) -> Report {
        Report { message: error.to_string(), code: FAILURE, uncertain: false }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<BrokerError> for Report {
    fn from(error: BrokerError) -> Report {
        let uncertain = !matches!(error, BrokerError::Refused { .. } | BrokerError::NotRedrivable { .. });
        Report { uncertain, ..Report::failure(error) }
    }
}
