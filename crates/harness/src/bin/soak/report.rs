//! The figures of a run: as JSON, and as a line of a table.

use std::fs;
use std::path::Path;
use std::process::Command;

use distillvq_harness::installation::output;
use distillvq_harness::{Error, Result};
use serde_json::Value;

/// The line before which the next one of the table goes.
const END: &str = "<!-- soak: the next run goes before this line -->";

/// Writes the figures to a file and into the table of another.
pub fn write(figures: &Value, json: Option<&Path>, table: Option<&Path>) -> Result<()> {
    if let Some(path) = json {
        let text = format!("{figures:#}\n");
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| fs::write(path, text))
            .map_err(Error::io(path))?;
    }
    let line = line(figures)?;
    println!("{line}");
    if let Some(path) = table {
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        let text = text.replacen(END, &format!("{line}\n{END}"), 1);
        fs::write(path, text).map_err(Error::io(path))?;
    }
    Ok(())
}

/// The line: one cell a column of the table in `docs/reliability.md`.
fn line(figures: &Value) -> Result<String> {
    let day = output(Command::new("date").args(["-u", "+%F"]))?;
    // A figure's name, or a group's and the name in it.
    let cell = |part: &str, name: &str| {
        let part = &figures["parts"][part];
        let value = match name.split_once('/') {
            Some((group, name)) => &part[group][name],
            None => &part[name],
        };
        if value.is_null() {
            "–".to_owned()
        } else {
            value.to_string()
        }
    };
    let joined = |part: &str, names: &[&str]| {
        let cells: Vec<String> = names.iter().map(|name| cell(part, name)).collect();
        cells.join(" / ")
    };
    let cells = [
        day.trim().to_owned(),
        figures["minutes"].to_string(),
        joined("crash", &["of the server", "of a backend"]),
        joined("crash", &["changes confirmed"]),
        joined("cancel", &["canceled"]),
        joined(
            "cancel",
            &["latency ms/p50", "latency ms/p99", "latency ms/max"],
        ),
        joined("replica", &["comparisons"]),
        joined("mixed", &["reads", "changes"]),
        joined("mixed", &["recall", "recall of a fresh index"]),
        joined("session", &["queries"]),
        joined("session", &["RSS at the start kB", "RSS at the end kB"]),
    ];
    Ok(format!("| {} |", cells.join(" | ")))
}
