//! Environment variables that a job may not set, because they make programs load
//! code that is not part of the job.

/// Names with one of these prefixes are denied.
const DENIED_PREFIXES: &[&str] = &["LD_", "DYLD_", "GLIBC_TUNABLES", "BASH_FUNC_"];

/// These names are denied.
const DENIED_NAMES: &[&str] = &[
    "BASHOPTS",
    "BASH_ENV",
    "BASH_XTRACEFD",
    "CDPATH",
    "ENV",
    "GCONV_PATH",
    "GIT_ASKPASS",
    "GIT_EXEC_PATH",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "IFS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "LUA_INIT",
    "LUA_INIT_5_4",
    "NODE_OPTIONS",
    "NODE_REPL_EXTERNAL_MODULE",
    "PERL5DB",
    "PERL5LIB",
    "PERL5OPT",
    "PERLLIB",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "PROMPT_COMMAND",
    "PS4",
    "PYTHONBREAKPOINT",
    "PYTHONHOME",
    "PYTHONINSPECT",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONUSERBASE",
    "PYTHONWARNINGS",
    "RUBYLIB",
    "RUBYOPT",
    "SHELLOPTS",
    "ZDOTDIR",
    "_JAVA_OPTIONS",
];

/// Whether a job may not set this variable. `allow` lists the exceptions of the
/// worker: names, or prefixes followed by `*`.
pub fn is_env_denied(name: &str, allow: &[String]) -> bool {
    let denied =
        DENIED_NAMES.contains(&name) || DENIED_PREFIXES.iter().any(|p| name.starts_with(p));
    denied
        && !allow.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == allowed,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_and_startup_files_are_denied() {
        for name in [
            "LD_PRELOAD",
            "LD_AUDIT",
            "BASH_ENV",
            "ENV",
            "NODE_OPTIONS",
            "PERL5OPT",
        ] {
            assert!(is_env_denied(name, &[]), "{name}");
        }
        for name in ["PATH", "HOME", "LDAP_URL", "ENVIRONMENT", "NODE_ENV", ""] {
            assert!(!is_env_denied(name, &[]), "{name}");
        }
    }

    #[test]
    fn policy_allows_by_name_or_prefix() {
        let exact = ["LD_LIBRARY_PATH".to_owned()];
        assert!(!is_env_denied("LD_LIBRARY_PATH", &exact));
        assert!(is_env_denied("LD_PRELOAD", &exact));
        assert!(!is_env_denied("LD_PRELOAD", &["LD_*".to_owned()]));
    }
}
