//! Command-line arguments of the form `--name value`. An empty value counts as missing, so that a Makefile can pass unset variables.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Arguments that nobody has asked for yet.
pub struct Arguments(BTreeMap<String, String>);

impl Arguments {
    /// Those of this program.
    #[must_use]
    pub fn of_this_program() -> Self {
        Self::of(env::args().skip(1))
    }

    fn of(mut words: impl Iterator<Item = String>) -> Self {
        let mut given = BTreeMap::new();
        while let Some(name) = words.next() {
            given.insert(name, words.next().unwrap_or_default());
        }
        Self(given)
    }

    /// A text, if it is given.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).filter(|value| !value.is_empty())
    }

    /// A path, if it is given.
    pub fn path(&mut self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// A text.
    ///
    /// # Errors
    /// If it is not given.
    pub fn required(&mut self, name: &str) -> Result<String> {
        let missing = || Error::Argument(format!("{name} is missing"));
        self.text(name).ok_or_else(missing)
    }

    /// A number, or the default.
    ///
    /// # Errors
    /// If it is no number of this type.
    pub fn number<T: FromStr>(&mut self, name: &str, default: T) -> Result<T> {
        let Some(value) = self.text(name) else {
            return Ok(default);
        };
        let wrong = |_| Error::Argument(format!("{name} {value} is no number that it can be"));
        value.parse().map_err(wrong)
    }

    /// To be called when all have been asked for.
    ///
    /// # Errors
    /// If one is left.
    pub fn end(mut self) -> Result<()> {
        match self.0.pop_first() {
            Some((name, _)) => Err(Error::Argument(format!("unknown argument {name}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_taken_one_by_one() {
        let words = "--rows 5 --only  --data /x --seed many --more";
        let mut given = Arguments::of(words.split(' ').map(str::to_owned));
        assert!(matches!(given.number("--rows", 1), Ok(5)));
        assert!(matches!(given.number("--dim", 7), Ok(7)));
        assert_eq!(given.text("--only"), None);
        assert!(given.required("--output").is_err());
        assert_eq!(given.path("--data"), Some("/x".into()));
        assert!(given.number("--seed", 1).is_err());
        assert!(given.end().is_err());
    }
}
