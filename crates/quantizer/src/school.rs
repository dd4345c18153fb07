//! The course of distillation: which queries are learned from and which held out, decoder and routing, and the gate.

use crate::coded::Coded;
use crate::distill::{Course, Plan, distill, temperature};
use crate::exam::{Exam, mean, wins};
use crate::lessons::{Exact, FOREIGN, Queries, TRUTH, teach};
use crate::linalg::MatRef;
use crate::model::{Report, Routing, Tables};
use crate::rank::Ranked;
use crate::routing::{self, Routes, by_centroids};
use crate::{Monitor, TrainError, TrainOptions};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Neighbours that the teacher names for each training query.
const TAUGHT: usize = 100;

fn env(name: &str, default: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

/// Distillation with everything it looks at.
pub struct School<'a> {
    /// The sample.
    pub rows: &'a Exact<'a>,
    /// The same in codes.
    pub coded: &'a Coded,
    /// The encoder: where decoder and routing start.
    pub encoder: &'a Tables,
    /// Half the squared norms of the encoder's centroids.
    pub half_norms: &'a [f32],
    /// Options of the training.
    pub options: &'a TrainOptions,
    /// Watches.
    pub monitor: &'a dyn Monitor,
}

/// What passed the gate.
#[derive(Debug, Default)]
pub struct Graduates {
    /// The distilled decoder.
    pub decoder: Option<Tables>,
    /// The trained routing.
    pub routing: Option<Routing>,
}

impl School<'_> {
    /// Trains on the rows and on `logged` queries (internal vectors, perhaps none) and fills in the report.
    pub fn run(&self, logged: MatRef<'_>, report: &mut Report) -> Result<Graduates, TrainError> {
        let (queries, held_out) = self.split(logged);
        let t = std::time::Instant::now();
        let taught = teach(self.rows, &queries, TAUGHT, self.monitor)?;
        let truth = teach(self.rows, &held_out, TRUTH, self.monitor)?;
        if std::env::var("DBG").is_ok() {
            eprintln!("teach {} queries {:?}", queries.len(), t.elapsed());
        }
        let ids = |best: &Vec<(f32, u32)>| best.iter().map(|(_, row)| *row).collect();
        let exam = Exam {
            queries: held_out,
            truth: truth.best.iter().map(ids).collect(),
        };
        let decoder = self.distill(&queries, &taught, &exam, report)?;
        let t = std::time::Instant::now();
        let routing = self.route(&queries, &taught, &exam)?;
        if std::env::var("DBG").is_ok() {
            eprintln!("route {:?}", t.elapsed());
        }
        report.routed = routing.is_some();
        Ok(Graduates { decoder, routing })
    }

    /// Training and held-out queries: logged ones and rows posing as queries, half and half as far as they reach.
    fn split(&self, logged: MatRef<'_>) -> (Queries, Queries) {
        let x = self.rows.x;
        let total = env("QUERIES", 8000);
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed ^ 4);
        let mut order: Vec<u32> = (0..logged.rows() as u32).collect();
        order.shuffle(&mut rng);
        let exam = (logged.rows() / 5).min(env("HELD", 400));
        let (exam_logged, learn_logged) = order.split_at(exam);
        let learn_logged = &learn_logged[..learn_logged.len().min(env("REAL", total / 2))];
        let exam_rows = if exam < 100 {
            env("HELD", 400) - exam
        } else {
            0
        };
        let learn_rows = env("PSEUDO", total - learn_logged.len());
        let most = x.rows() / 4;
        let (exam_rows, learn_rows) = (exam_rows.min(most / 4), learn_rows.min(most));
        let mut rows =
            rand::seq::index::sample(&mut rng, x.rows(), exam_rows + learn_rows).into_vec();
        rows.shuffle(&mut rng);
        let rows: Vec<u32> = rows.into_iter().map(|row| row as u32).collect();
        let make = |rows: &[u32], logged_rows: &[u32]| {
            let mut queries = Queries::default();
            queries.add_foreign(logged_rows.iter().map(|i| logged.row(*i as usize)));
            queries.add_rows(x, rows);
            queries
        };
        (
            make(&rows[exam_rows..], learn_logged),
            make(&rows[..exam_rows], exam_logged),
        )
    }

    fn plan(&self, queries: usize, temperature: f32) -> Plan {
        let batch = env("BATCH", 32);
        let epochs = 5 * queries / batch;
        Plan {
            batch,
            steps: env("STEPS", 1200).min(epochs.max(20)),
            exam_every: env("EVERY", 200),
            temperature: temperature * env("TEMP", 100) as f32 / 100.0,
            seed: self.options.seed ^ 5,
        }
    }

    fn distill(
        &self,
        queries: &Queries,
        taught: &Ranked,
        exam: &Exam,
        report: &mut Report,
    ) -> Result<Option<Tables>, TrainError> {
        let examine = |tables: &Tables| exam.recalls(self.rows, self.coded, tables, self.monitor);
        let t = std::time::Instant::now();
        let before = examine(self.encoder)?;
        if std::env::var("DBG").is_ok() {
            eprintln!("exam {:?}", t.elapsed());
        }
        report.recall_before = mean(&before);
        report.recall_after = report.recall_before;
        let Some(temperature) = temperature(taught) else {
            return Ok(None);
        };
        let course = Course {
            rows: self.rows,
            coded: self.coded,
            queries,
            taught,
        };
        let plan = self.plan(queries.len(), temperature);
        if std::env::var("DBG").is_ok() {
            eprintln!("{plan:?}");
        }
        let t = std::time::Instant::now();
        let best = distill(&course, self.encoder, &plan, self.monitor, |tables| {
            let r = mean(&examine(tables)?);
            if std::env::var("DBG").is_ok() {
                eprintln!("  {r} {:?}", t.elapsed());
            }
            Ok(r)
        })?;
        let Some(tables) = best else { return Ok(None) };
        let after = examine(&tables)?;
        if !wins(&before, &after) {
            return Ok(None);
        }
        report.distilled = true;
        report.recall_after = mean(&after);
        Ok(Some(tables))
    }

    /// The routing, if logged queries teach a better one than the centroids give.
    fn route(
        &self,
        queries: &Queries,
        taught: &Ranked,
        exam: &Exam,
    ) -> Result<Option<Routing>, TrainError> {
        let cols = self.rows.x.cols;
        let routes = |queries: &Queries, lists: &dyn Fn(usize) -> Vec<u32>| {
            let logged = (0..queries.len()).filter(|q| queries.own[*q] == FOREIGN);
            let mut vectors = Vec::new();
            let logged: Vec<u32> = logged.map(|q| q as u32).collect();
            MatRef::new(&queries.vectors, cols).gather(&logged, &mut vectors);
            (
                vectors,
                logged
                    .iter()
                    .map(|q| lists(*q as usize))
                    .collect::<Vec<_>>(),
            )
        };
        let list = |row: &u32| self.coded.list(*row as usize) as u32;
        let neighbours = env("RTOP", TRUTH);
        let (vectors, lists) = routes(queries, &|q| {
            taught.best[q]
                .iter()
                .take(neighbours)
                .map(|(_, row)| list(row))
                .collect()
        });
        let learn = Routes {
            queries: MatRef::new(&vectors, cols),
            lists,
        };
        let (vectors, lists) = routes(&exam.queries, &|q| exam.truth[q].iter().map(list).collect());
        let exam = Routes {
            queries: MatRef::new(&vectors, cols),
            lists,
        };
        if learn.lists.is_empty() || exam.lists.is_empty() {
            return Ok(None);
        }
        let start = by_centroids(
            self.options.metric,
            MatRef::new(&self.encoder.centroids, cols),
            self.half_norms,
        );
        let sizes = self.coded.list_sizes(self.half_norms.len());
        let before = exam.recalls(&start, &sizes)?;
        if std::env::var("DBG").is_ok() {
            eprintln!("routing before {}", mean(&before));
        }
        let best = routing::train(
            &learn,
            &start,
            env("EPOCHS", 10),
            self.options.seed ^ 6,
            self.monitor,
            |routing| {
                let r = mean(&exam.recalls(routing, &sizes)?);
                if std::env::var("DBG").is_ok() {
                    eprintln!("  routing {r}");
                }
                Ok(r)
            },
        )?;
        let Some(routing) = best else { return Ok(None) };
        Ok(wins(&before, &exam.recalls(&routing, &sizes)?).then_some(routing))
    }
}
