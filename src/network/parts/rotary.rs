//! Rotary position embeddings (Su et al. 2021, "RoFormer"): pairs of a query's or key's entries are turned by angles that
//! grow with the position, so that their product depends on how far apart they stand.

use std::f64::consts::TAU;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::network::config::invalid_config;

/// Turns the first entries of queries and keys.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// The angle of each pair between two neighbouring positions.
    frequencies: Arc<[f64]>,
    pairs: Pairs,
    /// Cosines and sines `[position, 1, pair]` as far as they have been needed.
    table: Arc<Mutex<Option<(Tensor, Tensor)>>>,
}

/// Which two entries turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairs {
    /// The first half with the second (GPT-NeoX, Llama).
    Halves,
    /// Neighbours (GPT-J).
    Adjacent,
}

/// How frequencies are changed for texts that are longer than those of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scaling {
    None,
    /// Every angle divided by a factor (Chen et al. 2023).
    Linear(f64),
    /// Slow angles divided, fast ones kept (Llama 3.1).
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        trained_on: f64,
    },
}

impl Rotary {
    /// Turns the first `width` entries, the slowest pair about `base` times slower than the first.
    pub(crate) fn new(width: usize, base: f64, pairs: Pairs, scaling: Scaling) -> Rotary {
        let frequency = |pair: usize| scaling.apply(base.powf(-((2 * pair) as f64) / width as f64));
        Rotary { frequencies: (0..width / 2).map(frequency).collect(), pairs, table: Arc::default() }
    }

    /// Vectors `[batch, position, head, d_head]`, the first at position `start`, each turned by its position.
    pub(crate) fn rotate(&self, x: &Tensor, start: usize) -> Result<Tensor> {
        let (batch, len, heads, d_head) = x.dims4()?;
        let (cos, sin) = self.angles(start, len, x.device())?; // (T, 1, R/2)
        let half = self.frequencies.len();
        let part = x.narrow(3, 0, 2 * half)?; // (B, T, H, R)
        let (a, b) = match self.pairs {
            Pairs::Halves => (part.narrow(3, 0, half)?, part.narrow(3, half, half)?), // (B, T, H, R/2)
            Pairs::Adjacent => {
                let pairs = part.reshape((batch, len, heads, half, 2))?;
                (pairs.narrow(4, 0, 1)?.squeeze(4)?, pairs.narrow(4, 1, 1)?.squeeze(4)?) // (B, T, H, R/2)
            }
        };
        let along = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let across = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        let turned = match self.pairs {
            Pairs::Halves => Tensor::cat(&[along, across], 3)?,
            Pairs::Adjacent => Tensor::stack(&[along, across], 4)?.flatten_from(3)?,
        }; // (B, T, H, R)
        if d_head == 2 * half {
            return Ok(turned);
        }
        Ok(Tensor::cat(&[turned, x.narrow(3, 2 * half, d_head - 2 * half)?], 3)?) // (B, T, H, D)
    }

    /// Rows `[row, d_head]`, all turned as at one position.
    pub(crate) fn rotate_all(&self, x: &Tensor, position: usize) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        let turned = self.rotate(&x.reshape((rows, 1, 1, width))?, position)?;
        Ok(turned.reshape((rows, width))?)
    }

    /// Cosines and sines of positions `start` and after.
    fn angles(&self, start: usize, len: usize, device: &Device) -> Result<(Tensor, Tensor)> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match &*table {
            Some((cos, _)) if cos.device().same_device(device) => cos.dim(0)?,
            _ => 0,
        };
        if known < start + len {
            // Twice what is needed, so that generation does not make it anew for each token.
            *table = Some(self.table_of_angles(0, 2 * (start + len), device)?);
        }
        match &*table {
            Some((cos, sin)) => Ok((cos.narrow(0, start, len)?, sin.narrow(0, start, len)?)),
            None => self.table_of_angles(start, len, device),
        }
    }

    fn table_of_angles(&self, start: usize, len: usize, device: &Device) -> Result<(Tensor, Tensor)> {
        let angle = |i: usize| {
            (start + i / self.frequencies.len()) as f64 * self.frequencies[i % self.frequencies.len()]
        };
        let of = |part: fn(f64) -> f64| -> Result<Tensor> {
            let values = (0..len * self.frequencies.len()).map(|i| part(angle(i)) as f32);
            Ok(Tensor::from_iter(values, device)?.reshape((len, 1, self.frequencies.len()))?)
        };
        Ok((of(f64::cos)?, of(f64::sin)?))
    }
}

impl Scaling {
    fn apply(self, frequency: f64) -> f64 {
        match self {
            Scaling::None => frequency,
            Scaling::Linear(factor) => frequency / factor,
            Scaling::Llama3 { factor, low, high, trained_on } => {
                let turns = trained_on * frequency / TAU;
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                frequency * kept + frequency / factor * (1.0 - kept)
            }
        }
    }
}

/// What a `config.json` says of rotary positions, in the entries of transformers before and after version 5.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Parameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    #[serde(rename = "type")]
    old_type: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    pub(crate) partial_rotary_factor: Option<f64>,
}

impl Parameters {
    /// Of the older entry and the newer one, the older where it says anything: so transformers chooses.
    pub(crate) fn of(rope_scaling: &Option<Parameters>, rope_parameters: &Option<Parameters>) -> Parameters {
        let says = |found: &&Parameters| **found != Parameters::default();
        let found = rope_scaling.as_ref().filter(says).or(rope_parameters.as_ref());
        found.cloned().unwrap_or_default()
    }

    /// Base and scaling of a model that reads `n_ctx` tokens, once they are known to make sense: `base` is what config.json says
    /// outside of this entry. What is missing is as transformers has it, but for factors, of which it has none.
    pub(crate) fn read(&self, base: Option<f64>, n_ctx: usize) -> Result<(f64, Scaling)> {
        let base = positive("rope_theta", self.rope_theta.or(base).unwrap_or(10_000.0), "10000 is usual")?;
        let kind = self.rope_type.as_deref().or(self.old_type.as_deref()).unwrap_or("default");
        let factor = |name: &str, value: Option<f64>, usual: &str| match value {
            Some(value) => positive(name, value, usual),
            None => invalid_config(
                format!("config.json says rope_type = {kind:?}, but no {name}"),
                format!("write it beside rope_type: there is no default; {usual}"),
            ),
        };
        let scaling = match kind {
            "default" => Scaling::None,
            "linear" => Scaling::Linear(factor("factor", self.factor, "1 changes nothing")?),
            "llama3" => {
                let low = factor("low_freq_factor", self.low_freq_factor, "Llama 3.1 has 1")?;
                let high = factor("high_freq_factor", self.high_freq_factor, "Llama 3.1 has 4")?;
                if low >= high {
                    return invalid_config(
                        format!("config.json says low_freq_factor = {low} and high_freq_factor = {high}"),
                        "the low one must be below the high one: Llama 3.1 has 1 and 4",
                    );
                }
                let trained_on = self.original_max_position_embeddings.unwrap_or(n_ctx as f64);
                let trained_on =
                    positive("original_max_position_embeddings", trained_on, "Llama 3.1 has 8192")?;
                let factor = factor("factor", self.factor, "Llama 3.1 has 8, Llama 3.2 32")?;
                Scaling::Llama3 { factor, low, high, trained_on }
            }
            other => {
                return invalid_config(
                    format!("config.json says rope_type = {other:?}, which is not known"),
                    "known are default, linear and llama3",
                );
            }
        };
        Ok((base, scaling))
    }
}

fn positive(name: &str, value: f64, usual: &str) -> Result<f64> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    invalid_config(
        format!("config.json says {name} = {value} of rotary positions"),
        format!("it must be a positive number: {usual}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What turning is for: a product depends on the distance alone.
    #[test]
    fn products_depend_on_distance() -> Result<()> {
        let values = |seed: usize| (0..12).map(|i| ((i * 7919 + seed) % 101) as f32 / 50.0 - 1.0).collect();
        let q = Tensor::from_vec(values(3), (1, 12), &Device::Cpu)?;
        let k = Tensor::from_vec(values(31), (1, 12), &Device::Cpu)?;
        for pairs in [Pairs::Halves, Pairs::Adjacent] {
            for width in [4, 12] {
                let rotary = Rotary::new(width, 100.0, pairs, Scaling::None);
                let product = |a: usize, b: usize| -> Result<f32> {
                    let product = rotary.rotate_all(&q, a)?.matmul(&rotary.rotate_all(&k, b)?.t()?)?;
                    Ok(product.flatten_all()?.to_vec1::<f32>()?[0])
                };
                assert!((product(9, 4)? - product(25, 20)?).abs() < 1e-5);
                assert!((product(9, 4)? - product(5, 0)?).abs() < 1e-5);
                assert!((product(9, 4)? - product(9, 5)?).abs() > 1e-3);
            }
        }
        Ok(())
    }
}
