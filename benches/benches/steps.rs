//! `cargo bench`: the cost of each step of the data path, as `cargo xtask bench --micro`.

fn main() -> anyhow::Result<()> {
    tombolo_benches::micro::run(None)
}
