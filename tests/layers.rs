//! Dependencies between modules go down: read from the sources, without a server.
//!
//! References are paths that begin with `crate`, `super`, `self`, or a name that such a path imported; a re-export leads
//! to the module that defines the name. Test code is left out.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Layers of the extension, lowest first, and their modules with all that is below these; the longest name counts.
const LAYERS: [(&str, &[&str]); 5] = [
    ("error", &["error"]),
    ("pg", &["pg"]),
    ("settings", &["settings"]),
    ("am", &["am"]),
    ("functions and entry", &["functions", "entry"]),
];

/// The crates that know nothing of PostgreSQL, and those of ours that each of them may depend on.
const PURE: [(&str, &[&str]); 6] = [
    ("kernels", &[]),
    ("linalg", &["kernels"]),
    ("model", &["linalg", "kernels"]),
    ("training", &["model", "linalg", "kernels"]),
    ("pages", &["kernels"]),
    ("ivf", &["pages", "model", "kernels"]),
];

/// What depends on `training`: searches and inserts use a model without it.
const USE_TRAINING: [&str; 3] = ["src/am", "src/functions", "src/error"];

/// Where `unsafe` is allowed: what the extension calls of the server, what the server calls, and SIMD.
const UNSAFE: [&str; 3] = ["src/pg/", "src/entry/", "crates/kernels/src/"];

/// Edges from each module to the modules that it refers to.
type Edges = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_module_refers_to_a_higher_layer() {
    let mut found = BTreeSet::new();
    let edges = edges("src");
    for (from, targets) in &edges {
        let above = |to: &&String| layer(to) > layer(from);
        let all = targets
            .iter()
            .filter(|to| !to.is_empty() && !from.is_empty());
        found.extend(all.filter(above).map(|to| format!("{from} -> {to}")));
    }
    assert!(found.is_empty(), "references to a higher layer: {found:#?}");
}

#[test]
fn modules_do_not_depend_on_one_another() {
    let mut found = BTreeSet::new();
    let crates = PURE.iter().map(|(name, _)| format!("crates/{name}/src"));
    for folder in crates.chain(["src".to_owned()]) {
        let cycles = cycles(&edges(&folder));
        found.extend(
            cycles
                .iter()
                .map(|cycle| format!("{folder}: {}", cycle.join(" "))),
        );
    }
    assert!(
        found.is_empty(),
        "modules depend on one another: {found:#?}"
    );
}

#[test]
fn pure_crates_know_no_server() {
    for (name, _) in PURE {
        let manifest = manifest(name);
        assert!(!manifest.contains("pgrx"), "{name} depends on pgrx");
    }
}

#[test]
fn crates_depend_on_lower_ones() {
    for (name, allowed) in PURE {
        let manifest = manifest(name);
        let from = manifest.split("\n[dependencies]\n").nth(1).unwrap_or("");
        let section = from.split("\n[").next().unwrap_or("");
        let ours = |line: &str| {
            let name = line.strip_prefix("distillvq-")?;
            Some(name.split(['.', ' ']).next()?.to_owned())
        };
        let found: Vec<String> = section.lines().filter_map(ours).collect();
        let higher = found.iter().find(|name| !allowed.contains(&name.as_str()));
        assert_eq!(higher, None, "{name} depends on it");
        assert_eq!(found.len(), allowed.len(), "{name} depends on fewer crates");
    }
}

#[test]
fn only_the_upper_layers_train() {
    for file in files("src") {
        let name = file.strip_prefix(workspace()).unwrap().to_str().unwrap();
        let allowed = USE_TRAINING.iter().any(|layer| name.starts_with(layer));
        let source = tokens(&fs::read_to_string(&file).unwrap());
        let found = source.iter().any(|token| token == "distillvq_training");
        assert!(allowed || !found, "{name} uses distillvq_training");
    }
}

#[test]
fn pages_know_only_how_values_lie_in_a_block() {
    for file in files("crates/pages/src") {
        let source = tokens(&fs::read_to_string(&file).unwrap());
        for path in source.split(|token| token == "distillvq_kernels").skip(1) {
            assert_eq!(path[..2], ["::", "block"], "{}", file.display());
        }
    }
}

/// The manifest of one of our crates.
fn manifest(name: &str) -> String {
    fs::read_to_string(workspace().join("crates").join(name).join("Cargo.toml")).unwrap()
}

#[test]
fn unsafe_code_is_where_it_is_allowed() {
    for file in ["src", "crates", "tests", "benches"].map(files).concat() {
        let name = file.strip_prefix(workspace()).unwrap().to_str().unwrap();
        let allowed = UNSAFE.iter().any(|folder| name.starts_with(folder));
        let source = tokens(&fs::read_to_string(&file).unwrap());
        let found = source
            .iter()
            .any(|token| token == "unsafe" || token == "unsafe_code");
        assert!(allowed || !found, "{name} has unsafe code");
    }
}

/// The place of a module's layer among [`LAYERS`].
fn layer(module: &str) -> usize {
    let below = |name: &&&str| module == **name || is_inside(module, name);
    let longest = |names: &[&str]| names.iter().filter(below).map(|name| name.len()).max();
    let of_layers = LAYERS
        .iter()
        .enumerate()
        .filter_map(|(i, (_, names))| Some((longest(names)?, i)));
    match of_layers.max() {
        Some((_, layer)) => layer,
        None => panic!("module {module} belongs to no layer"),
    }
}

/// Whether a module is a descendant of another.
fn is_inside(module: &str, ancestor: &str) -> bool {
    ancestor.is_empty() && !module.is_empty()
        || module
            .strip_prefix(ancestor)
            .is_some_and(|rest| rest.starts_with("::"))
}

/// Groups of modules each of which leads to all others of its group. A module may refer to those that it is part of.
fn cycles(edges: &Edges) -> BTreeSet<Vec<String>> {
    let reached = |from: &String| {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = todo.pop() {
            let targets = edges.get(&module).into_iter().flatten();
            for to in targets.filter(|to| !is_inside(&module, to)) {
                if seen.insert(to.clone()) {
                    todo.push(to.clone());
                }
            }
        }
        seen
    };
    let reached: Edges = edges
        .keys()
        .map(|module| (module.clone(), reached(module)))
        .collect();
    let leads = |a: &String, b: &String| reached.get(a).is_some_and(|seen| seen.contains(b));
    let group = |a: &String| -> Vec<String> {
        reached
            .keys()
            .filter(|b| leads(a, b) && leads(b, a))
            .cloned()
            .collect()
    };
    reached
        .keys()
        .map(group)
        .filter(|group| group.len() > 1)
        .collect()
}

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// All source files of a folder of the workspace. Links, and what a build made, are left out.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut todo = vec![workspace().join(folder)];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() && !path.ends_with("target") {
                todo.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|ext| ext == "rs") {
                out.push(path);
            }
        }
    }
    out.sort();
    out
}

/// Words and signs of a source; comments and literals are left out, `::` is one sign.
fn tokens(source: &str) -> Vec<String> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut out, mut i) = (Vec::new(), 0);
    while i < chars.len() {
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1
                }
            }
            '"' => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 }
                }
                i += 1;
            }
            'r' if at(i + 1) == '"'
                || at(i + 1) == '#' && (at(i + 2) == '"' || at(i + 2) == '#') =>
            {
                let marks = (i + 1..).take_while(|&j| at(j) == '#').count();
                i += 2 + marks;
                let ends = |i: usize| at(i) == '"' && (1..=marks).all(|j| at(i + j) == '#');
                while i < chars.len() && !ends(i) {
                    i += 1
                }
                i += 1 + marks;
            }
            '\'' if at(i + 1) == '\\' => {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1
                }
                i += 1;
            }
            '\'' if at(i + 2) == '\'' => i += 3,
            ':' if at(i + 1) == ':' => {
                out.push("::".to_owned());
                i += 2;
            }
            c if is_word(c) => {
                let word: String = chars[i..].iter().take_while(|c| is_word(**c)).collect();
                i += word.chars().count();
                out.push(word);
            }
            c => {
                if !c.is_whitespace() {
                    out.push(c.to_string())
                }
                i += 1;
            }
        }
    }
    out
}

/// Removes items for tests, and returns the names of the removed modules.
fn without_tests(tokens: &[String]) -> (Vec<String>, Vec<String>) {
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut out, mut modules, mut i) = (Vec::new(), Vec::new(), 0);
    while i < tokens.len() {
        if !tokens[i..].iter().zip(attribute).all(|(a, b)| a == b)
            || tokens.len() - i < attribute.len()
        {
            out.push(tokens[i].clone());
            i += 1;
            continue;
        }
        i += attribute.len();
        let is_use = tokens[i..].iter().take(6).any(|token| token == "use");
        let mut depth = 0;
        while i < tokens.len() {
            match tokens[i].as_str() {
                "mod" if depth == 0 => modules.extend(tokens.get(i + 1).cloned()),
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            i += 1;
            let last = tokens[i - 1].as_str();
            if depth == 0 && (last == ";" || last == "}" && !is_use) {
                break;
            }
        }
    }
    (out, modules)
}

/// A crate's modules: their tokens, and the paths that their `use` items import under a name.
#[derive(Default)]
struct Modules {
    tokens: BTreeMap<String, Vec<String>>,
    imports: BTreeMap<String, BTreeMap<String, String>>,
}

/// All references between the modules of a crate.
fn edges(folder: &str) -> Edges {
    let root = workspace().join(folder);
    let mut modules = Modules::default();
    let mut tests = Vec::new();
    for file in files(folder) {
        let path = file.strip_prefix(&root).unwrap().with_extension("");
        let names: Vec<&str> = path.iter().map(|name| name.to_str().unwrap()).collect();
        let module = match names.as_slice() {
            ["lib"] => String::new(),
            [folder @ .., "mod"] => folder.join("::"),
            all => all.join("::"),
        };
        let (tokens, removed) = without_tests(&tokens(&fs::read_to_string(&file).unwrap()));
        tests.extend(removed.iter().map(|name| join(&module, name)));
        modules.tokens.insert(module, tokens);
    }
    let of_tests = |module: &str| {
        tests
            .iter()
            .any(|test| module == test || is_inside(module, test))
    };
    modules.tokens.retain(|module, _| !of_tests(module));
    for module in modules.tokens.keys() {
        modules
            .imports
            .insert(module.clone(), imports(module, &modules));
    }
    let edges = |module: &String| -> BTreeSet<String> {
        let paths = paths(module, &modules).into_iter().map(|(path, _)| path);
        let targets = paths.map(|path| modules.target(&path, 0));
        targets.filter(|to| to != module).collect()
    };
    modules
        .tokens
        .keys()
        .map(|module| (module.clone(), edges(module)))
        .collect()
}

fn join(module: &str, name: &str) -> String {
    if module.is_empty() {
        name.to_owned()
    } else {
        format!("{module}::{name}")
    }
}

impl Modules {
    /// The module that defines what a path leads to.
    fn target(&self, path: &str, depth: usize) -> String {
        let mut module = path;
        while !self.tokens.contains_key(module) {
            module = module.rsplit_once("::").map_or("", |(parent, _)| parent);
        }
        let rest = path[module.len()..].trim_start_matches("::");
        let (name, rest) = rest.split_once("::").unwrap_or((rest, ""));
        let import = self
            .imports
            .get(module)
            .and_then(|imports| imports.get(name));
        match import {
            // A re-export that leads to itself is none.
            Some(path) if depth < 8 => self.target(
                &if rest.is_empty() {
                    path.clone()
                } else {
                    join(path, rest)
                },
                depth + 1,
            ),
            _ => module.to_owned(),
        }
    }
}

/// What the `use` items of a module import: names and whole paths. Those of inline modules count as the module's.
fn imports(module: &str, modules: &Modules) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for (path, name) in paths(module, modules) {
        if let Some(name) = name {
            out.insert(name, path);
        }
    }
    out
}

/// All paths in a module that lead into the crate, and for those of `use` items the name that they import.
fn paths(module: &str, modules: &Modules) -> Vec<(String, Option<String>)> {
    let tokens = &modules.tokens[module];
    let known = modules.imports.get(module);
    let mut out = Vec::new();
    let mut used = false;
    for i in 0..tokens.len() {
        match tokens[i].as_str() {
            "use" => used = true,
            ";" => used = false,
            _ => {}
        }
        let first = i == 0
            || tokens[i - 1] != "::" && !(used && matches!(tokens[i - 1].as_str(), "{" | ","));
        if !first || tokens.get(i + 1).is_none_or(|next| next != "::") {
            continue;
        }
        let child = join(module, &tokens[i]);
        let from = match tokens[i].as_str() {
            "crate" => String::new(),
            "self" => module.to_owned(),
            "super" => module
                .rsplit_once("::")
                .map_or("", |(parent, _)| parent)
                .to_owned(),
            name => match known.and_then(|known| known.get(name)) {
                Some(path) if !used => path.clone(),
                _ if modules.tokens.contains_key(&child) => child,
                _ => continue,
            },
        };
        tree(tokens, i + 2, &from, used, &mut out);
    }
    out
}

/// Reads a path or a tree of paths from token `i` on, and returns the token behind it.
fn tree(
    tokens: &[String],
    mut i: usize,
    from: &str,
    used: bool,
    out: &mut Vec<(String, Option<String>)>,
) -> usize {
    let at = |i: usize| tokens.get(i).map_or("", String::as_str);
    let mut path = from.to_owned();
    loop {
        match at(i) {
            "{" => {
                i += 1;
                while at(i) != "}" && i < tokens.len() {
                    i = tree(tokens, i, &path, used, out);
                    i += usize::from(at(i) == ",");
                }
                return i + 1;
            }
            "super" => {
                path = path
                    .rsplit_once("::")
                    .map_or("", |(parent, _)| parent)
                    .to_owned()
            }
            "self" => {}
            name if name.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                path = join(&path, name)
            }
            // Generic arguments, or everything: the path ends before.
            _ => {
                out.push((path, None));
                return i + 1;
            }
        }
        i += 1;
        if at(i) != "::" {
            break;
        }
        i += 1;
    }
    let last = path.rsplit("::").next().unwrap_or_default().to_owned();
    let mut name = last;
    if used && at(i) == "as" {
        name = at(i + 1).to_owned();
        i += 2;
    }
    out.push((path, used.then_some(name)));
    i
}
