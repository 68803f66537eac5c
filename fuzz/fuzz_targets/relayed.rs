//! The fuzz target `relayed`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| tombolo_fuzz::relayed(data));

#[cfg(not(fuzzing))]
fn main() {
    tombolo_fuzz::replay_arguments(tombolo_fuzz::relayed);
}
