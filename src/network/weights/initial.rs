//! Weights before any training, as GPT-2 begins (Radford et al. 2019, section 2.3): drawn from a normal distribution of
//! deviation 0.02 (or another), divided by the root of the number of layers that write into the residual stream where a weight is one
//! of those. Gains of norms are 1, biases 0.

use candle_core::{Device, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::error::Result;
use crate::random::normal;

/// GPT-2's.
pub(crate) const DEVIATION: f64 = 0.02;

/// The weights that write into the residual stream, by the ends of their names.
const WRITING: [&str; 8] = [
    "c_proj.weight",
    "o_proj.weight",
    "down_proj.weight",
    "attention.dense.weight",
    "dense_4h_to_h.weight",
    "out_proj.weight",
    "fc_out.weight",
    "attn.W_O",
];

/// Whether a name, Hugging Face's or TransformerLens's, is that of a bias.
fn is_bias(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    last == "bias" || last.ends_with("_bias") || last == "b" || last.starts_with("b_")
}

/// Draws each weight when it is asked for: an architecture says by its loading what it needs.
pub(crate) struct Initial {
    rng: ChaCha8Rng,
    deviation: f64,
    n_layers: usize,
    initialized: Vec<(String, Tensor)>,
}

impl Initial {
    pub(crate) fn new(seed: u64, deviation: f64, n_layers: usize) -> Initial {
        Initial { rng: ChaCha8Rng::seed_from_u64(seed), deviation, n_layers, initialized: Vec::new() }
    }

    pub(crate) fn draw(&mut self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor> {
        // What two stacks share is asked for twice.
        if let Some((_, drawn)) = self.initialized.iter().find(|(own, _)| own == name) {
            return Ok(drawn.clone());
        }
        let count = shape.iter().product();
        let values = match shape {
            _ if is_bias(name) => vec![0.0; count],
            [_] => vec![1.0; count],
            _ => {
                // Attention and MLP of each layer write.
                let writers =
                    if WRITING.iter().any(|end| name.ends_with(end)) { 2 * self.n_layers } else { 1 };
                let deviation = self.deviation / (writers as f64).sqrt();
                (0..count).map(|_| (normal(&mut self.rng) * deviation) as f32).collect()
            }
        };
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?.to_device(device)?;
        self.initialized.push((name.to_string(), tensor.clone()));
        Ok(tensor)
    }

    /// What was drawn, in the order in which it was asked for.
    pub(crate) fn into_initialized(self) -> Vec<(String, Tensor)> {
        self.initialized
    }
}
