//! Weights by name, read from safetensors through a memory map and checked on the way.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::initial::Initial;
use crate::error::{Error, ErrorKind, Result, nearest};

/// A set of named tensors, from files, from memory, or drawn at random.
pub struct Weights {
    origin: String,
    device: Device,
    files: Vec<(String, Bytes)>,
    entries: BTreeMap<String, Entry>,
    notes: HashMap<String, String>,
    initial: Option<RefCell<Initial>>,
}

enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

enum Entry {
    InFile { file: usize, dtype: Dtype, shape: Vec<usize>, range: Range<usize> },
    InMemory(Tensor),
}

impl Weights {
    /// Tensors that are in memory already, such as those being trained.
    pub fn from_tensors(tensors: HashMap<String, Tensor>) -> Weights {
        let device = tensors.values().next().map_or(Device::Cpu, |tensor| tensor.device().clone());
        let entries = tensors.into_iter().map(|(name, tensor)| (name, Entry::InMemory(tensor))).collect();
        Weights { entries, ..Weights::empty("the given tensors", &device) }
    }

    /// Whatever weight is asked for, drawn as GPT-2's are before any training.
    pub(crate) fn random(seed: u64, n_layers: usize, device: &Device) -> Weights {
        let initial = Some(RefCell::new(Initial::new(seed, n_layers)));
        Weights { initial, ..Weights::empty("a random model", device) }
    }

    /// What was drawn at random, in the order in which it was asked for.
    pub(crate) fn into_drawn(self) -> Vec<(String, Tensor)> {
        self.initial.map(|initial| initial.into_inner().into_drawn()).unwrap_or_default()
    }

    /// A safetensors file that is part of the program.
    pub(crate) fn from_static(name: &str, bytes: &'static [u8], device: &Device) -> Result<Weights> {
        let mut weights = Weights::empty(name, device);
        weights.add(name.to_string(), Bytes::Static(bytes))?;
        Ok(weights)
    }

    /// Safetensors files, mapped rather than read.
    pub(crate) fn from_files(
        folder: &Path,
        names: impl IntoIterator<Item = String>,
        device: &Device,
    ) -> Result<Weights> {
        let mut weights = Weights::empty(&folder.display().to_string(), device);
        for name in names {
            let path = folder.join(&name);
            let failed = |error: std::io::Error| {
                Error::new(ErrorKind::File, format!("cannot read {}", path.display()))
                    .caused_by(error)
                    .help("a model folder holds model.safetensors, or the shards that its index names")
            };
            // Asked before it is opened: a pipe would be waited for.
            if !std::fs::metadata(&path).map_err(failed)?.is_file() {
                return Err(Error::new(ErrorKind::File, format!("{} is not a file", path.display()))
                    .help("a model folder holds model.safetensors, or the shards that its index names"));
            }
            let file = File::open(&path).map_err(failed)?;
            // SAFETY: the map is only read, and each tensor is copied out of it while it lives. Another process
            // that cuts the file short meanwhile would end this one, as with any map.
            let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
            weights.add(path.display().to_string(), Bytes::Mapped(map))?;
        }
        Ok(weights)
    }

    fn empty(origin: &str, device: &Device) -> Weights {
        let (files, entries) = (Vec::new(), BTreeMap::new());
        Weights {
            origin: origin.into(),
            device: device.clone(),
            files,
            entries,
            notes: HashMap::new(),
            initial: None,
        }
    }

    fn add(&mut self, name: String, bytes: Bytes) -> Result<()> {
        let broken = |error: safetensors::SafeTensorError| {
            Error::new(ErrorKind::Weights, format!("{name} is not a sound safetensors file"))
                .caused_by(error)
                .help("it may be cut short or not downloaded whole: fetch or save it again")
        };
        let all = bytes.as_slice();
        let (header, metadata) = SafeTensors::read_metadata(all).map_err(broken)?;
        SafeTensors::deserialize(all).map_err(broken)?; // the offsets lie within the file
        let data = 8 + header;
        self.notes.extend(metadata.metadata().clone().unwrap_or_default());
        for (tensor, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let (file, range) = (self.files.len(), data + start..data + end);
            let (dtype, shape) = (info.dtype, info.shape.clone());
            self.entries.insert(tensor, Entry::InFile { file, dtype, shape, range });
        }
        self.files.push((name, bytes));
        Ok(())
    }

    /// A text that was written beside the tensors.
    pub(crate) fn note(&self, name: &str) -> Option<&str> {
        self.notes.get(name).map(String::as_str)
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The tensor `name` as f32. Fails if it is missing, has another shape, or, in a file, holds NaN or infinity.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        if let Some(initial) = &self.initial {
            return initial.borrow_mut().draw(name, shape, &self.device);
        }
        let Some(entry) = self.entries.get(name) else {
            let error = Error::new(ErrorKind::Weights, format!("{} has no weight `{name}`", self.origin));
            return Err(match nearest(name, self.entries.keys().map(String::as_str)) {
                Some(guess) => error.help(format!("it has `{guess}`: is config.json that of another model?")),
                None => error.help("is config.json that of another model?"),
            });
        };
        let found = match entry {
            Entry::InFile { shape, .. } => shape.as_slice(),
            Entry::InMemory(tensor) => tensor.dims(),
        };
        if found != shape {
            return Err(Error::new(
                ErrorKind::Weights,
                format!(
                    "weight `{name}` of {} has shape {found:?}, but config.json asks for {shape:?}",
                    self.origin
                ),
            )
            .help("config.json and the weights must be of the same model"));
        }
        match entry {
            Entry::InFile { file, dtype, range, .. } => {
                let (path, bytes) = &self.files[*file];
                // Mask buffers are bytes or booleans, but nobody asks for them.
                let dtype = match dtype {
                    Dtype::F16 => DType::F16,
                    Dtype::BF16 => DType::BF16,
                    Dtype::F32 => DType::F32,
                    Dtype::F64 => DType::F64,
                    other => {
                        return Err(Error::new(
                            ErrorKind::Weights,
                            format!("weight `{name}` of {path} is of type {other:?}"),
                        )
                        .help("weights are read as F32, F16, BF16 or F64: save it as one of them"));
                    }
                };
                let bytes = &bytes.as_slice()[range.clone()];
                let tensor =
                    Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu)?.to_dtype(DType::F32)?;
                if let Some((at, value)) = first_not_finite(&tensor) {
                    return Err(Error::new(
                        ErrorKind::Weights,
                        format!("weight `{name}` of {path} is {value} at entry {at}"),
                    )
                    .help("the file is damaged, or the training that made it diverged"));
                }
                Ok(tensor.to_device(&self.device)?)
            }
            Entry::InMemory(tensor) => Ok(tensor.to_dtype(DType::F32)?),
        }
    }
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
        }
    }
}

fn first_not_finite(tensor: &Tensor) -> Option<(usize, f32)> {
    let (storage, _) = tensor.storage_and_layout();
    match &*storage {
        // A sum is finite only if every term is: one pass without branches, and a search only when it fails.
        Storage::Cpu(CpuStorage::F32(values)) => {
            let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
            if sum.is_finite() {
                return None;
            }
            values.iter().copied().enumerate().find(|(_, value)| !value.is_finite())
        }
        _ => None,
    }
}
