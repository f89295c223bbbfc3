//! The `naq` program: parse, run, exit code.

fn main() {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|arg| arg == "__spawner")
    {
        naq::runner::spawner_main();
    }
}
