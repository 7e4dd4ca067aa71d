//! `cargo test --features sim`: see "What `cargo test` runs" in the README.

fn main() -> std::process::ExitCode {
    sim::command::test_main()
}
