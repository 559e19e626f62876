//! The original project's detection, formula by formula, so that what it measured can be seen.
//!
//! The notebook `induction_head_detection` of ayyucekizrak/Mechanistic-Interpretability: one score and one threshold a
//! sequence, from one layer's pattern.

use std::fmt;

use crate::analysis::heads::evaluation::Evaluation;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{Hook, Site};
use crate::model::run::Run;
use crate::view::{Table, View, Visualize};

/// The layer that the original looked at; a smaller model's last stands for it.
const LAYER: usize = 11;

/// The original's "true" labels of its four sequences: whether the sequence repeats. No head was labelled.
const LABELS: [bool; 4] = [false, true, false, true];

/// What [`as_published`] computed.
#[derive(Clone)]
pub struct PublishedDetection {
    hook: Hook,
    rows: Vec<Row>,
}

#[derive(Clone)]
struct Row {
    text: String,
    score: f32,
    threshold: f32,
}

impl PublishedDetection {
    /// The score of each sequence: 1 / tokens, whatever the model.
    pub fn scores(&self) -> Vec<f32> {
        self.rows.iter().map(|row| row.score).collect()
    }

    /// The threshold of each sequence: at most 1 / (2 tokens), whatever the model.
    pub fn thresholds(&self) -> Vec<f32> {
        self.rows.iter().map(|row| row.threshold).collect()
    }

    /// Whether each score exceeds its threshold.
    pub fn labels(&self) -> Vec<bool> {
        self.rows.iter().map(|row| row.score > row.threshold).collect()
    }

    /// Precision, recall and F1 against labels of the sequences; the original's own where there are four.
    pub fn evaluate(&self) -> Result<Evaluation> {
        if self.rows.len() != LABELS.len() {
            return Err(Error::new(
                ErrorKind::Input,
                format!("the original has 4 sequences, not {}", self.rows.len()),
            )
            .help("run the original's four; or judge heads, with `scores.detect(...)` and `causal_truth`"));
        }
        Evaluation::of(&self.labels(), &LABELS, 1.0)
    }
}

impl fmt::Debug for PublishedDetection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows.iter().map(|row| format!("{:.4} > {:.4}", row.score, row.threshold));
        write!(f, "as published, from {}: {}", self.hook, rows.collect::<Vec<_>>().join(", "))
    }
}

impl Visualize for PublishedDetection {
    fn views(&self) -> Result<Vec<View>> {
        let title = format!("detection as published, from {}", self.hook);
        let mut table = Table::new(title, ["sequence", "score", "threshold", "label"]);
        for (row, label) in self.rows.iter().zip(self.labels()) {
            table.push([
                row.text.clone(),
                format!("{:.6}", row.score),
                format!("{:.6}", row.threshold),
                u8::from(label).to_string(),
            ]);
        }
        Ok(vec![View::Table(table)])
    }
}

/// The original's detection on each input of a run, from the pattern of layer 11, or the last of a smaller model.
///
/// With a pattern `act` `[1, head, query, key]`, in PyTorch's words: the score is
/// `act.mean(dim=-2).diagonal(offset=1).mean()`. The mean was meant to be over heads, but is over queries; the diagonal
/// then runs over batch and head, and picks what head 1 gives each key. Rows sum to 1, so its mean is 1 / tokens for any
/// model. The threshold is `0.5 * act.var(dim=-1).mean()`: half the unbiased variance of each row, averaged. It cannot
/// exceed 1 / (2 tokens), so every sequence is labelled 1.
///
/// ```
/// use headlight::analysis::course_project::as_published;
/// use headlight::prelude::*;
/// let run = Model::open("built-in")?.run_with_cache(["the cat sat on the mat", "the cat sat the cat sat"])?;
/// let published = as_published(&run)?;
/// assert!((published.scores()[0] - 1.0 / 7.0).abs() < 1e-6);
/// assert_eq!(published.labels(), [true, true]);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn as_published(run: &Run) -> Result<PublishedDetection> {
    run.spec().decoder("the detection as published")?;
    let hook = Site::Pattern.at(LAYER.min(run.n_layers() - 1));
    let mut rows = Vec::new();
    for index in 0..run.tokens().len() {
        let item = run.item(index)?;
        let pattern = item.get(hook)?;
        let [heads, len, _] = pattern.shape()[..] else {
            return Err(Error::new(ErrorKind::Axes, format!("`{hook}` has axes {:?}", pattern.axis_names())));
        };
        if heads < 2 || len < 2 {
            return Err(Error::new(
                ErrorKind::Input,
                format!("the original's score reads head 1 of several tokens; here are {heads} heads, {len} tokens"),
            )
            .help("take a model of two heads or more, and two tokens or more"));
        }
        let of_head_1 = pattern.tensor().mean(1)?.get(1)?;
        let score = of_head_1.mean_all()?.to_scalar::<f32>()?;
        let threshold = 0.5 * pattern.tensor().var(2)?.mean_all()?.to_scalar::<f32>()?;
        let labels = item.tokens()[0].labels();
        let text = labels[usize::from(item.tokens()[0].starts_with_bos())..].concat();
        rows.push(Row { text, score, threshold });
    }
    Ok(PublishedDetection { hook, rows })
}
