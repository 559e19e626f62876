//! Matrices as images: one pixel a number.

use png::{BitDepth, ColorType, Compression, Encoder, Filter};

use super::scale::Scale;
use super::scene::Cells;
use crate::error::{Error, ErrorKind, Result};

/// The matrix in its colours, as a PNG.
pub(super) fn coloured(cells: &Cells) -> Result<Vec<u8>> {
    let index = |value: &f32| {
        cells.scale.place(*value).map_or(Scale::MASKED, |place| (place * Scale::LAST).round() as u8)
    };
    let pixels: Vec<u8> = cells.values.iter().map(index).collect();
    png(cells, ColorType::Indexed, &pixels)
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
    let mut found = None;
    for (decimals, template) in
        [(4, "%{z[2]}.%{z[0]:02d}%{z[1]:02d}"), (3, "%{z[2]}.%{z[0]:02d}%{z[1]}"), (2, "%{z[2]}.%{z[0]:02d}")]
    {
        let (rest, whole) = (10u32.pow(decimals - 2), 10u32.pow(decimals));
        let pixel = |value: &f32| {
            let number = (f64::from(*value) / unit * f64::from(whole)).round() as u32;
            [number / rest % 100, number % rest, number / whole].map(|part| part.min(255) as u8)
        };
        let pixels: Vec<u8> = cells.values.iter().flat_map(pixel).collect();
        let png = png(cells, ColorType::Rgb, &pixels)?;
        let fits = png.len() <= MOST;
        found = Some((png, format!("{template}{end}")));
        if fits {
            break;
        }
    }
    Ok(found)
}

/// The bytes from which on digits are left out: with them a page of one matrix is less than 5 MB.
const MOST: usize = 1_500_000;

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
