//! Approximate teacher: scans the PQ codes of the sample and re-ranks the best 2k exactly.
//!
//! Routing wants many queries, but of each only which lists its hundred nearest rows lie in, and roughly how near they
//! are; the decoder wants candidates, and computes their exact scores itself. Ranking the sample by its codes and the best
//! of those exactly tells that as well as a product with every row does, in a fraction of the time.

use crate::encoded_sample::EncodedSample;
use crate::error::TrainError;
use crate::progress::{Monitor, Phase, check_interrupts};
use crate::teacher::brute_force::TopK;
use crate::teacher::exact::{SampleVectors, is_candidate};
use distillvq_kernels::{LANES, kernels};
use distillvq_linalg::matrix::MatRef;
use distillvq_linalg::parallel;
use distillvq_model::codebooks::{Codebooks, TransposedCodebooks};
use distillvq_model::params::IvfPqTables;
use distillvq_model::query::lut::quantize_lut;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Queries that are answered together.
const QUERIES: usize = 16;
/// Blocks that one query after the other looks at, so that they stay in the cache.
const BLOCKS: usize = 64;

/// Rows re-ranked exactly per neighbor wanted; FAISS calls it `k_factor`.
const RERANK_FACTOR: usize = 2;

/// 32 rows of one list.
struct Block {
    list: u32,
    rows: Vec<u32>,
    /// Norm correction and squared norm (0 unless L2) of each.
    corrections: [f32; LANES],
    norms: [f32; LANES],
    /// Least and greatest correction, and the least norm.
    range: (f32, f32),
    least_norm: f32,
}

impl Block {
    /// A bound on the scores of products up to `most`.
    fn bound(&self, most: f32, l2: bool) -> f32 {
        let (least, greatest) = self.range;
        let product = most * if most > 0.0 { greatest } else { least };
        if l2 {
            2.0 * product - self.least_norm
        } else {
            product
        }
    }
}

/// The sample's codes by list, in the kernels' block layout.
pub struct PqTeacher<'a> {
    exact: &'a SampleVectors<'a>,
    books: &'a Codebooks,
    to_products: TransposedCodebooks,
    centroids: MatRef<'a>,
    blocks: Vec<Block>,
    codes: Vec<u8>,
    /// Bytes of the codes of a block and of a query's table.
    sizes: [usize; 2],
}

/// Look-up table and best rows of a query during the scan.
struct TeacherQuery {
    /// Products with the centroids.
    bases: Vec<f32>,
    lut: Vec<u8>,
    delta: f32,
    bias: f32,
    best: TopK,
}

impl<'a> PqTeacher<'a> {
    /// Sorts the codes by list.
    pub fn new(
        exact: &'a SampleVectors<'a>,
        coded: &EncodedSample,
        tables: &'a IvfPqTables,
    ) -> PqTeacher<'a> {
        let books = &tables.books;
        let (lut, lanes) = match books.codewords {
            0..=16 => (books.subquantizers.next_multiple_of(2) * 16, 16),
            _ => (books.subquantizers * 256, LANES),
        };
        let mut teacher = PqTeacher {
            exact,
            books,
            to_products: books.transposed(),
            centroids: MatRef::new(&tables.centroids, exact.x.cols),
            blocks: Vec::new(),
            codes: Vec::new(),
            sizes: [lut / books.codewords.max(1) * lanes, lut],
        };
        let mut order: Vec<u32> = (0..exact.x.rows() as u32).collect();
        order.sort_by_key(|row| coded.list(*row as usize));
        for list in order.chunk_by(|a, b| coded.list(*a as usize) == coded.list(*b as usize)) {
            list.chunks(LANES).for_each(|few| teacher.add(coded, few));
        }
        teacher
    }

    /// Adds a block of rows of one list.
    fn add(&mut self, coded: &EncodedSample, rows: &[u32]) {
        let at = self.codes.len();
        self.codes.resize(at + self.sizes[0], 0);
        let bytes = &mut self.codes[at..];
        let mut block = Block {
            list: rows
                .first()
                .map_or(0, |row| coded.list(*row as usize) as u32),
            rows: rows.to_vec(),
            corrections: [0.0; LANES],
            norms: [0.0; LANES],
            range: (f32::INFINITY, f32::NEG_INFINITY),
            least_norm: f32::INFINITY,
        };
        for (lane, row) in rows.iter().map(|row| *row as usize).enumerate() {
            block.corrections[lane] = coded.correction(row);
            block.norms[lane] = self.exact.norms.map_or(0.0, |norms| norms[row]);
            let (least, greatest) = &mut block.range;
            *least = least.min(block.corrections[lane]);
            *greatest = greatest.max(block.corrections[lane]);
            block.least_norm = block.least_norm.min(block.norms[lane]);
            for (s, code) in coded.codes(row).iter().enumerate() {
                match self.books.codewords {
                    0..=16 => bytes[16 * s + lane % 16] |= code << (lane / 16 * 4),
                    _ => bytes[LANES * s + lane] = *code,
                }
            }
        }
        self.blocks.push(block);
    }

    /// The `k` best rows of each picked query with their exact scores, best first. `source_row` says of each picked query which
    /// row it was made from.
    pub fn nearest(
        &self,
        queries: MatRef<'_>,
        picked: &[u32],
        source_row: impl Fn(usize) -> u32 + Sync + Send,
        k: usize,
        monitor: &dyn Monitor,
    ) -> Result<Vec<Vec<(f32, u32)>>, TrainError> {
        let done = AtomicUsize::new(0);
        let groups = parallel::map(picked.len().div_ceil(QUERIES), |group| {
            let few = &picked[group * QUERIES..picked.len().min((group + 1) * QUERIES)];
            let search = |q: &u32| self.search(queries.row(*q as usize), RERANK_FACTOR * k);
            let mut searches: Vec<TeacherQuery> = few.iter().map(search).collect();
            for from in (0..self.blocks.len()).step_by(BLOCKS) {
                check_interrupts(monitor)?;
                for search in &mut searches {
                    self.scan(search, from);
                }
            }
            let found = searches.into_iter().zip(few).enumerate();
            let found = found.map(|(i, (search, q))| {
                let source_row = source_row(group * QUERIES + i);
                self.found(queries.row(*q as usize), source_row, search, k)
            });
            let done = few.len() + done.fetch_add(few.len(), Ordering::Relaxed);
            monitor.phase(Phase::Teaching, done, picked.len());
            Ok::<_, TrainError>(found.collect::<Vec<_>>())
        })?;
        Ok(groups.into_iter().flatten().collect())
    }

    fn search(&self, query: &[f32], k: usize) -> TeacherQuery {
        let mut bases = vec![0f32; self.centroids.rows()];
        (kernels().dot_rows)(query, self.centroids.data, &mut bases);
        let table = self.to_products.products(query);
        let (lut, delta, bias) = quantize_lut(&table, self.books.codewords, self.sizes[1]);
        TeacherQuery {
            bases,
            lut,
            delta,
            bias,
            best: TopK::new(k),
        }
    }

    /// Offers the rows of some blocks; block `b` has the numbers from `b·LANES`.
    fn scan(&self, search: &mut TeacherQuery, from: usize) {
        let scan = if self.books.codewords <= 16 {
            kernels().scan4
        } else {
            kernels().scan8
        };
        let to = (from + BLOCKS).min(self.blocks.len());
        let codes = self.codes[from * self.sizes[0]..].chunks_exact(self.sizes[0]);
        let blocks = (from..to).zip(self.blocks[from..to].iter().zip(codes));
        let l2 = self.exact.norms.is_some();
        let (mut sums, mut scores) = ([0u16; LANES], [0f32; LANES]);
        for (b, (block, codes)) in blocks {
            scan(codes, &search.lut, &mut sums);
            let base = search.bases[block.list as usize] + search.bias;
            // Nearly all blocks hold nothing better.
            let most = sums.iter().copied().max().unwrap_or(0);
            let most = base + search.delta * f32::from(most);
            if block.bound(most, l2) <= search.best.least() {
                continue;
            }
            let rows = sums.iter().zip(&block.corrections).zip(&block.norms);
            for (score, ((sum, correction), norm)) in scores.iter_mut().zip(rows) {
                let product = correction * (base + search.delta * f32::from(*sum));
                *score = if l2 { 2.0 * product - norm } else { product };
            }
            search
                .best
                .offer_all(&scores[..block.rows.len()], b * LANES, |_| true);
        }
    }

    /// The best of the rows found, ranked exactly.
    fn found(
        &self,
        query: &[f32],
        source_row: u32,
        search: TeacherQuery,
        k: usize,
    ) -> Vec<(f32, u32)> {
        let exact = |(_, number): (f32, u32)| {
            let row = self.blocks[number as usize / LANES].rows[number as usize % LANES];
            let product = (kernels().dot)(query, self.exact.x.row(row as usize));
            let score = match self.exact.norms {
                Some(norms) => 2.0 * product - norms[row as usize],
                None => product,
            };
            (score, row)
        };
        let found = search.best.finish().into_iter().map(exact);
        let mut near: Vec<(f32, u32)> = found
            .filter(|(_, row)| is_candidate(self.exact.x, source_row, *row))
            .collect();
        near.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        // A copy of its own size: there are many queries, and the buffer is ten times larger.
        near.iter().take(k).copied().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::kmeans::kmeans;
    use crate::pq::{self, PqShape, Residuals};
    use crate::progress::NoMonitor;
    use crate::teacher::exact::{NOT_A_ROW, QuerySet, exact_neighbors};
    use distillvq_linalg::matrix::half_norms;
    use distillvq_linalg::testing::noise;
    use distillvq_model::coarse::Assigner;
    use distillvq_model::coarse::flat::Assignment;

    const ROWS: usize = 1500;
    const DIM: usize = 6;

    #[test]
    fn neighbors_by_codes_are_those_of_the_teacher() {
        let (x, vectors) = (noise(ROWS * DIM, 0), noise(40 * DIM, 99_999));
        let (x, queries) = (MatRef::new(&x, DIM), MatRef::new(&vectors, DIM));
        let all: Vec<u32> = (0..ROWS as u32).collect();
        let centroids = kmeans(x, &all, 9, 1, &NoMonitor).unwrap();
        let view = MatRef::new(&centroids, DIM);
        let halves = half_norms(view);
        let mut nearest = vec![Assignment::default(); ROWS];
        let assigner = Assigner::new(view, &halves);
        assigner
            .assign(x, &mut nearest, || Ok::<_, TrainError>(()))
            .unwrap();
        let norms: Vec<f32> = (0..ROWS)
            .map(|i| distillvq_linalg::matrix::squared_norm(x.row(i)))
            .collect();
        let mut asked = QuerySet::default();
        asked.add_logged((0..40).map(|q| queries.row(q)));
        for (words, norms) in [(16, None), (16, Some(&norms[..])), (256, None)] {
            let exact = SampleVectors { x, norms };
            let residuals = Residuals {
                x,
                chosen: &all,
                nearest: &nearest,
                centroids: view,
            };
            let shape = PqShape {
                subquantizers: 4,
                codewords: words,
            };
            let books = pq::train(&residuals, shape, None, 1, &NoMonitor).unwrap();
            let tables = IvfPqTables {
                centroids: centroids.clone(),
                books,
            };
            let (coded, _) =
                EncodedSample::new(x, nearest.clone(), &halves, &tables, &NoMonitor).unwrap();
            let taught = exact_neighbors(&exact, &asked, 30, &NoMonitor).unwrap();
            let teacher = PqTeacher::new(&exact, &coded, &tables);
            // In another order than the log's, and not all.
            let picked: Vec<u32> = (1..40).rev().collect();
            let got = teacher
                .nearest(queries, &picked, |_| NOT_A_ROW, 30, &NoMonitor)
                .unwrap();
            assert_eq!(got.len(), 39);
            let mut hits = 0;
            for (got, q) in got.iter().zip(&picked) {
                let best = &taught.best[*q as usize];
                let found = |(_, row): &&(f32, u32)| best.iter().any(|(_, other)| other == row);
                hits += got.iter().filter(found).count();
                assert!(got.is_sorted_by(|a, b| a.0 >= b.0));
            }
            assert!(hits > 39 * 30 * 9 / 10, "{words} words: {hits} hits");
        }
    }
}
