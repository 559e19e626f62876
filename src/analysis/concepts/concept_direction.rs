//! A concept's direction at a hook: by the difference of means or a logistic probe, with how well it tells what it has not seen.

use std::fmt;

use candle_core::Tensor;

use crate::analysis::concepts::direction::{ConceptMethod, Direction};
use crate::analysis::concepts::examples::{ConceptPosition, Examples};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Hook, IntoHook};
use crate::model::input::Input;
use crate::model::model::Model;
use crate::model::run::Run;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::view::{Table, View, Visualize};

/// What [`concept_direction`] found.
#[derive(Clone)]
pub struct ConceptDirection {
    hook: Hook,
    position: ConceptPosition,
    method: ConceptMethod,
    vector: NamedTensor,
    /// Where along it, of length 1, what has the concept begins.
    threshold: f64,
    accuracy: f64,
    shuffled: f64,
    texts: usize,
}

/// The direction in an activation along which texts that have a concept lie apart from texts that lack it. With it come two numbers, for
/// in so many dimensions some direction parts anything: how many texts are told rightly that were held out, a fifth at a time, and how many
/// where which text has the concept is shuffled.
///
/// The vector is as long as the means of both kinds are apart along it, so that [`Model::steer`] by 1 moves a text from the one mean to the
/// other, and by -1 back; [`Model::ablate_direction`] takes what a text has of it away. For encoders and decoders alike.
///
/// Fails where either kind has fewer than two texts, for hooks that have more than a position and a width, and where a text lacks the
/// position.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in-sentiment")?;
/// let praise = ["a good film", "the plot is superb", "i loved the cast", "the score was fresh"];
/// let blame = ["a dull film", "the plot is awful", "i hated the cast", "the score was weak"];
/// let hook = ("resid_pre", 1);
/// let sentiment =
///     concept_direction(&model, praise, blame, hook, ConceptPosition::First, ConceptMethod::DifferenceOfMeans)?;
/// println!("{sentiment:?}");
/// let kinder = model.steer(sentiment.hook(), sentiment.vector(), 2.0)?;
/// println!("{:?}", kinder.classify("the plot is awful")?);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn concept_direction(
    model: &Model,
    has: impl Into<Input>,
    lacks: impl Into<Input>,
    hook: impl IntoHook,
    position: ConceptPosition,
    method: ConceptMethod,
) -> Result<ConceptDirection> {
    let hook = model.hook(hook)?;
    let examples = Examples::new(model, &has.into(), &lacks.into())?;
    let rows = examples.read(model, &[hook], &[position])?.remove(0).remove(0);
    let found = Direction::of(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>(), &examples.is_of, method)?;
    let found = found.ok_or_else(|| {
        let what = "texts that have the concept and texts that lack it are alike here";
        Error::new(ErrorKind::Input, what)
            .help("in the embeddings of a token that all texts have nothing differs: look in a later layer, or at another position")
    })?;
    let (accuracy, shuffled) = examples.held_out(&rows, method)?;
    let apart =
        found.mean_along(&rows, &examples.is_of, true) - found.mean_along(&rows, &examples.is_of, false);
    let values = found.unit.iter().map(|x| (x * apart) as f32).collect();
    let width = hook.site().axes()[1];
    let vector = NamedTensor::from_vec(
        format!("direction at {hook}, {position}"),
        values,
        vec![Axis::unlabelled(width.name(), found.unit.len())],
    )?;
    Ok(ConceptDirection {
        hook,
        position,
        method,
        vector: vector.with_value_kind(ValueKind::Signed),
        threshold: found.threshold,
        accuracy,
        shuffled,
        texts: rows.len(),
    })
}

impl ConceptDirection {
    /// The hook that it is at.
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// The direction `[d_model]`, from what lacks the concept to what has it, as long as their means are apart along it.
    pub fn vector(&self) -> &NamedTensor {
        &self.vector
    }

    /// The share of texts told rightly by directions that were found without them: five-fold.
    pub fn held_out_accuracy(&self) -> f64 {
        self.accuracy
    }

    /// The same where which text has the concept is shuffled, the mean of five times.
    pub fn shuffled_accuracy(&self) -> f64 {
        self.shuffled
    }

    /// How far along the direction, of length 1, what has the concept begins.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// How far beyond the threshold each position of a run lies, in units of the distance between the means `[position]`: above 0 where the
    /// concept is.
    pub fn project(&self, run: &Run) -> Result<NamedTensor> {
        let activation = run.get(self.hook)?;
        let vector = self.vector.tensor().to_device(activation.tensor().device())?;
        let length = vector.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?;
        if activation.tensor().dims().last() != Some(&vector.dim(0)?) {
            return Err(Error::new(
                ErrorKind::Input,
                format!("the run's `{}` has shape {:?}", self.hook, activation.shape()),
            )
            .help("give one run of the model that the direction is of"));
        }
        let along = activation.tensor().contiguous()?.matmul(&vector.unsqueeze(1)?)?.squeeze(1)?; // [position]
        let length = f64::from(length);
        let values: Tensor = ((along / length)? - self.threshold)?;
        let values = (values / length)?;
        let axes = vec![activation.axes()[0].clone()];
        let name = format!("along the {}", self.vector.name());
        Ok(NamedTensor::new(name, values, axes)?.with_value_kind(ValueKind::Signed))
    }
}

impl fmt::Debug for ConceptDirection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConceptDirection { hook, position, method, accuracy, shuffled, texts, .. } = self;
        write!(
            f,
            "{method} at {hook}, {position}: {:.1} % of {texts} held-out texts told, {:.1} % where labels are shuffled",
            100.0 * accuracy,
            100.0 * shuffled
        )
    }
}

impl Visualize for ConceptDirection {
    fn views(&self) -> Result<Vec<View>> {
        let mut table = Table::new(format!("{} at {}, {}", self.method, self.hook, self.position), ["", ""]);
        table.push(["texts".to_string(), self.texts.to_string()]);
        table.push(["held-out accuracy".to_string(), format!("{:.1} %", 100.0 * self.accuracy)]);
        table.push(["the same, labels shuffled".to_string(), format!("{:.1} %", 100.0 * self.shuffled)]);
        Ok(vec![View::Table(table)])
    }
}
