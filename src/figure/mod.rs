//! Figures: views drawn as Plotly JSON, PNG, SVG, text and HTML, and shown in notebooks.
//!
//! Every sort of picture comes of one layout, so that what a notebook shows, what a page shows and what a PNG shows
//! are the same, colours included. Of the matrices of [`View::SmallMultiples`] the one is enlarged whose largest value
//! off the diagonal and off the first column, where attention idles, is the greatest; a menu chooses another, and
//! in a saved page a click on a small picture does too. Colours follow [`ValueKind`](crate::ValueKind), and numbers that
//! are not finite are grey.

pub(crate) mod display;
#[allow(clippy::module_inception)]
pub(crate) mod figure;
mod interactive;
mod label;
mod page;
mod pixels;
mod png;
mod save;
mod scale;
mod scene;
mod svg;
mod text;

pub use display::{DisplayHandle, show};
pub use figure::Figure;
pub use page::{Page, Section};
