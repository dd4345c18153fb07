//! A quick teacher for routing: neighbours by their codes.
//!
//! Routing wants many queries, but of each only which lists its hundred nearest rows lie in, and roughly how near they
//! are. Ranking the sample by its codes tells that as well as exact products do, in a fraction of the time.

use super::{Shares, shares};
use crate::coded::Coded;
use crate::lessons::Exact;
use crate::linalg::MatRef;
use crate::model::Tables;
use crate::product::ByDimension;
use crate::query::quantize;
use crate::rank::Best;
use crate::train::keep_on;
use crate::{Monitor, TrainError, par};
use distillvq_kernels::{LANES, kernels};

/// Queries that are answered together.
const QUERIES: usize = 16;
/// Blocks that one query after the other looks at, so that they stay in the cache.
const BLOCKS: usize = 64;

/// 32 rows of one list.
struct Block {
    list: u32,
    rows: usize,
    /// Norm correction and squared norm (0 unless L2) of each.
    corrections: [f32; LANES],
    norms: [f32; LANES],
}

/// The sample's codes, list by list, as the kernels want them.
pub struct Scanner<'a> {
    books: ByDimension,
    centroids: MatRef<'a>,
    blocks: Vec<Block>,
    codes: Vec<u8>,
    /// Bytes of the codes of a block, of a query's table, and values of a padded query.
    sizes: [usize; 3],
    words: usize,
    /// For L2 the score is twice the product minus the norm.
    l2: bool,
}

/// A query while blocks are scanned for it.
struct Search {
    /// Products with the centroids.
    bases: Vec<f32>,
    lut: Vec<u8>,
    delta: f32,
    bias: f32,
    best: Best,
}

impl<'a> Scanner<'a> {
    /// Sorts the codes by list.
    pub fn new(rows: &Exact<'_>, coded: &Coded, tables: &'a Tables) -> Scanner<'a> {
        let books = &tables.books;
        let (lut, lanes) = match books.words {
            0..=16 => (books.subquantizers.next_multiple_of(2) * 16, 16),
            _ => (books.subquantizers * 256, LANES),
        };
        let mut scanner = Scanner {
            books: books.by_dimension(),
            centroids: MatRef::new(&tables.centroids, rows.x.cols),
            blocks: Vec::new(),
            codes: Vec::new(),
            sizes: [
                lut / books.words.max(1) * lanes,
                lut,
                books.stride().max(rows.x.cols),
            ],
            words: books.words,
            l2: rows.norms.is_some(),
        };
        let mut order: Vec<u32> = (0..rows.x.rows() as u32).collect();
        order.sort_by_key(|row| coded.list(*row as usize));
        for list in order.chunk_by(|a, b| coded.list(*a as usize) == coded.list(*b as usize)) {
            list.chunks(LANES)
                .for_each(|few| scanner.add(rows, coded, few));
        }
        scanner
    }

    /// Adds a block of rows of one list.
    fn add(&mut self, exact: &Exact<'_>, coded: &Coded, rows: &[u32]) {
        let at = self.codes.len();
        self.codes.resize(at + self.sizes[0], 0);
        let bytes = &mut self.codes[at..];
        let mut block = Block {
            list: rows
                .first()
                .map_or(0, |row| coded.list(*row as usize) as u32),
            rows: rows.len(),
            corrections: [0.0; LANES],
            norms: [0.0; LANES],
        };
        for (lane, row) in rows.iter().map(|row| *row as usize).enumerate() {
            block.corrections[lane] = coded.correction(row);
            block.norms[lane] = exact.norms.map_or(0.0, |norms| norms[row]);
            for (s, code) in coded.codes(row).iter().enumerate() {
                match self.words {
                    0..=16 => bytes[16 * s + lane % 16] |= code << (lane / 16 * 4),
                    _ => bytes[LANES * s + lane] = *code,
                }
            }
        }
        self.blocks.push(block);
    }

    /// The shares of the lists in the `k` best rows of each picked query.
    pub fn shares(
        &self,
        queries: MatRef<'_>,
        picked: &[u32],
        k: usize,
        temperature: f32,
        monitor: &dyn Monitor,
    ) -> Result<Vec<Shares>, TrainError> {
        let groups = par::map(picked.len().div_ceil(QUERIES), |group| {
            let picked = &picked[group * QUERIES..picked.len().min((group + 1) * QUERIES)];
            let search = |q: &u32| self.search(queries.row(*q as usize), k);
            let mut searches: Vec<Search> = picked.iter().map(search).collect();
            for from in (0..self.blocks.len()).step_by(BLOCKS) {
                keep_on(monitor)?;
                searches
                    .iter_mut()
                    .for_each(|search| self.scan(search, from));
            }
            let found = searches
                .into_iter()
                .map(|search| self.found(search, temperature));
            Ok::<_, TrainError>(found.collect::<Vec<Shares>>())
        })?;
        Ok(groups.into_iter().flatten().collect())
    }

    fn search(&self, query: &[f32], k: usize) -> Search {
        let mut bases = vec![0f32; self.centroids.rows()];
        (kernels().dots)(query, self.centroids.data, &mut bases);
        let mut padded = query.to_vec();
        padded.resize(self.sizes[2], 0.0);
        let (lut, delta, bias) = quantize(&self.books.products(&padded), self.words, self.sizes[1]);
        Search {
            bases,
            lut,
            delta,
            bias,
            best: Best::new(k),
        }
    }

    /// Offers the rows of some blocks; block `b` has the numbers from `b·LANES`.
    fn scan(&self, search: &mut Search, from: usize) {
        let scan = if self.words <= 16 {
            kernels().scan4
        } else {
            kernels().scan8
        };
        let codes = self.codes.chunks_exact(self.sizes[0]);
        let blocks = self.blocks.iter().zip(codes).enumerate();
        let (mut sums, mut scores) = ([0u16; LANES], [0f32; LANES]);
        for (b, (block, codes)) in blocks.skip(from).take(BLOCKS) {
            scan(codes, &search.lut, &mut sums);
            let base = search.bases[block.list as usize] + search.bias;
            let rows = sums.iter().zip(&block.corrections).zip(&block.norms);
            for (score, ((sum, correction), norm)) in scores.iter_mut().zip(rows) {
                let product = correction * (base + search.delta * f32::from(*sum));
                *score = if self.l2 {
                    2.0 * product - norm
                } else {
                    product
                };
            }
            search
                .best
                .offer_all(&scores[..block.rows], b * LANES, |_| true);
        }
    }

    fn found(&self, search: Search, temperature: f32) -> Shares {
        let mut near = search.best.finish();
        for (_, row) in &mut near {
            *row = self.blocks[*row as usize / LANES].list;
        }
        shares(&near, Some(temperature))
    }
}
