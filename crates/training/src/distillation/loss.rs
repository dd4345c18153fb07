//! Losses between the scores of teacher and student over a query's candidates (Distill-VQ, §3.2.1).
//!
//! Scores of a batch are a matrix with a row a candidate and a column a query, cut into parts by rows, so that parts are
//! worked on independently and all loops run along the columns. Three passes: maxima of each column, [`Loss::sum`], and
//! [`Loss::backward`], which turns the student's scores into the gradient of the loss by them.
//!
//! With p and t the softmaxes of student and teacher at temperature τ over n candidates, B queries in the batch:
//!
//! | loss | a query's loss | gradient by s, times B |
//! |---|---|---|
//! | ListNet (Cao et al., 2007) | `−Σ t·ln p` | `(p − t)/τ` |
//! | KL | `Σ p·(ln p − ln t)` | `p·(u − Σ p·u)/τ`, `u = (s − t)/τ` |
//! | RankNet | `Σ over pairs: (tᵢ − tⱼ)/τ·ln(1 + exp((sⱼ − sᵢ)/τ))` | sums of logistic terms |
//! | margin-MSE | variance of `s − t` | `2·(e − mean e)/n`, `e = s − t` |
//! | MSE | mean of `(s − t)²` | `2·(s − t)/n` |

use crate::options::Loss;

/// Largest score of each column so far.
pub fn fold_maxima(scores: &[f32], maxima: &mut [f32]) {
    for row in scores.chunks_exact(maxima.len().max(1)) {
        maxima.iter_mut().zip(row).for_each(|(m, s)| *m = m.max(*s));
    }
}

/// Turns scores into `exp((s − max)/τ)` and adds them to the sums of their columns.
pub fn exponentials(scores: &mut [f32], maxima: &[f32], temperature: f32, sums: &mut [f32]) {
    let per = 1.0 / temperature;
    for row in scores.chunks_exact_mut(maxima.len().max(1)) {
        for ((s, max), sum) in row.iter_mut().zip(maxima).zip(sums.iter_mut()) {
            *s = exp((*s - max) * per);
            *sum += *s;
        }
    }
}

/// Sums over a query's candidates that a loss needs, at the most.
pub const SUMS: usize = 3;

/// Offsets within a shard of the candidates that RankNet compares a candidate with: all pairs would be too many. Candidates stand
/// in the order of their rows, which says nothing about their scores.
const PAIR_OFFSETS: [usize; 6] = [1, 2, 5, 11, 23, 47];

/// Maxima and sums over all shards of a batch, one entry per query.
pub struct BatchTotals<'a> {
    /// Largest scores of student and teacher.
    pub maxima: [&'a [f32]; 2],
    /// What [`Loss::sum`] added up.
    pub sums: [&'a [f32]; SUMS],
    /// τ.
    pub temperature: f32,
    /// Queries of the batch.
    pub batch: usize,
}

impl Loss {
    /// Adds a part's candidates to the sums. ListNet leaves exponentials in place of the scores.
    pub fn sum(
        self,
        student: &mut [f32],
        teacher: &mut [f32],
        maxima: [&[f32]; 2],
        temperature: f32,
        sums: &mut [Vec<f32>; SUMS],
    ) {
        let [first, second, third] = sums;
        let queries = first.len().max(1);
        match self {
            Loss::ListNet => {
                exponentials(student, maxima[0], temperature, first);
                exponentials(teacher, maxima[1], temperature, second);
            }
            Loss::Kl => {
                let rows = student
                    .chunks_exact(queries)
                    .zip(teacher.chunks_exact(queries));
                for (student, teacher) in rows {
                    for (q, (s, t)) in student.iter().zip(teacher).enumerate() {
                        let (s, t) = (
                            (s - maxima[0][q]) / temperature,
                            (t - maxima[1][q]) / temperature,
                        );
                        first[q] += exp(s);
                        second[q] += exp(t);
                        third[q] += exp(s) * (s - t);
                    }
                }
            }
            Loss::RankNet => {}
            Loss::MarginMse | Loss::Mse => {
                let rows = student
                    .chunks_exact(queries)
                    .zip(teacher.chunks_exact(queries));
                for (student, teacher) in rows {
                    for (q, (s, t)) in student.iter().zip(teacher).enumerate() {
                        first[q] += 1.0;
                        second[q] += s - t;
                    }
                }
            }
        }
    }

    /// Turns the student's scores into the gradient of the batch's mean loss by them.
    pub fn backward(self, student: &mut [f32], teacher: &[f32], found: &BatchTotals<'_>) {
        let per_query = 1.0 / found.batch.max(1) as f32;
        let [first, second, third] = found.sums;
        let queries = first.len().max(1);
        let rows = student
            .chunks_exact_mut(queries)
            .zip(teacher.chunks_exact(queries));
        match self {
            Loss::ListNet => gradient(
                student,
                teacher,
                &SoftmaxSums {
                    student: first,
                    teacher: second,
                    temperature: found.temperature,
                    batch: found.batch,
                },
            ),
            Loss::Kl => {
                let per = 1.0 / found.temperature;
                for (student, teacher) in rows {
                    for (q, (s, t)) in student.iter_mut().zip(teacher).enumerate() {
                        let (a, b) = (
                            (*s - found.maxima[0][q]) * per,
                            (t - found.maxima[1][q]) * per,
                        );
                        let total = first[q].max(f32::MIN_POSITIVE);
                        *s = per_query * per * exp(a) / total * (a - b - third[q] / total);
                    }
                }
            }
            Loss::RankNet => rank_pairs(student, teacher, queries, found.temperature, per_query),
            Loss::MarginMse | Loss::Mse => {
                for (student, teacher) in rows {
                    for (q, (s, t)) in student.iter_mut().zip(teacher).enumerate() {
                        let n = first[q].max(1.0);
                        let mean = if self == Loss::MarginMse {
                            second[q] / n
                        } else {
                            0.0
                        };
                        *s = 2.0 * per_query * (*s - t - mean) / n;
                    }
                }
            }
        }
    }
}

/// RankNet's gradient over the pairs of a part.
fn rank_pairs(student: &mut [f32], teacher: &[f32], queries: usize, temperature: f32, share: f32) {
    let scores = student.to_vec();
    student.fill(0.0);
    let rows = scores.len() / queries;
    for (i, gap) in (0..rows).flat_map(|i| PAIR_OFFSETS.map(|gap| (i, gap))) {
        if i + gap >= rows {
            continue;
        }
        for q in 0..queries {
            let (i, j) = (i * queries + q, (i + gap) * queries + q);
            // Positive when the teacher prefers i.
            let wanted = (teacher[i] - teacher[j]) / temperature;
            let (near, far) = if wanted >= 0.0 { (i, j) } else { (j, i) };
            let wrong = 1.0 / (1.0 + ((scores[near] - scores[far]) / temperature).exp());
            let slope = share * wanted.abs() * wrong / temperature;
            student[near] -= slope;
            student[far] += slope;
        }
    }
}

/// Softmax denominators of teacher and student, one per query, and the temperature.
pub struct SoftmaxSums<'a> {
    /// Of the student.
    pub student: &'a [f32],
    /// Of the teacher.
    pub teacher: &'a [f32],
    /// τ.
    pub temperature: f32,
    /// Queries that the loss is the mean over.
    pub batch: usize,
}

/// Turns the student's exponentials into the gradient of ListNet by the student's scores.
pub fn gradient(student: &mut [f32], teacher: &[f32], totals: &SoftmaxSums<'_>) {
    let queries = totals.student.len().max(1);
    let factor = 1.0 / (totals.temperature * totals.batch.max(1) as f32);
    let inverse = |sums: &[f32]| {
        sums.iter()
            .map(|sum| factor / sum.max(f32::MIN_POSITIVE))
            .collect::<Vec<f32>>()
    };
    let (by_student, by_teacher) = (inverse(totals.student), inverse(totals.teacher));
    for (student, teacher) in student
        .chunks_exact_mut(queries)
        .zip(teacher.chunks_exact(queries))
    {
        let weights = by_student.iter().zip(&by_teacher);
        for ((s, t), (ws, wt)) in student.iter_mut().zip(teacher).zip(weights) {
            *s = *s * ws - t * wt;
        }
    }
}

/// `e^x` for `x ≤ 0` to a relative error below 1e-5 (1e-6 above −10), in operations that every compiler turns into vector code: the
/// standard library's is a call an element. Below −87 it stays at the smallest normal numbers.
#[inline]
fn exp(x: f32) -> f32 {
    /// Adding it rounds a number of moderate size to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let t = x.clamp(-87.0, 0.0) * std::f32::consts::LOG2_E;
    let rounded = t + ROUND;
    let f = t - (rounded - ROUND);
    // 2^f for |f| ≤ ½, the Taylor series of e^(f·ln 2).
    let p = 1.0
        + f * (std::f32::consts::LN_2
            + f * (0.240_226_5
                + f * (0.055_504_11
                    + f * (0.009_618_129 + f * (0.001_333_356 + f * 0.000_154_035)))));
    let exponent = (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32) << 23;
    f32::from_bits((p.to_bits() as i32).wrapping_add(exponent) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exp() {
        for i in 0..=870_000 {
            let x = -(i as f32) / 10_000.0;
            let want = f64::from(x).exp();
            assert!(
                (f64::from(exp(x)) - want).abs() <= 2e-7 * (4.0 - f64::from(x)) * want,
                "{x}: {} {want}",
                exp(x)
            );
        }
        assert!(exp(-1e30) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
    }

    /// A query's loss in double precision, straight from its definition.
    fn loss(kind: Loss, s: &[f64], t: &[f64], temperature: f64) -> f64 {
        let n = s.len() as f64;
        let softmax = |scores: &[f64]| -> Vec<f64> {
            let exps: Vec<f64> = scores.iter().map(|s| (s / temperature).exp()).collect();
            exps.iter().map(|e| e / exps.iter().sum::<f64>()).collect()
        };
        let (p, r) = (softmax(s), softmax(t));
        let errors: Vec<f64> = s.iter().zip(t).map(|(s, t)| s - t).collect();
        let mean = errors.iter().sum::<f64>() / n;
        match kind {
            Loss::ListNet => p.iter().zip(&r).map(|(p, r)| -r * p.ln()).sum(),
            Loss::Kl => p.iter().zip(&r).map(|(p, r)| p * (p.ln() - r.ln())).sum(),
            Loss::MarginMse => errors.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / n,
            Loss::Mse => errors.iter().map(|e| e.powi(2)).sum::<f64>() / n,
            Loss::RankNet => {
                let mut sum = 0.0;
                for (i, gap) in (0..s.len()).flat_map(|i| PAIR_OFFSETS.map(|gap| (i, gap))) {
                    if i + gap < s.len() {
                        let j = i + gap;
                        let (i, j) = if t[i] >= t[j] { (i, j) } else { (j, i) };
                        let margin = (s[i] - s[j]) / temperature;
                        sum += (t[i] - t[j]) / temperature * (1.0 + (-margin).exp()).ln();
                    }
                }
                sum
            }
        }
    }

    #[test]
    fn gradients_are_slopes() {
        let (queries, temperature) = (3, 0.3f32);
        let noise = |salt: u32| -> Vec<f32> {
            (0..21)
                .map(|i: u32| ((i + salt).wrapping_mul(2_654_435_761) >> 16) as f32 / 65_536.0)
                .collect()
        };
        let (student, teacher) = (noise(1), noise(50));
        for (_, kind) in crate::options::LOSSES {
            let (mut s, mut t) = (student.clone(), teacher.clone());
            let mut maxima = [
                vec![f32::NEG_INFINITY; queries],
                vec![f32::NEG_INFINITY; queries],
            ];
            fold_maxima(&s, &mut maxima[0]);
            fold_maxima(&t, &mut maxima[1]);
            let maxima = [&maxima[0][..], &maxima[1][..]];
            let mut sums: [Vec<f32>; SUMS] = Default::default();
            sums.iter_mut().for_each(|s| s.resize(queries, 0.0));
            kind.sum(&mut s, &mut t, maxima, temperature, &mut sums);
            let found = BatchTotals {
                maxima,
                sums: [&sums[0], &sums[1], &sums[2]],
                temperature,
                batch: queries,
            };
            kind.backward(&mut s, &t, &found);
            let column = |scores: &[f32], q: usize| -> Vec<f64> {
                scores
                    .iter()
                    .skip(q)
                    .step_by(queries)
                    .map(|x| f64::from(*x))
                    .collect()
            };
            for (i, got) in s.iter().enumerate() {
                let (row, q) = (i / queries, i % queries);
                let at = |by: f64| {
                    let mut moved = column(&student, q);
                    moved[row] += by;
                    loss(kind, &moved, &column(&teacher, q), f64::from(temperature))
                        / queries as f64
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                let off = (slope - f64::from(*got)).abs();
                assert!(off < 1e-5 * (1.0 + slope.abs()), "{kind} {slope} {got}");
            }
        }
    }
}
