//! Where an authority keeps its register.
#![forbid(unsafe_code)]
