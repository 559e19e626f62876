//! Figures as files.

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::figure::figure::Figure;
use crate::files;

impl Figure {
    /// Writes the figure to a file, as its extension says: `html`, `png`, `svg`, `json` or `txt`.
    ///
    /// ```
    /// # use headlight::{Axis, NamedTensor};
    /// # let scores = NamedTensor::from_vec("scores", vec![0.1, 0.9], vec![Axis::unlabelled("head", 2)])?;
    /// let error = scores.figure()?.save("scores.gif").unwrap_err();
    /// assert!(error.to_string().contains("html, png, svg, json, txt"));
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        let bytes = match extension.as_str() {
            "html" => self.to_html()?.into_bytes(),
            "png" => self.to_png()?,
            "svg" => self.to_svg().into_bytes(),
            "json" => self.to_json()?.into_bytes(),
            "txt" => self.to_text().into_bytes(),
            _ => {
                let message = format!("`{}` does not say what sort of file to write", path.display());
                return Err(
                    Error::new(ErrorKind::Figure, message).help("end it in one of html, png, svg, json, txt")
                );
            }
        };
        files::write(path, &bytes)
    }
}
