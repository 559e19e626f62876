//! Matrices as images: one pixel a number.

use png::{BitDepth, ColorType, Compression, Encoder, Filter};

use crate::error::{Error, ErrorKind, Result};
use crate::figure::scale::Scale;
use crate::figure::scene::Cells;

/// The bytes above which an image has fewer colours, or a number fewer digits: with them a page of one matrix is less than 5 MB.
const MOST: usize = 1_000_000;

/// The matrix in its colours, as a PNG; in fewer of them where all would be too large.
pub(super) fn colour(cells: &Cells) -> Result<Vec<u8>> {
    smallest([1.0, 4.0, 8.0, 16.0], |step| {
        let index = |place: f64| ((place * Scale::LAST / step).round() * step).min(Scale::LAST) as u8;
        let pixel = |value: &f32| cells.scale.place(*value).map_or(Scale::MASKED, index);
        png(cells, ColorType::Indexed, &cells.values.iter().map(pixel).collect::<Vec<u8>>())
    })
}

/// The first of these that is small enough, or the last.
fn smallest<T>(
    ways: impl IntoIterator<Item = T>,
    mut make: impl FnMut(T) -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let mut made = Vec::new();
    for way in ways {
        made = make(way)?;
        if made.len() <= MOST {
            break;
        }
    }
    Ok(made)
}

/// The numbers of a matrix in decimal digits, as a PNG that nobody looks at, and how a template of Plotly's writes the number of
/// a pixel `z`: a hover reads its pixel, so that no list of numbers is needed. Nothing where a number is below zero, or not
/// finite, which digits do not say.
pub(super) fn digits(cells: &Cells) -> Result<Option<(Vec<u8>, String)>> {
    if !cells.values.iter().all(|value| value.is_finite() && *value >= 0.0) {
        return Ok(None);
    }
    let largest = cells.values.iter().copied().fold(0.0, f32::max);
    let power =
        if largest == 0.0 || (0.01..255.0).contains(&largest) { 0 } else { largest.log10().floor() as i32 };
    let unit = 10f64.powi(power);
    let end = if power == 0 { String::new() } else { format!("e{power}") };
    let mut template = "";
    let written = [
        (4, "%{z[2]}.%{z[0]:02d}%{z[1]:02d}"),
        (3, "%{z[2]}.%{z[0]:02d}%{z[1]}"),
        (2, "%{z[2]}.%{z[0]:02d}"),
    ];
    let png = smallest(written, |(decimals, by)| {
        template = by;
        let (rest, whole) = (10u32.pow(decimals - 2), 10u32.pow(decimals));
        let pixel = |value: &f32| {
            let number = (f64::from(*value) / unit * f64::from(whole)).round() as u32;
            [number / rest % 100, number % rest, number / whole].map(|part| part.min(255) as u8)
        };
        png(cells, ColorType::Rgb, &cells.values.iter().flat_map(pixel).collect::<Vec<u8>>())
    })?;
    Ok(Some((png, format!("{template}{end}"))))
}

fn png(cells: &Cells, color: ColorType, pixels: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out, cells.columns as u32, cells.rows as u32);
    encoder.set_color(color);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Balanced);
    encoder.set_filter(Filter::NoFilter);
    if color == ColorType::Indexed {
        encoder.set_palette(cells.scale.colors());
    }
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(pixels)?;
        writer.finish()
    });
    written.map_err(|error| {
        Error::new(ErrorKind::Figure, "a matrix could not be written as an image").caused_by(error)
    })?;
    Ok(out)
}
