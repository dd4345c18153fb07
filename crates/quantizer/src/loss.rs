//! ListNet: the cross-entropy between the teacher's and the student's softmax over a query's candidates (Cao et al. 2007;
//! the best of the losses in Distill-VQ, §3.2.1).
//!
//! Scores of a batch are a matrix with a row a candidate and a column a query, cut into parts by rows, so that parts are
//! worked on independently and all loops run along the columns. A softmax then takes two passes (maxima, then
//! exponentials and their sums) and the gradient a third: `∂L/∂s = (softmax(s/τ) − softmax(t/τ)) / (τ·queries)`.
//! Another loss would only change that last line.

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

/// Sums of both sides' exponentials a column, and the temperature.
pub struct Totals<'a> {
    /// Of the student.
    pub student: &'a [f32],
    /// Of the teacher.
    pub teacher: &'a [f32],
    /// τ.
    pub temperature: f32,
}

/// Turns the student's exponentials into the gradient of the loss by the student's scores.
pub fn gradient(student: &mut [f32], teacher: &[f32], totals: &Totals<'_>) {
    let queries = totals.student.len().max(1);
    let factor = 1.0 / (totals.temperature * queries as f32);
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

    /// The loss in double precision: scores with a row a candidate and a column a query.
    fn loss(student: &[f64], teacher: &[f64], queries: usize, temperature: f64) -> f64 {
        let column = |scores: &[f64], q: usize| -> Vec<f64> {
            let exps: Vec<f64> = scores
                .iter()
                .skip(q)
                .step_by(queries)
                .map(|s| (s / temperature).exp())
                .collect();
            let sum: f64 = exps.iter().sum();
            exps.into_iter().map(|e| e / sum).collect()
        };
        let of = |q| {
            column(teacher, q)
                .iter()
                .zip(column(student, q))
                .map(|(t, s)| -t * s.ln())
                .sum::<f64>()
        };
        (0..queries).map(of).sum::<f64>() / queries as f64
    }

    #[test]
    fn gradient_is_the_slope() {
        let (queries, rows, temperature) = (3, 7, 0.3f32);
        let noise = |salt: u32| -> Vec<f32> {
            (0..21)
                .map(|i: u32| ((i + salt).wrapping_mul(2_654_435_761) >> 16) as f32 / 65_536.0)
                .collect()
        };
        let (student, teacher) = (noise(1), noise(50));
        let (mut s, mut t) = (student.clone(), teacher.clone());
        let mut totals = [vec![0f32; queries], vec![0f32; queries]];
        for (scores, sums) in [&mut s, &mut t].into_iter().zip(&mut totals) {
            let mut maxima = vec![f32::NEG_INFINITY; queries];
            fold_maxima(scores, &mut maxima);
            exponentials(scores, &maxima, temperature, sums);
        }
        gradient(
            &mut s,
            &t,
            &Totals {
                student: &totals[0],
                teacher: &totals[1],
                temperature,
            },
        );
        let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        let (student, teacher) = (wide(&student), wide(&teacher));
        for i in 0..queries * rows {
            let at = |by: f64| {
                let mut moved = student.clone();
                moved[i] += by;
                loss(&moved, &teacher, queries, f64::from(temperature))
            };
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((slope - f64::from(s[i])).abs() < 1e-5, "{slope} {}", s[i]);
        }
    }
}
