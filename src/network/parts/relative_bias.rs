//! Positions by a bias on attention scores that depends on how far a key stands from its query: Raffel et al. 2020, "Exploring the
//! Limits of Transfer Learning with a Unified Text-to-Text Transformer", section 2.1.

use candle_core::Tensor;

use crate::error::Result;
use crate::network::spec::Sees;

/// Distances share buckets: near ones have one each, far ones ever wider ones, and all beyond the furthest the last.
#[derive(Clone, Debug)]
pub(crate) struct RelativeBias {
    /// The bias of each bucket, head by head.
    pub(crate) table: Tensor, // (buckets, H)
    /// The distance from which on all share a bucket.
    pub(crate) furthest: usize,
}

impl RelativeBias {
    /// What is added to the scores of `len` queries, the last of which stands at the last of `seen` keys `[1, head, query, key]`.
    pub(crate) fn bias(&self, sees: Sees, len: usize, seen: usize) -> Result<Tensor> {
        let (buckets, heads) = self.table.dims2()?;
        let before = seen.saturating_sub(len);
        let bucket = |query: usize, key: usize| {
            bucket(key as i64 - (before + query) as i64, sees, buckets, self.furthest)
        };
        let all = (0..len).flat_map(|query| (0..seen).map(move |key| (query, key)));
        let all: Vec<u32> = all.map(|(query, key)| bucket(query, key) as u32).collect();
        let rows = self.table.index_select(&Tensor::new(all, self.table.device())?, 0)?; // (TS, H)
        Ok(rows.reshape((1, len, seen, heads))?.permute((0, 3, 1, 2))?.contiguous()?) // (1, H, T, S)
    }
}

/// The bucket of a key so many positions behind its query, or before it where that is negative. A stack that sees both sides has
/// half of the buckets for each.
fn bucket(distance: i64, sees: Sees, buckets: usize, furthest: usize) -> usize {
    let (first, buckets, distance) = match sees {
        Sees::Earlier => (0, buckets, distance.min(0).unsigned_abs() as usize),
        Sees::All => {
            let half = buckets / 2;
            (if distance > 0 { half } else { 0 }, half, distance.unsigned_abs() as usize)
        }
    };
    let exact = buckets / 2;
    if distance < exact {
        return first + distance;
    }
    // In f32, as it is trained: at the edges of buckets the rounding decides.
    let share = (distance as f32 / exact as f32).ln() / (furthest as f64 / exact as f64).ln() as f32;
    let far = exact + (share * (buckets - exact) as f32) as usize;
    first + far.min(buckets - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T5's own sizes, by hand: 32 buckets up to a distance of 128.
    #[test]
    fn distances_have_their_buckets() {
        let both = |distance| bucket(distance, Sees::All, 32, 128);
        for (distance, expected) in
            [(0, 0), (-1, 1), (1, 17), (-7, 7), (7, 23), (-8, 8), (8, 24), (-127, 15), (127, 31)]
        {
            assert_eq!(both(distance), expected, "{distance}");
        }
        // 8 times 16 to the quarter, the half, the three quarters.
        for (distance, expected) in
            [(-15, 9), (-16, 10), (-31, 11), (-32, 12), (-63, 13), (-64, 14), (-5000, 15)]
        {
            assert_eq!(both(distance), expected, "{distance}");
        }
        let back = |distance| bucket(distance, Sees::Earlier, 32, 128);
        for (distance, expected) in
            [(5, 0), (0, 0), (-1, 1), (-15, 15), (-16, 16), (-127, 31), (-128, 31), (-9000, 31)]
        {
            assert_eq!(back(distance), expected, "{distance}");
        }
        assert_eq!((back(-31), back(-46), back(-64)), (21, 24, 26));
    }
}
