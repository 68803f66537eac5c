//! What a tunnel must bear besides plain load: many peers, floods, bad lines, small and large wires.

use crate::Result;
use crate::suite::{Part, Suite};

type Scenario = fn(&mut Suite<'_>) -> Result;

/// All of them, in the order in which they are measured.
pub const ALL: [(Part, Scenario); 0] = [];
