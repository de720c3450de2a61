//! Installs what a fresh machine lacks. Each step looks first, says what it does, and can be repeated.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::{Run, is_installed, which};
use crate::lint::cargo;
use crate::workspace::Workspace;

/// Package registries answer in seconds; a fresh Chromium is about 100 MB.
const DOWNLOAD_DEADLINE: Duration = Duration::from_secs(10 * 60);

/// The program `name` of Debian package `package`, installed if it is missing. Needs root, as CI is.
pub(crate) fn debian_program(workspace: &Workspace, name: &str, package: &str) -> Result<PathBuf> {
    if !is_installed(name) {
        println!("prepare: {name} is missing, installing Debian's {package}");
        let apt = |args: &[&str]| {
            let run = Run::new("apt-get", &workspace.root, DOWNLOAD_DEADLINE).args(args).quiet();
            run.env("DEBIAN_FRONTEND", "noninteractive").succeed()
        };
        apt(&["update", "-q"])?;
        apt(&["install", "-q", "-y", "--no-install-recommends", package])?;
    }
    which(name).with_context(|| format!("{package} is installed, but {name} is not on the search path"))
}

/// A cargo subcommand at exactly `version`, under `target/xtask/tools` so that the user's own tools are left alone.
pub(crate) fn cargo_tool(workspace: &Workspace, name: &str, version: &str) -> Result<PathBuf> {
    let root = workspace.scratch.join("tools");
    let binary = root.join("bin").join(name);
    let stamp = root.join(format!("{name}.version"));
    if binary.is_file() && is_stamped(&stamp, version) {
        return Ok(binary);
    }
    println!("prepare: installing {name} {version} under {}", root.display());
    let package = format!("{name}@{version}");
    cargo(&workspace.root)
        // Unoptimised builds in half the time, and the tools run for seconds.
        .args([
            "install",
            "--locked",
            "--no-default-features",
            "--profile",
            "dev",
            "--force",
            &package,
            "--root",
        ])
        .args([&root])
        .env("CARGO_TARGET_DIR", workspace.scratch.join("tools-target"))
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        .quiet()
        .succeed()?;
    fs::remove_dir_all(workspace.scratch.join("tools-target")).context("removing the tools' build files")?;
    fs::write(&stamp, version)?;
    Ok(binary)
}

/// A Python environment with exactly the packages of a requirements file; answers its interpreter.
pub(crate) fn python_environment(workspace: &Workspace, requirements: &Path) -> Result<PathBuf> {
    let folder = workspace.scratch.join("venv");
    let python = folder.join("bin/python");
    let stamp = folder.join("requirements.installed");
    let wanted = fs::read_to_string(requirements)?;
    if python.is_file() && is_stamped(&stamp, &wanted) {
        return Ok(python);
    }
    println!("prepare: making a Python environment under {}", folder.display());
    if !is_installed("python3") {
        bail!("python3 is not installed");
    }
    let root = &workspace.root;
    Run::new("python3", root, DOWNLOAD_DEADLINE).args(["-m", "venv", "--clear"]).args([&folder]).succeed()?;
    Run::new(&python, root, DOWNLOAD_DEADLINE)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
        .args([requirements])
        .succeed()?;
    fs::write(&stamp, wanted)?;
    Ok(python)
}

/// The source package `name==version` from PyPI, unpacked; answers its folder.
pub(crate) fn python_source(
    workspace: &Workspace,
    python: &Path,
    name: &str,
    version: &str,
) -> Result<PathBuf> {
    let parent = workspace.scratch.join("sdist");
    let folder = parent.join(format!("{}-{version}", name.replace('-', "_")));
    // The stamp is written last, so a download that was cut short is repeated.
    let stamp = parent.join(format!("{name}.unpacked"));
    if folder.is_dir() && is_stamped(&stamp, version) {
        return Ok(folder);
    }
    println!("prepare: fetching the source package {name} {version}");
    fs::create_dir_all(&parent)?;
    let root = &workspace.root;
    Run::new(python, root, DOWNLOAD_DEADLINE)
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"])
        .args(["--no-binary", ":all:", "--no-deps", &format!("{name}=={version}"), "--dest"])
        .args([&parent])
        .succeed()?;
    let archive = parent.join(format!("{}-{version}.tar.gz", name.replace('-', "_")));
    Run::new("tar", &parent, DOWNLOAD_DEADLINE).args(["-xzf".as_ref(), archive.as_os_str()]).succeed()?;
    fs::write(&stamp, version)?;
    Ok(folder)
}

/// A copy of the Node project `tests/NAME` with the npm packages that its lock file names; answers its folder.
pub(crate) fn node_project(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    node_folder(workspace, &workspace.root.join("tests").join(name), name)
}

/// A copy of the Node project in the folder `source`, with its npm packages, under `NAME` of the scratch folder.
pub(crate) fn node_folder(workspace: &Workspace, source: &Path, name: &str) -> Result<PathBuf> {
    let folder = workspace.scratch.join(name);
    fs::create_dir_all(&folder)?;
    // Node looks for packages beside the importing file, and the repository stays free of node_modules: so the
    // scenarios run from a copy.
    copy_files(source, &folder)?;
    let lock = fs::read_to_string(source.join("package-lock.json"))?;
    let stamp = folder.join("package-lock.installed");
    if is_stamped(&stamp, &lock) {
        return Ok(folder);
    }
    println!("prepare: installing npm packages under {}", folder.display());
    for program in ["node", "npm"] {
        if !is_installed(program) {
            bail!("{program} is not installed");
        }
    }
    Run::new("npm", &folder, DOWNLOAD_DEADLINE)
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .succeed()?;
    fs::write(&stamp, lock)?;
    Ok(folder)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    // Scenarios that no longer exist must not run from an old copy.
    for entry in fs::read_dir(to)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "mjs") {
            fs::remove_file(path)?;
        }
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn is_stamped(stamp: &Path, wanted: &str) -> bool {
    fs::read_to_string(stamp).is_ok_and(|found| found == wanted)
}
