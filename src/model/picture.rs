//! Pictures, as models with a vision stack read them.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use png::{ColorType, Decoder, Limits, Transformations};

use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use crate::network::Reads;

/// A picture: red, green and blue of each pixel, row by row from the top.
///
/// ```
/// use headlight::Picture;
/// let red = Picture::from_rgb(2, 1, vec![255, 0, 0, 255, 0, 0])?;
/// assert_eq!((red.width(), red.height()), (2, 1));
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Arc<[u8]>,
}

impl Picture {
    /// From three bytes a pixel. Fails unless there are as many as the sizes say, and at least one pixel.
    pub fn from_rgb(width: usize, height: usize, rgb: Vec<u8>) -> Result<Picture> {
        let wanted = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3));
        if rgb.is_empty() || wanted != Some(rgb.len()) {
            let what = format!("{} bytes are no picture of {width} x {height} pixels", rgb.len());
            return Err(Error::new(ErrorKind::Input, what)
                .help("give red, green and blue of each pixel, row by row, of at least one pixel"));
        }
        Ok(Picture { width, height, rgb: rgb.into() })
    }

    /// Reads a PNG file: grey becomes red, green and blue alike, and what is transparent is shown as it would be if it were not.
    pub fn open(path: impl AsRef<Path>) -> Result<Picture> {
        let path = path.as_ref();
        let failed = |what: &str| Error::new(ErrorKind::File, format!("{} {what}", path.display()));
        let file = File::open(path).map_err(|error| {
            failed("cannot be read").caused_by(error).help("give the path of a picture, a PNG file")
        })?;
        let unsound = |error| failed("is not a sound PNG file").caused_by(error).help("PNG files are read");
        // Its own allocations, beside the pixels, are no more than a row or two of them.
        let mut decoder = Decoder::new_with_limits(BufReader::new(file), Limits { bytes: 64 << 20 });
        decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
        let mut reader = decoder.read_info().map_err(unsound)?;
        let (width, height) = (reader.info().width as usize, reader.info().height as usize);
        let size = reader.output_buffer_size().unwrap_or(usize::MAX);
        // The pixels as they are in the file, and in three colours.
        memory::check(&Device::Cpu, (size as u64).saturating_mul(4), || {
            (format!("the {width} x {height} pixels of {}", path.display()), "make the picture smaller")
        })?;
        let mut pixels = vec![0; size];
        let frame = reader.next_frame(&mut pixels).map_err(unsound)?;
        pixels.truncate(frame.buffer_size());
        let rgb: Vec<u8> = match frame.color_type {
            ColorType::Rgb | ColorType::Indexed => pixels,
            ColorType::Rgba => {
                pixels.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
            }
            ColorType::Grayscale => pixels.into_iter().flat_map(|grey| [grey; 3]).collect(),
            ColorType::GrayscaleAlpha => pixels.chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]).collect(),
        };
        Picture::from_rgb(width, height, rgb)
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows of pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Red, green and blue of each pixel, row by row.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The pixels patch by patch, from -1 to 1 as ViT reads them: of each patch all red ones row by row, all green, all blue. The
    /// class token's place is zero. Fails unless the picture has the size that is read.
    pub(crate) fn patches(&self, reads: Reads) -> Result<Vec<f32>> {
        let (Reads::Patches { picture, patch, class_token }, Some(grid)) = (reads, reads.grid()) else {
            return Err(Error::new(ErrorKind::Input, "a picture is given where a text is read")
                .help("give the text; or a model that reads pictures"));
        };
        if (self.width, self.height) != (picture, picture) {
            let what = format!(
                "the picture has {} x {} pixels, and the model reads {picture} x {picture}",
                self.width, self.height
            );
            return Err(Error::new(ErrorKind::Input, what).help(format!("scale it to {picture} x {picture}")));
        }
        let size = reads.numbers_of_patch();
        let mut values = vec![0.0; if class_token { size } else { 0 }];
        values.reserve_exact(grid * grid * size);
        for (row, column) in places(grid) {
            for colour in 0..3 {
                for y in row * patch..(row + 1) * patch {
                    values.extend(
                        (column * patch..(column + 1) * patch)
                            .map(|x| f32::from(self.rgb[3 * (y * picture + x) + colour]) / 127.5 - 1.0),
                    );
                }
            }
        }
        Ok(values)
    }
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a picture of {} x {} pixels", self.width, self.height)
    }
}

/// What the positions of a picture are called: `class`, and of patches row and column.
pub(crate) fn patch_labels(reads: Reads) -> Vec<String> {
    let has_class = matches!(reads, Reads::Patches { class_token: true, .. });
    let patches = places(reads.grid().unwrap_or(0)).map(|(row, column)| format!("{row},{column}"));
    has_class.then(|| "class".to_string()).into_iter().chain(patches).collect()
}

fn places(grid: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..grid).flat_map(move |row| (0..grid).map(move |column| (row, column)))
}
