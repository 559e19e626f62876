//! Weights by name, read through a memory map and checked on the way: safetensors, or what another reader has found
//! the places of.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, ggml_file::qtensor_from_ggml};
use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, ErrorKind, Result, nearest};
use crate::network::cpu::{PagePolicy, are_finite, par_map_alloc, tensor_is_finite};
use crate::network::weights::initial::Initial;
use crate::network::weights::mapping::{Mapping, WeightFile};
use crate::network::weights::row_dtype::RowDtype;
use crate::network::weights::rows::StoredRows;
use crate::network::weights::weight::Weight;

/// A set of named tensors, from files, from memory, or drawn at random.
pub struct Weights {
    origin: String,
    /// What says how the weights should be.
    config: &'static str,
    device: Device,
    files: Vec<Arc<WeightFile>>,
    entries: BTreeMap<String, Entry>,
    notes: HashMap<String, String>,
    initial: Option<RefCell<Initial>>,
}

enum Entry {
    InFile { file: usize, place: TensorLocation },
    InMemory(Tensor),
}

/// Where in a file a weight lies, and how.
pub(crate) struct TensorLocation {
    pub stored: StoredDtype,
    /// The shape as it is stored, rows first.
    pub shape: Vec<usize>,
    /// The bytes; that they lie within the file and are as many as the shape asks for is checked where this is made.
    pub range: Range<usize>,
    pub change: Relayout,
}

/// The weights of a file, by name.
pub(crate) type TensorLocations = Vec<(String, TensorLocation)>;

/// How numbers are stored.
pub(crate) enum StoredDtype {
    Plain(DType),
    Quantized(GgmlDType),
    /// A type that no weight has: masks are bytes or booleans.
    Other(String),
}

/// What makes of a stored weight the one that Hugging Face's name stands for.
#[derive(Clone, Copy)]
pub(crate) enum Relayout {
    None,
    /// `[out, in]` to `[in, out]`.
    Transpose,
    /// Rows `[head, pair, half, ...]` to `[head, half, pair, ...]`: how rotary pairs are laid out.
    Rotary {
        heads: usize,
    },
    /// Rows `[q k v, head, d_head, ...]` to `[head, q k v, d_head, ...]`.
    Interleave {
        heads: usize,
    },
}

impl Weights {
    /// Tensors that are in memory already, such as those being trained.
    pub fn from_tensors(tensors: HashMap<String, Tensor>) -> Weights {
        let device = tensors.values().next().map_or(Device::Cpu, |tensor| tensor.device().clone());
        let entries = tensors.into_iter().map(|(name, tensor)| (name, Entry::InMemory(tensor))).collect();
        Weights { entries, ..Weights::empty("the given tensors", &device) }
    }

    /// Whatever weight is asked for, drawn as GPT-2's are before any training, if need be with another deviation.
    pub(crate) fn random(seed: u64, deviation: f64, n_layers: usize, device: &Device) -> Weights {
        let initial = Some(RefCell::new(Initial::new(seed, deviation, n_layers)));
        Weights { initial, ..Weights::empty("a random model", device) }
    }

    /// What was drawn at random, in the order in which it was asked for.
    pub(crate) fn into_initialized(self) -> Vec<(String, Tensor)> {
        self.initial.map(|initial| initial.into_inner().into_initialized()).unwrap_or_default()
    }

    /// A safetensors file that is part of the program.
    pub(crate) fn from_static(name: &str, bytes: &'static [u8], device: &Device) -> Result<Weights> {
        let mut weights = Weights::empty(name, device);
        weights.add(WeightFile::part_of_program(name, bytes))?;
        Ok(weights)
    }

    /// Safetensors files, mapped rather than read.
    pub(crate) fn from_files(origin: &str, files: &[PathBuf], device: &Device) -> Result<Weights> {
        let mut weights = Weights::empty(origin, device);
        for path in files {
            let map = Mapping::open(
                path,
                "a model folder holds model.safetensors, or the shards that its index names",
            )?;
            weights.add(map.into())?;
        }
        Ok(weights)
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    fn empty(origin: &str, device: &Device) -> Weights {
        let (files, entries) = (Vec::new(), BTreeMap::new());
        Weights {
            origin: origin.into(),
            config: CONFIG,
            device: device.clone(),
            files,
            entries,
            notes: HashMap::new(),
            initial: None,
        }
    }

    /// Weights whose places in mapped files another reader has found.
    pub(crate) fn from_places(
        origin: &str,
        config: &'static str,
        files: Vec<(Arc<WeightFile>, TensorLocations)>,
        device: &Device,
    ) -> Weights {
        let mut weights = Weights { config, ..Weights::empty(origin, device) };
        for (file, (map, places)) in files.into_iter().enumerate() {
            weights.files.push(map);
            let entries = places.into_iter().map(|(name, place)| (name, Entry::InFile { file, place }));
            weights.entries.extend(entries);
        }
        weights
    }

    /// How many bytes a network of these weights needs at least, where it has them in f32: of those that do not stay in their files.
    pub(crate) fn bytes(&self) -> u64 {
        let stays = |file: &usize, place: &TensorLocation| {
            self.device.is_cpu() && place.rows_in("", &self.files[*file]).is_some()
        };
        let count = |entry: &Entry| match entry {
            Entry::InFile { place: TensorLocation { stored: StoredDtype::Other(_), .. }, .. } => 0,
            Entry::InFile { file, place } if stays(file, place) => 0,
            Entry::InFile { place, .. } => place.shape.iter().map(|&len| len as u64).product::<u64>(),
            Entry::InMemory(tensor) => tensor.elem_count() as u64,
        };
        self.entries.values().map(count).sum::<u64>().saturating_mul(4)
    }

    fn add(&mut self, file: WeightFile) -> Result<()> {
        let name = file.path();
        let broken = |error: safetensors::SafeTensorError| {
            Error::new(ErrorKind::Weights, format!("{name} is not a sound safetensors file"))
                .caused_by(error)
                .help("it may be cut short or not downloaded whole: fetch or save it again")
        };
        let all = file.bytes();
        let (header, metadata) = SafeTensors::read_metadata(all).map_err(broken)?;
        SafeTensors::deserialize(all).map_err(broken)?; // the offsets lie within the file
        let data = 8 + header;
        self.notes.extend(metadata.metadata().clone().unwrap_or_default());
        for (tensor, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let stored = match info.dtype {
                Dtype::F16 => StoredDtype::Plain(DType::F16),
                Dtype::BF16 => StoredDtype::Plain(DType::BF16),
                Dtype::F32 => StoredDtype::Plain(DType::F32),
                Dtype::F64 => StoredDtype::Plain(DType::F64),
                other => StoredDtype::Other(format!("{other:?}")),
            };
            let (shape, range) = (info.shape.clone(), data + start..data + end);
            let place = TensorLocation { stored, shape, range, change: Relayout::None };
            self.entries.insert(tensor, Entry::InFile { file: self.files.len(), place });
        }
        self.files.push(Arc::new(file));
        Ok(())
    }

    /// A text that was written beside the tensors.
    pub(crate) fn note(&self, name: &str) -> Option<&str> {
        self.notes.get(name).map(String::as_str)
    }

    /// Whether weights are drawn as they are asked for.
    pub(crate) fn is_initial(&self) -> bool {
        self.initial.is_some()
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The matrix `name`, which stays in its file where it is as rows of f32, f16, bf16 or of blocks; what is computed on another
    /// device, or is part of the program, is in memory. Fails as [`get`](Weights::get), but that a NaN in a file is not looked for.
    pub(crate) fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Weight> {
        let place = match self.entries.get(name) {
            Some(Entry::InFile { file, place }) if self.device.is_cpu() => Some((&self.files[*file], place)),
            _ => None,
        };
        let fits = place.filter(|(_, place)| place.changed_shape() == shape);
        let stored = fits.and_then(|(file, place)| place.stay(name, file));
        stored.map_or_else(|| Ok(self.get(name, &shape)?.into()), Ok)
    }

    /// How many rows a matrix has.
    pub(crate) fn rows(&self, name: &str) -> Result<usize> {
        let shape = match self.entries.get(name) {
            Some(Entry::InFile { place, .. }) => place.changed_shape(),
            Some(Entry::InMemory(tensor)) => tensor.dims().to_vec(),
            None => return Err(self.missing(name)),
        };
        match shape.as_slice() {
            [rows, _] => Ok(*rows),
            other => Err(Error::new(
                ErrorKind::Weights,
                format!("`{name}` of {} has shape {other:?}, and is no matrix", self.origin),
            )
            .help(format!("is {} that of another model?", self.config))),
        }
    }

    fn missing(&self, name: &str) -> Error {
        let error = Error::new(ErrorKind::Weights, format!("{} has no weight `{name}`", self.origin));
        let config = self.config;
        match nearest(name, self.entries.keys().map(String::as_str)) {
            Some(guess) => error.help(format!("it has `{guess}`: is {config} that of another model?")),
            None => error.help(format!("is {config} that of another model?")),
        }
    }

    /// The tensor `name` as f32. Fails if it is missing, has another shape, or, in a file, holds NaN or infinity.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        if let Some(initial) = &self.initial {
            return initial.borrow_mut().draw(name, shape, &self.device);
        }
        let Some(entry) = self.entries.get(name) else { return Err(self.missing(name)) };
        let found = match entry {
            Entry::InFile { place, .. } => place.changed_shape(),
            Entry::InMemory(tensor) => tensor.dims().to_vec(),
        };
        if found != shape {
            return Err(Error::new(
                ErrorKind::Weights,
                format!(
                    "weight `{name}` of {} has shape {found:?}, but {} asks for {shape:?}",
                    self.origin, self.config
                ),
            )
            .help(format!("{} and the weights must be of the same model", self.config)));
        }
        match entry {
            Entry::InFile { file, place } => {
                let path = self.files[*file].path();
                let (tensor, finite) =
                    place.read(self.files[*file].bytes()).map_err(|error| match error {
                        Some(error) => error.into(),
                        None => Error::new(
                            ErrorKind::Weights,
                            format!("weight `{name}` of {path} is of type {}", place.stored.name()),
                        )
                        .help("weights are read as F32, F16, BF16 or F64: save it as one of them"),
                    })?;
                if !finite && let Some((at, value)) = first_not_finite(&tensor)? {
                    return Err(self.files[*file].not_finite(name, value, at));
                }
                self.files[*file].check()?;
                Ok(tensor.to_device(&self.device)?)
            }
            Entry::InMemory(tensor) => Ok(tensor.to_dtype(DType::F32)?),
        }
    }
}

impl TensorLocation {
    /// Whether the change can be made of a weight of this shape.
    pub(crate) fn fits(&self) -> bool {
        let rows = self.shape.first().copied().unwrap_or(0);
        match self.change {
            Relayout::None => true,
            Relayout::Transpose => self.shape.len() == 2,
            Relayout::Rotary { heads } => heads > 0 && rows.is_multiple_of(heads.saturating_mul(2)),
            Relayout::Interleave { heads } => heads > 0 && rows.is_multiple_of(heads.saturating_mul(3)),
        }
    }

    fn changed_shape(&self) -> Vec<usize> {
        match self.change {
            Relayout::Transpose => self.shape.iter().rev().copied().collect(),
            _ => self.shape.clone(),
        }
    }

    /// The rows where they lie, if they can stay there.
    fn rows_in(&self, name: &str, file: &Arc<WeightFile>) -> Option<StoredRows> {
        let dtype = match self.stored {
            StoredDtype::Plain(dtype) => RowDtype::of(dtype)?,
            StoredDtype::Quantized(dtype) => RowDtype::Quantized(dtype),
            StoredDtype::Other(_) => return None,
        };
        let &[rows, width] = self.shape.as_slice() else { return None };
        file.is_mapped().then(|| StoredRows::new(name, file, dtype, self.range.clone(), [rows, width]))?
    }

    /// The weight where it lies, if it can stay there.
    fn stay(&self, name: &str, file: &Arc<WeightFile>) -> Option<Weight> {
        let rows = self.rows_in(name, file)?;
        Some(match (self.change, self.row_order()) {
            (Relayout::Transpose, _) => Weight::transposed(rows),
            (_, Some(order)) => rows.select(&order).into(),
            (_, None) => rows.into(),
        })
    }

    /// For each row where it stands in the order of the file, if that is another.
    fn row_order(&self) -> Option<Vec<u32>> {
        let rows = self.shape.first().copied().unwrap_or(0);
        let each = |parts: usize| rows / parts.max(1);
        let order = |place: &dyn Fn(usize) -> usize| (0..rows).map(|row| place(row) as u32).collect();
        match self.change {
            Relayout::None | Relayout::Transpose => None,
            Relayout::Rotary { heads } => {
                let pairs = each(heads * 2);
                Some(order(&|row| {
                    let (head, half, pair) = (row / (2 * pairs), row / pairs % 2, row % pairs);
                    head * 2 * pairs + 2 * pair + half
                }))
            }
            Relayout::Interleave { heads } => {
                let d_head = each(heads * 3);
                Some(order(&|row| {
                    let (head, part, within) = (row / (3 * d_head), row / d_head % 3, row % d_head);
                    (part * heads + head) * d_head + within
                }))
            }
        }
    }

    /// The weight in f32, and whether all of it is finite; nothing where its type is not that of weights.
    fn read(&self, file: &[u8]) -> std::result::Result<(Tensor, bool), Option<candle_core::Error>> {
        let (bytes, shape) = (&file[self.range.clone()], self.shape.as_slice());
        let cpu = Device::Cpu;
        let mut known = None;
        let tensor = match &self.stored {
            StoredDtype::Plain(DType::F32) => {
                let (values, finite) = f32s(bytes);
                known = Some(finite);
                Tensor::from_vec(values, shape, &cpu)?
            }
            StoredDtype::Plain(dtype) => {
                Tensor::from_raw_buffer(bytes, *dtype, shape, &cpu)?.to_dtype(DType::F32)?
            }
            StoredDtype::Quantized(dtype) => {
                qtensor_from_ggml(*dtype, bytes, shape.to_vec(), &cpu)?.dequantize(&cpu)?
            }
            StoredDtype::Other(_) => return Err(None),
        };
        let finite = match known {
            Some(finite) => finite,
            None => tensor_is_finite(&tensor)?,
        };
        let changed = match (self.change, self.row_order()) {
            (Relayout::Transpose, _) => tensor.t()?.contiguous()?,
            (_, Some(order)) => tensor.index_select(&Tensor::new(order, &cpu)?, 0)?,
            (_, None) => tensor,
        };
        Ok((changed, finite))
    }
}

impl StoredDtype {
    fn name(&self) -> String {
        match self {
            StoredDtype::Plain(dtype) => format!("{dtype:?}"),
            StoredDtype::Quantized(dtype) => format!("{dtype:?}"),
            StoredDtype::Other(name) => name.clone(),
        }
    }
}

/// What says how weights should be, in a folder.
pub(crate) const CONFIG: &str = "config.json";

/// Numbers that are read, and then looked at, while they are in a core's cache.
const CHUNK: usize = 1 << 14;

/// Little-endian numbers, and whether all of them are finite.
fn f32s(bytes: &[u8]) -> (Vec<f32>, bool) {
    let (numbers, _) = bytes.as_chunks::<4>();
    let each = |number: &[u8; 4]| f32::from_le_bytes(*number);
    let (values, finite) =
        par_map_alloc(PagePolicy::Long, numbers, CHUNK, each, |_, values| are_finite(values));
    (values, finite.into_iter().all(|finite| finite))
}

fn first_not_finite(tensor: &Tensor) -> candle_core::Result<Option<(usize, f32)>> {
    let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
    Ok(values.into_iter().enumerate().find(|(_, value)| !value.is_finite()))
}
