//! How much a view draws, and what is said of more.

use std::ops::RangeInclusive;

use crate::error::{Error, ErrorKind, Remedy, Result};
use crate::named::{Axis, NamedTensor};

/// Numbers that a view draws, one by one.
pub(super) const MOST: usize = 1_000_000;
/// Numbers that it draws as pixels.
pub(super) const MOST_PIXELS: usize = 1 << 24;

/// Whether these are more than a view of several matrices draws.
pub(crate) fn is_too_many(named: &NamedTensor) -> bool {
    named.shape().into_iter().fold(1, usize::saturating_mul) > MOST
}

/// What so many numbers take until they are drawn: as they are, as JSON or as pixels, and in the text of a page.
pub(crate) fn bytes_to_draw(numbers: u64) -> u64 {
    numbers.saturating_mul(if numbers > MOST as u64 { 21 } else { 140 })
}

/// The axes of a tensor, where it has as many as the view wants, none empty, and not too many numbers.
pub(super) fn expect(named: &NamedTensor, wanted: RangeInclusive<usize>, most: usize) -> Result<&[Axis]> {
    let axes = named.axes();
    if !wanted.contains(&axes.len()) {
        let wanted = match (wanted.start(), wanted.end()) {
            (a, b) if a == b => a.to_string(),
            (a, b) => format!("{a} or {b}"),
        };
        return Err(Error::new(
            ErrorKind::Figure,
            format!("`{}` has {} axes; this view draws {wanted}", named.name(), axes.len()),
        )
        .help("take one entry of an axis with `.select(axis, index)?` first"));
    }
    if let Some(axis) = axes.iter().find(|axis| axis.len() == 0) {
        let message =
            format!("`{}` has no entries on axis `{}`: there is nothing to draw", named.name(), axis.name());
        return Err(Error::new(ErrorKind::Figure, message).help("check the slice that it came from"));
    }
    let count = axes.iter().fold(1_usize, |n, axis| n.saturating_mul(axis.len()));
    if count > most { Err(too_many(named, count, most, "numbers")) } else { Ok(axes) }
}

pub(super) fn too_many(named: &NamedTensor, count: usize, most: usize, what: &str) -> Error {
    let message = format!("`{}` has {count} {what}; this view draws at most {most}", named.name());
    Error::new(ErrorKind::Figure, message).remedied_by(Remedy::DrawLess)
}
