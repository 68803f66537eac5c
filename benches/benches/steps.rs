//! `cargo bench`: the cost of each step of the data path, as `cargo xtask bench --only steps`.

fn main() -> anyhow::Result<()> {
    // Without this argument it is `cargo test --all-targets` that runs us, and no figure is a test.
    if std::env::args().any(|argument| argument == "--bench") {
        tombolo_benches::micro::measure(&mut Vec::new())
    } else {
        Ok(())
    }
}
