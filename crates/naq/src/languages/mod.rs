//! The runners of languages: how a script or a function of a language is run.
//!
//! A runner is a folder with a manifest, `runner.toml`, and for functions a shim in the language
//! itself. The runners of naq are in `runners/` and compiled into the program; an operator adds others,
//! or replaces some, with `--runners-dir`. `runners/README.md` is the guide for their authors.
//!
//! `manifest` reads a manifest, `template` its arguments, `catalog` knows all runners, and `invocation`
//! makes of a job what the runner crate starts.

mod builtin;
mod catalog;
mod invocation;
mod manifest;
mod probe;
mod template;
mod warm;

pub use catalog::{Language, Languages, LanguagesError};
pub use invocation::{FunctionCall, Invocation, RunnerName, RunnerProblem, ScriptPreparation};
pub use probe::{LanguageState, check_language};
pub use warm::{RecycleLimits, WarmPlan};
