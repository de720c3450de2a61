//! Where things are: the repository, its target folder, and the documents shared beside the repository.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Paths that every stage needs.
pub(crate) struct Workspace {
    /// Root of the repository.
    pub(crate) root: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
    /// What xtask installs and writes: `target/xtask`.
    pub(crate) scratch: PathBuf,
}

impl Workspace {
    /// Finds the repository from where this crate was compiled.
    pub(crate) fn find() -> Result<Self> {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies inside the repository")?;
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => root.join(folder),
            None => root.join("target"),
        };
        let scratch = target.join("xtask");
        std::fs::create_dir_all(&scratch).with_context(|| format!("creating {}", scratch.display()))?;
        Ok(Self { root: root.to_path_buf(), target, scratch })
    }

    /// The release binary, as the stage `release` left it.
    pub(crate) fn release_binary(&self) -> Result<PathBuf> {
        let path = self.target.join("release/millpond");
        if !path.is_file() {
            bail!("{} is not there: run the stage `release` first", path.display());
        }
        Ok(path)
    }

    /// The server configuration `name` for the suites of client libraries: the shared one, or our equivalent where no
    /// shared folder lies beside the repository.
    pub(crate) fn profile(&self, name: &str) -> PathBuf {
        let shared = self.shared().map(|folder| folder.join("docs/sdk-profiles").join(name));
        match shared {
            Some(path) if path.is_file() => path,
            _ => self.root.join("tests/sdk/profiles").join(name),
        }
    }

    /// `MILLPOND_SHARED`, else `shared/` beside the repository or beside one of the folders above it.
    fn shared(&self) -> Option<PathBuf> {
        if let Some(folder) = std::env::var_os("MILLPOND_SHARED") {
            return Some(PathBuf::from(folder));
        }
        self.root
            .ancestors()
            .skip(1)
            .map(|folder| folder.join("shared"))
            .find(|folder| folder.join("docs").is_dir())
    }
}
