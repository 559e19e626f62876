//! What a classifier says of inputs.

use std::fmt;

use candle_core::{D, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::hook::Site;
use crate::model::input::Input;
use crate::model::model::Model;
use crate::model::run::Pieces;
use crate::named::{Axis, NamedTensor, ValueKind};
use crate::network::cpu::softmax;
use crate::network::record::Record;
use crate::network::spec::{Readout, Verdict};
use crate::progress;
use crate::view::{View, Visualize};

/// What [`Model::classify`] found: for each input what every class has.
#[derive(Clone)]
pub struct Classes {
    values: NamedTensor,
    verdict: Verdict,
}

/// How many inputs run at once.
const AT_ONCE: usize = 16;

impl Model {
    /// What a classifier says of one or several texts, pairs of texts or pictures, as transformers' pipelines read its logits: of classes
    /// of which one holds, probabilities by softmax; where each holds or not, by sigmoid; where they are numbers, these (`problem_type`
    /// of the model's `config.json`). Inputs of like lengths run together.
    ///
    /// Draws itself as bars. Fails for models that tell no classes.
    pub fn classify(&self, input: impl Into<Input>) -> Result<Classes> {
        let input = input.into();
        self.hook(Site::ClassLogits)?;
        let Readout::Classes { of, labels, verdict, .. } = self.spec().readout() else {
            return Err(Error::new(ErrorKind::Model, "this model tells no classes")
                .help("its logits are there to be read: `logits`"));
        };
        let pieces = (0..input.len()).map(|index| self.pieces_of_one(&input, index));
        let pieces = pieces.collect::<Result<Vec<Pieces>>>()?;
        let len =
            |pieces: &Pieces| pieces.get(of).and_then(|all| all.first()).map_or(0, |tokens| tokens.len());
        let mut order: Vec<usize> = (0..pieces.len()).collect();
        order.sort_by_key(|&index| len(&pieces[index]));
        let mut rows: Vec<Vec<f32>> = vec![Vec::new(); pieces.len()];
        for together in order.chunks(AT_ONCE) {
            progress::check("classifying")?;
            let mut batch = Pieces::new();
            for &index in together {
                for (&stack, tokens) in &pieces[index] {
                    batch.entry(stack).or_default().extend(tokens.iter().cloned());
                }
            }
            let mut logits = Record::new([Site::ClassLogits.into()]);
            self.execute(self.batch(&batch)?.into(), None, &mut logits)?;
            let values = verdict.read(&logits.only()?)?.to_vec2::<f32>()?;
            together.iter().zip(values).for_each(|(&index, values)| rows[index] = values);
        }
        let inputs: Vec<String> = (0..input.len()).map(|index| input.said(index)).collect();
        let axes = vec![Axis::labelled("text", inputs), Axis::labelled("class", labels.clone())];
        let name = if *verdict == Verdict::Number { "value" } else { "probability" };
        let values = NamedTensor::from_vec(name, rows.concat(), axes)?;
        Ok(Classes { values: values.with_value_kind(verdict.value_kind()), verdict: *verdict })
    }

    /// The class of a name. Fails, naming those that there are, if there is none.
    pub(crate) fn class_index(&self, class: &str) -> Result<usize> {
        self.spec().check(Site::ClassLogits.into())?;
        class_index(self.spec().class_labels(), class)
    }
}

impl Verdict {
    /// What logits `[input, class]` say.
    pub(crate) fn read(self, logits: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Verdict::One => softmax(logits)?,
            Verdict::Several => ((logits.neg()?.exp()? + 1.0)?.recip())?,
            Verdict::Number => logits.clone(),
        })
    }

    /// What kind of numbers that are.
    pub(crate) fn value_kind(self) -> ValueKind {
        if self == Verdict::Number { ValueKind::Signed } else { ValueKind::Probability }
    }
}

/// The class of a name. Fails, naming those that there are, if there is none.
fn class_index(labels: &[String], class: &str) -> Result<usize> {
    labels.iter().position(|label| label == class).ok_or_else(|| {
        Error::new(ErrorKind::Input, format!("there is no class {class:?}"))
            .help(format!("the model tells {}", listed(labels)))
    })
}

/// The names of classes, as errors list them.
pub(crate) fn listed(labels: &[String]) -> String {
    labels.iter().map(|label| format!("{label:?}")).collect::<Vec<_>>().join(", ")
}

impl Classes {
    /// What each class has of each input `[text, class]`: probabilities, or numbers where the classes are such.
    pub fn values(&self) -> &NamedTensor {
        &self.values
    }

    fn texts(&self) -> &[String] {
        self.values.axes()[0].labels().unwrap_or_default()
    }

    /// What the classes are called.
    pub fn labels(&self) -> &[String] {
        self.values.axes()[1].labels().unwrap_or_default()
    }

    /// What one class has of each input. Fails, naming the classes, if there is no such.
    pub fn of(&self, class: &str) -> Result<Vec<f32>> {
        let index = class_index(self.labels(), class)?;
        self.values.select("class", index)?.to_vec()
    }

    /// The class that has most, of each input.
    pub fn best(&self) -> Result<Vec<&str>> {
        let values = self.values.to_vec()?;
        let labels = self.labels();
        let best = |row: &[f32]| {
            let most = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a)));
            most.and_then(|index| labels.get(index)).map_or("", String::as_str)
        };
        Ok(values.chunks(labels.len().max(1)).map(best).collect())
    }
}

impl fmt::Debug for Classes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.to_vec().map_err(|_| fmt::Error)?;
        for (text, row) in self.texts().iter().zip(values.chunks(self.labels().len().max(1))) {
            let each = self.labels().iter().zip(row).map(|(label, value)| format!("{label} {value:.4}"));
            writeln!(f, "{text:?}: {}", each.collect::<Vec<_>>().join(", "))?;
        }
        Ok(())
    }
}

impl Visualize for Classes {
    /// One input's as bars, a few inputs' as groups of bars, of many a heatmap with a row for each.
    fn views(&self) -> Result<Vec<View>> {
        const FEW: usize = 12;
        let title = match self.verdict {
            Verdict::One => "probability of each class",
            Verdict::Several => "probability of each class by itself",
            Verdict::Number => "value of each class",
        };
        Ok(vec![match self.texts() {
            [text] => View::Bars(self.values.select("text", 0)?.renamed(format!("{title}: {text}"))),
            few if few.len() <= FEW => {
                let turned = self.values.tensor().transpose(D::Minus1, D::Minus2)?.contiguous()?;
                let [texts, classes] = self.values.axes() else { return Ok(Vec::new()) };
                let turned = NamedTensor::new(title, turned, vec![classes.clone(), texts.clone()])?;
                View::Bars(turned.with_value_kind(self.values.value_kind()))
            }
            _ => View::Heatmap(self.values.clone().renamed(title)),
        }])
    }
}
