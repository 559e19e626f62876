//! The numbers behind the original project's published figures: GPT-2 small, layer 11, its four sequences.
//!
//! They are read from the outputs of its two notebooks (ayyucekizrak/Mechanistic-Interpretability, TransformerLens
//! 2.6.0), so that what a model gives can be compared with them.

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};
use crate::named::{Axis, NamedTensor, ValueKind};

#[derive(Deserialize)]
struct Sequence {
    text: String,
    tokens: Vec<String>,
    attention: Vec<Vec<f32>>,
    qk: Vec<Vec<f32>>,
}

fn sequences() -> Result<Vec<Sequence>> {
    serde_json::from_str(include_str!("../../../assets/original/published.json"))
        .map_err(|error| Error::new(ErrorKind::File, format!("the published numbers: {error}")))
}

fn named(what: &str, sequence: &Sequence, rows: &[Vec<f32>]) -> Result<NamedTensor> {
    let axis = |name| Axis::labelled(name, sequence.tokens.clone());
    let name = format!("{what} of GPT-2 small as published: {:?}", sequence.text);
    NamedTensor::from_vec(name, rows.concat(), vec![axis("query"), axis("key")])
}

/// The published attention of layer 11 `[query, key]`, averaged over its heads, of each of the four sequences.
///
/// ```
/// use headlight::analysis::course_project::published_attention;
/// use headlight::prelude::*;
/// let published = published_attention()?;
/// // "the cat sat the cat sat": from the second " cat" to the first " sat".
/// assert!((published[1].value(&[5, 3])? - 0.2338).abs() < 1e-4);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn published_attention() -> Result<Vec<NamedTensor>> {
    let of = |sequence: &Sequence| {
        Ok(named("attention", sequence, &sequence.attention)?.with_value_kind(ValueKind::Probability))
    };
    sequences()?.iter().map(of).collect()
}

/// The published "QK interaction" of layer 11 of each of the four sequences, under tokens' names although its rows and
/// columns are heads: [`qk_as_published`](crate::analysis::course_project::qk_as_published) computes it.
///
/// ```
/// use headlight::analysis::course_project::published_qk;
/// use headlight::prelude::*;
/// assert_eq!(published_qk()?[3].shape(), [11, 11]);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn published_qk() -> Result<Vec<NamedTensor>> {
    sequences()?.iter().map(|sequence| named("\"QK interaction\"", sequence, &sequence.qk)).collect()
}
