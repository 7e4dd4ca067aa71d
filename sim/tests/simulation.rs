//! `cargo test --features sim`: the regression seeds and a batch of fixed seeds.

fn main() -> std::process::ExitCode {
    sim::command::test_main()
}
