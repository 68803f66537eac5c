//! Cryptokey routing in both directions
