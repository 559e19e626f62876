//! Which numbers an alignment has of each pair.

use crate::analysis::alignment::gold::WordAlignment;
use crate::analysis::head_grid::HeadGrid;
use crate::hook::{Attn, Head, Stack};
use crate::model::digest::InputDigest;
use crate::model::model::Model;

/// The first numbers of a row: sure links, the target's words, and whether its pieces are words.
pub(crate) const FIRST: usize = 3;
/// Of each head, for the row that writes a word and the one that reads it: links found, those of them that are possible, those that are sure.
pub(crate) const OF_HEAD: usize = 6;
/// Of all heads together: links found, possible and sure; words with a link, and their probabilities clean, with a linked edge cut and with
/// others cut.
pub(crate) const OF_ALL: usize = 7;
/// Of each head that is cut: links found, possible and sure, and probabilities with the edge cut in it alone and in the others.
pub(crate) const OF_CAUSED: usize = 5;

/// What says which numbers a row has.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct AlignmentSpec {
    pub(crate) stack: Stack,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) caused: Vec<String>,
    pub(crate) with_all: bool,
    /// The digest of what is known; nothing where heads are judged by cause.
    pub(crate) gold: Option<String>,
}

impl AlignmentSpec {
    pub(crate) fn new(
        model: &Model,
        caused: &[Head],
        with_all: bool,
        gold: Option<&[WordAlignment]>,
    ) -> AlignmentSpec {
        let spec = model.spec().last_stack();
        let digest = |gold: &[WordAlignment]| {
            let mut digest = InputDigest::new();
            for alignment in gold {
                for (links, mark) in [(alignment.sure(), 1u32), (alignment.possible(), 2)] {
                    let numbers =
                        links.iter().flat_map(|&(a, b)| [a as u32, b as u32]).chain([u32::MAX, mark]);
                    digest.add(&numbers.collect::<Vec<_>>());
                }
            }
            digest.finish()
        };
        AlignmentSpec {
            stack: spec.stack,
            layers: spec.dims.n_layers,
            heads: spec.dims.n_heads,
            caused: caused.iter().map(Head::to_string).collect(),
            with_all,
            gold: gold.map(digest),
        }
    }

    pub(crate) fn width(&self) -> Option<usize> {
        let heads = self.layers.checked_mul(self.heads)?;
        let all = if self.with_all { OF_ALL } else { 0 };
        FIRST
            .checked_add(heads.checked_mul(OF_HEAD)?)?
            .checked_add(all)?
            .checked_add(self.caused.len() * OF_CAUSED)
    }

    pub(crate) fn all_heads(&self) -> Vec<Head> {
        HeadGrid::heads_of(vec![(self.stack, Attn::Cross, [self.layers, self.heads])]).collect()
    }
}
