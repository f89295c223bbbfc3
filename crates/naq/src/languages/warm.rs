//! How the processes of a runner are kept ready.

use std::time::Duration;

use super::catalog::Languages;
use super::invocation::{arguments, variables};
use super::template::Placeholders;
use naq_runner::{Command, Program, SourceProgram, WarmBoot, WarmMode};

/// When a warm process is replaced: when the first of these is exceeded. `None` means never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecycleLimits {
    /// Number of jobs that it has run.
    pub jobs: Option<u64>,
    /// Growth of its resident memory since the end of its first job, in bytes.
    pub growth_bytes: Option<u64>,
    /// Time since its start.
    pub age: Option<Duration>,
}

/// The warm processes of a runner.
#[derive(Clone, Debug)]
pub struct WarmPlan {
    runner: String,
    module_path: Vec<String>,
    preload: Vec<String>,
    program: SourceProgram,
    env: Vec<(String, String)>,
    /// The modes to try, best first.
    pub modes: Vec<WarmMode>,
    /// When a process is replaced.
    pub recycle: RecycleLimits,
    boot_timeout: Duration,
}

impl WarmPlan {
    /// The plan for a runner: what its processes load before their first job, and where they look for it. Without
    /// a mode, they run jobs in the best one of the runner that is safe.
    ///
    /// # Errors
    /// Returns why the runner has no warm processes, or none of this mode.
    pub fn new(
        languages: &Languages,
        runner: &str,
        mode: Option<WarmMode>,
        preload: &[String],
        module_path: &[String],
    ) -> Result<WarmPlan, String> {
        let language = languages
            .get(runner)
            .ok_or_else(|| format!("no runner `{runner}`; `naq runner list` lists them"))?;
        let manifest = &language.manifest;
        let (Some(warm), Some(shim)) = (&manifest.warm, &language.warm_shim) else {
            return Err(format!("the runner `{runner}` has no warm processes"));
        };
        let joined = module_path.join(":");
        let values = Placeholders {
            module_path: &joined,
            ..Placeholders::default()
        };
        Ok(WarmPlan {
            runner: runner.to_owned(),
            module_path: module_path.to_vec(),
            preload: preload.to_vec(),
            program: SourceProgram {
                file_name: shim.file_name.clone(),
                source: shim.source.clone(),
                programs: language.programs_to_try(languages.variables()),
                args: arguments(&warm.argv, &values),
            },
            env: variables(&warm.env, &values),
            modes: modes_to_try(&warm.modes(), mode)
                .map_err(|why| format!("the runner `{runner}` {why}"))?,
            recycle: RecycleLimits {
                jobs: warm.recycle.jobs,
                growth_bytes: warm.recycle.growth.map(|size| size.0),
                age: warm.recycle.age.map(|age| age.0),
            },
            boot_timeout: warm.boot_timeout(),
        })
    }

    /// The name of the runner.
    pub fn runner(&self) -> &str {
        &self.runner
    }

    /// Where its processes look for modules first.
    pub fn module_path(&self) -> &[String] {
        &self.module_path
    }

    /// A process to start.
    pub fn boot(&self, mode: WarmMode) -> WarmBoot {
        let name = format!("warm {}", self.runner);
        let mut command = Command::new(name, Program::Source(self.program.clone()));
        command.env.clone_from(&self.env);
        let preload = serde_json::to_string(&self.preload).unwrap_or_default();
        for (name, value) in [
            ("NAQ_PRELOAD", preload),
            ("NAQ_MODULE_PATH", self.module_path.join(":")),
        ] {
            command.env.push((name.to_owned(), value));
        }
        command.scratch = true;
        WarmBoot {
            command,
            mode,
            timeout: self.boot_timeout,
        }
    }
}

/// The modes in which processes of a runner are started, one after the other until one works. In the mode reuse a job
/// may see what earlier ones have left in modules, so it follows no other mode: it is the runner's first, or wanted.
fn modes_to_try(known: &[WarmMode], wanted: Option<WarmMode>) -> Result<Vec<WarmMode>, String> {
    match wanted {
        Some(mode) if known.contains(&mode) => Ok(vec![mode]),
        Some(mode) => {
            let names: Vec<&str> = known.iter().map(|mode| mode.name()).collect();
            let (wanted, known) = (mode.name(), names.join(", "));
            Err(format!("has no mode `{wanted}`; it has {known}"))
        }
        None => {
            let is_first = |mode: &WarmMode| known.first() == Some(mode);
            let modes = known.iter().copied();
            Ok(modes
                .filter(|mode| *mode != WarmMode::Reuse || is_first(mode))
                .collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_reused_only_by_choice_or_if_that_is_best() {
        use WarmMode::{Fork, Reuse, Standby};
        let python = [Fork, Standby, Reuse];
        let node = [Reuse, Standby];
        assert_eq!(modes_to_try(&python, None), Ok(vec![Fork, Standby]));
        assert_eq!(modes_to_try(&python, Some(Reuse)), Ok(vec![Reuse]));
        assert_eq!(modes_to_try(&node, None), Ok(vec![Reuse, Standby]));
        let refused = modes_to_try(&node, Some(Fork)).unwrap_err();
        assert_eq!(refused, "has no mode `fork`; it has reuse, standby");
    }
}
