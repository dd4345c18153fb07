//! What programs print, and the pages that they write into `docs/`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser};

use crate::error::{Error, Result};
use crate::exact::Metric;
use crate::provenance::Provenance;

/// Prints the step that begins.
pub fn say(step: &str) {
    println!("==> {step}");
}

/// Arguments of a program that measures one data set and writes a page with one section per data set.
#[derive(Parser)]
pub struct SectionArguments {
    /// The name of a generated data set, or the directory of a data set
    #[arg(long)]
    pub set: String,
    /// Metric of a data set in a directory: cosine, l2, or ip; by default that of its file metric.txt, or cosine
    #[arg(long)]
    pub metric: Option<Metric>,
    /// The page.
    #[command(flatten)]
    pub page: Page,
}

impl SectionArguments {
    /// Reads the command line of a program, which ends if it is wrong.
    ///
    /// `about` is the program's description, `generated` lists the generated data sets; both are for `--help`.
    #[must_use]
    pub fn read(about: &'static str, generated: &'static str) -> Self {
        let command = Self::command()
            .about(about)
            .after_help(format!("Generated data sets: {generated}"));
        let matches = command.get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
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
    /// Keeps the section of a set, with machine, commit and date, in the directory of the results, and writes a page of the
    /// introduction and all sections there.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn write(&self, introduction: &str, set: &str, section: &str) -> Result<()> {
        let Self { results, output } = self;
        let name = Path::new(set.trim_end_matches('/')).file_name();
        let name = name.unwrap_or_default();
        let own = results.join(name).with_extension("md");
        fs::create_dir_all(results).map_err(Error::io(results))?;
        let section = format!("{section}\n{}\n", Provenance::now());
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
