//! `cargo sim …`; see [`sim::command`].

fn main() -> std::process::ExitCode {
    sim::command::main()
}
