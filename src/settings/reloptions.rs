//! The options of an index, `CREATE INDEX … WITH (…)`.
//!
//! PostgreSQL keeps them as the text array `name=value`; [`parse`] checks them first, so that errors name the value and have a
//! hint, and then lets the server build its struct.

use crate::error::{Error, Result};
use crate::pg::relation::Index;
use crate::pg::reloptions::{
    self, OptionKind, OptionSpec, RawOptions, StoredOptions, definition_items,
};
use crate::settings::target_recall::RANGE;
use distillvq_model::{MAX_LISTS, max_subquantizers};
use pgrx::pg_sys;
use std::mem::offset_of;

/// The options of an index, as its definition gives them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Number of inverted lists; 0 = automatic.
    pub lists: usize,
    /// Number of subquantizers; 0 = automatic.
    pub subquantizers: usize,
    /// Bits of a subquantizer's code, 4 or 8; 0 = automatic.
    pub bits: usize,
    /// Maximum number of lists per row, 1 or 2; 0 = automatic.
    pub assignments: usize,
    /// Lists that a search probes first; 0 = automatic.
    pub probes: usize,
    /// Target recall of searches; none = as the setting says.
    pub target_recall: Option<f64>,
    /// Name of the trained model to build with; none trains at build.
    pub model: Option<String>,
    /// Whether the index keeps refine codes; none = where vectors are too long for the table's own pages.
    pub refine: Option<bool>,
    /// Whether VACUUM trains the index if it was built over too few rows; none = it does.
    pub auto_train: Option<bool>,
    /// Whether searches keep a sample of their queries, with which VACUUM calibrates the index; none = they do.
    pub sample_queries: Option<bool>,
}

/// Names of all options, for hints.
const NAMES: [&str; 10] = [
    "lists",
    "subquantizers",
    "bits",
    "assignments",
    "probes",
    "target_recall",
    "model",
    "refine",
    "auto_train",
    "sample_queries",
];

/// The values of `refine`, and what they mean.
const REFINE: [(&str, Option<bool>); 3] =
    [("auto", None), ("none", Some(false)), ("sq7", Some(true))];

static OPTIONS: [OptionSpec; 10] = [
    OptionSpec {
        name: c"lists",
        about: c"Number of inverted lists (0 = automatic)",
        kind: OptionKind::Integer {
            max: MAX_LISTS as i32,
        },
        offset: offset_of!(RawOptions, lists),
        for_scans: false,
    },
    OptionSpec {
        name: c"subquantizers",
        about: c"Number of subquantizers, each giving 4 or 8 bits of a row's code (0 = automatic)",
        kind: OptionKind::Integer {
            max: max_subquantizers(4) as i32,
        },
        offset: offset_of!(RawOptions, subquantizers),
        for_scans: false,
    },
    OptionSpec {
        name: c"bits",
        about: c"Bits a subquantizer: 4 or 8 (0 = automatic)",
        kind: OptionKind::Integer { max: 8 },
        offset: offset_of!(RawOptions, bits),
        for_scans: false,
    },
    OptionSpec {
        name: c"assignments",
        about: c"Maximum number of inverted lists per row: 1 or 2 (0 = automatic)",
        kind: OptionKind::Integer { max: 2 },
        offset: offset_of!(RawOptions, assignments),
        for_scans: false,
    },
    OptionSpec {
        name: c"probes",
        about: c"Number of inverted lists that a search probes first (0 = automatic)",
        kind: OptionKind::Integer {
            max: MAX_LISTS as i32,
        },
        offset: offset_of!(RawOptions, probes),
        for_scans: true,
    },
    OptionSpec {
        name: c"target_recall",
        about: c"Recall that searches aim at by default",
        kind: OptionKind::Real {
            min: *RANGE.start(),
            max: *RANGE.end(),
        },
        offset: offset_of!(RawOptions, target_recall),
        for_scans: true,
    },
    OptionSpec {
        name: c"model",
        about: c"Name of the trained model to build with (none = train at build)",
        kind: OptionKind::Text,
        offset: offset_of!(RawOptions, model),
        for_scans: false,
    },
    OptionSpec {
        name: c"refine",
        about: c"Codes to rank rows by before they are compared: none, sq7 (auto = sq7 where vectors are long)",
        kind: OptionKind::Text,
        offset: offset_of!(RawOptions, refine),
        for_scans: false,
    },
    OptionSpec {
        name: c"auto_train",
        about: c"Whether VACUUM trains an index that was built over too few rows",
        kind: OptionKind::Boolean { default: true },
        offset: offset_of!(RawOptions, auto_train),
        for_scans: true,
    },
    OptionSpec {
        name: c"sample_queries",
        about: c"Whether searches keep a sample of their queries, with which VACUUM calibrates the index",
        kind: OptionKind::Boolean { default: true },
        offset: offset_of!(RawOptions, sample_queries),
        for_scans: true,
    },
];

/// Registers the options with the server; called once when the library is loaded.
pub fn register() {
    reloptions::register(&OPTIONS);
}

/// Checks the definition's options and returns the server's struct, as `amoptions` must.
pub fn parse(definition: pg_sys::Datum, validate: bool) -> Result<*mut pg_sys::bytea> {
    if validate {
        for item in definition_items(definition) {
            let (name, value) = item.split_once('=').unwrap_or((&item, "true"));
            check_value(name, value)?;
        }
    }
    Ok(reloptions::build(&OPTIONS, definition, validate))
}

/// Refuses an unknown name, and a value out of range.
fn check_value(name: &str, value: &str) -> Result<()> {
    let named = |option: &&OptionSpec| option.name.to_str() == Ok(name);
    let Some(option) = OPTIONS.iter().find(named) else {
        return Err(Error::UnknownOption {
            name: name.to_owned(),
            known: &NAMES,
        });
    };
    match option.kind {
        OptionKind::Text
            if name == "refine" && !REFINE.iter().any(|(known, _)| *known == value) =>
        {
            Err(Error::Refine(value.to_owned()))
        }
        // The server itself refuses what is no boolean.
        OptionKind::Text | OptionKind::Boolean { .. } => Ok(()),
        OptionKind::Real { min, max } => match value.trim().parse::<f64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(()),
            _ => Err(Error::TargetRange {
                value: value.to_owned(),
                min,
                max,
            }),
        },
        OptionKind::Integer { max } => check_integer(option, value, max),
    }
}

fn check_integer(option: &'static OptionSpec, value: &str, max: i32) -> Result<()> {
    let name = option.name.to_str().unwrap_or_default();
    let out_of_range = || Error::OptionRange {
        name,
        value: value.to_owned(),
        min: 0,
        max: i64::from(max),
    };
    let number: i64 = value.trim().parse().map_err(|_| out_of_range())?;
    if !(0..=i64::from(max)).contains(&number) {
        return Err(out_of_range());
    }
    if name == "bits" && ![0, 4, 8].contains(&number) {
        return Err(Error::Bits(number));
    }
    Ok(())
}

impl Options {
    /// Whether VACUUM trains the index once there are enough rows.
    pub fn trains_itself(&self) -> bool {
        self.auto_train != Some(false)
    }

    /// Whether searches sample their queries, as far as the index decides.
    pub fn samples_queries(&self) -> bool {
        self.sample_queries != Some(false)
    }

    /// The options of an open index.
    pub fn of(index: Index) -> Self {
        StoredOptions::of(index).map_or_else(Self::default, Self::from)
    }
}

impl From<StoredOptions> for Options {
    fn from(stored: StoredOptions) -> Self {
        let StoredOptions { raw, model, refine } = stored;
        let count = |value: i32| usize::try_from(value).unwrap_or(0);
        Self {
            lists: count(raw.lists),
            subquantizers: count(raw.subquantizers),
            bits: count(raw.bits),
            assignments: count(raw.assignments),
            probes: count(raw.probes),
            target_recall: Some(raw.target_recall).filter(|target| RANGE.contains(target)),
            model: Some(model).filter(|name| !name.is_empty()),
            refine: REFINE
                .iter()
                .find_map(|(name, meaning)| meaning.filter(|_| *name == refine)),
            auto_train: Some(raw.auto_train),
            sample_queries: Some(raw.sample_queries),
        }
    }
}
