//! All documents in codes, in memory, laid out and scored as the index does it.

use distillvq_kernels::{LANES, kernels};
use distillvq_model::{Model, Placement, QueryTables};

/// One list's rows in blocks.
#[derive(Default)]
pub struct List {
    /// Numbers of its rows.
    pub rows: Vec<usize>,
    scales: Vec<u8>,
    norms: Vec<u8>,
    codes: Vec<u8>,
}

/// All documents, by list.
pub struct Index<'a> {
    model: &'a Model,
    /// The lists.
    pub lists: Vec<List>,
    /// The list of each row; `usize::MAX` for rows outside the lists.
    pub list_of: Vec<usize>,
    /// Rows that codes cannot represent: a search compares them exactly, here they count as never found.
    pub outside: usize,
}

impl<'a> Index<'a> {
    /// Encodes all documents.
    pub fn new(model: &'a Model, documents: &[f32]) -> Self {
        let encoded = model.encode(documents);
        let mut index = Index {
            model,
            lists: Vec::new(),
            list_of: vec![usize::MAX; encoded.rows.len()],
            outside: 0,
        };
        index.lists.resize_with(model.lists(), List::default);
        let codes = encoded.codes.chunks_exact(model.subquantizers());
        for (i, (row, codes)) in encoded.rows.iter().zip(codes).enumerate() {
            let Placement::List(list) = row.placement else {
                index.outside += 1;
                continue;
            };
            index.list_of[i] = list as usize;
            index.lists[list as usize].push(i, model, (row.correction_code, row.norm), codes);
        }
        index
    }

    /// Scores of all documents.
    pub fn scores(&self, tables: &QueryTables) -> Vec<f32> {
        let shape = self.model.shape();
        let mut scores = vec![f32::NEG_INFINITY; self.list_of.len()];
        let (mut sums, mut out) = ([0u16; LANES], [0f32; LANES]);
        let scan = if shape.bits == 4 {
            kernels().scan4
        } else {
            kernels().scan8
        };
        for (number, list) in (0..).zip(&self.lists) {
            let score_params = tables.score_params(number);
            let scales = list.scales.as_chunks::<LANES>().0.iter();
            let norms = list.norms.as_chunks::<{ 4 * LANES }>().0.iter();
            let blocks = list.codes.chunks_exact(shape.block_bytes());
            for (((codes, rows), scales), norms) in
                blocks.zip(list.rows.chunks(LANES)).zip(scales).zip(norms)
            {
                scan(codes, &tables.lut, &mut sums);
                let norms = shape.has_norm.then_some(norms);
                (kernels().score_block)(
                    &sums,
                    scales,
                    norms,
                    &score_params,
                    f32::NEG_INFINITY,
                    &mut out,
                );
                for (row, score) in rows.iter().zip(out) {
                    scores[*row] = score;
                }
            }
        }
        scores
    }
}

impl List {
    fn push(&mut self, row: usize, model: &Model, (scale, norm): (u8, f32), codes: &[u8]) {
        let shape = model.shape();
        let (lane, block) = (self.rows.len() % LANES, self.rows.len() / LANES);
        if lane == 0 {
            self.codes.resize((block + 1) * shape.block_bytes(), 0);
            self.scales.resize((block + 1) * LANES, 0);
            self.norms.resize((block + 1) * LANES * 4, 0);
        }
        let at = block * LANES + lane;
        self.rows.push(row);
        self.scales[at] = scale;
        self.norms[at * 4..][..4].copy_from_slice(&norm.to_le_bytes());
        let bytes = &mut self.codes[block * shape.block_bytes()..];
        for (s, code) in codes.iter().enumerate() {
            match shape.bits {
                4 => bytes[16 * s + lane % 16] |= code << (lane / 16 * 4),
                _ => bytes[32 * s + lane] = *code,
            }
        }
    }
}
