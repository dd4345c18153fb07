//! The course of distillation: which queries are learned from and which held out, decoder and routing, and the gate.

use crate::coded::Coded;
use crate::distill::{Course, Plan, distill, temperature};
use crate::exam::{Exam, mean, wins};
use crate::lessons::{Exact, FOREIGN, Queries, TRUTH, teach};
use crate::linalg::MatRef;
use crate::model::{Report, Routing, Student, Tables};
use crate::rank::Ranked;
use crate::routing::{self, Routes, by_centroids};
use crate::{Monitor, TrainError, TrainOptions};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Neighbours that the teacher names for each training query.
const TAUGHT: usize = 100;
/// Rows that pose as queries when there is no query log. Twice as many gain less than a thousandth of recall, and the
/// teacher is what costs.
const ROW_QUERIES: usize = 4000;
/// Logged queries that are learned from; routing, which has no other source, gains from more of them.
const LOGGED_QUERIES: usize = 6000;
/// Rows that pose as queries beside a full log: they keep the decoder fair to queries unlike those logged.
const ROW_QUERIES_BESIDE_LOG: usize = 2000;
/// At most this share of the rows poses as queries.
const ROW_SHARE: usize = 4;
/// Held-out queries.
const HELD_OUT: usize = 400;
/// At most this share of the logged queries is held out.
const HELD_OUT_SHARE: usize = 5;
/// With fewer held-out logged queries than this, rows are added to them.
const FEW_HELD_OUT: usize = 100;
/// Queries a step of the decoder's training.
const BATCH: usize = 32;
/// Steps of the decoder's training at the most, and passes over its queries at the most.
const STEPS: usize = 400;
const PASSES: usize = 5;
/// Steps between two exams.
const EXAM_EVERY: usize = 200;
/// Passes over the queries when routing is trained.
const ROUTING_PASSES: usize = 10;

/// Distillation with everything it looks at.
pub struct School<'a> {
    /// The sample.
    pub rows: &'a Exact<'a>,
    /// The same in codes.
    pub coded: &'a Coded,
    /// The encoder.
    pub encoder: &'a Tables,
    /// The current student: what decoder and routing must beat; the encoder where it has none.
    pub student: &'a Student,
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
        let taught = teach(self.rows, &queries, TAUGHT, self.monitor)?;
        let truth = teach(self.rows, &held_out, TRUTH, self.monitor)?;
        let ids = |best: &Vec<(f32, u32)>| best.iter().map(|(_, row)| *row).collect();
        let exam = Exam {
            queries: held_out,
            truth: truth.best.iter().map(ids).collect(),
        };
        let decoder = self.distill(&queries, &taught, &exam, report)?;
        let routing = self.route(&queries, &taught, &exam)?;
        report.routed = routing.is_some();
        Ok(Graduates { decoder, routing })
    }

    /// Training and held-out queries: logged ones, and rows posing as queries. Logged queries are held out first, since
    /// they are what the index is for.
    fn split(&self, logged: MatRef<'_>) -> (Queries, Queries) {
        let x = self.rows.x;
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed ^ 4);
        let mut order: Vec<u32> = (0..logged.rows() as u32).collect();
        order.shuffle(&mut rng);
        let held_logged = (order.len() / HELD_OUT_SHARE).min(HELD_OUT);
        let (held_logged, learn_logged) = order.split_at(held_logged);
        let learn_logged = &learn_logged[..learn_logged.len().min(LOGGED_QUERIES)];
        let most = x.rows() / ROW_SHARE;
        let held_rows = if held_logged.len() < FEW_HELD_OUT {
            HELD_OUT.min(most / ROW_SHARE)
        } else {
            0
        };
        let learn_rows =
            (ROW_QUERIES - learn_logged.len().min(ROW_QUERIES - ROW_QUERIES_BESIDE_LOG)).min(most);
        let mut rows: Vec<u32> =
            rand::seq::index::sample(&mut rng, x.rows(), held_rows + learn_rows)
                .iter()
                .map(|row| row as u32)
                .collect();
        rows.shuffle(&mut rng);
        let make = |rows: &[u32], logged_rows: &[u32]| {
            let mut queries = Queries::default();
            queries.add_foreign(logged_rows.iter().map(|i| logged.row(*i as usize)));
            queries.add_rows(x, rows);
            queries
        };
        (
            make(&rows[held_rows..], learn_logged),
            make(&rows[..held_rows], held_logged),
        )
    }

    /// The decoder, if it ranks held-out queries better than the current one.
    fn distill(
        &self,
        queries: &Queries,
        taught: &Ranked,
        exam: &Exam,
        report: &mut Report,
    ) -> Result<Option<Tables>, TrainError> {
        let examine = |tables: &Tables| exam.recalls(self.rows, self.coded, tables, self.monitor);
        let current = self.student.decoder.as_ref().unwrap_or(self.encoder);
        let before = examine(current)?;
        report.recall_before = mean(&before);
        report.recall_after = report.recall_before;
        let Some(temperature) = temperature(taught) else {
            return Ok(None);
        };
        let plan = Plan {
            batch: BATCH,
            steps: STEPS.min((PASSES * queries.len()).div_ceil(BATCH)),
            exam_every: EXAM_EVERY,
            temperature,
            seed: self.options.seed ^ 5,
        };
        let course = Course {
            rows: self.rows,
            coded: self.coded,
            queries,
            taught,
        };
        // From the encoder, not from the current decoder: the loss is convex, and a decoder that was trained on other
        // queries is a worse start in as many steps (8,000 glosses, a log after rows: none kept).
        let best = distill(&course, self.encoder, &plan, self.monitor, examine)?;
        Ok(best
            .filter(|(_, after)| wins(&before, after))
            .map(|(tables, after)| {
                report.distilled = true;
                report.recall_after = mean(&after);
                tables
            }))
    }

    /// The routing, if logged queries teach a better one than the current.
    fn route(
        &self,
        queries: &Queries,
        taught: &Ranked,
        exam: &Exam,
    ) -> Result<Option<Routing>, TrainError> {
        let list = |row: &u32| self.coded.list(*row as usize) as u32;
        let near = |q: usize| {
            taught.best[q]
                .iter()
                .take(TRUTH)
                .map(|(_, row)| list(row))
                .collect()
        };
        let learn = self.logged_only(queries, near);
        let exam = self.logged_only(&exam.queries, |q| exam.truth[q].iter().map(list).collect());
        if learn.lists.is_empty() || exam.lists.is_empty() {
            return Ok(None);
        }
        let (learn, exam) = (learn.routes(), exam.routes());
        let centroids = MatRef::new(&self.encoder.centroids, self.rows.x.cols);
        let untrained = || by_centroids(self.options.metric, centroids, self.half_norms);
        let start = self.student.routing.clone().unwrap_or_else(untrained);
        let sizes = self.coded.list_sizes(self.half_norms.len());
        let before = exam.recalls(&start, &sizes)?;
        let seed = self.options.seed ^ 6;
        let best = routing::train(
            &learn,
            &start,
            ROUTING_PASSES,
            seed,
            self.monitor,
            |routing| exam.recalls(routing, &sizes),
        )?;
        Ok(best
            .filter(|(_, after)| wins(&before, after))
            .map(|(routing, _)| routing))
    }

    /// The queries that are no rows, with the lists of their neighbours.
    fn logged_only(&self, queries: &Queries, lists: impl Fn(usize) -> Vec<u32>) -> Logged {
        let cols = self.rows.x.cols;
        let mut logged = Logged {
            cols,
            vectors: Vec::new(),
            lists: Vec::new(),
        };
        for q in (0..queries.len()).filter(|q| queries.own[*q] == FOREIGN) {
            logged
                .vectors
                .extend_from_slice(MatRef::new(&queries.vectors, cols).row(q));
            logged.lists.push(lists(q));
        }
        logged
    }
}

/// Logged queries and the lists of their neighbours.
struct Logged {
    cols: usize,
    vectors: Vec<f32>,
    lists: Vec<Vec<u32>>,
}

impl Logged {
    fn routes(&self) -> Routes<'_> {
        Routes {
            queries: MatRef::new(&self.vectors, self.cols),
            lists: &self.lists,
        }
    }
}
