//! The class lens: what a classifier would say if it stopped at each layer.

use std::fmt;

use candle_core::Tensor;

use crate::analysis::residual::stream::Stream;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::Site;
use crate::model::model::Model;
use crate::model::run::Run;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::network::record::Record;
use crate::network::spec::{NormPlace, Readout};
use crate::network::start::Start;
use crate::view::{View, Visualize};

/// What [`class_lens`] found: rows are `0_pre`, `1_pre`, ..., `final_post`, the stream as each layer reads it and, at last, as it is read out.
#[derive(Clone)]
pub struct ClassLens {
    logits: NamedTensor,
    probability: NamedTensor,
}

/// Reads classes out of the stream as each layer reads it, as the model does at its end: `[CLS]` of an encoder, or the last position of a
/// decoder, through the pooler and the classifier (and a decoder's last norm). It is the logit lens (nostalgebraist 2020) of a classifier.
///
/// It assumes that lower layers write as the last one does. They were not trained to: where the lens says nothing yet, the class may be
/// there in another form, as a probe can tell ([`concept_direction`](crate::analysis::concept_direction)).
///
/// Fails for several inputs, for a run of another model or without the hooks of the stream, and for models that tell no classes.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in-sentiment")?;
/// let lens = class_lens(&model, &model.run_with_cache("the plot was not bad")?)?;
/// assert_eq!(lens.logits().shape(), [3, 2]);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn class_lens(model: &Model, run: &Run) -> Result<ClassLens> {
    let stream = Stream::through_norms(model, run)?;
    model.spec().check(Site::ClassLogits.into())?;
    let Readout::Classes { labels, verdict, .. } = model.spec().readout() else {
        return Err(
            Error::new(ErrorKind::Model, "this model tells no classes").help("`logit_lens` is of tokens")
        );
    };
    let n_layers = model.dims().n_layers;
    let last = match model.spec().last_stack().norm_place {
        NormPlace::After => Site::NormalizedResidPost,
        NormPlace::Before | NormPlace::Both => Site::ResidPost,
    };
    let mut hooks: Vec<_> =
        (0..n_layers).map(|layer| (format!("{layer}_pre"), Site::ResidPre.at(layer))).collect();
    hooks.push(("final_post".into(), last.at(n_layers.saturating_sub(1))));
    let (rows, hooks): (Vec<String>, Vec<_>) = hooks.into_iter().unzip();
    let streams = hooks.into_iter().map(|hook| stream.read(hook)).collect::<Result<Vec<_>>>()?;
    let mut logits = Record::new([Site::ClassLogits.into()]);
    model.execute(
        Start::residual(stream.stack(), n_layers, Tensor::stack(&streams, 0)?),
        None,
        &mut logits,
    )?;
    let logits = logits.only()?; // [row, class]
    let axes = vec![Axis::labelled("layer", rows), Axis::labelled("class", labels.clone())];
    let said = verdict.read(&logits)?;
    let logits =
        NamedTensor::new("class lens: logits", logits, axes.clone())?.with_value_kind(ValueKind::Signed);
    let probability = NamedTensor::new("class lens", said, axes)?.with_value_kind(verdict.value_kind());
    Ok(ClassLens { logits, probability })
}

impl ClassLens {
    /// The logit of each class at each layer `[layer, class]`.
    pub fn logits(&self) -> &NamedTensor {
        &self.logits
    }

    /// What the model would say there `[layer, class]`, as [`Model::classify`] reads logits.
    pub fn values(&self) -> &NamedTensor {
        &self.probability
    }
}

impl fmt::Debug for ClassLens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.probability.write_rows(f)
    }
}

impl Visualize for ClassLens {
    fn views(&self) -> Result<Vec<View>> {
        Ok(vec![View::Heatmap(self.probability.clone())])
    }
}
