//! Turns a command into a start request: all checks that need no spawner.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use super::command::{ArgumentPiece, Command, Program, SourceArgument, SourceProgram};
use super::completion::SpawnFailure;
use super::options::RunnerConfig;
use super::scratch::{FOLDER, SCRIPT, WORK};
use super::start_request::{ResourceLimits, StartFile, StartRequest};

/// Maximum length of an encoded request, in bytes. The kernel rejects longer
/// arguments anyway.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Validates a command and encodes it as a start request. `open_files` is the limit
/// for a command that sets none; `scratch` is the job's scratch folder, if any.
///
/// # Errors
///
/// Returns a [`SpawnFailure`] of step `request` or `exec` if the command can never
/// run.
pub(super) fn prepare(
    options: &RunnerConfig,
    command: &Command,
    open_files: (u64, u64),
    scratch: Option<&Path>,
    has_socket: bool,
) -> Result<Vec<u8>, Box<SpawnFailure>> {
    let (argv, source) = build_argv(&command.program, scratch)?;
    let program = argv.first().map_or("", String::as_str);
    if program.is_empty() {
        return Err(invalid_command("the program's name is empty".to_owned()));
    }
    let (candidates, named_by_path) = match &command.program {
        Program::Source(source) => {
            let programs = source.programs.iter();
            let paths = programs.flat_map(|program| candidates(program, &options.path));
            (paths.collect(), true)
        }
        _ => (candidates(program, &options.path), false),
    };
    let own_folder = scratch
        .filter(|_| command.work_folder)
        .map(|path| path.join(WORK));
    let default_cwd = own_folder.as_deref().unwrap_or(&options.work_dir);
    let cwd = command.directory_in(default_cwd);
    let cwd = path_to_str("the working directory", &cwd)?;
    let scratch_text = match scratch {
        Some(path) => Some(path_to_str("the scratch folder", path)?),
        None => None,
    };
    let work_folder = match own_folder.as_deref() {
        Some(path) => Some(path_to_str("the work folder", path)?),
        None => scratch_text,
    };
    let paths = file_paths(command, scratch_text.unwrap_or("/"));
    let folder = format!("{}/{FOLDER}", scratch_text.unwrap_or_default());
    let env = build_env(options, command, work_folder, &paths, &folder);
    check_strings(&argv, cwd, &env)?;
    if let Program::Script { source, .. } = &command.program {
        check_shebang(source)?;
    }
    let own = command.files.iter().map(|file| StartFile {
        name: file.name,
        mode: 0o600,
        content: &file.content,
    });
    let files: Vec<StartFile<'_>> = source.into_iter().chain(own).collect();
    let request = StartRequest {
        resource_limits: resource_limits(&command.limits, open_files),
        timeout: command.timeout,
        kill_grace: command.kill_grace,
        has_stdin: !matches!(command.stdin, super::command::Stdin::Empty),
        scratch: scratch_text,
        files: &files,
        named_by_path,
        has_socket,
        cwd,
        candidates: &candidates,
        argv: &argv,
        env: &env,
    };
    let body = request.encode();
    if body.len() > BODY_BYTES_MAX {
        return Err(invalid_command(format!(
            "script, arguments and environment are {} bytes together: at most {BODY_BYTES_MAX} can be passed",
            body.len()
        )));
    }
    Ok(body)
}

/// The limits as the spawner sets them.
fn resource_limits(
    limits: &super::command::ResourceLimits,
    open_files: (u64, u64),
) -> ResourceLimits {
    ResourceLimits {
        memory_bytes: limits.memory_bytes,
        address_space_bytes: limits.address_space_bytes,
        cpu_time_s: limits.cpu_time_s,
        cpus_milli: limits.cpus.map(|cpus| (cpus * 1000.0).max(10.0) as u64),
        processes: limits.processes,
        file_size_bytes: limits.file_size_bytes,
        open_files: limits.open_files.map_or(open_files, |files| (files, files)),
        nice: limits.nice.unwrap_or(0),
    }
}

/// Rejects strings that cannot be passed to a program.
fn check_strings(
    argv: &[String],
    cwd: &str,
    env: &[(&str, &str)],
) -> Result<(), Box<SpawnFailure>> {
    for text in argv.iter().map(String::as_str).chain([cwd]) {
        if text.contains('\0') {
            let shown = text.replace('\0', "\\0");
            return Err(invalid_command(format!(
                "a NUL character cannot be passed to a program: {shown}"
            )));
        }
    }
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            let shown = name.replace('\0', "\\0");
            return Err(invalid_command(format!(
                "{shown:?} cannot name a variable: it is empty, or holds `=` or NUL"
            )));
        }
        if value.contains('\0') {
            return Err(invalid_command(format!(
                "the value of the variable {name} holds a NUL character"
            )));
        }
    }
    Ok(())
}

fn invalid_command(message: String) -> Box<SpawnFailure> {
    Box::new(SpawnFailure::new("request", message, true))
}

fn path_to_str<'a>(what: &str, path: &'a Path) -> Result<&'a str, Box<SpawnFailure>> {
    path.to_str()
        .ok_or_else(|| invalid_command(format!("{what} is not UTF-8: {}", path.display())))
}

/// The paths of the files that naq writes for the job, in their order.
pub(super) fn file_paths(command: &Command, scratch: &str) -> Vec<String> {
    let files = command.files.iter();
    files
        .map(|file| format!("{scratch}/{}", file.name))
        .collect()
}

/// The arguments, and the source text to write before the start.
fn build_argv<'a>(
    program: &'a Program,
    scratch: Option<&Path>,
) -> Result<(Vec<String>, Option<StartFile<'a>>), Box<SpawnFailure>> {
    let scratch = scratch.unwrap_or(Path::new("/"));
    match program {
        Program::Path { program, args } => {
            let mut argv = vec![program.clone()];
            argv.extend(args.iter().cloned());
            Ok((argv, None))
        }
        Program::Script { source, args } => {
            let script = scratch.join(SCRIPT);
            let script = path_to_str("the scratch folder", &script)?.to_owned();
            let mut argv = match source.starts_with("#!") {
                true => Vec::new(),
                false => vec!["sh".to_owned()],
            };
            argv.push(script);
            argv.extend(args.iter().cloned());
            let file = StartFile {
                name: SCRIPT,
                mode: 0o700,
                content: source.as_bytes(),
            };
            Ok((argv, Some(file)))
        }
        Program::Source(source) => {
            let argv = source_argv(source, path_to_str("the scratch folder", scratch)?);
            let file = StartFile {
                name: &source.file_name,
                mode: 0o600,
                content: &source.source,
            };
            Ok((argv, Some(file)))
        }
    }
}

/// The arguments of the program that runs a source file.
fn source_argv(source: &SourceProgram, scratch: &str) -> Vec<String> {
    let joined = |argument: &SourceArgument| -> String {
        let pieces = argument.0.iter().map(|piece| match piece {
            ArgumentPiece::Text(text) => text.clone(),
            ArgumentPiece::File => format!("{scratch}/{}", source.file_name),
            ArgumentPiece::Folder => scratch.to_owned(),
        });
        pieces.collect()
    };
    // The last is what errors name: the others are the places where it is looked for before PATH.
    let name = source.programs.last().cloned().unwrap_or_default();
    std::iter::once(name)
        .chain(source.args.iter().map(joined))
        .collect()
}

/// Rejects a `#!` line that ends in CRLF: the program would start and then report
/// a misleading error.
fn check_shebang(source: &str) -> Result<(), Box<SpawnFailure>> {
    let first = source.split('\n').next().unwrap_or_default();
    if first.starts_with("#!") && first.ends_with('\r') {
        return Err(Box::new(SpawnFailure::new(
            "exec",
            "the #! line of the script ends in CRLF (Windows line endings): the system would look for an interpreter whose name ends in a carriage return".to_owned(),
            true,
        )));
    }
    Ok(())
}

/// The paths to try, as `execvp` does with the runner's PATH.
pub(super) fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    path.split(':')
        .map(|folder| match folder {
            "" => format!("./{program}"),
            folder => format!("{folder}/{program}"),
        })
        .collect()
}

/// The environment of the job. Later variables override earlier ones.
pub(super) fn build_env<'a>(
    options: &'a RunnerConfig,
    command: &'a Command,
    work_folder: Option<&'a str>,
    file_paths: &'a [String],
    folder: &'a str,
) -> Vec<(&'a str, &'a str)> {
    let given = options
        .base_env
        .iter()
        .chain(&command.env)
        .chain(&command.secrets)
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let work_folder = work_folder.filter(|_| command.scratch);
    let variables = command.files.iter().map(|file| file.variable);
    let files = variables.zip(file_paths.iter().map(String::as_str));
    let set_by_runner = [("NAQ_CONTROL_FD", "3")]
        .into_iter()
        .chain(work_folder.map(|path| ("NAQ_WORK_DIR", path)))
        .chain(files)
        .chain(
            command
                .folder
                .as_ref()
                .map(|(name, _)| (name.as_str(), folder)),
        );
    let all = [("PATH", options.path.as_str())]
        .into_iter()
        .chain(given)
        .chain(set_by_runner);
    let mut env: Vec<(&str, &str)> = Vec::with_capacity(32);
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(32);
    for (name, value) in all {
        match places.entry(name) {
            Entry::Occupied(place) => env[*place.get()].1 = value,
            Entry::Vacant(place) => {
                place.insert(env.len());
                env.push((name, value));
            }
        }
    }
    env
}
