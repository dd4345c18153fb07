//! Cost of the inner loops, in nanoseconds a code (scans: 1024 codes from cache) or a row.
//! Run with `cargo bench -p distillvq-kernels --bench kernels`.
#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use distillvq_kernels::{LANES, ScoreParams, supported};
use std::hint::black_box;
use std::time::{Duration, Instant};

const BLOCKS: usize = 32;

fn bytes(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8)
        .collect()
}

/// A scan and what it needs: bits, sub-quantizers, bytes of a block and of the table.
fn scans(c: &mut Criterion) {
    for (bits, sizes) in [(4, &[16usize, 32, 48, 64, 96, 192][..]), (8, &[16, 48, 96])] {
        let mut group = c.benchmark_group(format!("scan{bits}"));
        group.throughput(Throughput::Elements((BLOCKS * LANES) as u64));
        for &m in sizes {
            let block = m * LANES * bits / 8;
            let (codes, lut) = (bytes(BLOCKS * block), bytes(m << bits));
            for k in supported() {
                let scan = if bits == 4 { k.scan4 } else { k.scan8 };
                let mut run = || {
                    let mut sums = [0u16; LANES];
                    for codes in codes.chunks_exact(block) {
                        scan(black_box(codes), black_box(&lut), &mut sums);
                        black_box(&sums);
                    }
                };
                group.bench_function(BenchmarkId::new(k.name, format!("m{m}")), |b| {
                    b.iter(&mut run)
                });
                println!(
                    "scan{bits} {} m={m}: {:.2} ns a code",
                    k.name,
                    cost(&mut run) / (BLOCKS * LANES) as f64
                );
            }
        }
        group.finish();
    }
}

fn floats(c: &mut Criterion) {
    let mut group = c.benchmark_group("floats");
    let (q, rows) = (vec![0.5f32; 384], vec![0.25f32; 384 * 343]);
    let params = ScoreParams {
        base: 0.1,
        delta: 1e-3,
        correction_min: 0.9,
        correction_step: 1e-3,
    };
    for k in supported() {
        group.bench_function(BenchmarkId::new(k.name, "dot_rows 343x384"), |b| {
            let mut out = vec![0f32; 343];
            b.iter(|| (k.dot_rows)(black_box(&q), black_box(&rows), &mut out));
        });
        group.bench_function(BenchmarkId::new(k.name, "score_block"), |b| {
            let (sums, scales, mut out) = ([77u16; LANES], [9u8; LANES], [0f32; LANES]);
            b.iter(|| {
                (k.score_block)(
                    black_box(&sums),
                    black_box(&scales),
                    None,
                    &params,
                    0.5,
                    &mut out,
                )
            });
        });
    }
    group.finish();
}

/// Products of integers, in nanoseconds a row: one row, and matrices that caches of the second level hold.
fn integers(c: &mut Criterion) {
    let mut group = c.benchmark_group("dot_rows_i8");
    for rows in [1, 343, 919] {
        group.throughput(Throughput::Elements(rows as u64));
        let (q, matrix) = (vec![55i8; 384], vec![-33i8; 384 * rows]);
        for k in supported() {
            let mut out = vec![0i32; rows];
            let mut run = || {
                (k.dot_rows_i8)(black_box(&q), black_box(&matrix), &mut out);
                black_box(&out);
            };
            let name = format!("{rows}x384");
            group.bench_function(BenchmarkId::new(k.name, &name), |b| b.iter(&mut run));
            let ns = cost(&mut run) / rows as f64;
            println!("dot_rows_i8 {} {name}: {ns:.2} ns per row", k.name);
        }
    }
    group.finish();
}

/// Nanoseconds of one call: the best of some rounds, as other load only ever adds.
fn cost(run: &mut dyn FnMut()) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        for _ in 0..50 {
            run();
        }
        best = best.min(start.elapsed() / 50);
    }
    best.as_secs_f64() * 1e9
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500)).sample_size(20);
    targets = scans, floats, integers
}
criterion_main!(benches);
