//! Random numbers that the crate draws itself: the same on every machine, for one seed.

use rand::Rng;

/// A normal deviate, by Box and Muller's transform (1958). Every trained and random model is made of these: another way to draw
/// them would change what a seed means.
pub(crate) fn normal(rng: &mut impl Rng) -> f64 {
    // 1 - u is never 0.
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
