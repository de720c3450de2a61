//! The files of the repository, for the tests that read it.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold what tools made or fetched.
const FOREIGN_FOLDERS: &[&str] = &["target", ".git", "node_modules", "corpus", "artifacts", ".cache"];

/// One file of the repository.
pub(crate) struct SourceFile {
    /// Path from the root of the repository, with `/`.
    pub(crate) path: String,
    /// Its content.
    pub(crate) bytes: Vec<u8>,
}

impl SourceFile {
    /// The content as text; a file that is not UTF-8 fails the test that asks.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap_or_else(|error| panic!("{}: {error}", self.path))
    }
}

/// Root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files whose name ends in one of `extensions`, in the order of their paths.
pub(crate) fn files(extensions: &[&str]) -> Vec<SourceFile> {
    let mut paths = Vec::new();
    collect(root(), &mut paths);
    paths.sort();
    let wanted = |path: &PathBuf| {
        path.extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|found| extensions.contains(&found))
    };
    paths.into_iter().filter(wanted).map(|path| read(&path)).collect()
}

fn read(path: &Path) -> SourceFile {
    let relative = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    SourceFile { path: relative, bytes: fs::read(path).unwrap() }
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if entry.file_type().unwrap().is_dir() {
            if !FOREIGN_FOLDERS.iter().any(|foreign| name == *foreign) {
                collect(&entry.path(), paths);
            }
        } else {
            paths.push(entry.path());
        }
    }
}
