//! SVG made into PNG, with fonts of our own so that it looks the same everywhere.

use std::sync::{Arc, OnceLock};

use epaint_default_fonts::{EMOJI_ICON, HACK_REGULAR, NOTO_EMOJI_REGULAR, UBUNTU_LIGHT};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::fontdb::{Database, Source};
use resvg::usvg::{Options, Tree};

use crate::error::{Error, ErrorKind, Remedy, Result};

/// Pixels of the PNG for a pixel of the layout: text stays crisp on dense screens.
pub(super) const SHARP: f32 = 2.0;

/// Draws an SVG document, with so many pixels for one of its own.
pub(super) fn render(svg: &str, scale: f32) -> Result<Vec<u8>> {
    let fontdb = if svg.chars().all(in_own_fonts) { own_fonts() } else { all_fonts() };
    let options = Options { fontdb, font_family: "Hack".to_string(), ..Options::default() };
    let failed = |message: &str| {
        Error::new(ErrorKind::Figure, format!("the figure could not be drawn as PNG: {message}"))
    };
    let tree =
        Tree::from_str(svg, &options).map_err(|error| failed("its SVG was refused").caused_by(error))?;
    let (w, h) = (tree.size().width() * scale, tree.size().height() * scale);
    let mut pixmap = Pixmap::new(w.ceil() as u32, h.ceil() as u32)
        .ok_or_else(|| failed("it is too large").remedied_by(Remedy::DrawLess))?;
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut pixmap.as_mut());
    pixmap.encode_png().map_err(|error| failed("its pixels were refused").caused_by(error))
}

/// Whether the embedded fonts surely have the character. Where not, the system's are read too, which takes a while;
/// the embedded ones still come first, and have most emoji.
fn in_own_fonts(c: char) -> bool {
    matches!(u32::from(c), 0..=0x52f | 0x1e00..=0x20cf | 0x2100..=0x25ff)
}

fn own_fonts() -> Arc<Database> {
    static FONTS: OnceLock<Arc<Database>> = OnceLock::new();
    Arc::clone(FONTS.get_or_init(|| Arc::new(embedded_fonts())))
}

fn all_fonts() -> Arc<Database> {
    static FONTS: OnceLock<Arc<Database>> = OnceLock::new();
    Arc::clone(FONTS.get_or_init(|| {
        let mut fonts = embedded_fonts();
        fonts.load_system_fonts();
        set_families(&mut fonts);
        Arc::new(fonts)
    }))
}

fn embedded_fonts() -> Database {
    let mut fonts = Database::new();
    for font in [HACK_REGULAR, UBUNTU_LIGHT, NOTO_EMOJI_REGULAR, EMOJI_ICON] {
        fonts.load_font_source(Source::Binary(Arc::new(font)));
    }
    set_families(&mut fonts);
    fonts
}

fn set_families(fonts: &mut Database) {
    fonts.set_monospace_family("Hack");
    fonts.set_sans_serif_family("Ubuntu");
}
