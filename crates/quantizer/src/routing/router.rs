//! The router in training: scores `(A·q)·U[list] + b[list]` of a batch, their gradients and Adam's steps.
//!
//! `U` starts at the routing's vectors and `A` at the unit matrix. Training both learns the same vectors `W = U·A` as
//! training `W` would, but what one list's queries teach about the difference between queries and rows reaches the others.
//!
//! Lists are worked on in parts whose size is fixed, so results do not depend on the number of threads.

use super::Shares;
use crate::adam::{Param, rate};
use crate::linalg::{MatRef, add_transposed, combine, products};
use crate::loss::{Totals, exponentials, fold_maxima, gradient};
use crate::model::Routing;
use crate::train::keep_on;
use crate::{Monitor, TrainError, par};

/// Lists that are worked on together.
const PART: usize = 64;
/// Rows of the other matrices that are worked on together.
const ROWS: usize = 32;
/// How fast vectors move, in units of the usual rate.
const VECTOR_RATE: f32 = 3.0;
/// How fast a bias moves, as a share of how fast a score moves when all values of its vector do at the usual rate.
const BIAS_RATE: f32 = 0.2;
/// How fast the values of the turn move, as a share of their root mean square if it were any rotation.
const TURN_RATE: f32 = 0.02;

/// Some lists of a step; matrices have a row a list and a column a query.
pub(super) struct Part {
    pub vectors: Param,
    pub biases: Param,
    scores: Vec<f32>,
    targets: Vec<f32>,
    maxima: Vec<f32>,
    sums: Vec<f32>,
}

impl Part {
    fn new(vectors: &[f32], biases: &[f32]) -> Part {
        Part {
            vectors: Param::new(vectors),
            biases: Param::new(biases),
            scores: Vec::new(),
            targets: Vec::new(),
            maxima: Vec::new(),
            sums: Vec::new(),
        }
    }

    fn score(&mut self, turned: MatRef<'_>) {
        let n = turned.rows();
        self.scores.resize(self.biases.values.len() * n, 0.0);
        let vectors = MatRef::new(&self.vectors.values, turned.cols);
        products(vectors, turned, &mut self.scores);
        for (scores, bias) in self.scores.chunks_exact_mut(n).zip(&self.biases.values) {
            scores.iter_mut().for_each(|s| *s += bias);
        }
        self.maxima.clear();
        self.maxima.resize(n, f32::NEG_INFINITY);
        fold_maxima(&self.scores, &mut self.maxima);
    }

    fn exponentials(&mut self, maxima: &[f32], temperature: f32) {
        self.sums.clear();
        self.sums.resize(maxima.len(), 0.0);
        exponentials(&mut self.scores, maxima, temperature, &mut self.sums);
    }

    /// Turns the exponentials into gradients of the scores, and fills those of vectors and biases.
    fn differentiate(&mut self, turned: MatRef<'_>, totals: &Totals<'_>) {
        gradient(&mut self.scores, &self.targets, totals);
        let slopes = MatRef::new(&self.scores, turned.rows());
        combine(slopes, turned, &mut self.vectors.gradient);
        let rows = self.scores.chunks_exact(turned.rows());
        for (bias, scores) in self.biases.gradient.iter_mut().zip(rows) {
            *bias = scores.iter().sum();
        }
    }
}

/// The router in training.
pub(super) struct Router {
    pub parts: Vec<Part>,
    /// `A`, square.
    pub turn: Param,
    cols: usize,
    temperature: f32,
    /// Rates of vectors, biases and the turn.
    rates: [f32; 3],
    /// The batch after the turn, and the gradient by it.
    turned: Vec<f32>,
    slopes: Vec<f32>,
}

impl Router {
    /// `length` is that of a typical query.
    pub fn new(start: &Routing, cols: usize, temperature: f32, length: f32) -> Router {
        let vectors = start.vectors.chunks(PART * cols);
        let parts = vectors.zip(start.biases.chunks(PART));
        let usual = rate(&start.vectors);
        let root = (cols as f32).sqrt();
        let mut unit = vec![0f32; cols * cols];
        unit.iter_mut().step_by(cols + 1).for_each(|x| *x = 1.0);
        Router {
            parts: parts.map(|(v, b)| Part::new(v, b)).collect(),
            turn: Param::new(&unit),
            cols,
            temperature,
            rates: [
                usual * VECTOR_RATE,
                usual * BIAS_RATE * root * length,
                TURN_RATE / root,
            ],
            turned: Vec::new(),
            slopes: Vec::new(),
        }
    }

    /// The routing as learned so far, the turn folded into its vectors.
    pub fn routing(&self, monitor: &dyn Monitor) -> Result<Routing, TrainError> {
        let turn = MatRef::new(&self.turn.values, self.cols);
        let vectors = par::map(self.parts.len(), |i| {
            keep_on(monitor)?;
            let vectors = &self.parts[i].vectors.values;
            let mut folded = vec![0f32; vectors.len()];
            combine(MatRef::new(vectors, self.cols), turn, &mut folded);
            Ok::<_, TrainError>(folded)
        })?;
        let biases = self.parts.iter().flat_map(|p| &p.biases.values);
        Ok(Routing {
            vectors: vectors.concat(),
            biases: biases.copied().collect(),
        })
    }

    /// Fills all gradients for a batch and the shares of each of its queries.
    pub fn gradients(
        &mut self,
        queries: MatRef<'_>,
        shares: &[&Shares],
        monitor: &dyn Monitor,
    ) -> Result<(), TrainError> {
        self.aim(shares);
        self.turn_queries(queries, monitor)?;
        let (temperature, n) = (self.temperature, queries.rows());
        let turned = MatRef::new(&self.turned, self.cols);
        par::each_mut(&mut self.parts, |_, part| {
            keep_on(monitor)?;
            part.score(turned);
            Ok(())
        })?;
        let mut maxima = vec![f32::NEG_INFINITY; n];
        for part in &self.parts {
            let pairs = maxima.iter_mut().zip(&part.maxima);
            pairs.for_each(|(m, p)| *m = m.max(*p));
        }
        par::each_mut(&mut self.parts, |_, part| {
            keep_on(monitor)?;
            part.exponentials(&maxima, temperature);
            Ok(())
        })?;
        let mut sums = vec![0f32; n];
        for part in &self.parts {
            sums.iter_mut().zip(&part.sums).for_each(|(s, p)| *s += p);
        }
        let totals = Totals {
            student: &sums,
            teacher: &vec![1.0; n],
            temperature,
            batch: n,
        };
        par::each_mut(&mut self.parts, |_, part| {
            keep_on(monitor)?;
            part.differentiate(turned, &totals);
            Ok(())
        })?;
        self.differentiate_turn(queries, monitor)
    }

    /// Writes the targets. Shares sum to 1, so the teacher's sums are 1.
    fn aim(&mut self, shares: &[&Shares]) {
        let n = shares.len();
        for part in &mut self.parts {
            part.targets.clear();
            part.targets.resize(part.biases.values.len() * n, 0.0);
        }
        for (q, shares) in shares.iter().enumerate() {
            for (list, share) in *shares {
                let list = *list as usize;
                self.parts[list / PART].targets[list % PART * n + q] = *share;
            }
        }
    }

    fn turn_queries(
        &mut self,
        queries: MatRef<'_>,
        monitor: &dyn Monitor,
    ) -> Result<(), TrainError> {
        let turn = MatRef::new(&self.turn.values, self.cols);
        self.turned.resize(queries.data.len(), 0.0);
        par::chunks_mut(&mut self.turned, ROWS * self.cols, |i, out| {
            keep_on(monitor)?;
            products(queries.slice(i * ROWS, (i + 1) * ROWS), turn, out);
            Ok(())
        })
    }

    /// Fills the gradient of the turn from those of the scores.
    fn differentiate_turn(
        &mut self,
        queries: MatRef<'_>,
        monitor: &dyn Monitor,
    ) -> Result<(), TrainError> {
        let (parts, cols, n) = (&self.parts, self.cols, queries.rows());
        self.slopes.clear();
        self.slopes.resize(queries.data.len(), 0.0);
        par::chunks_mut(&mut self.slopes, ROWS * cols, |i, out| {
            for part in parts {
                keep_on(monitor)?;
                let scores = MatRef::new(&part.scores, n);
                add_transposed(
                    scores,
                    i * ROWS,
                    MatRef::new(&part.vectors.values, cols),
                    out,
                );
            }
            Ok(())
        })?;
        let slopes = MatRef::new(&self.slopes, cols);
        par::chunks_mut(&mut self.turn.gradient, ROWS * cols, |i, out| {
            keep_on(monitor)?;
            out.fill(0.0);
            add_transposed(slopes, i * ROWS, queries, out);
            Ok(())
        })
    }

    /// Makes a step with a share of the full rates.
    pub fn descend(&mut self, share: f32, monitor: &dyn Monitor) -> Result<(), TrainError> {
        let [vectors, biases, turn] = self.rates.map(|rate| rate * share);
        par::each_mut(&mut self.parts, |_, part| {
            keep_on(monitor)?;
            part.vectors.step(vectors);
            part.biases.step(biases);
            Ok(())
        })?;
        self.turn.step(turn);
        Ok(())
    }
}
