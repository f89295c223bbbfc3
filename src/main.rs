//! The `naq` program: parse, run, exit code.

fn main() {}
