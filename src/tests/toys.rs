//! Toys: models of random weights, with gains and biases that matter.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::hook::Stack;
use crate::model::model::Model;
use crate::network::config::ConfigFile;
use crate::network::dims::Dims;
use crate::network::network::{Network, ReadoutLayer, StackNetwork};
use crate::network::parts::attention::{Attention, ScoreSpec};
use crate::network::parts::block::{Block, BlockKind};
use crate::network::parts::linear::Linear;
use crate::network::parts::mlp::{Activation, Mlp};
use crate::network::parts::norm::Norm;
use crate::network::parts::relative_bias::RelativeBias;
use crate::network::spec::{PositionEncoding, Sees};
use crate::tokenizer::Tokenizer;

/// Numbers that look random, and are the same each time.
struct Random(u64);

impl Random {
    fn tensor(&mut self, shape: &[usize], size: f64, around: f64) -> Result<Tensor> {
        let count: usize = shape.iter().product();
        let mut next = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 40) as f64 / (1u64 << 24) as f64 * 2.0 - 1.0) * size + around
        };
        let values: Vec<f32> = (0..count).map(|_| next() as f32).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    fn linear(&mut self, from: usize, to: usize) -> Result<Linear> {
        let weight = self.tensor(&[from, to], 1.5 / (from as f64).sqrt(), 0.0)?;
        Ok(Linear { weight, bias: Some(self.tensor(&[to], 0.2, 0.0)?) })
    }

    fn norm(&mut self, width: usize) -> Result<Norm> {
        Ok(Norm::layer(1e-5, self.tensor(&[width], 0.3, 1.0)?, self.tensor(&[width], 0.2, 0.0)?))
    }

    fn attention(&mut self, dims: &Dims) -> Result<Attention> {
        let Dims { n_heads, n_key_value_heads, d_head, d_model, .. } = *dims;
        Ok(Attention {
            n_heads,
            n_key_value_heads,
            qkv: self.linear(d_model, (n_heads + 2 * n_key_value_heads) * d_head)?,
            output: self.linear(n_heads * d_head, d_model)?,
            scoring: ScoreSpec::plain(d_head),
        })
    }

    fn stack(
        &mut self,
        stack: Stack,
        dims: Dims,
        sees: Sees,
        crosses: Option<Stack>,
        block_kind: BlockKind,
    ) -> Result<StackNetwork> {
        let Dims { n_layers, d_model, d_mlp, d_vocab, n_ctx, .. } = dims;
        let mut blocks = Vec::new();
        for _ in 0..n_layers {
            let cross = match crosses {
                Some(_) => Some((self.norm(d_model)?, self.attention(&dims)?)),
                None => None,
            };
            blocks.push(Block {
                ln1: self.norm(d_model)?,
                attn: self.attention(&dims)?,
                cross,
                mlp: Some((
                    self.norm(d_model)?,
                    Mlp {
                        activation: Activation::Relu,
                        gate: None,
                        input: self.linear(d_model, d_mlp)?,
                        output: self.linear(d_mlp, d_model)?,
                    },
                )),
            });
        }
        let ln_final = match block_kind {
            BlockKind::PostNorm => Norm::none(),
            _ => self.norm(d_model)?,
        };
        Ok(StackNetwork {
            stack,
            dims,
            sees,
            positions: PositionEncoding::Learned,
            crosses,
            block_kind,
            w_e: self.tensor(&[d_vocab, d_model], 1.0, 0.0)?,
            w_pos: Some(self.tensor(&[n_ctx, d_model], 0.5, 0.0)?),
            relative_bias: None,
            blocks,
            ln_final,
        })
    }
}

fn model(name: &str, network: Network) -> Model {
    let config = ConfigFile { architecture: name.into(), path: name.into(), text: "{}".into() };
    Model {
        name: name.into(),
        network: Arc::new(network),
        config: config.into(),
        tokenizer: Tokenizer::none().into(),
        bos: Ok(0),
        eos: Vec::new(),
        edits: Vec::new(),
    }
}

const DIMS: Dims = Dims {
    n_layers: 2,
    n_heads: 3,
    n_key_value_heads: 3,
    d_model: 12,
    d_head: 4,
    d_mlp: 20,
    d_vocab: 17,
    n_ctx: 10,
};

/// A causal stack that attends to one that sees all, with sizes of their own but for the width.
pub(super) fn translator() -> Result<Model> {
    translator_of(BlockKind::Serial)
}

/// The same with norms after the sums.
pub(super) fn post_norm_translator() -> Result<Model> {
    translator_of(BlockKind::PostNorm)
}

fn translator_of(kind: BlockKind) -> Result<Model> {
    let mut random = Random(7);
    let of_decoder = Dims {
        n_layers: 3,
        n_heads: 4,
        n_key_value_heads: 2,
        d_head: 3,
        d_mlp: 16,
        d_vocab: 19,
        n_ctx: 9,
        ..DIMS
    };
    let encoder = random.stack(Stack::Encoder, DIMS, Sees::All, None, kind)?;
    let decoder = random.stack(Stack::Decoder, of_decoder, Sees::Earlier, Some(Stack::Encoder), kind)?;
    let readout = ReadoutLayer::Vocabulary {
        of: Stack::Decoder,
        unembed: random.linear(DIMS.d_model, of_decoder.d_vocab)?,
    };
    Ok(model("translator", Network::new(vec![encoder, decoder], readout, false)))
}

/// The first, with positions by biases on its own attentions.
pub(super) fn relative_translator() -> Result<Model> {
    let mut model = translator()?;
    let mut random = Random(17);
    let mut network = (*model.network).clone();
    for stack in &mut network.stacks {
        let table = random.tensor(&[8, stack.dims.n_heads], 1.0, 0.0)?;
        stack.relative_bias = Some(RelativeBias { table, furthest: 5 });
        (stack.positions, stack.w_pos) = (PositionEncoding::RelativeBias, None);
    }
    model.network = Arc::new(Network::new(network.stacks, network.readout, false));
    Ok(model)
}

/// A stack that sees all, with norms after the sums, whose every position predicts: a masked language model.
pub(super) fn encoder() -> Result<Model> {
    let mut random = Random(11);
    let stack = random.stack(Stack::Main, DIMS, Sees::All, None, BlockKind::PostNorm)?;
    let readout =
        ReadoutLayer::Vocabulary { of: Stack::Main, unembed: random.linear(DIMS.d_model, DIMS.d_vocab)? };
    Ok(model("encoder", Network::new(vec![stack], readout, false)))
}

/// A stack that sees all and predicts nothing.
pub(super) fn tower() -> Result<Model> {
    let mut random = Random(13);
    let stack = random.stack(Stack::Main, DIMS, Sees::All, None, BlockKind::Serial)?;
    Ok(model("tower", Network::new(vec![stack], ReadoutLayer::Nothing, false)))
}
