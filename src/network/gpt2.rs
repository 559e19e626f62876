//! GPT-2: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; the block is that of
//! Vaswani et al. 2017 with the norms moved to the inputs of attention and MLP.
//!
//! Shapes at the end of lines: B batch, T positions read now, S positions read so far, H heads, D width of a
//! head, M width of the residual stream, N neurons, V vocabulary.

use candle_core::{D, DType, Device, Tensor};
use serde::Deserialize;

use super::ops::{gelu, softmax};
use super::weights::Weights;
use super::{Dims, Network, Past, Start, Tap, Tapped, fold};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::Site;

/// A GPT-2 of any size.
#[derive(Clone, Debug)]
pub struct Gpt2 {
    dims: Dims,
    w_e: Tensor,   // (V, M)
    w_pos: Tensor, // (n_ctx, M)
    blocks: Vec<Block>,
    ln_final: Norm,
    w_u: Tensor, // (M, V)
    b_u: Tensor, // (V)
}

#[derive(Clone, Debug)]
struct Block {
    ln1: Norm,
    attn: Attention,
    ln2: Norm,
    mlp: Mlp,
}

#[derive(Clone, Debug)]
struct Attention {
    n_heads: usize,
    scale: f64,
    w_qkv: Tensor, // (M, 3HD)
    b_qkv: Tensor, // (3HD)
    w_o: Tensor,   // (HD, M)
    b_o: Tensor,   // (M)
}

#[derive(Clone, Debug)]
struct Mlp {
    activation: Activation,
    w_in: Tensor,  // (M, N)
    b_in: Tensor,  // (N)
    w_out: Tensor, // (N, M)
    b_out: Tensor, // (M)
}

/// A layer norm; without gain and bias once they are folded into what reads it.
#[derive(Clone, Debug)]
struct Norm {
    eps: f64,
    gain_and_bias: Option<(Tensor, Tensor)>, // (M), (M)
}

impl Network for Gpt2 {
    fn dims(&self) -> &Dims {
        &self.dims
    }

    fn device(&self) -> &Device {
        self.w_e.device()
    }

    fn run(&self, start: Start, mut past: Option<&mut Past>, tap: &mut dyn Tap) -> Result<()> {
        let mut tap = Tapped(tap);
        let (first, mut x) = match start {
            Start::Tokens(ids) => (0, self.embed(&ids, past.as_deref(), &mut tap)?), // (B, T, M)
            Start::Residual { layer, stream } => (layer, stream),
        };
        for (layer, block) in self.blocks.iter().enumerate().skip(first) {
            x = block.forward(layer, x, past.as_deref_mut(), &mut tap)?; // (B, T, M)
            if tap.0.stop_after() == Some(layer) {
                return Ok(());
            }
        }
        self.unembed(x, &mut tap)
    }

    fn weights(&self) -> Result<Vec<(String, Tensor)>> {
        self.named_weights()
    }

    fn attention_scale(&self, layer: usize) -> f64 {
        self.blocks.get(layer).map_or(1.0, |block| block.attn.scale)
    }

    fn folded(&self) -> Result<Box<dyn Network>> {
        Ok(Box::new(self.fold()?))
    }
}

impl Gpt2 {
    fn embed(&self, ids: &Tensor, past: Option<&Past>, tap: &mut Tapped) -> Result<Tensor> {
        let (batch, len) = ids.dims2()?;
        let start = past.map_or(0, Past::len);
        let rows = self.w_e.index_select(&ids.flatten_all()?, 0)?; // (BT, M)
        let embed = rows.reshape((batch, len, self.dims.d_model))?; // (B, T, M)
        let embed = tap.at(Site::Embed, None, embed)?;
        let positions = self.w_pos.narrow(0, start, len)?; // (T, M)
        let pos_embed = if tap.wants(Site::PosEmbed, None) {
            tap.at(Site::PosEmbed, None, positions.broadcast_as(embed.dims())?)? // (B, T, M)
        } else {
            positions.unsqueeze(0)? // (1, T, M)
        };
        Ok(embed.broadcast_add(&pos_embed)?) // (B, T, M)
    }

    fn unembed(&self, x: Tensor, tap: &mut Tapped) -> Result<()> {
        use Site::{LnFinalNormalized, LnFinalScale, UnembedIn, UnembedOut};
        if ![LnFinalScale, LnFinalNormalized, UnembedIn, UnembedOut].iter().any(|&s| tap.wants(s, None)) {
            return Ok(());
        }
        let x = self.ln_final.forward(x, Some((LnFinalScale, LnFinalNormalized, None)), tap)?; // (B, T, M)
        let x = match tap.0.unembed_positions() {
            Some(positions) => {
                let positions = positions.iter().map(|&p| p as u32).collect::<Vec<_>>();
                x.index_select(&Tensor::new(positions, x.device())?, 1)?
            }
            None => x,
        };
        let x = tap.at(UnembedIn, None, x)?;
        if tap.wants(UnembedOut, None) {
            tap.at(UnembedOut, None, linear(&x, &self.w_u, &self.b_u)?)?; // (B, T, V)
        }
        Ok(())
    }
}

impl Block {
    fn forward(&self, layer: usize, x: Tensor, past: Option<&mut Past>, tap: &mut Tapped) -> Result<Tensor> {
        let l = Some(layer);
        let pre = tap.at(Site::ResidPre, l, x)?; // (B, T, M)
        let attn_out = self.attention(layer, &pre, past, tap)?; // (B, T, M)
        let attn_out = tap.at(Site::AttnOut, l, attn_out)?;
        let mid = tap.at(Site::ResidMid, l, (pre + attn_out)?)?; // (B, T, M)
        let mlp_in = tap.at(Site::MlpIn, l, mid.clone())?; // (B, T, M)
        let sites = (Site::Ln2Scale, Site::Ln2Normalized, l);
        let normalized = self.ln2.forward(mlp_in, Some(sites), tap)?; // (B, T, M)
        let mlp_out = self.mlp.forward(layer, &normalized, tap)?; // (B, T, M)
        let mlp_out = tap.at(Site::MlpOut, l, mlp_out)?;
        tap.at(Site::ResidPost, l, (mid + mlp_out)?) // (B, T, M)
    }

    fn attention(
        &self,
        layer: usize,
        pre: &Tensor,
        past: Option<&mut Past>,
        tap: &mut Tapped,
    ) -> Result<Tensor> {
        let l = Some(layer);
        let inputs = self.split_inputs(layer, pre, tap)?; // three of (B, T, H, M), where changed
        let sites = (Site::Ln1Scale, Site::Ln1Normalized, l);
        let normalized = self.ln1.forward(pre.clone(), Some(sites), tap)?; // (B, T, M)
        let [q, k, v] = self.attn.project(&normalized)?; // (B, T, H, D)
        let [q, k, v] = self.project_apart(inputs, [q, k, v], tap)?;
        let q = tap.at(Site::Q, l, q)?;
        let k = tap.at(Site::K, l, k)?;
        let v = tap.at(Site::V, l, v)?;
        let (k, v) = match past {
            Some(past) => past.extend(layer, k, v)?, // (B, S, H, D)
            None => (k, v),
        };
        let scores = tap.at(Site::AttnScores, l, self.attn.scores(&q, &k)?)?; // (B, H, T, S)
        let pattern = tap.at(Site::Pattern, l, softmax(&scores)?)?; // (B, H, T, S)
        let z = pattern.matmul(&v.transpose(1, 2)?.contiguous()?)?; // (B, H, T, D)
        let z = tap.at(Site::Z, l, z.transpose(1, 2)?.contiguous()?)?; // (B, T, H, D)
        if tap.wants(Site::Result, l) {
            let result = self.attn.result(&z)?; // (B, T, H, M)
            let given = tap.at(Site::Result, l, result.clone())?;
            if given.id() != result.id() {
                return Ok(given.sum(2)?.broadcast_add(&self.attn.b_o)?); // (B, T, M)
            }
        }
        linear(&z.flatten_from(2)?, &self.attn.w_o, &self.attn.b_o) // (B, T, M)
    }

    /// What the tap made of each head's own copy of the residual stream; nothing where it changed nothing,
    /// so that reading these copies costs a view.
    fn split_inputs(&self, layer: usize, pre: &Tensor, tap: &mut Tapped) -> Result<[Option<Tensor>; 3]> {
        let mut changed = [None, None, None];
        for (slot, site) in changed.iter_mut().zip([Site::QInput, Site::KInput, Site::VInput]) {
            if tap.wants(site, Some(layer)) {
                let (batch, len, width) = pre.dims3()?;
                let copies = pre.unsqueeze(2)?.broadcast_as((batch, len, self.attn.n_heads, width))?;
                let given = tap.at(site, Some(layer), copies.clone())?; // (B, T, H, M)
                *slot = (given.id() != copies.id()).then_some(given);
            }
        }
        Ok(changed)
    }

    fn project_apart(
        &self,
        inputs: [Option<Tensor>; 3],
        shared: [Tensor; 3],
        tap: &mut Tapped,
    ) -> Result<[Tensor; 3]> {
        let mut projected = shared;
        for (part, input) in inputs.into_iter().enumerate() {
            if let Some(input) = input {
                let normalized = self.ln1.forward(input, None, tap)?; // (B, T, H, M)
                projected[part] = self.attn.project_each(part, &normalized)?; // (B, T, H, D)
            }
        }
        Ok(projected)
    }
}

impl Attention {
    fn project(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        let (batch, len, _) = x.dims3()?;
        let all = linear(x, &self.w_qkv, &self.b_qkv)?; // (B, T, 3HD)
        let all = all.reshape((batch, len, 3, self.n_heads, all.dim(2)? / 3 / self.n_heads))?; // (B, T, 3, H, D)
        let part = |i: usize| -> Result<Tensor> { Ok(all.narrow(2, i, 1)?.squeeze(2)?) }; // (B, T, H, D)
        Ok([part(0)?, part(1)?, part(2)?])
    }

    /// Queries (part 0), keys (1) or values (2) where each head reads an input of its own.
    fn project_each(&self, part: usize, x: &Tensor) -> Result<Tensor> {
        let (batch, len, heads, width) = x.dims4()?;
        let x = x.permute((2, 0, 1, 3))?.reshape((heads, batch * len, width))?; // (H, BT, M)
        let y = x.matmul(&self.weight(part)?.contiguous()?)?; // (H, BT, D)
        let y = y.reshape((heads, batch, len, y.dim(2)?))?.permute((1, 2, 0, 3))?; // (B, T, H, D)
        Ok(y.contiguous()?.broadcast_add(&self.bias(part)?)?) // (B, T, H, D)
    }

    fn scores(&self, q: &Tensor, k: &Tensor) -> Result<Tensor> {
        let q = (q.transpose(1, 2)?.contiguous()? * self.scale)?; // (B, H, T, D)
        let k = k.permute((0, 2, 3, 1))?.contiguous()?; // (B, H, D, S)
        let scores = q.matmul(&k)?; // (B, H, T, S)
        let (len, seen) = (q.dim(2)?, k.dim(3)?);
        if len == 1 {
            return Ok(scores);
        }
        Ok(scores.broadcast_add(&causal_mask(len, seen, scores.device())?)?) // (B, H, T, S)
    }

    fn result(&self, z: &Tensor) -> Result<Tensor> {
        let (batch, len, heads, width) = z.dims4()?;
        let z = z.permute((2, 0, 1, 3))?.reshape((heads, batch * len, width))?; // (H, BT, D)
        let result = z.matmul(&self.w_o.reshape((heads, width, self.w_o.dim(1)?))?)?; // (H, BT, M)
        let result = result.reshape((heads, batch, len, result.dim(2)?))?; // (H, B, T, M)
        Ok(result.permute((1, 2, 0, 3))?) // (B, T, H, M)
    }

    /// W_Q (part 0), W_K (1) or W_V (2), as a view.
    fn weight(&self, part: usize) -> Result<Tensor> {
        let (width, all) = self.w_qkv.dims2()?;
        let weight = self.w_qkv.reshape((width, 3, self.n_heads, all / 3 / self.n_heads))?; // (M, 3, H, D)
        Ok(weight.narrow(1, part, 1)?.squeeze(1)?.transpose(0, 1)?) // (H, M, D)
    }

    /// b_Q (part 0), b_K (1) or b_V (2), as a view.
    fn bias(&self, part: usize) -> Result<Tensor> {
        let bias = self.b_qkv.reshape((3, self.n_heads, self.b_qkv.dim(0)? / 3 / self.n_heads))?; // (3, H, D)
        Ok(bias.get(part)?) // (H, D)
    }
}

impl Mlp {
    fn forward(&self, layer: usize, x: &Tensor, tap: &mut Tapped) -> Result<Tensor> {
        let pre = tap.at(Site::MlpPre, Some(layer), linear(x, &self.w_in, &self.b_in)?)?; // (B, T, N)
        let post = tap.at(Site::MlpPost, Some(layer), self.activation.apply(&pre)?)?; // (B, T, N)
        linear(&post, &self.w_out, &self.b_out) // (B, T, M)
    }
}

impl Norm {
    /// Normalises the last axis, showing at the given sites the scale, and the outcome before gain and bias.
    fn forward(
        &self,
        x: Tensor,
        sites: Option<(Site, Site, Option<usize>)>,
        tap: &mut Tapped,
    ) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?; // (B, T, M)
        let mut scale = (centred.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?; // (B, T, 1)
        if let Some((site, _, layer)) = sites {
            scale = tap.at(site, layer, scale)?;
        }
        let mut normalized = centred.broadcast_div(&scale)?; // (B, T, M)
        if let Some((_, site, layer)) = sites {
            normalized = tap.at(site, layer, normalized)?;
        }
        match &self.gain_and_bias {
            Some((gain, bias)) => Ok(normalized.broadcast_mul(gain)?.broadcast_add(bias)?), // (B, T, M)
            None => Ok(normalized),
        }
    }
}

fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let width = dims.pop().unwrap_or(0);
    let rows: usize = dims.iter().product();
    dims.push(weight.dim(1)?);
    Ok(x.reshape((rows, width))?.matmul(weight)?.broadcast_add(bias)?.reshape(dims)?)
}

/// 0 where a query may look, -inf where the key lies ahead of it.
fn causal_mask(len: usize, seen: usize, device: &Device) -> Result<Tensor> {
    let offset = seen - len;
    let mask = (0..len).flat_map(|query| {
        (0..seen).map(move |key| if key <= query + offset { 0f32 } else { f32::NEG_INFINITY })
    });
    Ok(Tensor::from_iter(mask, device)?.reshape((len, seen))?)
}

/// An MLP's nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Activation {
    /// GELU by its tanh approximation (Hendrycks and Gimpel 2016, section 2).
    #[serde(rename = "gelu_new", alias = "gelu_pytorch_tanh", alias = "gelu_fast")]
    GeluTanh,
    /// GELU by the error function.
    #[serde(rename = "gelu")]
    GeluErf,
    #[serde(rename = "relu")]
    Relu,
    #[serde(rename = "silu", alias = "swish")]
    Silu,
}

impl Activation {
    fn apply(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Activation::GeluTanh => gelu(x)?,
            Activation::GeluErf => x.gelu_erf()?,
            Activation::Relu => x.relu()?,
            Activation::Silu => x.silu()?,
        })
    }
}

/// What a GPT-2's `config.json` says, under Hugging Face's names.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    n_layer: usize,
    n_head: usize,
    n_embd: usize,
    #[serde(default)]
    n_inner: Option<usize>,
    vocab_size: usize,
    n_positions: Option<usize>,
    n_ctx: Option<usize>,
    #[serde(default = "default_activation")]
    activation_function: Activation,
    #[serde(default = "default_eps")]
    layer_norm_epsilon: f64,
    #[serde(default = "yes")]
    scale_attn_weights: bool,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
    #[serde(default)]
    add_cross_attention: bool,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
}

fn default_activation() -> Activation {
    Activation::GeluTanh
}

fn default_eps() -> f64 {
    1e-5
}

fn yes() -> bool {
    true
}

impl Config {
    /// The sizes, once they are known to make sense.
    fn dims(&self) -> Result<Dims> {
        let wrong = |what: String, help: &str| Err(Error::new(ErrorKind::Config, what).help(help));
        // Published GPT-2s say both.
        let Some(n_ctx) = self.n_positions.or(self.n_ctx) else {
            return wrong("config.json has no n_positions".into(), "it is the longest input, 1024 in GPT-2");
        };
        let sizes = [
            ("n_layer", self.n_layer),
            ("n_head", self.n_head),
            ("n_embd", self.n_embd),
            ("n_inner", self.n_inner.unwrap_or(1)),
            ("vocab_size", self.vocab_size),
            ("n_positions", n_ctx),
        ];
        for (name, size) in sizes {
            if size == 0 || size > u32::MAX as usize {
                return wrong(
                    format!("config.json says {name} = {size}"),
                    "every size of a model is at least 1 and below 2^32",
                );
            }
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            return wrong(
                format!("config.json says n_embd = {} and n_head = {}", self.n_embd, self.n_head),
                "n_embd is n_head times the width of a head: it must be divisible by n_head",
            );
        }
        let eps = self.layer_norm_epsilon as f32;
        if !(eps.is_finite() && eps > 0.0) {
            return wrong(
                format!("config.json says layer_norm_epsilon = {}", self.layer_norm_epsilon),
                "it is a small positive number, 1e-5 in GPT-2",
            );
        }
        if self.add_cross_attention {
            return wrong(
                "config.json says add_cross_attention = true".into(),
                "only decoders that stand alone can be run: set it to false if the weights have none",
            );
        }
        Ok(Dims {
            n_layers: self.n_layer,
            n_heads: self.n_head,
            d_model: self.n_embd,
            d_head: self.n_embd / self.n_head,
            d_mlp: self.n_inner.unwrap_or(4 * self.n_embd),
            d_vocab: self.vocab_size,
            n_ctx,
        })
    }
}

impl Gpt2 {
    /// Builds the network from weights under Hugging Face's names, with or without `transformer.` before them.
    /// Mask buffers (`attn.bias`, `attn.masked_bias`) are not looked at. Without an `lm_head.weight` the
    /// unembedding is the embedding's transpose, unless the config says that they are not tied.
    pub fn load(config: &Config, weights: &Weights) -> Result<Gpt2> {
        let dims = config.dims()?;
        let prefix = if weights.has("transformer.wte.weight") { "transformer." } else { "" };
        let get = |name: &str, shape: &[usize]| weights.get(&format!("{prefix}{name}"), shape);
        let Dims { d_model: m, d_mlp: n, d_vocab: v, .. } = dims;
        let norm = |name: &str| -> Result<Norm> {
            let gain = get(&format!("{name}.weight"), &[m])?;
            let bias = get(&format!("{name}.bias"), &[m])?;
            Ok(Norm { eps: config.layer_norm_epsilon, gain_and_bias: Some((gain, bias)) })
        };
        let w_e = get("wte.weight", &[v, m])?;
        let w_pos = get("wpe.weight", &[dims.n_ctx, m])?;
        let mut blocks = Vec::new();
        for l in 0..dims.n_layers {
            let get = |name: &str, shape: &[usize]| get(&format!("h.{l}.{name}"), shape);
            let mut scale = if config.scale_attn_weights { 1.0 / (dims.d_head as f64).sqrt() } else { 1.0 };
            if config.scale_attn_by_inverse_layer_idx {
                scale /= (l + 1) as f64;
            }
            blocks.push(Block {
                ln1: norm(&format!("h.{l}.ln_1"))?,
                attn: Attention {
                    n_heads: dims.n_heads,
                    scale,
                    w_qkv: get("attn.c_attn.weight", &[m, 3 * m])?,
                    b_qkv: get("attn.c_attn.bias", &[3 * m])?,
                    w_o: get("attn.c_proj.weight", &[m, m])?,
                    b_o: get("attn.c_proj.bias", &[m])?,
                },
                ln2: norm(&format!("h.{l}.ln_2"))?,
                mlp: Mlp {
                    activation: config.activation_function,
                    w_in: get("mlp.c_fc.weight", &[m, n])?,
                    b_in: get("mlp.c_fc.bias", &[n])?,
                    w_out: get("mlp.c_proj.weight", &[n, m])?,
                    b_out: get("mlp.c_proj.bias", &[m])?,
                },
            });
        }
        let w_u = if weights.has("lm_head.weight") || !config.tie_word_embeddings {
            weights.get("lm_head.weight", &[v, m])?.t()?
        } else {
            w_e.t()?
        };
        let b_u = Tensor::zeros(v, DType::F32, w_e.device())?;
        Ok(Gpt2 { dims, w_e, w_pos, blocks, ln_final: norm("ln_f")?, w_u, b_u })
    }

    fn named_weights(&self) -> Result<Vec<(String, Tensor)>> {
        let mut all = vec![
            ("embed.W_E".to_string(), self.w_e.clone()),
            ("pos_embed.W_pos".to_string(), self.w_pos.clone()),
        ];
        let norm = |all: &mut Vec<_>, name: String, norm: &Norm| {
            if let Some((gain, bias)) = &norm.gain_and_bias {
                all.push((format!("{name}.w"), gain.clone()));
                all.push((format!("{name}.b"), bias.clone()));
            }
        };
        for (l, block) in self.blocks.iter().enumerate() {
            let attn = &block.attn;
            let mlp = &block.mlp;
            let (heads, width) = (self.dims.n_heads, self.dims.d_head);
            norm(&mut all, format!("blocks.{l}.ln1"), &block.ln1);
            for (part, name) in ["Q", "K", "V"].into_iter().enumerate() {
                all.push((format!("blocks.{l}.attn.W_{name}"), attn.weight(part)?));
                all.push((format!("blocks.{l}.attn.b_{name}"), attn.bias(part)?));
            }
            let w_o = attn.w_o.reshape((heads, width, self.dims.d_model))?; // (H, D, M)
            all.push((format!("blocks.{l}.attn.W_O"), w_o));
            all.push((format!("blocks.{l}.attn.b_O"), attn.b_o.clone()));
            norm(&mut all, format!("blocks.{l}.ln2"), &block.ln2);
            all.push((format!("blocks.{l}.mlp.W_in"), mlp.w_in.clone()));
            all.push((format!("blocks.{l}.mlp.b_in"), mlp.b_in.clone()));
            all.push((format!("blocks.{l}.mlp.W_out"), mlp.w_out.clone()));
            all.push((format!("blocks.{l}.mlp.b_out"), mlp.b_out.clone()));
        }
        norm(&mut all, "ln_final".into(), &self.ln_final);
        all.push(("unembed.W_U".into(), self.w_u.clone()));
        all.push(("unembed.b_U".into(), self.b_u.clone()));
        Ok(all)
    }

    fn fold(&self) -> Result<Gpt2> {
        let mut folded = self.clone();
        for block in &mut folded.blocks {
            let Block { ln1, attn, ln2, mlp } = block;
            if let Some((gain, bias)) = ln1.gain_and_bias.take() {
                (attn.w_qkv, attn.b_qkv) = fold::norm_into(&gain, &bias, &attn.w_qkv, &attn.b_qkv)?;
            }
            if let Some((gain, bias)) = ln2.gain_and_bias.take() {
                (mlp.w_in, mlp.b_in) = fold::norm_into(&gain, &bias, &mlp.w_in, &mlp.b_in)?;
            }
            attn.w_o = fold::centred(&attn.w_o)?;
            mlp.w_out = fold::centred(&mlp.w_out)?;
            mlp.b_out = fold::centred(&mlp.b_out)?;
            let width = attn.b_qkv.dim(0)? / 3;
            let b_v = attn.b_qkv.narrow(0, 2 * width, width)?; // (HD)
            let carried = b_v.unsqueeze(0)?.matmul(&attn.w_o)?.squeeze(0)?; // (M)
            attn.b_o = (fold::centred(&attn.b_o)? + carried)?;
            attn.b_qkv = Tensor::cat(&[attn.b_qkv.narrow(0, 0, 2 * width)?, b_v.zeros_like()?], 0)?;
        }
        if let Some((gain, bias)) = folded.ln_final.gain_and_bias.take() {
            (folded.w_u, folded.b_u) = fold::norm_into(&gain, &bias, &folded.w_u, &folded.b_u)?;
        }
        folded.w_e = fold::centred(&folded.w_e)?;
        folded.w_pos = fold::centred(&folded.w_pos)?;
        folded.w_u = fold::centred(&folded.w_u)?;
        folded.b_u = fold::centred(&folded.b_u)?;
        Ok(folded)
    }
}
