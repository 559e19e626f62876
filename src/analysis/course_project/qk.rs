//! The heatmap that a course project published as a QK circuit (Elhage et al. 2021), computed as it was, to show what it is.

use std::fmt;

use crate::error::{Error, Result};
use crate::hook::Site;
use crate::model::run::Run;
use crate::named::{Axis, NamedTensor};
use crate::network::tap::not_reached;
use crate::view::{View, Visualize};

/// What [`qk_as_published`] computes: heads against heads, and the same numbers under tokens' names.
#[derive(Clone)]
pub struct QkAsPublished {
    heads: NamedTensor,
    tokens: NamedTensor,
}

impl QkAsPublished {
    /// What the numbers are `[query head, key head]`: the mean over positions of one head's query times another head's
    /// key at the same position, neither scaled nor masked. Heads that share keys have a column for each shared key.
    pub fn heads(&self) -> &NamedTensor {
        &self.heads
    }

    /// How they were drawn `[query, key]`: the first rows and columns, one for each token and named after it, although
    /// they are heads. Where there are more tokens than heads, there are no more rows and columns than heads.
    pub fn as_drawn(&self) -> &NamedTensor {
        &self.tokens
    }
}

impl fmt::Debug for QkAsPublished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [heads, tokens] = [self.heads.shape(), self.tokens.shape()]
            .map(|shape| shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" by "));
        write!(f, "{}: {heads}, of which {tokens} were drawn", self.heads.name())
    }
}

impl Visualize for QkAsPublished {
    fn views(&self) -> Result<Vec<View>> {
        Ok(vec![View::Heatmap(self.tokens.clone()), View::Heatmap(self.heads.clone())])
    }
}

/// The "QK interaction" of a layer as it was published: `einsum("bhqd,bhkd->bhqk", q, k)` on tensors whose axes are
/// `[batch, position, head, d_head]`, so that heads meet heads; its mean over positions; and that cut to as many rows
/// and columns as there are tokens, and labelled with them. The attention scores that were meant are
/// [`Circuit::scores`](crate::analysis::Circuit::scores).
///
/// Fails for a run of several inputs, and for a layer whose queries and keys the run does not have.
///
/// ```
/// use headlight::analysis::course_project::qk_as_published;
/// use headlight::prelude::*;
/// let run = Model::open("built-in")?.run_with_cache("the cat sat")?;
/// let published = qk_as_published(&run, 1)?;
/// assert_eq!(published.heads().axis_names(), ["query head", "key head"]);
/// assert_eq!(published.as_drawn().shape(), [4, 4]);
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn qk_as_published(run: &Run, layer: usize) -> Result<QkAsPublished> {
    run.spec().only_stack("the QK matrix as published")?;
    let tokens = run.single()?;
    let (q, k) = (run.get(Site::Q.at(layer))?, run.get(Site::K.at(layer))?); // (T, H, D)
    let (q, k) = (q.tensor(), k.tensor());
    let meetings = q.contiguous()?.matmul(&k.transpose(1, 2)?.contiguous()?)?.mean(0)?; // (H, keys' H)
    let (n_heads, n_keys) = meetings.dims2()?;
    let keys_of = if n_keys == n_heads { "H" } else { "KV" };
    let heads = |kind: &str, n| (0..n).map(|head| format!("L{layer}{kind}{head}")).collect::<Vec<_>>();
    let (rows, columns) = (tokens.len().min(n_heads), tokens.len().min(n_keys));
    let cut = meetings.narrow(0, 0, rows)?.narrow(1, 0, columns)?.contiguous()?;
    let first = |n| Ok::<_, Error>(tokens.labels().get(..n).ok_or_else(not_reached)?.to_vec());
    Ok(QkAsPublished {
        heads: NamedTensor::new(
            format!("queries times keys of layer {layer}, head by head"),
            meetings,
            vec![
                Axis::labelled("query head", heads("H", n_heads)),
                Axis::labelled("key head", heads(keys_of, n_keys)),
            ],
        )?,
        tokens: NamedTensor::new(
            format!("the same as published, heads labelled as tokens (layer {layer})"),
            cut,
            vec![Axis::labelled("query", first(rows)?), Axis::labelled("key", first(columns)?)],
        )?,
    })
}
