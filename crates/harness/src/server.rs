//! Private servers, which tests create, start, crash, and remove.
//!
//! A server has its own directory below `DISTILLVQ_RUN`, listens only on a socket in it, and trusts every user with access to the
//! socket. It stops with its [`Server`] or with the process: a watcher (`tools/stop.sh -w`) reads from a pipe of this process, and
//! stops the server when the pipe is closed. A `static` server therefore needs no cleanup.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};

use crate::error::{Error, Result};
use crate::installation::{Installation, output};
use crate::process_tree::{self, Signal};

/// How long a server may take to start, crash recovery included.
const START: Duration = Duration::from_secs(120);

/// Settings of every server; a caller's come later and win. A killed process loses nothing without fsync: only a killed
/// machine would.
const SETTINGS: [(&str, &str); 5] = [
    ("listen_addresses", ""),
    ("fsync", "off"),
    ("shared_buffers", "128MB"),
    ("max_connections", "40"),
    ("log_line_prefix", "%m [%p] %q%a "),
];

/// How a server is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Clean: sessions are ended, a checkpoint is written.
    Fast,
    /// As after a power cut: the next start recovers from the WAL.
    Immediate,
}

/// A server, with superuser `postgres` and database `postgres`.
#[derive(Debug)]
pub struct Server {
    installation: Installation,
    directory: PathBuf,
    log: PathBuf,
    postmaster: Option<Child>,
    watcher: Option<Child>,
}

impl Server {
    /// Makes and starts a server. Its log stays behind as `DISTILLVQ_RUN/log/NAME.log`, so names should differ.
    ///
    /// # Errors
    /// If the environment is not set up, or `initdb` or the server fails.
    pub fn start(name: &str) -> Result<Self> {
        Self::start_with(name, &[])
    }

    /// As [`Server::start`], with settings.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with(name: &str, settings: &[(&str, &str)]) -> Result<Self> {
        Self::start_on(Installation::from_environment()?, name, settings)
    }

    /// As [`Server::start_with`], of a certain installation.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_on(
        installation: Installation,
        name: &str,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let mut server = Self::prepare(installation, name, &unique(name))?;
        server.watch()?;
        server.init(settings)?;
        server.launch()?;
        Ok(server)
    }

    /// Makes and starts a server of the environment's installation from the data of another one, by `pg_upgrade`.
    ///
    /// # Errors
    /// As [`Server::start`], and if `pg_upgrade` refuses.
    pub fn upgraded(mut old: Self, name: &str, settings: &[(&str, &str)]) -> Result<Self> {
        old.stop(Stop::Fast)?;
        let mut server = Self::prepare(Installation::from_environment()?, name, &unique(name))?;
        server.watch()?;
        server.init(settings)?;
        let mut upgrade = server.installation.server_command("pg_upgrade");
        upgrade
            .arg("--old-bindir")
            .arg(old.installation.bindir())
            .arg("--new-bindir")
            .arg(server.installation.bindir())
            .arg("--old-datadir")
            .arg(old.data())
            .arg("--new-datadir")
            .arg(server.data())
            .arg("--socketdir")
            .arg(&server.directory)
            .args(["--username=postgres", "--no-sync"]);
        output(&mut upgrade).map_err(|error| server.why_not_upgraded(error))?;
        server.launch()?;
        Ok(server)
    }

    /// Makes and starts a server that stays when this value or process ends, in place of an earlier one of this name;
    /// `make clean` removes it.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn lasting(name: &str, settings: &[(&str, &str)]) -> Result<Self> {
        let mut server = Self::prepare(Installation::from_environment()?, name, name)?;
        output(Command::new(stop_script()).arg(&server.directory))?;
        server.init(settings)?;
        server.launch()?;
        Ok(server)
    }

    /// Makes and starts a streaming replica of this server, which keeps the WAL that the replica still needs.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn standby(&self, name: &str) -> Result<Self> {
        let mut server = Self::prepare(self.installation.clone(), name, &unique(name))?;
        server.watch()?;
        server.installation.make_directory(&server.directory)?;
        let mut backup = server.installation.server_command("pg_basebackup");
        backup.args(["--checkpoint=fast", "--no-sync", "--write-recovery-conf"]);
        backup.args(["--username=postgres", "--wal-method=stream"]);
        let slot = server.directory.file_name().unwrap_or_default();
        let slot = slot.to_string_lossy().replace('-', "_");
        backup.args(["--create-slot", "--slot", &slot]);
        backup.arg("--host").arg(&self.directory);
        output(backup.arg("--pgdata").arg(server.data()))?;
        server.configure(&[(
            "unix_socket_directories",
            &server.directory.to_string_lossy(),
        )])?;
        server.launch()?;
        Ok(server)
    }

    /// Connects to a database as superuser.
    ///
    /// # Errors
    /// If the server does not answer or there is no such database.
    pub fn connect_to(&self, database: &str) -> Result<Client> {
        Ok(postgres::Config::new()
            .host_path(&self.directory)
            .user("postgres")
            .dbname(database)
            .connect(NoTls)?)
    }

    /// Connects to database `postgres` as superuser.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn connect(&self) -> Result<Client> {
        self.connect_to("postgres")
    }

    /// Makes a database with the extension (and pgvector) and connects to it, so that tests on one server do not meet.
    ///
    /// # Errors
    /// If there is such a database already, or the extension cannot be created.
    pub fn database(&self, name: &str) -> Result<Client> {
        self.connect()?
            .batch_execute(&format!("CREATE DATABASE {name}"))?;
        let mut client = self.connect_to(name)?;
        client.batch_execute("CREATE EXTENSION distillvq CASCADE")?;
        Ok(client)
    }

    /// Adds settings to the configuration file; they hold from the next restart or `pg_reload_conf()` on.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn configure(&self, settings: &[(&str, &str)]) -> Result<()> {
        let path = self.data().join("postgresql.conf");
        let lines: String = settings
            .iter()
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
            .collect();
        OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(lines.as_bytes()))
            .map_err(Error::io(&path))
    }

    /// Stops the server; [`Server::restart`] brings it back.
    ///
    /// # Errors
    /// If its process cannot be waited for.
    pub fn stop(&mut self, how: Stop) -> Result<()> {
        let Some(mut postmaster) = self.postmaster.take() else {
            return Ok(());
        };
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        };
        process_tree::send(signal, &[postmaster.id()]);
        postmaster.wait().map_err(Error::io("postgres"))?;
        Ok(())
    }

    /// Kills the postmaster and all its children in one moment, as the kernel would when memory runs out.
    ///
    /// # Errors
    /// If they do not end.
    pub fn kill9(&mut self) -> Result<()> {
        let Some(mut postmaster) = self.postmaster.take() else {
            return Ok(());
        };
        // Frozen, it can neither start nor bury children while we count them.
        process_tree::send(Signal::STOP, &[postmaster.id()]);
        let children = process_tree::children(postmaster.id());
        process_tree::send(Signal::KILL, &[&[postmaster.id()], &children[..]].concat());
        postmaster.wait().map_err(Error::io("postgres"))?;
        process_tree::wait_for_end(&children)
    }

    /// Waits until the server answers again after it has restarted its own processes, because one of them was killed.
    ///
    /// # Errors
    /// If it does not.
    pub fn await_recovery(&mut self) -> Result<()> {
        self.await_ready()
    }

    /// Starts the server again, after stopping it cleanly if it runs.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.stop(Stop::Fast)?;
        self.launch()
    }

    /// A client program of the same installation (`psql`, `pg_dump`, `pgbench`, …), set up for this server.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.installation.client_command(program);
        command
            .env("PGHOST", &self.directory)
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        command
    }

    /// Runs SQL through `psql` in a database and returns what it printed, unaligned and without headers.
    ///
    /// # Errors
    /// If a statement fails.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let mut psql = self.command("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]);
        output(&mut psql)
    }

    /// The shell command that opens `psql` in this server.
    #[must_use]
    pub fn psql_command(&self) -> String {
        let program = self.installation.client_command("psql");
        let program = program.get_program().to_string_lossy().into_owned();
        let quote = if program.contains(' ') { "'" } else { "" };
        format!(
            "{quote}{program}{quote} -h {} -U postgres",
            self.directory.display()
        )
    }

    /// What the server has logged so far.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn log(&self) -> Result<String> {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .map_err(Error::io(&self.log))
    }

    /// Bytes of memory that the server's processes have for themselves, by `/proc`.
    #[must_use]
    pub fn private_memory(&self) -> u64 {
        let postmaster = self.postmaster.as_ref().map(Child::id);
        let processes = postmaster.into_iter().flat_map(process_tree::children);
        processes.map(process_tree::private_memory).sum()
    }

    /// As [`Server::private_memory`], and what the processes share dynamically, as parallel builders do.
    #[must_use]
    pub fn working_memory(&self) -> u64 {
        let postmaster = self.postmaster.as_ref().map(Child::id);
        let processes = postmaster.into_iter().flat_map(process_tree::children);
        let segments: BTreeSet<PathBuf> =
            processes.flat_map(process_tree::shared_segments).collect();
        let bytes = |segment: &PathBuf| fs::metadata(segment).map_or(0, |file| 512 * file.blocks());
        self.private_memory() + segments.iter().map(bytes).sum::<u64>()
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The installation that the server is run from.
    #[must_use]
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// What `pg_upgrade` has written to its logs, which go with the server.
    fn why_not_upgraded(&self, error: Error) -> Error {
        let list = Command::new("find")
            .arg(self.data().join("pg_upgrade_output.d"))
            .args(["-name", "*.log", "-exec", "tail", "-n", "5", "{}", "+"])
            .output();
        let words = list.map(|list| String::from_utf8_lossy(&list.stdout).into_owned());
        Error::Program {
            program: "pg_upgrade".into(),
            output: format!("{error}\n{}", words.unwrap_or_default()),
        }
    }

    fn prepare(installation: Installation, name: &str, directory: &str) -> Result<Self> {
        let logs = installation.run().join("log");
        fs::create_dir_all(&logs).map_err(Error::io(&logs))?;
        let log = logs.join(format!("{name}.log"));
        File::create(&log).map_err(Error::io(&log))?;
        Ok(Self {
            directory: installation.run().join(directory),
            log,
            installation,
            postmaster: None,
            watcher: None,
        })
    }

    /// Leaves the watcher behind that removes the server when we are gone.
    fn watch(&mut self) -> Result<()> {
        let script = stop_script();
        let watcher = Command::new(&script)
            .arg("-w")
            .arg(&self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0) // or an interrupt from the keyboard would end it together with us
            .spawn()
            .map_err(Error::io(script))?;
        self.watcher = Some(watcher);
        Ok(())
    }

    fn init(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.installation.make_directory(&self.directory)?;
        let mut initdb = self.installation.server_command("initdb");
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8"]);
        // The default from 18 on; pg_upgrade wants both servers alike.
        initdb.args(["--locale=C", "--data-checksums", "--no-sync", "--pgdata"]);
        initdb.arg(self.data());
        output(&mut initdb)?;
        self.configure(&SETTINGS)?;
        if !roomy_shared_memory() {
            self.configure(&[("dynamic_shared_memory_type", "mmap")])?;
        }
        self.configure(&[("unix_socket_directories", &self.directory.to_string_lossy())])?;
        self.configure(settings)?;
        // The caller's of the whole run: "debug_discard_caches=1", say.
        let more = env::var("DISTILLVQ_SETTINGS").unwrap_or_default();
        let more: Vec<(&str, &str)> = more
            .split_whitespace()
            .filter_map(|setting| setting.split_once('='))
            .collect();
        self.configure(&more)
    }

    fn launch(&mut self) -> Result<()> {
        let log = OpenOptions::new()
            .append(true)
            .open(&self.log)
            .map_err(Error::io(&self.log))?;
        let errors = log.try_clone().map_err(Error::io(&self.log))?;
        let mut postgres = self.installation.watched_server_command("postgres");
        postgres
            .arg("-D")
            .arg(self.data())
            // Nothing that the server says may depend on it.
            .env("RUST_BACKTRACE", "1")
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        let program = postgres.get_program().to_owned();
        self.postmaster = Some(postgres.spawn().map_err(Error::io(program))?);
        self.await_ready()
    }

    fn await_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while self.connect().is_err() {
            let ended = match &mut self.postmaster {
                Some(postmaster) => !matches!(postmaster.try_wait(), Ok(None)),
                None => true,
            };
            if ended || start.elapsed() > START {
                return Err(Error::NotReady {
                    log: tail(&self.log()?, 15),
                });
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Server {
    /// Nothing can be reported from here; what fails is left to `make clean`.
    fn drop(&mut self) {
        if let Some(mut watcher) = self.watcher.take() {
            drop(watcher.stdin.take());
            let _ = watcher.wait();
            if let Some(postmaster) = &mut self.postmaster {
                let _ = postmaster.wait();
            }
        }
    }
}

/// Lines of a server's log that tell of a crash, of something that was not released, of an internal error or of damage in
/// a database, whose name follows the SQLSTATE in a line.
#[must_use]
pub fn complaints(log: &str, database: &str) -> Vec<String> {
    const BAD: [&str; 5] = [
        "PANIC:",
        "TRAP:",
        "was terminated by signal",
        " leak",
        "was not closed",
    ];
    let states = ["XX000", "XX001", "XX002"].map(|state| format!(" {state} {database} "));
    let bad = |line: &&str| {
        let states = states.iter().any(|state| line.contains(state));
        states || BAD.iter().any(|word| line.contains(word))
    };
    log.lines().filter(bad).map(str::to_owned).collect()
}

/// Whether /dev/shm has room for the memory of parallel index builds: containers often grant it 64 MB.
fn roomy_shared_memory() -> bool {
    let kilobytes = output(Command::new("df").args(["-Pk", "/dev/shm"]))
        .ok()
        .and_then(|table| {
            table
                .lines()
                .nth(1)?
                .split_whitespace()
                .nth(3)?
                .parse::<u64>()
                .ok()
        });
    kilobytes.is_some_and(|free| free > 1 << 20)
}

/// A directory name that no other server of this checkout has.
fn unique(name: &str) -> String {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{}-{number}", process::id())
}

fn stop_script() -> PathBuf {
    crate::checkout().join("tools/stop.sh")
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..)
        .unwrap_or_default()
        .join("\n")
}
