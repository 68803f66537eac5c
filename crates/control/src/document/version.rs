//! Versions of the network document.

use std::fmt;

use ciborium::Value;
use tombolo_noise::clock::UnixTime;

use crate::cbor::{Item, Problem};

/// The version of a network document (control rule 2): first by the epoch of the trust document that it was
/// issued under, then by a counter. So a new epoch outranks whatever counter a dead issuer has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Version {
    /// Epoch of the trust document.
    pub epoch: u64,
    /// Greater with each issue within an epoch.
    pub counter: u64,
}

impl Version {
    /// The version to issue after `previous`: `max(previous + 1, Unix milliseconds)` within an epoch, and
    /// the Unix milliseconds in a new one. None where the counter is used up, or `epoch` lies behind.
    pub fn next(previous: Option<Self>, epoch: u64, now: UnixTime) -> Option<Self> {
        let milliseconds = u64::try_from(now.0.as_millis()).unwrap_or(u64::MAX);
        let counter = match previous {
            Some(previous) if previous.epoch > epoch => return None,
            Some(previous) if previous.epoch == epoch => milliseconds.max(previous.counter.checked_add(1)?),
            _ => milliseconds,
        };
        Some(Self { epoch, counter })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.epoch, self.counter)
    }
}

impl Item for Version {
    fn to_value(&self) -> Value {
        Value::Array(vec![self.epoch.to_value(), self.counter.to_value()])
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        let parts = value.into_array().map_err(|_| Problem::WrongType)?;
        let [epoch, counter] = <[Value; 2]>::try_from(parts).map_err(|_| Problem::WrongType)?;
        Ok(Self { epoch: u64::from_value(epoch)?, counter: u64::from_value(counter)? })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn versions_go_by_epoch_then_counter_control_rule_2() {
        let now = UnixTime(Duration::from_millis(5000));
        let version = |epoch, counter| Version { epoch, counter };
        assert_eq!(Version::next(None, 1, now), Some(version(1, 5000)));
        assert_eq!(Version::next(Some(version(1, 4000)), 1, now), Some(version(1, 5000)));
        assert_eq!(Version::next(Some(version(1, 5000)), 1, now), Some(version(1, 5001)), "same instant");
        assert_eq!(Version::next(Some(version(1, 9000)), 1, now), Some(version(1, 9001)), "clock set back");
        assert_eq!(Version::next(Some(version(1, u64::MAX)), 1, now), None);
        assert_eq!(Version::next(Some(version(1, u64::MAX)), 2, now), Some(version(2, 5000)), "new epoch");
        assert_eq!(Version::next(Some(version(3, 1)), 2, now), None);
        assert!(version(2, 0) > version(1, u64::MAX) && version(1, 2) > version(1, 1));
    }
}
