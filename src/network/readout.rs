//! What makes of the streams what a model is read out by: the logits of tokens or of classes, or the similarity of two towers.
//!
//! Shapes at the end of lines: B batch, T positions, M width of the residual stream, V vocabulary, C classes, P width of projected
//! embeddings.

use candle_core::{D, Tensor};

use crate::error::Result;
use crate::hook::{Hook, Site, Stack};
use crate::network::parts::linear::Linear;
use crate::network::parts::mlp::Activation;
use crate::network::parts::norm::Norm;
use crate::network::spec::{Pooling, Readout, Verdict};
use crate::network::start::Known;
use crate::network::tap::{TapCtx, not_reached};
use crate::network::watch::Watch;

#[derive(Clone, Debug)]
pub(crate) enum ReadoutLayer {
    Vocabulary {
        of: Stack,
        /// What stands before the unembedding where masked tokens are told.
        head: Option<MaskedHead>,
        unembed: Linear, // (M, V)
    },
    /// What a pooler makes of the first position, and nothing reads.
    Pooled {
        of: Stack,
        pooler: Linear, // (M, M)
        activation: Activation,
    },
    Classes {
        of: Stack,
        pooling: Pooling,
        /// What a pooler makes of the position that is read, where there is one (Devlin et al. 2019).
        pooler: Option<(Linear, Activation)>, // (M, M)
        classify: Linear, // (M, C)
        labels: Vec<String>,
        verdict: Verdict,
    },
    /// The cosine of both towers' embeddings times a scale (Radford et al. 2021).
    #[allow(dead_code)] // No pair of towers is opened so far.
    Similarity {
        towers: [Tower; 2],
        scale: f64,
    },
    Nothing,
}

/// What a stream goes through before masked tokens are told by it (Devlin et al. 2019).
#[derive(Clone, Debug)]
pub(crate) struct MaskedHead {
    pub(crate) dense: Linear, // (M, M)
    pub(crate) activation: Activation,
    pub(crate) norm: Norm,
}

/// How a stack's stream becomes one embedding.
#[derive(Clone, Debug)]
pub(crate) struct Tower {
    pub(crate) of: Stack,
    pub(crate) pooling: Pooling,
    pub(crate) projection: Linear, // (M, P)
}

impl ReadoutLayer {
    /// What is read out, in words.
    pub(crate) fn spec(&self) -> Readout {
        match self {
            ReadoutLayer::Vocabulary { of, head: None, .. } => Readout::Vocabulary(*of),
            ReadoutLayer::Vocabulary { of, head: Some(_), .. } => Readout::Masked(*of),
            ReadoutLayer::Pooled { of, .. } => Readout::Pooled(*of),
            ReadoutLayer::Classes { of, pooling, pooler, labels, verdict, .. } => Readout::Classes {
                of: *of,
                pooling: *pooling,
                pooler: pooler.is_some(),
                labels: labels.clone(),
                verdict: *verdict,
            },
            ReadoutLayer::Similarity { towers, .. } => Readout::Similarity {
                of: towers.each_ref().map(|tower| tower.of),
                pooling: towers.each_ref().map(|tower| tower.pooling),
                d_projected: towers[0].projection.weight.dims2().map_or(0, |(_, width)| width),
            },
            ReadoutLayer::Nothing => Readout::Nothing,
        }
    }

    /// Its linear maps.
    pub(crate) fn linears(&self) -> Vec<&Linear> {
        match self {
            ReadoutLayer::Vocabulary { head, unembed, .. } => {
                head.iter().map(|head| &head.dense).chain([unembed]).collect()
            }
            ReadoutLayer::Pooled { pooler, .. } => vec![pooler],
            ReadoutLayer::Classes { pooler, classify, .. } => {
                pooler.iter().map(|(pooler, _)| pooler).chain([classify]).collect()
            }
            ReadoutLayer::Similarity { towers, .. } => towers.iter().map(|tower| &tower.projection).collect(),
            ReadoutLayer::Nothing => Vec::new(),
        }
    }

    /// Reads tokens out of the stream that the last stack left, which begins after `unread` positions.
    pub(crate) fn of_tokens(&self, x: Tensor, unread: usize, tap: &mut TapCtx) -> Result<()> {
        use Site::{HeadLnNormalized, HeadLnScale, UnembedIn, UnembedOut};
        let ReadoutLayer::Vocabulary { head, unembed, .. } = self else { return Ok(()) };
        let x = match tap.0.unembed_positions() {
            Some(positions) => {
                let positions = positions.iter().map(|&p| (p - unread) as u32).collect::<Vec<_>>();
                x.index_select(&Tensor::new(positions, x.device())?, 1)?
            }
            None => x,
        };
        let x = match head {
            Some(MaskedHead { dense, activation, norm }) => {
                let x = activation.apply(&dense.forward(&x)?)?; // (B, T, M)
                norm.forward(x, [HeadLnScale, HeadLnNormalized].map(Hook::from), tap)? // (B, T, M)
            }
            None => x,
        };
        let x = tap.at(UnembedIn, x)?;
        if tap.wants(UnembedOut) {
            let logits = unembed.forward(&x)?; // (B, T, V)
            Watch::default().look(&logits, || std::iter::once(&unembed.weight))?;
            tap.at(UnembedOut, logits)?;
        }
        Ok(())
    }

    /// Reads classes or a similarity out of what all stacks left.
    pub(crate) fn of_streams(&self, known: &Known, tap: &mut TapCtx) -> Result<()> {
        use Site::{ClassLogits, PoolerOut};
        let pooled = |of: Stack, pooling: Pooling| {
            let x = known.finished.get(&of).ok_or_else(not_reached)?; // (B, T, M)
            pool(x, pooling, known.batch.present(of)) // (B, M)
        };
        match self {
            ReadoutLayer::Vocabulary { .. } | ReadoutLayer::Nothing => {}
            ReadoutLayer::Pooled { of, pooler, activation } => {
                let x = pooler.forward(&pooled(*of, Pooling::First)?)?; // (B, M)
                tap.at(PoolerOut, activation.apply(&x)?)?; // (B, M)
            }
            ReadoutLayer::Classes { of, pooling, pooler, classify, .. } => {
                let mut x = pooled(*of, *pooling)?; // (B, M)
                if let Some((pooler, activation)) = pooler {
                    x = tap.at(PoolerOut, activation.apply(&pooler.forward(&x)?)?)?; // (B, M)
                }
                tap.at(ClassLogits, classify.forward(&x)?)?; // (B, C)
            }
            ReadoutLayer::Similarity { towers, scale } => {
                let mut project = |tower: &Tower| -> Result<Tensor> {
                    let projected = tower.projection.forward(&pooled(tower.of, tower.pooling)?)?; // (B, P)
                    tap.at(Hook::from(Site::Projected).of(tower.of), projected)
                };
                let (a, b) = (unit(&project(&towers[0])?)?, unit(&project(&towers[1])?)?); // (B, P)
                tap.at(Site::Similarity, ((a * b)?.sum(D::Minus1)? * *scale)?)?; // (B)
            }
        }
        Ok(())
    }
}

/// The stream at the one position of each input that is read `[batch, d_model]`.
fn pool(x: &Tensor, pooling: Pooling, present: Option<&[Vec<bool>]>) -> Result<Tensor> {
    let (batch, len, _) = x.dims3()?;
    let own = |row: usize| {
        let of_row =
            present.and_then(|rows| rows.get(row)).and_then(|row| row.iter().rposition(|&there| there));
        of_row.map_or(len, |last| last + 1)
    };
    let at = |row: usize| pooling.position(own(row));
    let rows: Vec<u32> = (0..batch).map(|row| (row * len + at(row)) as u32).collect();
    Ok(x.flatten(0, 1)?.index_select(&Tensor::new(rows, x.device())?, 0)?)
}

/// Embeddings `[batch, d]`, each of length 1.
pub(crate) fn unit(x: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?)
}
