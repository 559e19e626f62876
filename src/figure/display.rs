//! What a notebook is shown of a figure: Plotly JSON, a PNG and text in one, so that it shows everywhere.

use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::error::Result;
use crate::figure::figure::Figure;
use crate::figure::{interactive, png};
use crate::notebook;
use crate::notebook::Content;
use crate::view::Visualize;

/// Draws something now, in mid-cell: any result that draws itself, or a [`Figure`]. Where there is no figure it shows
/// why. What it gives back can [update](DisplayHandle::update) the picture.
///
/// In a kernel for evcxr other than Headlight's own, a cell shows its last picture only.
///
/// ```
/// use headlight::prelude::*;
/// let model = Model::open("built-in")?;
/// let run = model.run_with_cache("the cat sat the cat sat")?;
/// for layer in 0..model.dims().n_layers {
///     show(&run.pattern(layer)?);
/// }
/// # Ok::<(), headlight::Error>(())
/// ```
pub fn show(what: &impl Visualize) -> DisplayHandle {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    // The process tells apart what was shown before a restart and after it.
    let id = format!("headlight-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    notebook::display(&id, &content(figure_of(what)));
    DisplayHandle { id }
}

/// A picture in a notebook, as [`show`] drew it.
#[derive(Debug)]
pub struct DisplayHandle {
    id: String,
}

impl DisplayHandle {
    /// Draws something else in the same place. Where the kernel is not Headlight's own it does nothing.
    ///
    /// ```
    /// use headlight::prelude::*;
    /// let model = Model::open("built-in")?;
    /// let losses = |text: &str| model.loss_per_token(text);
    /// let picture = show(&losses("the cat sat")?);
    /// for text in ["the cat sat the", "the cat sat the cat"] {
    ///     picture.update(&losses(text)?);
    /// }
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn update(&self, what: &impl Visualize) {
        if notebook::is_live() {
            notebook::update(&self.id, &content(figure_of(what)));
        }
    }

    /// Shows nothing: it is there already.
    pub fn evcxr_display(&self) {}
}

fn figure_of(what: &impl Visualize) -> Result<Figure> {
    Figure::new(what.views()?)
}

/// Shows a figure, or why there is none, as the value of a cell.
pub(crate) fn show_result(figure: Result<Figure>) {
    notebook::result(&content(figure));
}

fn content(figure: Result<Figure>) -> Content {
    figure.and_then(|figure| bundle(&figure)).unwrap_or_else(|error| notebook::text(error.to_string()))
}

fn bundle(figure: &Figure) -> Result<Content> {
    // As large as it is shown: JupyterLab's extension for Plotly shows it first, pixel for pixel.
    let still = png::render(&figure.to_svg(), 1.0)?;
    let mut content = notebook::text(figure.to_text());
    content.data.insert("application/vnd.plotly.v1+json".into(), interactive::draw(&figure.scene)?);
    content.data.insert("image/png".into(), Value::String(STANDARD.encode(still)));
    let (width, height) = figure.size();
    content.metadata.insert("image/png".into(), json!({"width": width, "height": height}));
    Ok(content)
}

impl Figure {
    /// Shows the figure where a notebook ends a cell with it.
    pub fn evcxr_display(&self) {
        show_result(Ok(self.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Axis, NamedTensor};

    #[test]
    fn a_figure_is_shown_as_plotly_png_and_text() {
        let named = NamedTensor::from_vec("scores", vec![1.0], vec![Axis::unlabelled("head", 1)]).unwrap();
        let figure = named.figure().unwrap();
        let (width, height) = figure.size();
        let Content { data, metadata } = content(Ok(figure));
        let mimes: Vec<&String> = data.keys().collect();
        assert_eq!(mimes, ["application/vnd.plotly.v1+json", "image/png", "text/plain"]);
        assert_eq!(metadata["image/png"], json!({"width": width, "height": height}));
        assert!(data["application/vnd.plotly.v1+json"]["data"].is_array());
        assert!(data["text/plain"].as_str().unwrap().contains("scores"));
    }

    #[test]
    fn where_there_is_no_figure_the_reason_is_shown() {
        let Content { data, metadata } = content(Figure::new(Vec::new()));
        assert_eq!(data.keys().collect::<Vec<_>>(), ["text/plain"]);
        assert!(metadata.is_empty());
        assert!(data["text/plain"].as_str().unwrap().contains("no views"));
    }
}
