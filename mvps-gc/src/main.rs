//! The binary `mvps-gc`.

fn main() -> std::process::ExitCode {
    mvps_gc::main()
}
