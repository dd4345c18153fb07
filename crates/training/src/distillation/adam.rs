//! Adam (Kingma & Ba, 2015), with warm-up and linear decay.

/// β₁ and β₂.
const BETA1: f32 = 0.9;
const BETA2: f32 = 0.99;

/// A group of parameters that is updated together; groups without a gradient in a step are left alone in it.
#[derive(Debug, Clone)]
pub struct Param {
    /// The values.
    pub values: Vec<f32>,
    /// Where a step's gradient is summed.
    pub gradient: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    steps: i32,
}

impl Param {
    pub fn new(values: &[f32]) -> Param {
        let zeros = vec![0.0; values.len()];
        Param {
            values: values.to_vec(),
            gradient: zeros.clone(),
            first: zeros.clone(),
            second: zeros,
            steps: 0,
        }
    }

    /// Moves the values against the gradient and clears it.
    pub fn step(&mut self, rate: f32) {
        self.steps = self.steps.saturating_add(1);
        let (by_first, by_second) = (1.0 - BETA1.powi(self.steps), 1.0 - BETA2.powi(self.steps));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((value, g), (first, second)) in
            self.values.iter_mut().zip(&mut self.gradient).zip(moments)
        {
            *first = BETA1 * *first + (1.0 - BETA1) * *g;
            *second = BETA2 * *second + (1.0 - BETA2) * *g * *g;
            *value -= rate * (*first / by_first) / ((*second / by_second).sqrt() + 1e-12);
            *g = 0.0;
        }
    }
}

/// Learning rate of step `step` of `steps`, as a fraction of the full rate: a tenth of the steps warm up, then it falls to 0.
pub fn lr_schedule(step: usize, steps: usize) -> f32 {
    let warm = (steps / 10).max(1);
    if step < warm {
        return (step + 1) as f32 / warm as f32;
    }
    (steps - step.min(steps)) as f32 / (steps - warm).max(1) as f32
}

/// The full rate of parameters with these values: a hundredth of their root mean square.
pub fn base_learning_rate(values: &[f32]) -> f32 {
    let squares: f64 = values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    0.01 * (squares / values.len().max(1) as f64).sqrt() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bowl_is_descended() {
        let mut param = Param::new(&[1.0, -2.0]);
        for step in 0..500 {
            let gradient: Vec<f32> = param.values.iter().map(|x| 2.0 * (x - 0.5)).collect();
            param.gradient.copy_from_slice(&gradient);
            param.step(0.05 * lr_schedule(step, 500));
        }
        assert!(
            param.values.iter().all(|x| (x - 0.5).abs() < 0.01),
            "{:?}",
            param.values
        );
    }

    #[test]
    fn the_schedule_rises_and_falls() {
        assert!(lr_schedule(0, 100) < lr_schedule(9, 100));
        assert_eq!(lr_schedule(10, 100), 1.0);
        assert!(lr_schedule(99, 100) < 0.02);
        assert!((0..3).all(|s| lr_schedule(s, 1).is_finite()));
    }
}
