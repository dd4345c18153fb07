//! What programs print, and the pages that they write into `docs/`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{Error, Result};

/// Prints the step that begins.
pub fn say(step: &str) {
    println!("==> {step}");
}

/// A page with one section per data set.
#[derive(Args)]
pub struct Page {
    /// Directory that keeps one section of the page per data set
    #[arg(long)]
    results: PathBuf,
    /// File of the page
    #[arg(long)]
    output: PathBuf,
}

impl Page {
    /// Keeps the section of a set in the directory of the results, and writes a page of the introduction and all sections there.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn write(&self, introduction: &str, set: &str, section: &str) -> Result<()> {
        let Self { results, output } = self;
        let name = Path::new(set).file_name().unwrap_or_default();
        let own = results.join(name).with_extension("md");
        fs::create_dir_all(results).map_err(Error::io(results))?;
        fs::write(&own, section).map_err(Error::io(&own))?;
        let listed = fs::read_dir(results).map_err(Error::io(results))?;
        let mut paths: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let mut page = introduction.to_owned();
        for path in paths {
            page.push_str(&fs::read_to_string(&path).map_err(Error::io(&path))?);
        }
        fs::write(output, page).map_err(Error::io(output))
    }
}
