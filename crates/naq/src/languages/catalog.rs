//! All runners of a worker: those of naq, and those of the operator's folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::builtin::BUILTIN;
use super::manifest::{Manifest, Warm};
use naq_runner::WarmMode;

/// A shim's file.
#[derive(Clone, Debug)]
pub(super) struct Shim {
    /// Its name in the job's scratch folder.
    pub(super) file_name: String,
    /// Its text.
    pub(super) source: Bytes,
}

/// The runner of a language.
#[derive(Clone, Debug)]
pub struct Language {
    pub(super) manifest: Manifest,
    /// The text of its manifest.
    manifest_text: String,
    /// Calls functions. `None` if the runner calls none.
    pub(super) shim: Option<Shim>,
    /// Keeps processes ready. `None` if the runner keeps none.
    pub(super) warm_shim: Option<Shim>,
    /// The operator's folder that it is from. `None` for a runner of naq.
    folder: Option<PathBuf>,
}

impl Language {
    /// Its name, as in `--runner`.
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// The operator's folder that it is from. `None` for a runner of naq.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The text of its manifest.
    pub fn manifest_text(&self) -> &str {
        &self.manifest_text
    }

    /// The text of its shim. `None` if it calls no functions.
    pub fn shim_text(&self) -> Option<&str> {
        let shim = self.shim.as_ref()?;
        std::str::from_utf8(&shim.source).ok()
    }

    /// The extensions of its scripts, without a dot.
    pub fn extensions(&self) -> &[String] {
        &self.manifest.extensions
    }

    /// Where its program is looked for, as the manifest says it.
    pub fn programs(&self) -> &[String] {
        &self.manifest.program
    }

    /// The lowest and the highest version of its program that it was tested with. Empty if it never was.
    pub fn tested(&self) -> &[String] {
        &self.manifest.tested
    }

    /// Whether it runs scripts.
    pub fn runs_scripts(&self) -> bool {
        self.manifest.script.is_some()
    }

    /// Whether it calls functions.
    pub fn calls_functions(&self) -> bool {
        self.shim.is_some()
    }

    /// How its processes can be kept ready, best first. Empty if they cannot.
    pub fn warm_modes(&self) -> Vec<WarmMode> {
        let warm = self.manifest.warm.as_ref();
        warm.map(Warm::modes).unwrap_or_default()
    }

    /// The environment variables that its list of programs names.
    fn named_variables(&self) -> impl Iterator<Item = &str> {
        let programs = self.manifest.program.iter();
        programs.filter_map(|program| program.strip_prefix("${")?.strip_suffix('}'))
    }

    /// Makes a runner of the files of its folder.
    fn new(
        name: &str,
        folder: Option<PathBuf>,
        read: &dyn Fn(&str) -> Result<String, String>,
        shim_names: &[String],
    ) -> Result<Language, String> {
        let manifest_text = read("runner.toml")?;
        let manifest = Manifest::parse(&manifest_text, name)?;
        let shim_of = |named: Option<&String>| -> Result<Option<Shim>, String> {
            let file = match (named, shim_names) {
                (Some(named), _) => named.clone(),
                (None, [one]) => one.clone(),
                (None, _) => {
                    return Err(format!(
                        "it has {} files `shim.*`: name one as `shim`",
                        shim_names.len()
                    ));
                }
            };
            let extension = file.rsplit('.').next().unwrap_or("txt");
            Ok(Some(Shim {
                file_name: format!(".naq-shim.{extension}"),
                source: read(&file)?.into(),
            }))
        };
        let shim = match &manifest.function {
            Some(function) => shim_of(function.shim.as_ref())?,
            None => None,
        };
        let warm_shim = match &manifest.warm {
            Some(warm) => match (&warm.shim, &manifest.function) {
                (None, Some(function)) => shim_of(function.shim.as_ref())?,
                (named, _) => shim_of(named.as_ref())?,
            },
            None => None,
        };
        Ok(Language {
            manifest,
            manifest_text,
            shim,
            warm_shim,
            folder,
        })
    }
}

/// Why the runners cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LanguagesError {
    /// The operator's folder cannot be read.
    #[error("cannot read the folder of runners {}: {error}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A runner is not valid.
    #[error("the runner {place} is not valid: {problem}")]
    Runner {
        /// Its name, or its folder.
        place: String,
        /// What is wrong.
        problem: String,
    },
}

/// All runners, by name. Cloned cheaply.
#[derive(Clone, Debug, Default)]
pub struct Languages {
    by_name: Arc<BTreeMap<String, Language>>,
    /// The environment variables that their manifests name, as far as they are set.
    variables: Arc<BTreeMap<String, String>>,
}

impl Languages {
    /// The runners of naq and those in the operator's folder, which replace those of the same name.
    /// `variable` looks up the variables that manifests may name, such as `NAQ_PYTHON`.
    ///
    /// # Errors
    /// Returns [`LanguagesError`] if the folder cannot be read, or one of the runners is not valid.
    pub fn load<'v>(
        folder: Option<&Path>,
        variable: impl Fn(&str) -> Option<&'v str>,
    ) -> Result<Languages, LanguagesError> {
        let mut by_name = BTreeMap::new();
        for (name, _) in BUILTIN {
            by_name.insert((*name).to_owned(), builtin(name)?);
        }
        if let Some(folder) = folder {
            for language in of_folder(folder)? {
                by_name.insert(language.name().to_owned(), language);
            }
        }
        let named = by_name.values().flat_map(Language::named_variables);
        let set = named.filter_map(|name| Some((name.to_owned(), variable(name)?.to_owned())));
        let variables = Arc::new(set.collect());
        Ok(Languages {
            by_name: Arc::new(by_name),
            variables,
        })
    }

    /// The variables that manifests name and that are set.
    pub(super) fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// The runner of this name.
    pub fn get(&self, name: &str) -> Option<&Language> {
        self.by_name.get(name)
    }

    /// All runners, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Language> {
        self.by_name.values()
    }

    /// The runner of a script with this file name, by its extension.
    pub fn for_file(&self, file: &Path) -> Option<&Language> {
        let extension = file.extension()?.to_str()?;
        self.iter()
            .find(|language| language.extensions().iter().any(|own| own == extension))
    }

    /// The names of all runners.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}

/// A runner that is compiled in.
fn builtin(name: &str) -> Result<Language, LanguagesError> {
    let files = |folder: &str| {
        let known = BUILTIN.iter().find(|(known, _)| *known == folder);
        known.map(|(_, files)| *files).unwrap_or_default()
    };
    let read = |file: &str| -> Result<String, String> {
        let (folder, file) = match file.strip_prefix("../").and_then(|at| at.split_once('/')) {
            Some(other) => other,
            None => (name, file),
        };
        let found = files(folder).iter().find(|(known, _)| *known == file);
        found
            .map(|(_, text)| (*text).to_owned())
            .ok_or_else(|| format!("it has no file {file}"))
    };
    let shims = files(name).iter().map(|(file, _)| (*file).to_owned());
    let shims: Vec<String> = shims.filter(|file| file.starts_with("shim.")).collect();
    Language::new(name, None, &read, &shims).map_err(|problem| LanguagesError::Runner {
        place: format!("`{name}`"),
        problem,
    })
}

/// The runners of an operator's folder: each of its folders that has a manifest.
fn of_folder(root: &Path) -> Result<Vec<Language>, LanguagesError> {
    let unreadable = |error| LanguagesError::Folder {
        folder: root.to_owned(),
        error,
    };
    let mut languages = Vec::new();
    for entry in std::fs::read_dir(root).map_err(unreadable)? {
        let folder = entry.map_err(unreadable)?.path();
        if !folder.join("runner.toml").is_file() {
            continue;
        }
        let invalid = |problem| LanguagesError::Runner {
            place: format!("in {}", folder.display()),
            problem,
        };
        let Some(name) = folder.file_name().and_then(|name| name.to_str()) else {
            return Err(invalid("its name is not UTF-8".to_owned()));
        };
        let read = |file: &str| {
            std::fs::read_to_string(folder.join(file)).map_err(|error| format!("{file}: {error}"))
        };
        let files = std::fs::read_dir(&folder).map_err(unreadable)?;
        let files = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
        let shims: Vec<String> = files.filter(|file| file.starts_with("shim.")).collect();
        let language = Language::new(name, Some(folder.clone()), &read, &shims);
        languages.push(language.map_err(invalid)?);
    }
    Ok(languages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runners_of_naq_are_valid() {
        let languages = Languages::load(None, |_| None).unwrap();
        assert!(languages.get("python").unwrap().calls_functions());
        let of = |file: &str| languages.for_file(Path::new(file)).map(Language::name);
        assert_eq!(of("a/job.py"), Some("python"));
        assert_eq!(of("job"), None);
        let mut extensions: Vec<&String> =
            languages.iter().flat_map(Language::extensions).collect();
        let all = extensions.len();
        extensions.sort();
        extensions.dedup();
        assert_eq!(extensions.len(), all, "an extension has one runner");
    }

    #[test]
    fn a_runner_of_the_operator_replaces_one_of_naq() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("python");
        std::fs::create_dir(&folder).unwrap();
        let manifest = "manifest = 1\nname = \"python\"\nprogram = [\"mine\"]\n[probe]\nargv = [\"{program}\"]\n[function]\nargv = [\"{program}\", \"{shim}\"]\n";
        std::fs::write(folder.join("runner.toml"), manifest).unwrap();
        let load = || Languages::load(Some(root.path()), |_| None);
        let missing = load().unwrap_err().to_string();
        assert!(
            missing.contains("shim") && missing.contains("python"),
            "{missing}"
        );
        std::fs::write(folder.join("shim.py"), "x").unwrap();
        let languages = load().unwrap();
        let python = languages.get("python").unwrap();
        assert_eq!(python.programs(), ["mine"]);
        assert_eq!(python.folder(), Some(folder.as_path()));
    }
}
