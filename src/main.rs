//! The `naq` program: parse, run, exit code.

fn main() {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == naq::server::KEEPER_ARGUMENT)
    {
        naq::server::keeper_main();
    }
}
