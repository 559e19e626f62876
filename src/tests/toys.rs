//! Toys: models of random weights, with gains and biases that matter.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::hook::Stack;
use crate::model::decoding::Decoding;
use crate::model::model::Model;
use crate::model::picture::Picture;
use crate::network::config::ConfigFile;
use crate::network::dims::Dims;
use crate::network::network::{Network, StackNetwork};
use crate::network::parts::attention::{Attention, ScoreSpec};
use crate::network::parts::block::{Block, BlockKind};
use crate::network::parts::embedding::Embedding;
use crate::network::parts::linear::Linear;
use crate::network::parts::mlp::{Activation, Mlp};
use crate::network::parts::norm::Norm;
use crate::network::parts::relative_bias::RelativeBias;
use crate::network::parts::sinusoids::sinusoids;
use crate::network::readout::{MaskedHead, ReadoutLayer, Tower};
use crate::network::spec::{Pooling, PositionEncoding, Reads, Sees, Verdict};
use crate::tokenizer::Tokenizer;

/// Where a toy has its weights from: by name and shape.
pub(super) type Source<'a> = &'a mut dyn FnMut(&str, &[usize]) -> Result<Tensor>;

/// Numbers that look random, and are the same each time.
pub(super) fn random(seed: u64) -> impl FnMut(&str, &[usize]) -> Result<Tensor> {
    let mut state = seed;
    move |name, shape| {
        let (size, around) = match shape {
            _ if name.ends_with(".bias") => (0.2, 0.0),
            _ if name.ends_with("embed.weight") => (1.0, 0.0),
            _ if name.ends_with("positions.weight") => (0.5, 0.0),
            [from, _] => (1.5 / (*from as f64).sqrt(), 0.0),
            _ => (0.3, 1.0),
        };
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f64 / (1u64 << 24) as f64 * 2.0 - 1.0) * size + around
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| next() as f32).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}

pub(super) fn linear(get: Source, name: &str, from: usize, to: usize) -> Result<Linear> {
    let weight = get(&format!("{name}.weight"), &[from, to])?.into();
    Ok(Linear { weight, bias: Some(get(&format!("{name}.bias"), &[to])?) })
}

fn norm(get: Source, name: &str, width: usize) -> Result<Norm> {
    let gain = get(&format!("{name}.weight"), &[width])?;
    Ok(Norm::layer(1e-5, gain, get(&format!("{name}.bias"), &[width])?))
}

fn attention(get: Source, name: &str, dims: &Dims) -> Result<Attention> {
    let Dims { n_heads, n_key_value_heads, d_head, d_model, .. } = *dims;
    let every = n_heads + 2 * n_key_value_heads;
    Ok(Attention {
        n_heads,
        n_key_value_heads,
        qkv: linear(get, &format!("{name}.qkv"), d_model, every * d_head)?,
        output: linear(get, &format!("{name}.out_proj"), n_heads * d_head, d_model)?,
        scoring: ScoreSpec::plain(d_head),
    })
}

pub(super) fn stack(
    get: Source,
    stack: Stack,
    dims: Dims,
    sees: Sees,
    crosses: Option<Stack>,
    block_kind: BlockKind,
) -> Result<StackNetwork> {
    let Dims { n_layers, d_model, d_mlp, d_vocab, n_ctx, .. } = dims;
    let mut blocks = Vec::new();
    for layer in 0..n_layers {
        let of = |part: &str| format!("{stack}.{layer}.{part}");
        let (first, last) = if crosses.is_some() { ("ln2", "ln3") } else { ("", "ln2") };
        let cross = match crosses {
            Some(_) => Some((norm(get, &of(first), d_model)?, attention(get, &of("cross_attn"), &dims)?)),
            None => None,
        };
        blocks.push(Block {
            ln1: norm(get, &of("ln1"), d_model)?,
            attn: attention(get, &of("attn"), &dims)?,
            cross,
            mlp: Some((
                norm(get, &of(last), d_model)?,
                Mlp {
                    activation: Activation::Relu,
                    gate: None,
                    input: linear(get, &of("fc_in"), d_model, d_mlp)?,
                    output: linear(get, &of("fc_out"), d_mlp, d_model)?,
                },
            )),
            after: None,
        });
    }
    let ln_final = match block_kind {
        BlockKind::PostNorm => Norm::none(),
        _ => norm(get, &format!("{stack}.ln_final"), d_model)?,
    };
    Ok(StackNetwork {
        stack,
        dims,
        reads: Reads::Tokens,
        sees,
        positions: PositionEncoding::Learned,
        crosses,
        block_kind,
        embedding: Embedding::Tokens(get(&format!("{stack}.embed.weight"), &[d_vocab, d_model])?.into()),
        embed_scale: 1.0,
        w_pos: Some(get(&format!("{stack}.positions.weight"), &[n_ctx, d_model])?),
        token_types: None,
        ln_embed: Norm::none(),
        relative_bias: None,
        blocks,
        ln_final,
    })
}

fn model(name: &str, network: Network) -> Model {
    let config = ConfigFile { architecture: name.into(), path: name.into(), text: "{}".into() };
    let decoding = Decoding::read(&serde_json::json!({}), &[], network.dims().d_vocab).ok();
    Model {
        name: name.into(),
        network: Arc::new(network),
        config: config.into(),
        tokenizer: Tokenizer::none().into(),
        source_tokenizer: None,
        bos: Ok(0),
        eos: Vec::new(),
        decoding: decoding.map(Arc::new),
        edits: Vec::new(),
    }
}

/// The sizes of a stack.
pub(super) const DIMS: Dims = Dims {
    n_layers: 2,
    n_heads: 3,
    n_key_value_heads: 3,
    d_model: 12,
    d_head: 4,
    d_mlp: 20,
    d_vocab: 17,
    n_ctx: 10,
};

/// The same of the stack that attends to another.
pub(super) const OF_DECODER: Dims = Dims {
    n_layers: 3,
    n_heads: 4,
    n_key_value_heads: 2,
    d_head: 3,
    d_mlp: 16,
    d_vocab: 19,
    n_ctx: 9,
    ..DIMS
};

/// A causal stack that attends to one that sees all, with sizes of their own but for the width.
pub(super) fn translator() -> Result<Model> {
    let network = translator_of([DIMS, OF_DECODER], BlockKind::Serial, &mut random(7))?;
    Ok(model("translator", network))
}

/// The same with norms after the sums, and positions by sines and cosines: the first transformer.
pub(super) fn post_norm_translator() -> Result<Model> {
    let Network { mut stacks, readout, .. } =
        translator_of([DIMS, OF_DECODER], BlockKind::PostNorm, &mut random(7))?;
    for StackNetwork { positions, w_pos, dims, .. } in &mut stacks {
        *positions = PositionEncoding::Sinusoidal;
        *w_pos = Some(sinusoids(dims.n_ctx, dims.d_model, &Device::Cpu)?);
    }
    Ok(model("translator", Network::new(stacks, readout, false)))
}

/// The network of a translator of such sizes.
pub(super) fn translator_of(
    [of_encoder, of_decoder]: [Dims; 2],
    kind: BlockKind,
    get: Source,
) -> Result<Network> {
    let encoder = stack(get, Stack::Encoder, of_encoder, Sees::All, None, kind)?;
    let decoder = stack(get, Stack::Decoder, of_decoder, Sees::Earlier, Some(Stack::Encoder), kind)?;
    let unembed = linear(get, "unembed", of_decoder.d_model, of_decoder.d_vocab)?;
    let readout = ReadoutLayer::Vocabulary { of: Stack::Decoder, head: None, unembed };
    Ok(Network::new(vec![encoder, decoder], readout, false))
}

/// The first, with positions by biases on its own attentions.
pub(super) fn relative_translator() -> Result<Model> {
    let mut model = translator()?;
    let mut random = random(17);
    let mut network = (*model.network).clone();
    for stack in &mut network.stacks {
        let table = random("biases.embed.weight", &[8, stack.dims.n_heads])?;
        stack.relative_bias = Some(RelativeBias { table, furthest: 5 });
        (stack.positions, stack.w_pos) = (PositionEncoding::RelativeBias, None);
    }
    model.network = Arc::new(Network::new(network.stacks, network.readout, false));
    Ok(model)
}

/// A stack that sees all, with norms after the sums, whose every position predicts: a masked language model.
pub(super) fn encoder() -> Result<Model> {
    Ok(model("encoder", encoder_of(DIMS, &mut random(11))?))
}

/// The network of one of such sizes.
pub(super) fn encoder_of(dims: Dims, get: Source) -> Result<Network> {
    let main = stack(get, Stack::Main, dims, Sees::All, None, BlockKind::PostNorm)?;
    let unembed = linear(get, "unembed", dims.d_model, dims.d_vocab)?;
    Ok(Network::new(vec![main], ReadoutLayer::Vocabulary { of: Stack::Main, head: None, unembed }, false))
}

/// The same with what BERT has besides: token types, a norm behind the embeddings, and a head before the unembedding.
pub(super) fn masked() -> Result<Model> {
    let get = &mut random(41);
    let main = typed(get)?;
    let head = MaskedHead {
        dense: linear(get, "head", DIMS.d_model, DIMS.d_model)?,
        activation: Activation::Relu,
        norm: norm(get, "head.norm", DIMS.d_model)?,
    };
    let unembed = linear(get, "unembed", DIMS.d_model, DIMS.d_vocab)?;
    let readout = ReadoutLayer::Vocabulary { of: Stack::Main, head: Some(head), unembed };
    Ok(model("masked", Network::new(vec![main], readout, false)))
}

/// The same with a pooler and no head.
pub(super) fn pooled() -> Result<Model> {
    let get = &mut random(43);
    let main = typed(get)?;
    let pooler = linear(get, "pooler", DIMS.d_model, DIMS.d_model)?;
    let readout = ReadoutLayer::Pooled { of: Stack::Main, pooler, activation: Activation::Tanh };
    Ok(model("pooled", Network::new(vec![main], readout, false)))
}

fn typed(get: Source) -> Result<StackNetwork> {
    let main = stack(get, Stack::Main, DIMS, Sees::All, None, BlockKind::PostNorm)?;
    let token_types = Some(get("types.embed.weight", &[2, DIMS.d_model])?);
    Ok(StackNetwork { token_types, ln_embed: norm(get, "ln_embed", DIMS.d_model)?, ..main })
}

/// A causal stack that predicts, with norms on both sides of attention and MLP.
pub(super) fn sandwich() -> Result<Model> {
    let get = &mut random(19);
    let mut main = stack(get, Stack::Main, OF_DECODER, Sees::Earlier, None, BlockKind::Serial)?;
    for (layer, block) in main.blocks.iter_mut().enumerate() {
        let of = |which: &str| format!("main.{layer}.{which}");
        block.after = Some([norm(get, &of("ln1_post"), 12)?, norm(get, &of("ln2_post"), 12)?]);
    }
    let unembed = linear(get, "unembed", main.dims.d_model, main.dims.d_vocab)?;
    let readout = ReadoutLayer::Vocabulary { of: Stack::Main, head: None, unembed };
    Ok(model("sandwich", Network::new(vec![main], readout, false)))
}

/// A stack that sees all and predicts nothing.
pub(super) fn tower() -> Result<Model> {
    let get = &mut random(13);
    let main = stack(get, Stack::Main, DIMS, Sees::All, None, BlockKind::Serial)?;
    Ok(model("tower", Network::new(vec![main], ReadoutLayer::Nothing, false)))
}

/// A stack that sees all, with norms after the sums, and tells classes by a pooler at its first position: BERT's classifier.
pub(super) fn classifier() -> Result<Model> {
    let get = &mut random(23);
    let main = stack(get, Stack::Main, DIMS, Sees::All, None, BlockKind::PostNorm)?;
    let pooler = linear(get, "pooler", DIMS.d_model, DIMS.d_model)?;
    let readout = classes(get, Pooling::First, Some((pooler, Activation::Tanh)))?;
    Ok(model("classifier", Network::new(vec![main], readout, false)))
}

/// A causal stack that tells classes by its last position: GPT-2's classifier.
pub(super) fn causal_classifier() -> Result<Model> {
    let get = &mut random(29);
    let main = stack(get, Stack::Main, DIMS, Sees::Earlier, None, BlockKind::Serial)?;
    let readout = classes(get, Pooling::Last, None)?;
    Ok(model("classifier", Network::new(vec![main], readout, false)))
}

fn classes(get: Source, pooling: Pooling, pooler: Option<(Linear, Activation)>) -> Result<ReadoutLayer> {
    let labels = ["bad", "so-so", "good"].map(String::from).to_vec();
    let classify = linear(get, "classifier", DIMS.d_model, labels.len())?;
    Ok(ReadoutLayer::Classes { of: Stack::Main, pooling, pooler, classify, labels, verdict: Verdict::One })
}

/// Pictures of 6 x 6 pixels in patches of 2 x 2.
pub(super) const PATCHES: Reads = Reads::Patches { picture: 6, patch: 2, class_token: true };

/// A stack that reads patches, sees all, and has its own class token.
fn vision(get: Source, own: Stack) -> Result<StackNetwork> {
    let dims = Dims { d_vocab: 0, n_ctx: 10, ..DIMS };
    let stack = stack(get, own, dims, Sees::All, None, BlockKind::Serial)?;
    let patch = linear(get, &format!("{own}.patch"), 12, dims.d_model)?;
    let class = Some(get(&format!("{own}.class.bias"), &[dims.d_model])?);
    Ok(StackNetwork { reads: PATCHES, embedding: Embedding::Patches { patch, class }, ..stack })
}

/// A vision transformer that tells classes.
pub(super) fn picture_classifier() -> Result<Model> {
    let get = &mut random(31);
    let main = vision(get, Stack::Main)?;
    let readout = classes(get, Pooling::First, None)?;
    Ok(model("pictures", Network::new(vec![main], readout, false)))
}

/// Two towers, of pictures and of causal text, and the similarity of what they make: CLIP.
pub(super) fn pair() -> Result<Model> {
    let get = &mut random(37);
    let pictures = vision(get, Stack::Vision)?;
    let text = stack(get, Stack::Text, OF_DECODER, Sees::Earlier, None, BlockKind::Serial)?;
    let mut tower = |of: Stack, pooling: Pooling| -> Result<Tower> {
        let weight = get(&format!("{of}.projection"), &[DIMS.d_model, 5])?.into();
        Ok(Tower { of, pooling, projection: Linear { weight, bias: None } })
    };
    let towers = [tower(Stack::Vision, Pooling::First)?, tower(Stack::Text, Pooling::Last)?];
    let readout = ReadoutLayer::Similarity { towers, scale: 7.5 };
    Ok(model("pair", Network::new(vec![pictures, text], readout, false)))
}

/// A picture that a toy reads, of colours that depend on a seed.
pub(super) fn picture(seed: usize) -> Picture {
    let rgb = (0..6 * 6 * 3).map(|i| ((i * 7919 + seed * 104_729) % 251) as u8).collect();
    Picture::from_rgb(6, 6, rgb).expect("a picture")
}

/// Writes a PNG file of so many pixels each way.
pub(super) fn write_png(path: &Path, side: u32, colour: png::ColorType, depth: png::BitDepth, data: &[u8]) {
    let file = std::fs::File::create(path).expect("a file");
    let mut encoder = png::Encoder::new(file, side, side);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if colour == png::ColorType::Indexed {
        encoder.set_palette(vec![9, 8, 7, 100, 150, 200]);
    }
    encoder.write_header().and_then(|mut writer| writer.write_image_data(data)).expect("a picture");
}
