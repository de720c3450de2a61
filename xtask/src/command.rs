//! Runs other programs: output passes through line by line and is kept, a deadline ends what hangs.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// How often a running program is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A program to run, with a deadline.
pub(crate) struct Run {
    command: Command,
    deadline: Duration,
    quiet: bool,
}

/// How it ended.
pub(crate) struct Outcome {
    /// `None`: the deadline passed and the program was ended.
    status: Option<ExitStatus>,
    /// Standard output and standard error, line by line as they came.
    pub(crate) output: String,
}

impl Run {
    /// A program in the folder `dir`, ended after `deadline`.
    pub(crate) fn new(program: impl AsRef<OsStr>, dir: &Path, deadline: Duration) -> Self {
        let mut command = Command::new(program);
        command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that the deadline ends its children as well.
        command.process_group(0);
        Self { command, deadline, quiet: false }
    }

    /// Adds arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Prints the output only if the program fails.
    pub(crate) fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Runs to the end or to the deadline.
    pub(crate) fn outcome(mut self) -> Result<Outcome> {
        println!("$ {}", display(&self.command));
        let mut child =
            self.command.spawn().with_context(|| format!("starting {}", display(&self.command)))?;
        let lines = Arc::new(Mutex::new(String::new()));
        let readers = [
            child.stdout.take().map(|pipe| forward(pipe, &lines, self.quiet)),
            child.stderr.take().map(|pipe| forward(pipe, &lines, self.quiet)),
        ];
        let status = wait(&mut child, self.deadline)?;
        // A grandchild that was left running may hold the pipes open for ever; after the deadline nobody waits for it.
        if status.is_some() {
            for reader in readers.into_iter().flatten() {
                let _ = reader.join();
            }
        }
        let output = std::mem::take(&mut *lines.lock().unwrap_or_else(PoisonError::into_inner));
        let outcome = Outcome { status, output };
        if self.quiet && !outcome.success() {
            print!("{}", outcome.output);
        }
        Ok(outcome)
    }

    /// Runs to the end; anything but success is an error.
    pub(crate) fn succeed(self) -> Result<String> {
        let shown = display(&self.command);
        let outcome = self.outcome()?;
        if !outcome.success() {
            bail!("`{shown}` {}", outcome.ending());
        }
        Ok(outcome.output)
    }
}

impl Outcome {
    /// Whether it exited by itself with code 0.
    pub(crate) fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// How it ended, in words.
    pub(crate) fn ending(&self) -> String {
        match self.status {
            None => "did not end in time and was ended".to_owned(),
            Some(status) => format!("ended with {status}"),
        }
    }
}

/// Whether a program is found on the search path.
pub(crate) fn is_installed(program: &str) -> bool {
    which(program).is_some()
}

/// Where the search path holds a program.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn wait(child: &mut Child, deadline: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > deadline {
            let pid =
                i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id is positive")?;
            kill_process_group(pid, Signal::KILL)?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

fn forward(
    pipe: impl Read + Send + 'static,
    lines: &Arc<Mutex<String>>,
    quiet: bool,
) -> thread::JoinHandle<()> {
    let lines = Arc::clone(lines);
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line);
            if !quiet {
                print!("{text}");
            }
            lines.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            line.clear();
        }
    })
}

fn display(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadline: Duration) -> Run {
        Run::new("sh", Path::new("/"), deadline).args(["-c", script]).quiet()
    }

    #[test]
    fn output_and_exit_code_arrive() {
        let outcome = shell("echo out; echo err >&2; exit 3", Duration::from_secs(60)).outcome().unwrap();
        assert!(!outcome.success());
        assert!(outcome.output.contains("out\n") && outcome.output.contains("err\n"));
        assert!(outcome.ending().contains('3'));
    }

    #[test]
    fn what_hangs_is_ended_with_its_children() {
        let outcome = shell("sleep 600 & wait", Duration::from_millis(100)).outcome().unwrap();
        assert!(!outcome.success());
        assert!(outcome.ending().contains("in time"));
    }
}
