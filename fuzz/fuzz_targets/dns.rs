//! The fuzz target `dns`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| tombolo_fuzz::dns(data));

#[cfg(not(fuzzing))]
fn main() {
    tombolo_fuzz::replay_arguments(tombolo_fuzz::dns);
}
