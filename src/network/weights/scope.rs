//! Weights under a common prefix, read as the parts that architectures are made of.

use candle_core::Tensor;

use crate::error::Result;
use crate::network::parts::linear::Linear;
use crate::network::parts::norm::Norm;
use crate::network::weights::file::Weights;
use crate::network::weights::weight::Weight;

/// Weights whose names begin alike.
pub(crate) struct Scope<'a> {
    weights: &'a Weights,
    prefix: String,
}

impl<'a> Scope<'a> {
    pub(crate) fn all(weights: &'a Weights) -> Scope<'a> {
        Scope { weights, prefix: String::new() }
    }

    /// Weights under `prefix` if there are any: some files leave it out. What is drawn anew has it, as most files.
    pub(crate) fn with_optional_prefix(weights: &'a Weights, prefix: &str, known: &str) -> Scope<'a> {
        let has = weights.is_initial() || weights.has(&format!("{prefix}{known}"));
        Scope { weights, prefix: if has { prefix.into() } else { String::new() } }
    }

    pub(crate) fn child(&self, name: &str) -> Scope<'a> {
        Scope { weights: self.weights, prefix: format!("{}{name}.", self.prefix) }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.weights.has(&format!("{}{name}", self.prefix))
    }

    pub(crate) fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.weights.get(&format!("{}{name}", self.prefix), shape)
    }

    pub(crate) fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Weight> {
        self.weights.matrix(&format!("{}{name}", self.prefix), shape)
    }

    /// A linear map as PyTorch keeps it, `[out, in]`.
    pub(crate) fn linear(&self, name: &str, [from, to]: [usize; 2], biased: bool) -> Result<Linear> {
        self.concat_linear(&[(name, to)], from, biased)
    }

    /// Several linear maps of one input, as PyTorch keeps them, in one.
    pub(crate) fn concat_linear(&self, maps: &[(&str, usize)], from: usize, biased: bool) -> Result<Linear> {
        let weights = maps.iter().map(|(name, to)| self.matrix(&format!("{name}.weight"), [*to, from]));
        let weight = Weight::concat_rows(&weights.collect::<Result<Vec<_>>>()?)?.t()?; // (in, out)
        let bias = match biased {
            true => {
                let biases = maps.iter().map(|(name, to)| self.get(&format!("{name}.bias"), &[*to]));
                Some(match biases.collect::<Result<Vec<_>>>()?.as_slice() {
                    [one] => one.clone(),
                    all => Tensor::cat(all, 0)?,
                })
            }
            false => None,
        };
        Ok(Linear { weight, bias })
    }

    /// How many rows a matrix has.
    pub(crate) fn rows(&self, name: &str) -> Result<usize> {
        self.weights.rows(&format!("{}{name}", self.prefix))
    }

    pub(crate) fn layer_norm(&self, name: &str, width: usize, eps: f64) -> Result<Norm> {
        // BERT's files call them as TensorFlow does.
        let [gain, bias] = [["weight", "gamma"], ["bias", "beta"]].map(|[usual, other]| {
            let other = format!("{name}.{other}");
            if self.has(&other) { other } else { format!("{name}.{usual}") }
        });
        Ok(Norm::layer(eps, self.get(&gain, &[width])?, self.get(&bias, &[width])?))
    }

    pub(crate) fn rms_norm(&self, name: &str, width: usize, eps: f64) -> Result<Norm> {
        Ok(Norm::rms(eps, self.get(&format!("{name}.weight"), &[width])?))
    }
}

/// The unembedding `name` of a model: one of its own, or the embedding's transpose where the file has none and the config
/// does not say that they are apart.
pub(crate) fn unembedding(weights: &Weights, name: &str, w_e: &Weight, tied: bool) -> Result<Linear> {
    let all = Scope::all(weights);
    if tied && !all.has(&format!("{name}.weight")) {
        return Ok(Linear { weight: w_e.t()?, bias: None });
    }
    let (d_vocab, d_model) = w_e.dims2()?;
    let unembed = all.linear(name, [d_model, d_vocab], false);
    unembed.map_err(|error| match all.has(&format!("{name}.weight")) {
        true => error,
        false => error.help(
            "the config has tie_word_embeddings = false; set it to true if the embedding is the unembedding as well",
        ),
    })
}
