//! The course of distillation: which queries are learned from and which held out, decoder and routing, and the gate.

use crate::coded::Coded;
use crate::distill::{Course, Plan, distill, temperature};
use crate::exam::{Best, Exam, mean, wins};
use crate::halves;
use crate::lessons::{Exact, FOREIGN, Queries, TRUTH, teach};
use crate::linalg::MatRef;
use crate::model::{Decoder, Report, Routing, Student, Tables};
use crate::options::{TURN_MOST, affords_matrix};
use crate::rank::Ranked;
use crate::routing::{self, Routes, Shares, by_centroids};
use crate::scan::Scanner;
use crate::{Monitor, TrainError, TrainOptions};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Neighbours that the teacher names for each training query.
const TAUGHT: usize = 100;
/// Rows that pose as queries when there is no query log. Twice as many gain less than a thousandth of recall, and the
/// teacher is what costs.
const ROW_QUERIES: usize = 4000;
/// Logged queries that are learned from, those of routing, which has no other source, and of the decoder.
const LOGGED_QUERIES: usize = 30_000;
const DECODER_QUERIES: usize = 16_000;
/// Codes that are looked up for the neighbours of logged queries, at the most: it bounds the time. A code of 8 bits costs
/// as much as [`WIDE_CODE`] of 4.
const LOOK_UPS: usize = 350_000_000_000;
const WIDE_CODE: usize = 8;
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
const STEPS: usize = 1200;
const PASSES: usize = 5;
/// Dimensions with which it makes all passes; the more there are beyond, the fewer it makes, since each costs as much more.
const DIMENSIONS: usize = 2_048;
/// Rows of the table for each word of a codebook that a second set of codebooks is kept for at least.
const ROWS_PER_WORD: usize = 8;
/// Steps between two exams.
const EXAM_EVERY: usize = 400;

/// Distillation with everything it looks at.
pub struct School<'a> {
    /// The sample.
    pub rows: &'a Exact<'a>,
    /// The same in codes.
    pub coded: &'a Coded,
    /// The encoder.
    pub encoder: &'a Tables,
    /// The current student: what decoder and routing must beat; the encoder where it has none. Against a current decoder
    /// the encoder's tables are a candidate like the distilled one.
    pub student: &'a Student,
    /// Half the squared norms of the encoder's centroids.
    pub half_norms: &'a [f32],
    /// Options of the training.
    pub options: &'a TrainOptions,
    /// Watches.
    pub monitor: &'a dyn Monitor,
}

/// The decoder that is to be.
#[derive(Debug, Default)]
pub enum Verdict {
    /// The current one.
    #[default]
    Current,
    /// None: the encoder's tables are better.
    Encoder,
    /// The distilled one.
    Distilled(Decoder),
}

impl Verdict {
    /// The student's decoder after it.
    pub fn carry_out(self, current: Option<&Decoder>) -> Option<Decoder> {
        match self {
            Verdict::Current => current.cloned(),
            Verdict::Encoder => None,
            Verdict::Distilled(decoder) => Some(decoder),
        }
    }
}

/// What passed the gate.
#[derive(Debug, Default)]
pub struct Graduates {
    /// What becomes of the decoder.
    pub decoder: Verdict,
    /// The trained routing.
    pub routing: Option<Routing>,
}

impl Graduates {
    /// As they are stored: that is finer than what queries multiply by, so the gate's verdict stands.
    fn rounded(mut self, dim: usize) -> Graduates {
        if let Verdict::Distilled(decoder) = &mut self.decoder {
            halves::round(&mut decoder.tables.centroids, dim);
            halves::round(&mut decoder.tables.books.values, dim);
            halves::round(&mut decoder.turn, dim);
        }
        if let Some(routing) = &mut self.routing {
            halves::round(&mut routing.vectors, dim);
        }
        self
    }
}

impl School<'_> {
    /// Trains on the rows and on `logged` queries (internal vectors, perhaps none) and fills in the report.
    pub fn run(&self, logged: MatRef<'_>, report: &mut Report) -> Result<Graduates, TrainError> {
        let (mut queries, held_out, picked) = self.split(logged);
        let scanner = Scanner::new(self.rows, self.coded, self.encoder);
        let posing = queries.own.clone();
        let own = |i: usize| posing[i];
        let best = scanner.nearest(self.rows.x, &posing, own, TAUGHT, self.monitor)?;
        let mut taught = Ranked { best };
        let near = scanner.nearest(logged, &picked, |_| FOREIGN, TAUGHT, self.monitor)?;
        drop(scanner);
        let some = &picked[..picked.len().min(DECODER_QUERIES)];
        queries.add_foreign(some.iter().map(|i| logged.row(*i as usize)));
        taught.best.extend_from_slice(&near[..some.len()]);
        let truth = teach(self.rows, &held_out, TRUTH, self.monitor)?;
        let ids = |best: &Vec<(f32, u32)>| best.iter().map(|(_, row)| *row).collect();
        let exam = Exam {
            queries: held_out,
            truth: truth.best.iter().map(ids).collect(),
        };
        let decoder = self.distill(&queries, &taught, &exam, report)?;
        drop((queries, taught));
        let routing = self.route(logged, &picked, Ranked { best: near }, &exam)?;
        report.routed = routing.is_some();
        let graduates = Graduates { decoder, routing };
        Ok(graduates.rounded(self.rows.x.cols))
    }

    /// Rows that pose as training queries, held-out queries, and the logged queries to learn from. Logged queries are held
    /// out first, since they are what the index is for.
    fn split(&self, logged: MatRef<'_>) -> (Queries, Queries, Vec<u32>) {
        let x = self.rows.x;
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed ^ 4);
        let mut order: Vec<u32> = (0..logged.rows() as u32).collect();
        order.shuffle(&mut rng);
        let held_logged = (order.len() / HELD_OUT_SHARE).min(HELD_OUT);
        let (held_logged, picked) = order.split_at(held_logged);
        let books = &self.encoder.books;
        let price = if books.words > 16 { WIDE_CODE } else { 1 };
        let most = LOOK_UPS / (x.rows() * books.subquantizers * price).max(1);
        let picked = &picked[..picked.len().min(LOGGED_QUERIES).min(most)];
        let most = x.rows() / ROW_SHARE;
        let held_rows = if held_logged.len() < FEW_HELD_OUT {
            HELD_OUT.min(most / ROW_SHARE)
        } else {
            0
        };
        let learn_rows =
            (ROW_QUERIES - picked.len().min(ROW_QUERIES - ROW_QUERIES_BESIDE_LOG)).min(most);
        let rows = rand::seq::index::sample(&mut rng, x.rows(), held_rows + learn_rows);
        let mut rows: Vec<u32> = rows.iter().map(|row| row as u32).collect();
        rows.shuffle(&mut rng);
        let (held_rows, learn_rows) = rows.split_at(held_rows);
        let (mut learn, mut held_out) = (Queries::default(), Queries::default());
        learn.add_rows(x, learn_rows);
        held_out.add_foreign(held_logged.iter().map(|i| logged.row(*i as usize)));
        held_out.add_rows(x, held_rows);
        (learn, held_out, picked.to_vec())
    }

    /// What ranks held-out queries best: the current decoder, unless another beats it by more than chance. The encoder's
    /// tables are always asked: a current decoder that was made for rows that are gone may be worse, and then it would let
    /// anything pass.
    fn distill(
        &self,
        queries: &Queries,
        taught: &Ranked,
        exam: &Exam,
        report: &mut Report,
    ) -> Result<Verdict, TrainError> {
        let examine = |it: &Decoder| exam.recalls(self.rows, self.coded, it, self.monitor);
        let start = Decoder::of(self.encoder);
        let current = self.student.decoder.as_ref();
        let before = examine(current.unwrap_or(&start))?;
        report.recall_before = mean(&before);
        report.recall_after = report.recall_before;
        let mut best = Best::default();
        if current.is_some() {
            best.offer(Verdict::Encoder, examine(&start)?);
        }
        if let Some((decoder, after)) = self.teach_decoder(queries, taught, &start, examine)? {
            best.offer(Verdict::Distilled(decoder), after);
        }
        let passed = best.take().filter(|(_, after)| wins(&before, after));
        Ok(passed.map_or(Verdict::Current, |(verdict, after)| {
            report.distilled = matches!(verdict, Verdict::Distilled(_));
            report.recall_after = mean(&after);
            verdict
        }))
    }

    /// The best decoder of a training from `start`, with its recalls.
    fn teach_decoder(
        &self,
        queries: &Queries,
        taught: &Ranked,
        start: &Decoder,
        examine: impl Fn(&Decoder) -> Result<Vec<f32>, TrainError>,
    ) -> Result<Option<(Decoder, Vec<f32>)>, TrainError> {
        let rows = self.options.table_rows(self.rows.x.rows());
        let Some(temperature) = temperature(taught) else {
            return Ok(None);
        };
        if rows < ROWS_PER_WORD * self.encoder.books.words {
            return Ok(None);
        }
        let passes = (PASSES * DIMENSIONS / self.rows.x.cols).clamp(1, PASSES);
        let plan = Plan {
            batch: BATCH,
            steps: STEPS.min((passes * queries.len()).div_ceil(BATCH)),
            exam_every: EXAM_EVERY,
            temperature,
            loss: self.options.loss,
            sampling: self.options.sampling,
            // With a code for every dimension there is nothing to turn towards, and their sizes may differ wildly.
            turn: self.options.turn
                && self.rows.x.cols <= TURN_MOST
                && affords_matrix(rows, self.rows.x.cols)
                && self.encoder.books.subquantizers < self.rows.x.cols,
            seed: self.options.seed ^ 5,
        };
        let course = Course {
            rows: self.rows,
            coded: self.coded,
            queries,
            taught,
        };
        // From the encoder, not from the current decoder, which was trained on other queries and is a worse start for as
        // many steps.
        distill(&course, start, &plan, self.monitor, examine)
    }

    /// The routing, if the picked ones of the logged queries teach a better one than the current. It is learned afresh from
    /// the centroids: the current one's biases already count the lists' sizes against them.
    fn route(
        &self,
        logged: MatRef<'_>,
        picked: &[u32],
        taught: Ranked,
        exam: &Exam,
    ) -> Result<Option<Routing>, TrainError> {
        let held_out = self.foreign(exam);
        let Some(temperature) = temperature(&taught) else {
            return Ok(None);
        };
        if picked.is_empty() || held_out.0.is_empty() {
            return Ok(None);
        }
        let list = |(score, row): &(f32, u32)| (*score, self.coded.list(*row as usize) as u32);
        let of = |near: Vec<(f32, u32)>| {
            let near: Vec<(f32, u32)> = near.iter().map(list).collect();
            routing::shares(&near, Some(temperature))
        };
        let shares: Vec<Shares> = taught.best.into_iter().map(of).collect();
        let learn = Routes {
            vectors: logged,
            picked,
            shares: &shares,
        };
        let exam = Routes {
            vectors: MatRef::new(&exam.queries.vectors, self.rows.x.cols),
            picked: &held_out.0,
            shares: &held_out.1,
        };
        let centroids = MatRef::new(&self.encoder.centroids, self.rows.x.cols);
        let start = by_centroids(self.options.metric, centroids, self.half_norms);
        let sizes = self.coded.list_sizes(self.half_norms.len());
        let examine = |routing: &Routing| exam.recalls(routing, &sizes, self.monitor);
        let before = examine(self.student.routing.as_ref().unwrap_or(&start))?;
        let seed = self.options.seed ^ 6;
        let best = routing::train(&learn, &start, &sizes, seed, self.monitor, examine)?;
        Ok(best
            .filter(|(_, after)| wins(&before, after))
            .map(|(routing, _)| routing))
    }

    /// The held-out queries that are no rows, with the shares of the lists in their true neighbours.
    fn foreign(&self, exam: &Exam) -> (Vec<u32>, Vec<Shares>) {
        let foreign = (0..exam.queries.len()).filter(|q| exam.queries.own[*q] == FOREIGN);
        let shares = |q: usize| {
            let list = |row: &u32| (0.0, self.coded.list(*row as usize) as u32);
            routing::shares(&exam.truth[q].iter().map(list).collect::<Vec<_>>(), None)
        };
        foreign.map(|q| (q as u32, shares(q))).unzip()
    }
}
