//! From numbers to colours, ticks and digits.

use crate::named::ValueKind;

pub(super) const INK: &str = "#1f2933";
pub(super) const MUTED: &str = "#66717d";
pub(super) const FRAME: &str = "#d5dae0";
pub(super) const RULE: &str = "#e9ecf0";
pub(super) const MASKED: &str = "#e3e4e8";
pub(super) const CHOSEN: &str = "#d9662c";

/// Numbers from which on an image is smaller, and drawn faster.
pub(super) const PIXELS: usize = 1 << 16;

/// Colours for lines and groups of bars, told apart by colour-blind eyes too.
pub(super) const SERIES: [&str; 10] = [
    "#2b6cb0", "#d9662c", "#2f9e77", "#a83e8c", "#c79a0f", "#58b4d8", "#8b5a2b", "#cc3b4c", "#7b8794",
    "#1f2933",
];

const SEQUENTIAL: [[u8; 3]; 7] = [
    [0xfb, 0xfc, 0xfe],
    [0xdb, 0xe8, 0xf5],
    [0xa8, 0xcb, 0xe8],
    [0x60, 0xa0, 0xd3],
    [0x2b, 0x6c, 0xb0],
    [0x13, 0x40, 0x7c],
    [0x0a, 0x23, 0x4d],
];

/// Grey in the middle, for what is drawn on white.
const ON_WHITE: [[u8; 3]; 5] =
    [[0x2b, 0x6c, 0xb0], [0x8f, 0xae, 0xcc], [0xc3, 0xc9, 0xd1], [0xdd, 0x8a, 0x70], [0xb0, 0x2a, 0x2a]];

const DIVERGING: [[u8; 3]; 9] = [
    [0x13, 0x40, 0x7c],
    [0x2b, 0x6c, 0xb0],
    [0x7f, 0xb2, 0xdc],
    [0xd3, 0xe4, 0xf2],
    [0xf9, 0xf9, 0xf9],
    [0xf8, 0xdc, 0xd0],
    [0xec, 0xa4, 0x89],
    [0xcb, 0x4b, 0x3b],
    [0x84, 0x19, 0x21],
];

/// The colours of a set of numbers: a range and a palette.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scale {
    pub low: f64,
    pub high: f64,
    pub title: &'static str,
    diverging: bool,
    on_white: bool,
}

impl Scale {
    /// The scale that suits the numbers: symmetric for signed ones, from zero for the others. Probabilities
    /// end at 1, or at a round number below where the largest is under a half.
    pub fn of(values: &[f32], value_kind: ValueKind) -> Scale {
        let finite = values.iter().map(|v| f64::from(*v)).filter(|v| v.is_finite());
        let largest = finite.fold(0.0_f64, |most, v| match value_kind {
            ValueKind::Signed => most.max(v.abs()),
            _ => most.max(v),
        });
        let high = match value_kind {
            ValueKind::Score => 1.0,
            ValueKind::Probability if largest >= 0.5 || largest == 0.0 => 1.0,
            _ if largest == 0.0 => 1.0,
            ValueKind::Probability | ValueKind::Magnitude => round_up(largest),
            ValueKind::Signed => rounded(largest),
        };
        match value_kind {
            ValueKind::Signed => Scale { low: -high, high, title: "value", diverging: true, on_white: false },
            ValueKind::Probability => {
                Scale { low: 0.0, high, title: "probability", diverging: false, on_white: false }
            }
            ValueKind::Score => Scale { low: 0.0, high, title: "score", diverging: false, on_white: false },
            ValueKind::Magnitude => {
                Scale { low: 0.0, high, title: "magnitude", diverging: false, on_white: false }
            }
        }
    }

    /// The scale of effects, drawn on white: what does nothing is grey.
    pub fn of_effects(values: &[f32]) -> Scale {
        Scale { title: "nats lost", on_white: true, ..Scale::of(values, ValueKind::Signed) }
    }

    /// The scale of a matrix by itself.
    pub fn of_matrix(values: &[f32], value_kind: ValueKind) -> Scale {
        if values.len() > PIXELS {
            Scale::of_pixels(values, value_kind)
        } else {
            Scale::of(values, value_kind)
        }
    }

    /// The scale of so many numbers that each is a pixel: of probabilities it ends where one in 500 is larger. A long text's first
    /// queries have few keys, and so more attention for each than any other.
    fn of_pixels(values: &[f32], value_kind: ValueKind) -> Scale {
        const LARGER: usize = 500;
        if value_kind != ValueKind::Probability {
            return Scale::of(values, value_kind);
        }
        let mut finite: Vec<f32> = values.iter().copied().filter(|value| value.is_finite()).collect();
        let place = finite.len() - finite.len().div_ceil(LARGER);
        let end = match finite.is_empty() {
            true => 0.0,
            false => *finite.select_nth_unstable_by(place, f32::total_cmp).1,
        };
        Scale::of(&[end], value_kind)
    }

    /// Whether the scale has two sides.
    pub fn diverging(&self) -> bool {
        self.diverging
    }

    /// Where a number lies between the ends, from 0 to 1; nothing for one that is not finite.
    pub fn place(&self, value: f32) -> Option<f64> {
        value.is_finite().then(|| ((f64::from(value) - self.low) / (self.high - self.low)).clamp(0.0, 1.0))
    }

    /// The colour of a number.
    pub fn color(&self, value: f32) -> String {
        self.place(value).map_or_else(|| MASKED.to_string(), |place| hex(self.rgb(place)))
    }

    /// The colours of a number's place, from 0 to [`LAST`](Scale::LAST), and that of [`MASKED`](Scale::MASKED), each as three bytes.
    pub fn colors(&self) -> Vec<u8> {
        let masked = u32::from_str_radix(&MASKED[1..], 16).unwrap_or_default().to_be_bytes();
        let places = (0..Scale::MASKED).flat_map(|index| self.rgb(f64::from(index) / Scale::LAST));
        places.chain(masked[1..].iter().copied()).collect()
    }

    /// The index of the last colour of a number.
    pub const LAST: f64 = 254.0;
    /// The index of the colour of what is not finite.
    pub const MASKED: u8 = 255;

    /// The colour of text upon the colour of a number.
    pub fn ink_on(&self, value: f32) -> &'static str {
        let [r, g, b] = self.place(value).map_or([0xe3; 3], |place| self.rgb(place));
        let light = 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b);
        if light > 140.0 { INK } else { "#ffffff" }
    }

    /// The palette as places from 0 to 1 and their colours.
    pub fn stops(&self) -> Vec<(f64, String)> {
        let palette = self.palette();
        let last = (palette.len() - 1) as f64;
        palette.iter().enumerate().map(|(i, rgb)| (rounded(i as f64 / last), hex(*rgb))).collect()
    }

    fn palette(&self) -> &'static [[u8; 3]] {
        match (self.diverging, self.on_white) {
            (_, true) => &ON_WHITE,
            (true, false) => &DIVERGING,
            (false, false) => &SEQUENTIAL,
        }
    }

    fn rgb(&self, place: f64) -> [u8; 3] {
        let palette = self.palette();
        let along = place * (palette.len() - 1) as f64;
        let below = (along.floor() as usize).min(palette.len() - 2);
        let part = along - below as f64;
        std::array::from_fn(|i| {
            let (a, b) = (f64::from(palette[below][i]), f64::from(palette[below + 1][i]));
            (a + (b - a) * part).round() as u8
        })
    }
}

fn hex([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// A number to four significant digits.
pub(super) fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

fn round_up(value: f64) -> f64 {
    let unit = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    // A hair of room, so that a number that is round already stays as it is.
    let step = steps.into_iter().find(|step| step * unit >= value * (1.0 - 1e-6)).unwrap_or(10.0);
    rounded(step * unit)
}

/// Round numbers between two ends, about `count` of them, and how they are written.
pub(super) fn ticks(low: f64, high: f64, count: usize) -> Vec<(f64, String)> {
    let span = high - low;
    if !(span.is_finite() && span > 0.0) {
        return vec![(low, number(low as f32))];
    }
    let raw = span / count.max(1) as f64;
    let unit = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|s| s * unit).find(|s| *s >= raw).unwrap_or(raw);
    let whole = |d: &i32| (step * 10_f64.powi(*d) - (step * 10_f64.powi(*d)).round()).abs() < 1e-6;
    let digits = (0..12).find(whole).unwrap_or(12) as usize;
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last)
        .map(|i| {
            let at = i as f64 * step;
            let far = high.abs().max(low.abs());
            let text =
                if !(1e-4..1e7).contains(&far) { format!("{at:.1e}") } else { format!("{at:.digits$}") };
            (at, text)
        })
        .collect()
}

/// A number in full: four decimals, or powers of ten where those would not show it.
pub(super) fn number(value: f32) -> String {
    let size = value.abs();
    match value {
        v if v.is_nan() => "NaN".to_string(),
        v if v.is_infinite() => if v > 0.0 { "inf" } else { "-inf" }.to_string(),
        v if v != 0.0 && !(1e-3..1e6).contains(&size) => format!("{v:.3e}"),
        v => format!("{v:.4}"),
    }
}

/// A number short enough for a cell, to the hundredth of the largest of its kind.
pub(super) fn short(value: f32, largest: f64) -> String {
    if !value.is_finite() {
        return number(value);
    }
    let text = match largest {
        most if most >= 1e5 || (most > 0.0 && most < 1e-3) => format!("{value:.0e}"),
        most if most >= 100.0 => format!("{value:.0}"),
        most if most >= 10.0 => format!("{value:.1}"),
        most if most >= 0.1 => format!("{value:.2}"),
        most if most >= 0.01 => format!("{value:.3}").replacen("0.", ".", 1),
        _ => format!("{value:.4}").replacen("0.", ".", 1),
    };
    let nothing =
        text.split('e').next().is_some_and(|digits| digits.chars().all(|c| matches!(c, '-' | '0' | '.')));
    if nothing { "0".to_string() } else { text }
}
