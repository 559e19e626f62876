//! Gauss-Legendre quadrature: where to look at a function between 0 and 1, and how much each look counts.

/// So many nodes between 0 and 1 with their weights, which sum to 1: exact for polynomials of a degree below twice as many.
pub(super) fn gauss_legendre(count: usize) -> Vec<(f64, f64)> {
    let n = count as f64;
    let node = |index: usize| {
        // Near the roots of the Legendre polynomial, from where Newton's steps reach them.
        let mut x = (std::f64::consts::PI * (index as f64 + 0.75) / (n + 0.5)).cos();
        let mut slope = 1.0;
        for _ in 0..100 {
            let (mut last, mut value) = (1.0, x);
            for degree in 2..=count {
                let k = degree as f64;
                (last, value) = (value, ((2.0 * k - 1.0) * x * value - (k - 1.0) * last) / k);
            }
            slope = n * (x * value - last) / (x * x - 1.0);
            let step = value / slope;
            x -= step;
            if step.abs() < 1e-15 {
                break;
            }
        }
        (0.5 * (1.0 - x), 1.0 / ((1.0 - x * x) * slope * slope))
    };
    (0..count).map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polynomials_are_exact() {
        for count in 1..=64 {
            let nodes = gauss_legendre(count);
            assert!(nodes.iter().all(|(at, weight)| (0.0..=1.0).contains(at) && *weight > 0.0), "{count}");
            for degree in 0..(2 * count).min(40) {
                let sum: f64 = nodes.iter().map(|(at, weight)| weight * at.powi(degree as i32)).sum();
                assert!(
                    (sum - 1.0 / (degree as f64 + 1.0)).abs() < 1e-13,
                    "{count} nodes, degree {degree}: {sum}"
                );
            }
        }
    }
}
