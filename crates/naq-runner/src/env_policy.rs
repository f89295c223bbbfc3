//! Environment variables that a job may not set, because they make programs load code or settings
//! that are not part of the job. `NAQ_*` is not among them: no envelope may contain such a name.

/// The denied names. One that ends in `*` denies every name that begins so.
const DENIED: &[&str] = &[
    // The dynamic loader and the C library.
    "LD_*",
    "DYLD_*",
    "_RLD*",
    "LDR_*",
    "LIBPATH",
    "SHLIB_PATH",
    "GLIBC_TUNABLES",
    "GCONV_PATH",
    "GETCONF_DIR",
    "HOSTALIASES",
    "LOCALDOMAIN",
    "LOCPATH",
    "MALLOC_TRACE",
    "NIS_PATH",
    "NLSPATH",
    "RESOLV_HOST_CONF",
    "RES_OPTIONS",
    // Libraries that load modules.
    "GIO_EXTRA_MODULES",
    "GST_PLUGIN_*",
    "GTK_MODULES",
    "GTK_PATH",
    "KRB5_CONFIG",
    "OPENSSL_CONF",
    "OPENSSL_ENGINES",
    "OPENSSL_MODULES",
    "QT_PLUGIN_PATH",
    "SASL_PATH",
    // Shells.
    "BASHOPTS",
    "BASH_ENV",
    "BASH_FUNC_*",
    "BASH_LOADABLES_PATH",
    "BASH_XTRACEFD",
    "CDPATH",
    "ENV",
    "FPATH",
    "GLOBIGNORE",
    "IFS",
    "NULLCMD",
    "PROMPT_COMMAND",
    "PS4",
    "READNULLCMD",
    "SHELLOPTS",
    "ZDOTDIR",
    // Interpreters and virtual machines.
    "AWKLIBPATH",
    "AWKPATH",
    "BUN_OPTIONS",
    "CAML_LD_LIBRARY_PATH",
    "CLASSPATH",
    "CORECLR_*",
    "COR_ENABLE_PROFILING",
    "COR_PROFILER*",
    "DOTNET_ADDITIONAL_DEPS",
    "DOTNET_SHARED_STORE",
    "DOTNET_STARTUP_HOOKS",
    "ELECTRON_RUN_AS_NODE",
    "EMACSLOADPATH",
    "ERL_AFLAGS",
    "ERL_FLAGS",
    "ERL_LIBS",
    "ERL_ZFLAGS",
    "GEM_HOME",
    "GEM_PATH",
    "GUILE_LOAD_*",
    "IBM_JAVA_OPTIONS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVAC_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "JULIA_DEPOT_PATH",
    "JULIA_LOAD_PATH",
    "LUA_CPATH*",
    "LUA_INIT*",
    "LUA_PATH*",
    "MONO_CONFIG",
    "MONO_ENV_OPTIONS",
    "MONO_PATH",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NODE_REPL_EXTERNAL_MODULE",
    "OPENJ9_JAVA_OPTIONS",
    "PERL5*",
    "PERLIO_DEBUG",
    "PERLLIB",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "PYTHONBREAKPOINT",
    "PYTHONEXECUTABLE",
    "PYTHONHOME",
    "PYTHONINSPECT",
    "PYTHONPATH",
    "PYTHONPLATLIBDIR",
    "PYTHONPYCACHEPREFIX",
    "PYTHONSTARTUP",
    "PYTHONUSERBASE",
    "PYTHONWARNINGS",
    "RUBYGEMS_GEMDEPS",
    "RUBYLIB",
    "RUBYOPT",
    "RUBYPATH",
    "RUBYSHELL",
    "R_ENVIRON*",
    "R_HOME",
    "R_LIBS*",
    "R_PROFILE*",
    "TCLLIBPATH",
    "TCL_LIBRARY",
    "_JAVA_OPTIONS",
    // Programs that run other programs.
    "BUNDLE_GEMFILE",
    "COMPILER_PATH",
    "GCC_EXEC_PREFIX",
    "GIT_ASKPASS",
    "GIT_CONFIG*",
    "GIT_EDITOR",
    "GIT_EXEC_PATH",
    "GIT_EXTERNAL_DIFF",
    "GIT_PAGER",
    "GIT_PROXY_COMMAND",
    "GIT_SEQUENCE_EDITOR",
    "GIT_SSH*",
    "GIT_TEMPLATE_DIR",
    "LESSCLOSE",
    "LESSOPEN",
    "MAKEFILES",
    "MAKEFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "SSH_ASKPASS",
];

/// Whether a job may not set this variable. `allow` lists the exceptions of the
/// worker: names, or prefixes followed by `*`.
pub fn is_env_denied(name: &str, allow: &[String]) -> bool {
    DENIED
        .iter()
        .any(|pattern| matches_env_pattern(pattern, name))
        && !allow
            .iter()
            .any(|pattern| matches_env_pattern(pattern, name))
}

/// Whether the name of a variable is this one, or begins with what is before a final `*`.
pub fn matches_env_pattern(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_and_startup_files_are_denied() {
        for name in [
            "LD_PRELOAD",
            "LD_AUDIT",
            "GLIBC_TUNABLES",
            "GCONV_PATH",
            "BASH_ENV",
            "BASH_FUNC_ls%%",
            "ENV",
            "PYTHONPATH",
            "PYTHONSTARTUP",
            "NODE_OPTIONS",
            "NODE_PATH",
            "PERL5OPT",
            "RUBYOPT",
            "JAVA_TOOL_OPTIONS",
            "CLASSPATH",
            "GIT_CONFIG_COUNT",
            "GIT_SSH_COMMAND",
            "DOTNET_STARTUP_HOOKS",
            "LUA_INIT_5_4",
            "OPENSSL_CONF",
        ] {
            assert!(is_env_denied(name, &[]), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "TZ",
            "LANG",
            "LC_ALL",
            "TMPDIR",
            "LDAP_URL",
            "ENVIRONMENT",
            "NODE_ENV",
            "PYTHONUNBUFFERED",
            "GIT_AUTHOR_NAME",
            "RUST_LOG",
            "JAVA_HOME",
            "",
        ] {
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
