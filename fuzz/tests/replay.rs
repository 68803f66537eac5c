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
