//! Errors of the harness.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Result of the harness's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in the harness. `Debug` is the message too: it is what a test's `unwrap` shows.
#[derive(thiserror::Error)]
pub enum Error {
    /// An environment variable that `tools/with_env.sh` sets is missing.
    #[error(
        "{0} is not set: run this through make, or first: eval \"$(make -s env)\" && tools/install.sh"
    )]
    Environment(&'static str),
    /// A file could not be read or written, or a program not be started.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server refused a statement, or the connection broke.
    #[error("{}", describe(.0))]
    Database(#[from] postgres::Error),
    /// A program ended with an error.
    #[error("{program} failed: {output}")]
    Program {
        /// Its name.
        program: String,
        /// What it wrote to its standard error.
        output: String,
    },
    /// A server did not come up.
    #[error("the server did not start; the end of its log:\n{log}")]
    NotReady {
        /// The end of its log.
        log: String,
    },
    /// A file is not what its name promises.
    #[error("{}: {what}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// What was promised did not hold.
    #[error("a promise was broken: {0}")]
    Broken(String),
    /// Arguments that do not fit together.
    #[error("{0}")]
    Argument(String),
}

impl Error {
    /// Wraps a failure to read or write `path`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, source }
    }

    /// Describes what is wrong with the contents of `path`.
    pub fn data(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::Data {
            path: path.as_ref().to_owned(),
            what: what.into(),
        }
    }

    /// The SQLSTATE, if the server raised this error.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Database(error) => error.code().map(|state| state.code()),
            _ => None,
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The client's own message says only "db error": the server's words are one level below.
fn describe(error: &postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        let extra = |label: &str, text: Option<&str>| {
            text.map_or(String::new(), |text| format!("\n{label}: {text}"))
        };
        return format!(
            "{} ({}): {}{}{}",
            db.severity(),
            db.code().code(),
            db.message(),
            extra("DETAIL", db.detail()),
            extra("HINT", db.hint()),
        );
    }
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
