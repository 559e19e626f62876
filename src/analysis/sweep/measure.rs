//! A metric of a model as it is, over many inputs.

use crate::analysis::sweep::engine::{sweep, sweep_rows};
use crate::analysis::sweep::metric::Metric;
use crate::analysis::sweep::part::{SweepPart, SweepSpec};
use crate::error::Result;
use crate::model::input::Input;
use crate::model::model::Model;

impl Metric {
    /// The metric of a model on an input; [`Kl`](Metric::Kl), which compares, is 0.
    ///
    /// Fails for a token, a head or a position that the model or the input does not have.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let metric = Metric::log_prob(&model, " sat")?;
    /// let without = model.ablate(head(0, 5), Ablation::Zero)?;
    /// let text = "the cat sat on the mat, the cat";
    /// println!("{:.2} with it, {:.2} without", metric.measure(&model, text)?, metric.measure(&without, text)?);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn measure(&self, model: &Model, input: impl Into<Input>) -> Result<f64> {
        Ok(sweep("measuring", model, &[], &input.into(), self)?.clean)
    }
}

impl SweepPart {
    /// This part of [`Metric::measure`].
    pub fn measure(&self, model: &Model, input: impl Into<Input>, metric: &Metric) -> Result<()> {
        let input = input.into();
        let asked = SweepSpec::Metric { metric: metric.describe(model) };
        self.fill(model, &input, Some(metric), asked, |share, keep| {
            sweep_rows("measuring", model, &[], &input, metric, share, keep)
        })
    }
}
