//! Distillation: splits the queries into training and held-out ones, trains decoder and routing, and keeps what improves recall.

mod adam;
mod decoder;
mod loss;
mod routing;

use crate::encoded_sample::EncodedSample;
use crate::error::TrainError;
use crate::evaluation::{BestSoFar, EvalSet, is_significant_gain, mean};
use crate::options::{MAX_TRANSFORM_DIM, TrainOptions, affords_matrix};
use crate::progress::Monitor;
use crate::teacher::approximate::PqTeacher;
use crate::teacher::brute_force::NeighborLists;
use crate::teacher::exact::{EVAL_K, NOT_A_ROW, QuerySet, SampleVectors, exact_neighbors};
use decoder::{DecoderTrainOptions, DecoderTrainSet, temperature, train_decoder};
use distillvq_linalg::matrix::MatRef;
use distillvq_model::bf16;
use distillvq_model::params::{Decoder, IvfPqTables, Routing, Student, TrainReport};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use routing::{ListTargets, RoutingSet};

/// Neighbors per training query that the teacher returns.
const TEACHER_K: usize = 100;
/// Number of rows used as pseudo-queries without a query log. Twice as many gain less than a thousandth of recall, and the
/// teacher is what costs.
const PSEUDO_QUERIES: usize = 4000;
/// Logged queries that are learned from, those of routing, which has no other source, and of the decoder.
const LOGGED_QUERIES: usize = 30_000;
const DECODER_QUERIES: usize = 16_000;
/// Codes that are looked up for the neighbors of logged queries, at the most: it bounds the time. A code of 8 bits costs
/// as much as [`WIDE_CODE`] of 4.
const LOOK_UPS: usize = 350_000_000_000;
const WIDE_CODE: usize = 8;
/// Number of pseudo-queries beside a full log: they keep the decoder fair to queries unlike those logged.
const PSEUDO_QUERIES_WITH_LOG: usize = 2000;
/// At most 1/this of the rows are pseudo-queries.
const PSEUDO_QUERY_DIVISOR: usize = 4;
/// Held-out queries.
const HELD_OUT: usize = 400;
/// At most 1/this of the logged queries are held out.
const HELD_OUT_DIVISOR: usize = 5;
/// With fewer held-out logged queries than this, rows are added to them.
const MIN_HELD_OUT: usize = 100;
/// Queries a step of the decoder's training.
const BATCH: usize = 32;
/// Steps of the decoder's training at the most, and passes over its queries at the most.
const STEPS: usize = 1200;
const PASSES: usize = 5;
/// Dimensions with which it makes all passes; the more there are beyond, the fewer it makes, since each costs as much more.
const DIMENSIONS: usize = 2_048;
/// Rows of the table for each word of a codebook that a second set of codebooks is kept for at least.
const ROWS_PER_WORD: usize = 8;
/// Steps between two evaluations on the held-out queries.
const EVAL_INTERVAL: usize = 400;

/// Input of the distillation of decoder and routing.
pub struct Distillation<'a> {
    /// The sample.
    pub rows: &'a SampleVectors<'a>,
    /// The same in codes.
    pub coded: &'a EncodedSample,
    /// The encoder.
    pub encoder: &'a IvfPqTables,
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

/// Which decoder the model gets.
#[derive(Debug, Default)]
pub enum DecoderChoice {
    /// The current one.
    #[default]
    Current,
    /// None: the encoder's tables are better.
    Encoder,
    /// The distilled one.
    Distilled(Decoder),
}

impl DecoderChoice {
    /// The decoder of the new student.
    pub fn into_decoder(self, current: Option<&Decoder>) -> Option<Decoder> {
        match self {
            DecoderChoice::Current => current.cloned(),
            DecoderChoice::Encoder => None,
            DecoderChoice::Distilled(decoder) => Some(decoder),
        }
    }
}

/// The parts that improve recall on the held-out queries.
#[derive(Debug, Default)]
pub struct DistilledParts {
    /// Choice of the decoder.
    pub decoder: DecoderChoice,
    /// The trained routing.
    pub routing: Option<Routing>,
}

impl DistilledParts {
    /// Rounded as they are stored. That is finer than the int8 values that queries multiply by, so the choice stands.
    fn rounded(mut self, dim: usize) -> DistilledParts {
        if let DecoderChoice::Distilled(decoder) = &mut self.decoder {
            bf16::round_to_bf16(&mut decoder.tables.centroids, dim);
            bf16::round_to_bf16(&mut decoder.tables.books.values, dim);
            bf16::round_to_bf16(&mut decoder.query_transform, dim);
        }
        if let Some(routing) = &mut self.routing {
            bf16::round_to_bf16(&mut routing.vectors, dim);
        }
        self
    }
}

impl Distillation<'_> {
    /// Trains on the rows and on `logged` queries (internal vectors, perhaps none) and fills in the report.
    pub fn run(
        &self,
        logged: MatRef<'_>,
        report: &mut TrainReport,
    ) -> Result<DistilledParts, TrainError> {
        let (mut queries, held_out, picked) = self.split(logged);
        let teacher = PqTeacher::new(self.rows, self.coded, self.encoder);
        let source_rows = queries.source_row.clone();
        let source_row = |i: usize| source_rows[i];
        let best = teacher.nearest(
            self.rows.x,
            &source_rows,
            source_row,
            TEACHER_K,
            self.monitor,
        )?;
        let mut taught = NeighborLists { best };
        let near = teacher.nearest(logged, &picked, |_| NOT_A_ROW, TEACHER_K, self.monitor)?;
        drop(teacher);
        let some = &picked[..picked.len().min(DECODER_QUERIES)];
        queries.add_logged(some.iter().map(|i| logged.row(*i as usize)));
        taught.best.extend_from_slice(&near[..some.len()]);
        let truth = exact_neighbors(self.rows, &held_out, EVAL_K, self.monitor)?;
        let ids = |best: &Vec<(f32, u32)>| best.iter().map(|(_, row)| *row).collect();
        let eval_set = EvalSet {
            queries: held_out,
            truth: truth.best.iter().map(ids).collect(),
        };
        let decoder = self.choose_decoder(&queries, &taught, &eval_set, report)?;
        drop((queries, taught));
        let routing =
            self.train_routing(logged, &picked, NeighborLists { best: near }, &eval_set)?;
        report.routing_kept = routing.is_some();
        let distilled = DistilledParts { decoder, routing };
        Ok(distilled.rounded(self.rows.x.cols))
    }

    /// Rows used as training queries, held-out queries, and the logged queries to learn from. Logged queries are held
    /// out first, since they are what the index is for.
    fn split(&self, logged: MatRef<'_>) -> (QuerySet, QuerySet, Vec<u32>) {
        let x = self.rows.x;
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed ^ 4);
        let mut order: Vec<u32> = (0..logged.rows() as u32).collect();
        order.shuffle(&mut rng);
        let held_logged = (order.len() / HELD_OUT_DIVISOR).min(HELD_OUT);
        let (held_logged, picked) = order.split_at(held_logged);
        let books = &self.encoder.books;
        let price = if books.codewords > 16 { WIDE_CODE } else { 1 };
        let most = LOOK_UPS / (x.rows() * books.subquantizers * price).max(1);
        let picked = &picked[..picked.len().min(LOGGED_QUERIES).min(most)];
        let most = x.rows() / PSEUDO_QUERY_DIVISOR;
        let held_rows = if held_logged.len() < MIN_HELD_OUT {
            HELD_OUT.min(most / PSEUDO_QUERY_DIVISOR)
        } else {
            0
        };
        let learn_rows =
            (PSEUDO_QUERIES - picked.len().min(PSEUDO_QUERIES - PSEUDO_QUERIES_WITH_LOG)).min(most);
        let rows = rand::seq::index::sample(&mut rng, x.rows(), held_rows + learn_rows);
        let mut rows: Vec<u32> = rows.iter().map(|row| row as u32).collect();
        rows.shuffle(&mut rng);
        let (held_rows, learn_rows) = rows.split_at(held_rows);
        let (mut learn, mut held_out) = (QuerySet::default(), QuerySet::default());
        learn.add_rows(x, learn_rows);
        held_out.add_logged(held_logged.iter().map(|i| logged.row(*i as usize)));
        held_out.add_rows(x, held_rows);
        (learn, held_out, picked.to_vec())
    }

    /// Chooses the decoder by recall on the held-out queries: the current one, unless another is significantly better. The encoder's
    /// tables are always asked: a current decoder that was made for rows that are gone may be worse, and then it would let
    /// anything pass.
    fn choose_decoder(
        &self,
        queries: &QuerySet,
        taught: &NeighborLists,
        eval_set: &EvalSet,
        report: &mut TrainReport,
    ) -> Result<DecoderChoice, TrainError> {
        let evaluate = |it: &Decoder| eval_set.recalls(self.rows, self.coded, it, self.monitor);
        let start = Decoder::of(self.encoder);
        let current = self.student.decoder.as_ref();
        let before = evaluate(current.unwrap_or(&start))?;
        report.recall_before = mean(&before);
        report.recall_after = report.recall_before;
        let mut best = BestSoFar::default();
        if current.is_some() {
            best.offer(DecoderChoice::Encoder, evaluate(&start)?);
        }
        if let Some((decoder, after)) =
            self.run_decoder_training(queries, taught, &start, evaluate)?
        {
            best.offer(DecoderChoice::Distilled(decoder), after);
        }
        let passed = best
            .take()
            .filter(|(_, after)| is_significant_gain(&before, after));
        Ok(passed.map_or(DecoderChoice::Current, |(choice, after)| {
            report.decoder_kept = matches!(choice, DecoderChoice::Distilled(_));
            report.recall_after = mean(&after);
            choice
        }))
    }

    /// Trains a decoder from `start` and returns the best one with its recalls.
    fn run_decoder_training(
        &self,
        queries: &QuerySet,
        taught: &NeighborLists,
        start: &Decoder,
        evaluate: impl Fn(&Decoder) -> Result<Vec<f32>, TrainError>,
    ) -> Result<Option<(Decoder, Vec<f32>)>, TrainError> {
        let rows = self.options.table_rows(self.rows.x.rows());
        let Some(temperature) = temperature(taught) else {
            return Ok(None);
        };
        if rows < ROWS_PER_WORD * self.encoder.books.codewords {
            return Ok(None);
        }
        let passes = (PASSES * DIMENSIONS / self.rows.x.cols).clamp(1, PASSES);
        let options = DecoderTrainOptions {
            batch: BATCH,
            steps: STEPS.min((passes * queries.len()).div_ceil(BATCH)),
            eval_interval: EVAL_INTERVAL,
            temperature,
            loss: self.options.loss,
            sampling: self.options.ablation().sampling,
            // With a code for every dimension there is nothing to turn towards, and their sizes may differ wildly.
            query_transform: !self.options.ablation().no_query_transform
                && self.rows.x.cols <= MAX_TRANSFORM_DIM
                && affords_matrix(rows, self.rows.x.cols)
                && self.encoder.books.subquantizers < self.rows.x.cols,
            seed: self.options.seed ^ 5,
        };
        let set = DecoderTrainSet {
            rows: self.rows,
            coded: self.coded,
            queries,
            taught,
        };
        // From the encoder, not from the current decoder, which was trained on other queries and is a worse start for as
        // many steps.
        train_decoder(&set, start, &options, self.monitor, evaluate)
    }

    /// Trains the routing on the picked logged queries and returns it if it beats the current one. It is learned afresh from
    /// the centroids: the current one's biases already count the lists' sizes against them.
    fn train_routing(
        &self,
        logged: MatRef<'_>,
        picked: &[u32],
        taught: NeighborLists,
        eval_set: &EvalSet,
    ) -> Result<Option<Routing>, TrainError> {
        let held_out = self.logged_eval_queries(eval_set);
        let Some(temperature) = temperature(&taught) else {
            return Ok(None);
        };
        if picked.is_empty() || held_out.0.is_empty() {
            return Ok(None);
        }
        let lists = |(score, row): &(f32, u32)| (*score, self.coded.lists(*row as usize));
        let of = |near: Vec<(f32, u32)>| {
            let near: Vec<(f32, [u32; 2])> = near.iter().map(lists).collect();
            routing::shares(&near, Some(temperature))
        };
        let shares: Vec<ListTargets> = taught.best.into_iter().map(of).collect();
        let learn = RoutingSet {
            vectors: logged,
            picked,
            shares: &shares,
        };
        let eval_set = RoutingSet {
            vectors: MatRef::new(&eval_set.queries.vectors, self.rows.x.cols),
            picked: &held_out.0,
            shares: &held_out.1,
        };
        let centroids = MatRef::new(&self.encoder.centroids, self.rows.x.cols);
        let start = routing::untrained(self.options.metric, centroids, self.half_norms);
        let sizes = self.coded.list_sizes(self.half_norms.len());
        let evaluate = |routing: &Routing| eval_set.recalls(routing, &sizes, self.monitor);
        let before = evaluate(self.student.routing.as_ref().unwrap_or(&start))?;
        let seed = self.options.seed ^ 6;
        let best = routing::train(&learn, &start, &sizes, seed, self.monitor, evaluate)?;
        Ok(best
            .filter(|(_, after)| is_significant_gain(&before, after))
            .map(|(routing, _)| routing))
    }

    /// The held-out queries that are not rows, with the fraction of their true neighbors in each list.
    fn logged_eval_queries(&self, eval_set: &EvalSet) -> (Vec<u32>, Vec<ListTargets>) {
        let foreign =
            (0..eval_set.queries.len()).filter(|q| eval_set.queries.source_row[*q] == NOT_A_ROW);
        let shares = |q: usize| {
            let lists = |row: &u32| (0.0, self.coded.lists(*row as usize));
            routing::shares(
                &eval_set.truth[q].iter().map(lists).collect::<Vec<_>>(),
                None,
            )
        };
        foreign.map(|q| (q as u32, shares(q))).unzip()
    }
}
