//! The PostgreSQL installation of the servers, and the user that they run as.

use std::env;
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::error::{Error, Result};

/// A PostgreSQL installation, named by the environment (set by `tools/with_env.sh`):
/// `PG_CONFIG`, `DISTILLVQ_RUN` (where servers live) and, when we are root, `DISTILLVQ_SERVER_USER` (`uid:gid`).
#[derive(Clone, Debug)]
pub struct Installation {
    bindir: PathBuf,
    run: PathBuf,
    server_user: Option<(u32, u32)>,
    version: u32,
}

impl Installation {
    /// Reads the environment and asks `pg_config`.
    ///
    /// # Errors
    /// If a variable is missing or malformed, or `pg_config` fails.
    pub fn from_environment() -> Result<Self> {
        Self::named_by("PG_CONFIG")
    }

    /// As [`Installation::from_environment`], with the path of `pg_config` in another variable.
    ///
    /// # Errors
    /// As there.
    pub fn named_by(name: &'static str) -> Result<Self> {
        let pg_config = variable(name)?;
        let ask = |option| {
            let output = output(Command::new(&pg_config).arg(option))?;
            Ok::<_, Error>(output.trim().to_owned())
        };
        Ok(Self {
            bindir: ask("--bindir")?.into(),
            run: variable("DISTILLVQ_RUN")?.into(),
            server_user: server_user()?,
            version: major(&ask("--version")?),
        })
    }

    /// Major version: 15 to 18.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The directory that holds this checkout's servers.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The directory of its programs.
    #[must_use]
    pub fn bindir(&self) -> &Path {
        &self.bindir
    }

    /// A program of the installation (`psql`, `pgbench`, …), to be run as ourselves.
    #[must_use]
    pub fn client_command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bindir.join(program));
        // Nothing of the caller's own PostgreSQL set-up may leak in.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// A program of the installation (`postgres`, `initdb`, …), to be run as the user that owns the servers.
    #[must_use]
    pub fn server_command(&self, program: &str) -> Command {
        let mut command = self.client_command(program);
        // That user may not be able to read where we are.
        command.current_dir(&self.run);
        // As in production: with it every error, a cancel too, would carry a backtrace, which takes a tenth of a second.
        command.env_remove("RUST_BACKTRACE");
        if let Some((user, group)) = self.server_user {
            command.uid(user).gid(group);
        }
        command
    }

    /// As [`Installation::server_command`], below the program that `DISTILLVQ_WATCHED_BY` names by its path, with
    /// arguments, if it names one: `/usr/bin/valgrind --quiet`, say.
    #[must_use]
    pub fn watched_server_command(&self, program: &str) -> Command {
        let watcher = env::var("DISTILLVQ_WATCHED_BY").unwrap_or_default();
        let mut words = watcher.split_whitespace();
        let Some(watcher) = words.next() else {
            return self.server_command(program);
        };
        let mut command = self.server_command(watcher);
        command.args(words).arg(self.bindir.join(program));
        command
    }

    /// Makes a directory that belongs to the user that owns the servers, and to nobody else.
    ///
    /// # Errors
    /// If there is something of that name already, or it cannot be made.
    pub fn make_directory(&self, path: &Path) -> Result<()> {
        DirBuilder::new()
            .mode(0o700)
            .create(path)
            .map_err(Error::io(path))?;
        match self.server_user {
            Some((user, group)) => chown(path, Some(user), Some(group)).map_err(Error::io(path)),
            None => Ok(()),
        }
    }
}

fn variable(name: &'static str) -> Result<String> {
    env::var(name)
        .ok()
        .filter(|value| !value.is_empty())
        .ok_or(Error::Environment(name))
}

fn server_user() -> Result<Option<(u32, u32)>> {
    let Ok(text) = env::var("DISTILLVQ_SERVER_USER") else {
        return Ok(None);
    };
    text.split_once(':')
        .and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)))
        .map(Some)
        .ok_or_else(|| Error::Argument(format!("DISTILLVQ_SERVER_USER={text} is not uid:gid")))
}

/// 18 of `PostgreSQL 18.6` or `PostgreSQL 19beta1 (Debian …)`; 0 of anything else.
fn major(version: &str) -> u32 {
    let number = version.trim_start_matches("PostgreSQL ");
    let end = number
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(number.len());
    number.get(..end).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// If it cannot be started, or ends with an error; then its standard error is in the message.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_owned();
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().map_err(Error::io(&program))?;
    if !status.success() {
        // Some programs complain on their standard output.
        let words = if stderr.is_empty() { &stdout } else { &stderr };
        return Err(Error::Program {
            program: program.to_string_lossy().into_owned(),
            output: format!("{status}: {}", String::from_utf8_lossy(words).trim_end()),
        });
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart() {
        assert_eq!(major("PostgreSQL 18.6"), 18);
        assert_eq!(major("PostgreSQL 15.18 (Debian 15.18-0+deb12u1)"), 15);
        assert_eq!(major("PostgreSQL 19beta1"), 19);
        assert_eq!(major("something else"), 0);
    }

    #[test]
    fn a_failing_program_shows_its_words() {
        let error = output(Command::new("sh").args(["-c", "echo why >&2; exit 3"]));
        let text = error.map_or_else(|e| e.to_string(), |_| String::new());
        assert!(text.contains("exit status: 3: why"), "{text}");
    }
}
