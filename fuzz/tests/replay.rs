//! Replays all committed seeds.

use std::path::PathBuf;

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target)
}

#[test]
fn all_seeds_pass() {
    for (name, run) in tombolo_fuzz::TARGETS {
        let mut count = 0;
        for entry in std::fs::read_dir(folder(name)).unwrap() {
            let path = entry.unwrap().path();
            // Shown only if the seed fails.
            println!("{}", path.display());
            run(&std::fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 0, "no seeds for {name}");
    }
}

#[test]
fn each_folder_of_seeds_has_a_target_and_each_target_a_binary() {
    for entry in std::fs::read_dir(folder("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(tombolo_fuzz::TARGETS.iter().any(|(target, _)| *target == name), "{name}");
    }
    let manifest = include_str!("../Cargo.toml");
    for (name, _) in tombolo_fuzz::TARGETS {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}

#[test]
fn short_and_uniform_inputs_pass() {
    for (_, run) in tombolo_fuzz::TARGETS {
        for byte in [0, 1, 0x45, 0x60, 0x7f, 0xff] {
            for len in [0, 1, 9, 10, 30, 64, 92, 148, 1000] {
                run(&vec![byte; len]);
            }
        }
    }
}

/// A fuzzer without a compiler's help, for machines that have only the stable toolchain: seeds with bytes
/// flipped, cut out, repeated and joined, the same ones in each run.
#[test]
#[ignore = "minutes of mutations: cargo xtask test --long"]
fn mutated_seeds_pass() {
    // SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    let mut state = 8662_u64;
    let mut below = |bound: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    };
    for (name, run) in tombolo_fuzz::TARGETS {
        let seeds: Vec<Vec<u8>> = std::fs::read_dir(folder(name))
            .unwrap()
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect();
        // A handshake costs a thousand times what parsing a message does.
        let rounds = if *name == "handshake" { 500 } else { 50_000 };
        for _ in 0..rounds {
            let mut input = seeds[below(seeds.len())].clone();
            for _ in 0..1 + below(6) {
                let at = below(input.len());
                match below(5) {
                    0 if !input.is_empty() => input[at] ^= 1 << below(8),
                    1 if !input.is_empty() => input[at] = below(256) as u8,
                    2 => input.truncate(at),
                    3 => {
                        let until = at + below(input.len() - at);
                        let piece = input[at..until].to_vec();
                        input.splice(at..at, piece);
                    }
                    _ => {
                        let other = &seeds[below(seeds.len())];
                        input.splice(at..at, other[below(other.len())..].iter().copied());
                    }
                }
            }
            input.truncate(70_000);
            run(&input);
        }
    }
}
