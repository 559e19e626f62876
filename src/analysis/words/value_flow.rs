//! Which words' values reach the position that is read, through which heads, and what they do there.

use std::fmt;

use crate::analysis::residual::stream::Stream;
use crate::analysis::sweep::engine::sweep;
use crate::analysis::sweep::metric::Metric;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Attn, Head, Site, head};
use crate::memory;
use crate::memory::floats;
use crate::model::input::Input;
use crate::model::model::Model;
use crate::model::run_options::RunOptions;
use crate::named::{Axis, NamedTensor, ValueKind, layer_axis};
use crate::view::{View, Visualize};

/// What [`value_flow`] found.
#[derive(Clone)]
pub struct ValueFlow {
    metric: String,
    value: f64,
    by_layer: NamedTensor,
    by_head: NamedTensor,
}

/// How much each word's value, as each head of each layer passes it on to the position that a metric reads, moves the metric: the metric,
/// minus what it is where that one message (attention times value) is taken out of what the head mixes, and all above runs on from there.
/// The position is `[CLS]` for a class of an encoder, the end of the text for one of a decoder, and where a token's logit is read.
///
/// So of a word and a head it is the whole effect of that message, and not of what the word does otherwise: by way of other words, of
/// other layers, or of the stream at its own place. Nothing is approximated. Effects need not add up, for what one message does may hang on
/// another; all heads of a layer are therefore measured together too.
///
/// Fails for several inputs, for metrics that are read at more than one position, and where the metric cannot be had.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in-sentiment")?;
/// let verdict = Metric::class_diff(&model, "positive", "negative")?;
/// let flow = value_flow(&model, "the plot was not bad", &verdict)?;
/// println!("{:?}", flow.ranked()?[0]); // the head and the word that do most
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn value_flow(model: &Model, input: impl Into<Input>, metric: &Metric) -> Result<ValueFlow> {
    let input = input.into();
    if input.len() != 1 {
        return Err(Error::new(
            ErrorKind::Input,
            format!("there are {} inputs where one is asked about", input.len()),
        )
        .help("ask about one at a time"));
    }
    let stack = model.spec().only_stack("value flow")?.stack;
    let tokens = model.tokenize_one(&input, 0)?;
    metric.check(model, &tokens)?;
    let Some(query) = metric.position_read(model, &tokens) else {
        return Err(Error::new(
            ErrorKind::Input,
            format!("the {metric:?} is read at more than one position"),
        )
        .help("ask about a class, a logit difference or a log-probability"));
    };
    let dims = *model.dims();
    let (layers, heads, len) = (dims.n_layers, dims.n_heads, tokens.len());
    let variants = layers.saturating_mul(len).saturating_mul(heads + 1);
    memory::check(model.device(), floats([variants, heads, dims.d_head + 256]), || {
        (format!("what {heads} heads of {layers} layers send of {len} tokens"), "ask about a shorter text")
    })?;
    let run = model.run_with_options(&input, &RunOptions::only([Site::Pattern, Site::V]))?;
    let stream = Stream::through_norms(model, &run)?;
    let (mut by_head, mut by_layer) = (Vec::new(), Vec::new());
    for layer in 0..layers {
        let sent = stream.messages(layer, Attn::Own, query)?; // [key, head, d_head]
        for key in 0..len {
            by_layer.push(model.without_message(Site::Z.at(layer), query, sent.get(key)?));
        }
        for head in 0..heads {
            for key in 0..len {
                let own = sent.get(key)?.narrow(0, head, 1)?;
                let own = own.pad_with_zeros(0, head, heads - head - 1)?;
                by_head.push(model.without_message(Site::Z.at(layer), query, own));
            }
        }
    }
    let of_layers = by_layer.len();
    by_layer.append(&mut by_head);
    let swept = sweep("value flow", model, &by_layer, &input, metric)?;
    let values: Vec<f32> = swept.variants.iter().map(|without| (swept.clean - without) as f32).collect();
    let metric = metric.describe(model);
    let positions = Axis::labelled("position", tokens.shared_labels());
    let rows = layer_axis(stack, layers);
    let by_layer = NamedTensor::from_vec(
        format!("{metric}: what each layer's heads pass on of each word"),
        values[..of_layers].to_vec(),
        vec![rows.clone(), positions.clone()],
    )?;
    let by_head = NamedTensor::from_vec(
        format!("{metric}: what each head passes on of each word"),
        values[of_layers..].to_vec(),
        vec![rows, model.head_axis(), positions],
    )?;
    Ok(ValueFlow {
        metric,
        value: swept.clean,
        by_layer: by_layer.with_value_kind(ValueKind::Signed),
        by_head: by_head.with_value_kind(ValueKind::Signed),
    })
}

impl ValueFlow {
    /// The metric of the input.
    pub fn value(&self) -> f64 {
        self.value
    }

    /// Of each head and word `[layer, head, position]`.
    pub fn by_head(&self) -> &NamedTensor {
        &self.by_head
    }

    /// Of each word, by all heads of a layer at once `[layer, position]`.
    pub fn by_layer(&self) -> &NamedTensor {
        &self.by_layer
    }

    /// Of each word, summed over layers `[position]`.
    pub fn scores(&self) -> Result<NamedTensor> {
        let name = format!("{} by value flow: {:.3}", self.metric, self.value);
        Ok(self.by_layer.sum("layer")?.renamed(name).with_value_kind(ValueKind::Signed))
    }

    /// Heads with the words that they pass on, those that do most, for or against, first.
    pub fn ranked(&self) -> Result<Vec<(Head, String, f32)>> {
        let [layers, heads, positions] = [0, 1, 2].map(|axis| self.by_head.axes()[axis].len());
        let values = self.by_head.to_vec()?;
        let mut order: Vec<usize> = (0..layers * heads * positions).collect();
        order.sort_by(|&a, &b| values[b].abs().total_cmp(&values[a].abs()));
        let words = &self.by_head.axes()[2];
        let each = order.into_iter().map(|at| {
            let head = head(at / positions / heads, at / positions % heads);
            (head, words.label(at % positions), values[at])
        });
        Ok(each.collect())
    }
}

impl fmt::Debug for ValueFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranked = self.ranked().map_err(|_| fmt::Error)?;
        let most = ranked.iter().take(5).map(|(head, word, value)| format!("{head} of {word:?} {value:.3}"));
        write!(f, "value flow of {}: {}", self.metric, most.collect::<Vec<_>>().join(", "))
    }
}

impl Visualize for ValueFlow {
    /// The words, the words by layer, and the words by head of each layer.
    fn views(&self) -> Result<Vec<View>> {
        Ok(vec![
            View::Tokens(self.scores()?),
            View::Heatmap(self.by_layer.clone()),
            View::SmallMultiples { values: self.by_head.clone(), selected: None },
        ])
    }
}
