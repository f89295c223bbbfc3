//! The runners that are compiled into the program: the folders of `runners/`.

/// A file of a folder: its name and its text.
pub(super) type BuiltinFile = (&'static str, &'static str);

/// The files of a folder of `runners/`.
macro_rules! folder {
    ($name:literal: $($file:literal),+) => {
        ($name, &[$(($file, include_str!(concat!("../../../../runners/", $name, "/", $file)))),+])
    };
}

/// Each runner: its name and its files. A test compares this with the folders.
pub(super) const BUILTIN: &[(&str, &[BuiltinFile])] = &[
    folder!("bash": "runner.toml"),
    folder!("bun": "runner.toml"),
    folder!("bwrap": "runner.toml"),
    folder!("celery": "runner.toml"),
    folder!("deno": "runner.toml"),
    folder!("go": "runner.toml"),
    folder!("java": "runner.toml"),
    folder!("julia": "runner.toml"),
    folder!("lua": "runner.toml", "shim.lua"),
    folder!("node": "runner.toml", "shim.mjs"),
    folder!("npx": "runner.toml"),
    folder!("perl": "runner.toml", "shim.pl"),
    folder!("php": "runner.toml", "shim.php"),
    folder!("podman": "runner.toml"),
    folder!("pwsh": "runner.toml"),
    folder!("python": "runner.toml", "shim.py"),
    folder!("r": "runner.toml"),
    folder!("rq": "runner.toml"),
    folder!("ruby": "runner.toml", "shim.rb"),
    folder!("rust-script": "runner.toml"),
    folder!("sh": "runner.toml"),
    folder!("tcl": "runner.toml"),
    folder!("uv": "runner.toml"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::path::Path;

    #[test]
    fn every_folder_of_runners_is_compiled_in() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../runners"));
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for folder in std::fs::read_dir(root).unwrap() {
            let folder = folder.unwrap().path();
            if !folder.join("runner.toml").is_file() {
                continue;
            }
            let files = std::fs::read_dir(&folder).unwrap();
            let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            let is_part = |name: &String| name == "runner.toml" || name.starts_with("shim.");
            let mut names: Vec<String> = names.filter(is_part).collect();
            names.sort();
            let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
            found.insert(name, names);
        }
        let builtin = BUILTIN.iter().map(|(name, files)| {
            let mut names: Vec<String> = files.iter().map(|(name, _)| (*name).to_owned()).collect();
            names.sort();
            ((*name).to_owned(), names)
        });
        assert_eq!(builtin.collect::<BTreeMap<_, _>>(), found);
    }
}
