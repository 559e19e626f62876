//! A figure: views laid out, and drawn when asked.

use std::fmt;

use candle_core::Device;

use crate::error::{Error, ErrorKind, Remedy, Result};
use crate::figure::{interactive, png, scene, svg, text};
use crate::memory;
use crate::named::NamedTensor;
use crate::view::{View, Visualize};

/// One picture of one or several views, from top to bottom.
///
/// ```
/// use headlight::{Axis, NamedTensor};
/// let scores = NamedTensor::from_vec("scores", vec![0.1, 0.9], vec![Axis::unlabelled("head", 2)])?;
/// let figure = scores.figure()?;
/// assert!(figure.to_text().contains("0.9000"));
/// assert!(figure.to_png()?.starts_with(b"\x89PNG"));
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone)]
pub struct Figure {
    views: Vec<View>,
    pub(super) scene: scene::Scene,
    text: String,
}

impl Figure {
    /// Lays out views from top to bottom. Fails where a view has the wrong number of axes, an empty axis, or more
    /// numbers than a picture can show.
    ///
    /// ```
    /// use headlight::{Figure, Table, View};
    /// let mut table = Table::new("tokens", ["id", "text"]);
    /// table.push(["262", " the"]);
    /// assert!(Figure::new(vec![View::Table(table)])?.to_text().contains("262"));
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn new(views: Vec<View>) -> Result<Figure> {
        if views.is_empty() {
            return Err(
                Error::new(ErrorKind::Figure, "a figure of no views").help("give it at least one view")
            );
        }
        let views = views.into_iter().map(drawable).collect::<Result<Vec<_>>>()?;
        let numbers = |view: &View| match view {
            View::Heatmap(named) | View::SmallMultiples { values: named, .. } => {
                memory::floats(named.shape()) / 4
            }
            _ => 0, // few
        };
        let numbers: Vec<u64> = views.iter().map(numbers).collect();
        let sum = |of: u64, more: u64| of.saturating_add(more);
        memory::check(&Device::Cpu, numbers.iter().copied().map(scene::bytes_to_draw).fold(0, sum), || {
            (format!("a figure of {} numbers", numbers.iter().copied().fold(0, sum)), "")
        })
        .map_err(|error| error.remedied_by(Remedy::DrawLess))?;
        let scene = scene::lay_out(&views)?;
        let text = text::write(&views)?;
        Ok(Figure { views, scene, text })
    }

    /// Rows and columns of colour, of two axes.
    pub fn heatmap(named: &NamedTensor) -> Result<Figure> {
        Figure::new(vec![View::Heatmap(named.clone())])
    }

    /// A small picture for each entry of the first axis, one of them enlarged: made for `[head, query, key]`.
    ///
    /// ```
    /// use headlight::prelude::*;
    /// let run = Model::open("built-in")?.run_with_cache("the cat sat the cat sat")?;
    /// assert!(Figure::attention(&run.pattern(1)?)?.to_text().contains("L1H0"));
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn attention(patterns: &NamedTensor) -> Result<Figure> {
        Figure::new(vec![View::SmallMultiples { values: patterns.clone(), selected: None }])
    }

    /// As [`attention`](Figure::attention), with a chosen entry of the first axis enlarged; that one alone, where all together are
    /// more than a picture can show.
    pub fn attention_of(patterns: &NamedTensor, enlarged: usize) -> Result<Figure> {
        Figure::new(vec![View::SmallMultiples { values: patterns.clone(), selected: Some(enlarged) }])
    }

    /// Bars, of one axis, or grouped, of two.
    pub fn bars(named: &NamedTensor) -> Result<Figure> {
        Figure::new(vec![View::Bars(named.clone())])
    }

    /// A line, of one axis, or one for each entry of the first, of two.
    pub fn lines(named: &NamedTensor) -> Result<Figure> {
        Figure::new(vec![View::Lines(named.clone())])
    }

    /// Running text, each token on its colour, of one axis labelled by tokens.
    ///
    /// ```
    /// use headlight::prelude::*;
    /// let losses = Model::open("built-in")?.loss_per_token("the cat sat the cat sat")?;
    /// assert!(Figure::colored_tokens(&losses)?.to_text().contains("cat"));
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn colored_tokens(named: &NamedTensor) -> Result<Figure> {
        Figure::new(vec![View::Tokens(named.clone())])
    }

    /// Figures one below the other, as one.
    pub fn stack(figures: impl IntoIterator<Item = Figure>) -> Result<Figure> {
        Figure::new(figures.into_iter().flat_map(|figure| figure.views).collect())
    }

    /// The width and height in pixels of a screen; the PNG has twice as many each way.
    pub fn size(&self) -> (usize, usize) {
        (self.scene.width as usize, self.scene.height as usize)
    }

    /// Data, layout and config for Plotly, as `application/vnd.plotly.v1+json` carries them.
    pub fn to_json(&self) -> Result<String> {
        Ok(interactive::draw(&self.scene)?.to_string())
    }

    /// The picture as a PNG file's bytes.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        png::render(&self.to_svg(), png::SHARP)
    }

    /// The picture as an SVG document.
    pub fn to_svg(&self) -> String {
        svg::draw(&self.scene)
    }

    /// The figure in characters, for a terminal.
    pub fn to_text(&self) -> String {
        self.text.clone()
    }
}

/// The view, or, where it is of more matrices than can be drawn together, that of the one that was chosen.
fn drawable(view: View) -> Result<View> {
    match view {
        View::SmallMultiples { values, selected: Some(index) }
            if values.axes().len() == 3 && scene::is_too_many(&values) =>
        {
            let axis = values.axes()[0].name();
            Ok(View::Heatmap(values.select(axis, index)?))
        }
        view => Ok(view),
    }
}

impl Visualize for Figure {
    /// The views that it was made of.
    fn views(&self) -> Result<Vec<View>> {
        Ok(self.views.clone())
    }
}

impl fmt::Debug for Figure {
    /// The figure in characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
