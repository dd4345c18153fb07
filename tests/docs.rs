//! The documentation works: every command of `README.md` and `docs/*.md` runs, and the output shown is compared with the output of
//! `psql`. The clients of `docs/clients/` run too. `tests/docs_runner/mod.rs` describes the comments that pages use for exceptions.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
mod docs_runner;
#[path = "../docs/clients/tokio_postgres.rs"]
mod tokio_postgres_client;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

use common::{Sql, has_module, server, undamaged, verified};
use docs_runner::{Block, Page, difference};

/// Stands in for pg_cron: takes a schedule, and remembers the command, which is run once behind the block that schedules it.
const CRON: &str = r"
    CREATE SCHEMA cron;
    CREATE TABLE cron.job (jobid bigserial, jobname text UNIQUE, schedule text, command text, due boolean DEFAULT true);
    CREATE TABLE cron.job_run_details (jobid bigint, command text, status text, return_message text, start_time timestamptz);
    CREATE FUNCTION cron.schedule(job_name text, schedule text, command text) RETURNS bigint LANGUAGE plpgsql AS $$
    DECLARE number bigint;
    BEGIN
        IF schedule !~ '^(\*|[0-9]+)(/[0-9]+)?( (\*|[0-9]+)(/[0-9]+)?){4}$' THEN
            RAISE 'invalid schedule: %', schedule;
        END IF;
        INSERT INTO cron.job (jobname, schedule, command) VALUES (job_name, schedule, command)
            RETURNING jobid INTO number;
        RETURN number;
    END $$;
    CREATE FUNCTION cron.unschedule(job_name text) RETURNS boolean LANGUAGE sql AS
        'WITH gone AS (DELETE FROM cron.job WHERE jobname = job_name RETURNING 1) SELECT EXISTS (SELECT FROM gone)';
";
const RUN_JOBS: &str = "SELECT command FROM cron.job WHERE due ORDER BY jobid \\gexec\nUPDATE cron.job SET due = false;\n";

/// The host that pages name where the reader puts another server's.
const OTHER_HOST: &str = "shard.example.com";

fn socket_directory() -> String {
    let directory: Vec<String> = server()
        .connect()
        .unwrap()
        .column("SHOW unix_socket_directories");
    directory.concat()
}

/// Says something even if the test passes.
fn say(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}

/// What a session printed for each block, by number.
#[derive(Default)]
struct Printed {
    out: HashMap<String, String>,
    err: HashMap<String, String>,
}

/// Text behind each mark `@@NAME`, which is a line of its own, up to the next. `@@` within a line is an operator.
fn by_mark(text: &[u8]) -> HashMap<String, String> {
    let text = format!("\n{}", String::from_utf8_lossy(text));
    let parts = text.split("\n@@").skip(1);
    parts
        .map(|part| part.split_once('\n').unwrap_or((part, "")))
        .map(|(name, printed)| (name.to_owned(), format!("{printed}\n")))
        .collect()
}

/// A page on its way through the test.
struct Reading {
    page: Page,
    database: String,
    faults: Vec<String>,
}

impl Reading {
    fn new(path: &str) -> Self {
        let mut page = Page::read(path);
        let name = Path::new(path).file_stem().unwrap().to_str().unwrap();
        Self {
            faults: std::mem::take(&mut page.faults),
            database: format!("page_{}", name.to_lowercase().replace('-', "_")),
            page,
        }
    }

    fn fault(&mut self, block: &Block, words: &str) {
        self.faults
            .push(format!("{}: {}", block.place, words.trim_end()));
    }

    /// `psql` on a database.
    fn psql(&self, database: &str) -> Command {
        let mut psql = server().command("psql");
        psql.args(["-X", "-q"])
            .env("PGDATABASE", database)
            .env("PGOPTIONS", "-c statement_timeout=100s -c lock_timeout=20s");
        psql
    }

    /// What `psql` reads for a block, or nothing if it is not run.
    fn script(&self, number: usize, block: &Block) -> String {
        let mut script = String::new();
        let here = [self.database.as_str()];
        let databases: Vec<&str> = match block.comment("on") {
            Some(list) => list.split(',').map(str::trim).collect(),
            None => here.to_vec(),
        };
        let text = block.text.replace(OTHER_HOST, &socket_directory());
        for database in &databases {
            if databases != here {
                script += &format!("\\c {database}\n");
            }
            script += &format!("\\echo @@{number}\n\\warn @@{number}\n{text}\n");
            if text.contains("cron.schedule") {
                script += &format!("\\echo @@{number} jobs\n\\warn @@{number} jobs\n{RUN_JOBS}");
            }
        }
        if databases != here {
            script += &format!("\\c {}\n", self.database);
        }
        script
    }

    /// Runs SQL blocks in one session and judges what they print.
    fn run_sql(&mut self, blocks: &[Block]) {
        let mut script = String::from("\\pset pager off\n\\set ECHO errors\n");
        for (number, block) in blocks.iter().enumerate() {
            script += &self.script(number, block);
        }
        script += "\\echo @@end\n\\warn @@end\n";
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.sql", self.database));
        fs::write(&file, script).unwrap();
        let Output { stdout, stderr, .. } = self
            .psql(&self.database)
            .stdin(File::open(&file).unwrap())
            .output()
            .unwrap();
        let begun = String::from_utf8_lossy(&stderr);
        let begun = begun.split("@@").next().unwrap_or_default();
        if begun.contains("ERROR") {
            self.faults.push(format!("the set-up: {begun}"));
        }
        let printed = Printed {
            out: by_mark(&stdout),
            err: by_mark(&stderr),
        };
        for (number, block) in blocks.iter().enumerate() {
            self.check_output(&number.to_string(), block, &printed);
        }
        if !printed.out.contains_key("end") {
            self.faults
                .push(format!("{}: the session ended early", self.page.path));
        }
    }

    fn check_output(&mut self, number: &str, block: &Block, printed: &Printed) {
        let Some(out) = printed.out.get(number) else {
            return self.fault(block, "not reached");
        };
        let said = printed.err.get(number).map_or("", String::as_str);
        let jobs = printed.err.get(&format!("{number} jobs"));
        let failed = said.contains("ERROR:");
        if failed != block.says("fails") {
            self.fault(block, &format!("{}\n{said}", block.text));
        }
        if let Some(jobs) = jobs.filter(|jobs| jobs.contains("ERROR:")) {
            self.fault(block, &format!("scheduled, then run: {jobs}"));
        }
        // Pages show plans of PostgreSQL 18.
        let plan = out.contains("QUERY PLAN") && server().installation().version() < 18;
        if let Some(output) = block.output.as_ref().filter(|_| !plan) {
            // Notices and errors are shown where a page shows any.
            let speaks = ["ERROR:", "NOTICE:", "WARNING:"]
                .iter()
                .any(|kind| output.text.contains(kind));
            let words: String = said
                .lines()
                .filter(|line| speaks && !line.starts_with("STATEMENT:"))
                .map(|line| format!("{line}\n"))
                .collect();
            let vary = output.says("figures vary");
            if let Some(words) = difference(&output.text, &format!("{words}{out}"), vary) {
                self.fault(output, &words);
            }
        }
    }

    /// Judges a block of shell commands: `make` must have the target, `psql` is run.
    fn run_sh(&mut self, block: &Block) {
        for line in block.text.lines() {
            let command = line.split(" #").next().unwrap_or_default().trim();
            let mut words = command.split_whitespace();
            match words.next() {
                None | Some("#") => {}
                Some("make") => {
                    let targets = words.filter(|word| !word.contains('='));
                    let unknown: Vec<&str> = targets.filter(|target| !is_target(target)).collect();
                    if !unknown.is_empty() {
                        self.fault(block, &format!("make knows no {unknown:?}"));
                    }
                }
                Some("psql") => self.run_psql(block, command),
                Some(other) => self.fault(block, &format!("cannot run {other}, and is not marked")),
            }
        }
    }

    fn run_psql(&mut self, block: &Block, command: &str) {
        // A database of its own: what a shell does is often what SQL does too.
        let database = format!("{}_shell", self.database);
        server()
            .connect()
            .unwrap()
            .run(&format!("CREATE DATABASE {database}"));
        let psql = self.psql(&database);
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            &command.replacen("psql", "\"$0\" -v ON_ERROR_STOP=1", 1),
        ]);
        shell.arg(psql.get_program());
        for (name, value) in psql.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let Output { status, stderr, .. } = shell.output().unwrap();
        if !status.success() {
            self.fault(
                block,
                &format!("{command}\n{}", String::from_utf8_lossy(&stderr)),
            );
        }
    }

    /// Says why a block is not run; the files that it names must be there all the same.
    fn pass_over(&mut self, block: &Block, why: &str) {
        say(&format!("not run: {}: {why}", block.place));
        for word in block.text.split_whitespace() {
            let ours = ["docker/", "docs/", "tools/"]
                .iter()
                .any(|top| word.starts_with(top));
            if ours && !docs_runner::checkout().join(word).exists() {
                self.fault(block, &format!("there is no {word}"));
            }
        }
    }

    fn look_for_links(&mut self) {
        let home = docs_runner::checkout().join(&self.page.path);
        for link in &self.page.links {
            if !home.parent().unwrap().join(link).exists() {
                self.faults
                    .push(format!("{}: there is no {link}", self.page.path));
            }
        }
    }
}

fn is_target(name: &str) -> bool {
    let makefile = fs::read_to_string(docs_runner::checkout().join("Makefile")).unwrap();
    makefile
        .lines()
        .any(|line| line.split(':').next() == Some(name))
}

/// Reads a page from its top, does what it says, and fails if anything is not as it says.
#[track_caller]
fn follow(path: &str) {
    if path.ends_with("sharding.md") && !has_module("postgres_fdw") {
        return;
    }
    let mut reading = Reading::new(path);
    reading.look_for_links();
    let mut blocks = Vec::new();
    if let Some(other) = &reading.page.uses {
        let other = Page::read(&format!("docs/{other}"));
        let setup = other.blocks.into_iter().take(other.setup);
        blocks.extend(setup.filter(|block| block.language == "sql"));
    }
    blocks.append(&mut reading.page.blocks);
    let mut sql = Vec::new();
    server()
        .connect()
        .unwrap()
        .run(&format!("CREATE DATABASE {}", reading.database));
    for block in blocks {
        match (block.comment("not run"), block.language.as_str()) {
            (Some(why), _) => reading.pass_over(&block, why),
            (None, "sql") if block.text.contains("$1") => {
                reading.fault(&block, "psql has no value for $1: show one");
            }
            (None, "sql") => sql.push(block),
            (None, "sh") => reading.run_sh(&block),
            (None, other) => reading.fault(&block, &format!("what is \"{other}\"?")),
        }
    }
    let mut client = server().connect_to(&reading.database).unwrap();
    client.run(CRON);
    reading.run_sql(&sql);
    assert!(
        reading.faults.is_empty(),
        "{} faults:\n\n{}",
        reading.faults.len(),
        reading.faults.join("\n\n")
    );
    verified(&mut client);
    undamaged(&server().log().unwrap(), &reading.database);
}

/// A test for each page that tells the user to do something.
macro_rules! pages {
    ($($name:ident: $path:literal;)*) => {
        const PAGES: &[&str] = &[$($path),*];
        $(#[test] fn $name() { follow($path); })*
    };
}

pages! {
    readme: "README.md";
    reference: "docs/reference.md";
    quick_start: "docs/quick-start.md";
    clients: "docs/clients.md";
    install: "docs/install.md";
    tuning: "docs/tuning.md";
    from_pgvector: "docs/from-pgvector.md";
    query_logs: "docs/query-logs.md";
    maintenance: "docs/maintenance.md";
    sharding: "docs/sharding.md";
    limits: "docs/limits.md";
    filter_columns: "docs/filter-columns.md";
}

/// A visitor tries these first.
#[test]
fn the_readme_begins_with_demo_and_test() {
    let readme = Page::read("README.md");
    let commands: Vec<&str> = readme.blocks[0]
        .text
        .lines()
        .filter_map(|line| Some(line.split('#').next()?.trim()))
        .collect();
    assert_eq!(commands, ["make demo", "make test"]);
}

#[test]
fn no_page_with_commands_is_left_out() {
    for path in docs_runner::all() {
        let page = Page::read(&path);
        assert!(
            PAGES.contains(&path.as_str()) || page.blocks.is_empty(),
            "{path} has commands, but no test"
        );
    }
}

/// Makes a database for a client, with the extension, and returns a URL to connect to it. The server logs the plans of its queries.
fn home_of_client(name: &str) -> String {
    server().database(name).unwrap().run(&format!(
        "ALTER DATABASE {name} SET session_preload_libraries = 'auto_explain';
         ALTER DATABASE {name} SET auto_explain.log_min_duration = 0"
    ));
    format!("postgresql://postgres@/{name}?host={}", socket_directory())
}

/// Fails unless the client has created distillvq indexes, and its queries have used each of them.
#[track_caller]
fn check_after_client(name: &str) {
    let mut client = server().connect_to(name).unwrap();
    let log = server().log().unwrap();
    let indexes: Vec<String> = client.column(
        "SELECT relname::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE amname = 'distillvq' AND relkind = 'i'",
    );
    assert!(!indexes.is_empty(), "{name} has no distillvq index");
    for index in indexes {
        assert!(
            log.contains(&format!("Index Scan using {index} on ")),
            "no query of {name} used {index}"
        );
    }
    verified(&mut client);
    undamaged(&log, name);
}

/// Output of a program, which must succeed.
#[track_caller]
fn output_of(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&stdout);
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {stdout}{stderr}");
    stdout.trim_end().into()
}

/// Runs a script of `tools/` that installs what clients import, and returns the directory that it prints.
#[track_caller]
fn installed(tool: &str, arguments: &[&str]) -> String {
    let tool = docs_runner::checkout().join("tools").join(tool);
    output_of(
        Command::new(tool)
            .args(arguments)
            .stderr(std::process::Stdio::inherit()),
    )
}

/// Runs the example of a Python client with the packages of a directory.
#[track_caller]
fn run_python(packages: &str, client: &str) {
    let name = format!("client_{client}");
    output_of(
        Command::new("python3")
            .arg(docs_runner::checkout().join(format!("docs/clients/{client}_example.py")))
            .env("PYTHONPATH", packages)
            .env("DATABASE_URL", home_of_client(&name))
            .env("PYTHONPYCACHEPREFIX", format!("{packages}/pycache")),
    );
    check_after_client(&name);
}

/// Packages of the Python clients, or of the frameworks. The first test that needs them installs them.
fn packages(frameworks: bool) -> &'static str {
    static CLIENTS: OnceLock<String> = OnceLock::new();
    static FRAMEWORKS: OnceLock<String> = OnceLock::new();
    if frameworks {
        FRAMEWORKS.get_or_init(|| installed("clients-python.sh", &["frameworks"]))
    } else {
        CLIENTS.get_or_init(|| installed("clients-python.sh", &[]))
    }
}

macro_rules! python_clients {
    ($($client:ident)*) => {$(
        #[test]
        fn $client() {
            run_python(packages(false), stringify!($client));
        }
    )*}
}

macro_rules! python_frameworks {
    ($($client:ident)*) => {$(
        #[test]
        #[ignore = "installs 280 MB: make test-clients"]
        fn $client() {
            run_python(packages(true), stringify!($client));
        }
    )*}
}

python_clients! { psycopg sqlalchemy asyncpg alembic django }
python_frameworks! { langchain llamaindex haystack }

#[test]
#[ignore = "needs Node: make test-clients"]
fn node_clients() {
    let home = installed("clients-node.sh", &[]);
    let run = |script: &str, name: &str| {
        let mut npm = Command::new("npm");
        npm.args(["run", "--silent", script])
            .current_dir(&home)
            .env("DATABASE_URL", home_of_client(name));
        let printed = output_of(&mut npm);
        check_after_client(name);
        printed
    };
    run("node-postgres", "client_node_postgres");
    let printed = run("drizzle", "client_drizzle");
    assert!(
        printed.contains("No schema changes"),
        "the migrations differ from the schema: {printed}"
    );
}

#[test]
fn rust_client() {
    let url = home_of_client("client_tokio");
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(tokio_postgres_client::run(&url))
        .unwrap();
    check_after_client("client_tokio");
}
