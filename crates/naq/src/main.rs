//! The `naq` program: parse, run, exit code.

fn main() -> std::process::ExitCode {
    naq::cli::main()
}
