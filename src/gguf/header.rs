//! What a GGUF file says of itself, checked before anything is made of it.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::quantized::GgmlDType;

use crate::error::{Error, ErrorKind, Result, nearest};

/// A file's metadata and tensors. Nothing is copied: lists stay where they are until they are asked for.
pub(crate) struct Header<'a> {
    pub path: &'a str,
    metadata: BTreeMap<&'a str, Value<'a>>,
    pub tensors: BTreeMap<&'a str, TensorInfo>,
}

/// A tensor of the file.
pub(crate) struct TensorInfo {
    pub dtype: GgmlDType,
    /// Rows first; the file has it the other way round.
    pub shape: Vec<usize>,
    pub range: Range<usize>,
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Whole(i128),
    Real(f64),
    Bool(bool),
    Text(&'a [u8]),
    /// The bytes of the entries, whose type is one of the above.
    List {
        kind: u32,
        count: usize,
        bytes: &'a [u8],
    },
}

const LIST: u32 = 9;
const TEXT: u32 = 8;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> std::result::Result<&'a [u8], String> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| {
            format!("{len} bytes are announced at byte {}, and the file has {}", self.at, self.bytes.len())
        })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> std::result::Result<[u8; N], String> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| "it ends too early".to_string())
    }

    fn u32(&mut self) -> std::result::Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> std::result::Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn length(&mut self) -> std::result::Result<usize, String> {
        let length = self.u64()?;
        usize::try_from(length).map_err(|_| format!("a length of {length} is announced"))
    }

    fn text(&mut self) -> std::result::Result<&'a [u8], String> {
        let len = self.length()?;
        self.take(len)
    }

    fn name(&mut self) -> std::result::Result<&'a str, String> {
        let at = self.at;
        std::str::from_utf8(self.text()?).map_err(|_| format!("the name at byte {at} is not UTF-8"))
    }

    fn value(&mut self, kind: u32) -> std::result::Result<Value<'a>, String> {
        Ok(match kind {
            0 => Value::Whole(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Whole(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Whole(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Whole(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Whole(self.u32()?.into()),
            5 => Value::Whole(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Real(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.take(1)? != [0]),
            TEXT => Value::Text(self.text()?),
            LIST => {
                let (kind, count) = (self.u32()?, self.length()?);
                let start = self.at;
                match width(kind) {
                    Some(width) => {
                        let len = count.checked_mul(width).ok_or("a list is longer than any file")?;
                        self.take(len)?;
                    }
                    // Each text takes at least its length's 8 bytes, so that the file's end ends this.
                    None if kind == TEXT => {
                        for _ in 0..count {
                            self.text()?;
                        }
                    }
                    None => return Err(format!("a list has entries of type {kind}, which is not known")),
                }
                Value::List { kind, count, bytes: &self.bytes[start..self.at] }
            }
            10 => Value::Whole(self.u64()?.into()),
            11 => Value::Whole(i64::from_le_bytes(self.array()?).into()),
            12 => Value::Real(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("a value is of type {other}, which is not known")),
        })
    }
}

/// The bytes of a value, where they are as many for each of its type.
fn width(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// The types that are read, by the format's numbers.
fn dtype(number: u32) -> Option<GgmlDType> {
    Some(match number {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

impl<'a> Header<'a> {
    pub(crate) fn read(path: &'a str, bytes: &'a [u8]) -> Result<Header<'a>> {
        let broken = |what: String| {
            Error::new(ErrorKind::Weights, format!("{path} is not a sound GGUF file: {what}"))
                .help("it may be cut short or not downloaded whole: fetch it again")
        };
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(4).map_err(broken)? != b"GGUF" {
            return Err(broken("it does not begin with `GGUF`".into()));
        }
        match reader.u32().map_err(broken)? {
            2 | 3 => {}
            other => {
                let what = format!("{path} is a GGUF file of version {other}");
                return Err(Error::new(ErrorKind::Weights, what)
                    .help("versions 2 and 3 are read, little-endian: convert the model again"));
            }
        }
        let (n_tensors, n_values) = (reader.length().map_err(broken)?, reader.length().map_err(broken)?);
        let mut header = Header { path, metadata: BTreeMap::new(), tensors: BTreeMap::new() };
        for _ in 0..n_values {
            let mut entry = || {
                let (key, kind) = (reader.name()?, reader.u32()?);
                let value = reader.value(kind).map_err(|what| format!("of `{}`, {what}", truncate(key)))?;
                Ok((key, value))
            };
            let (key, value) = entry().map_err(broken)?;
            if header.metadata.insert(key, value).is_some() {
                return Err(broken(format!("it says `{}` twice", truncate(key))));
            }
        }
        header.read_tensors(&mut reader, n_tensors, broken)?;
        Ok(header)
    }

    fn read_tensors(
        &mut self,
        reader: &mut Reader<'a>,
        count: usize,
        broken: impl Fn(String) -> Error + Copy,
    ) -> Result<()> {
        let path = self.path;
        let mut announced = Vec::new();
        for _ in 0..count {
            let name = reader.name().map_err(broken)?;
            let in_tensor = |what: String| broken(format!("of the tensor `{}`, {what}", truncate(name)));
            let n_dims = reader.u32().map_err(in_tensor)?;
            if !(1..=4).contains(&n_dims) {
                return Err(in_tensor(format!("{n_dims} axes are announced, and there can be 1 to 4")));
            }
            let mut shape = Vec::new();
            for _ in 0..n_dims {
                shape.push(reader.length().map_err(in_tensor)?);
            }
            let number = reader.u32().map_err(in_tensor)?;
            let Some(dtype) = dtype(number) else {
                let what = format!("the tensor `{}` of {path} has numbers of type {number}", truncate(name));
                return Err(Error::new(ErrorKind::Weights, what).help(
                    "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K are read: take such a file of the model",
                ));
            };
            let (block, in_row) = (dtype.block_size(), shape[0]);
            let elements = shape.iter().try_fold(1usize, |all, &len| all.checked_mul(len));
            let size = elements.and_then(|count| (count / block).checked_mul(dtype.type_size()));
            let Some(size) = size.filter(|&size| size > 0 && in_row.is_multiple_of(block)) else {
                return Err(in_tensor(format!("the shape {shape:?} cannot be that of {dtype:?}")));
            };
            shape.reverse();
            announced.push((
                reader.u64().map_err(in_tensor)?,
                size,
                name,
                TensorInfo { dtype, shape, range: 0..0 },
            ));
        }
        let alignment = match self.metadata.get("general.alignment") {
            None => 32,
            Some(Value::Whole(n @ (8 | 16 | 32 | 64 | 128 | 256 | 512 | 1024 | 2048 | 4096))) => *n as usize,
            Some(_) => return Err(broken("its alignment is not a power of two from 8 to 4096".into())),
        };
        let data = reader.at.next_multiple_of(alignment);
        announced.sort_by_key(|(offset, ..)| *offset);
        let mut free = data;
        for (offset, size, name, mut found) in announced {
            let start = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(data));
            let end = start.and_then(|start| start.checked_add(size));
            let (Some(start), Some(end)) = (start, end.filter(|&end| end <= reader.bytes.len())) else {
                let len = reader.bytes.len();
                let name = truncate(name);
                return Err(broken(format!(
                    "`{name}` has {size} bytes at {offset}, and the file ends at {len}"
                )));
            };
            if start < free || !start.is_multiple_of(alignment) {
                return Err(broken(format!("`{}` lies where another tensor does, or askew", truncate(name))));
            }
            free = end;
            found.range = start..end;
            if self.tensors.insert(name, found).is_some() {
                return Err(broken(format!("it has two tensors `{}`", truncate(name))));
            }
        }
        Ok(())
    }

    fn missing(&self, key: &str, what: &str) -> Error {
        let error = match self.metadata.contains_key(key) {
            true => Error::new(ErrorKind::Config, format!("`{key}` of {} is not {what}", self.path)),
            false => Error::new(ErrorKind::Config, format!("{} does not say `{key}`", self.path)),
        };
        match nearest(key, self.metadata.keys().copied()).filter(|found| *found != key) {
            Some(found) => error.help(format!("it says `{}`: convert the model again", truncate(found))),
            None => error.help("its metadata are not what they should be: convert the model again"),
        }
    }

    pub(crate) fn contains_key(&self, key: &str) -> bool {
        self.metadata.contains_key(key)
    }

    pub(crate) fn text(&self, key: &str) -> Result<&'a str> {
        match self.metadata.get(key) {
            Some(Value::Text(text)) => std::str::from_utf8(text).ok(),
            _ => None,
        }
        .ok_or_else(|| self.missing(key, "a text"))
    }

    /// A whole number that is a size or an id.
    pub(crate) fn size(&self, key: &str) -> Result<u32> {
        match self.metadata.get(key) {
            Some(Value::Whole(number)) => u32::try_from(*number).ok(),
            _ => None,
        }
        .ok_or_else(|| self.missing(key, "a whole number of 0 or more"))
    }

    pub(crate) fn real(&self, key: &str) -> Result<f64> {
        match self.metadata.get(key) {
            Some(Value::Real(number)) => Some(*number).filter(|number| number.is_finite()),
            Some(Value::Whole(number)) => Some(*number as f64),
            _ => None,
        }
        .ok_or_else(|| self.missing(key, "a number"))
    }

    pub(crate) fn flag(&self, key: &str) -> Result<bool> {
        match self.metadata.get(key) {
            Some(Value::Bool(flag)) => Some(*flag),
            _ => None,
        }
        .ok_or_else(|| self.missing(key, "true or false"))
    }

    /// The value where the file says it, of any of the kinds above.
    pub(crate) fn optional<T>(&self, key: &str, get: impl Fn(&Self, &str) -> Result<T>) -> Result<Option<T>> {
        if self.contains_key(key) { get(self, key).map(Some) } else { Ok(None) }
    }

    pub(crate) fn texts(&self, key: &str) -> Result<Vec<Cow<'a, str>>> {
        let Some(Value::List { kind: TEXT, count, bytes }) = self.metadata.get(key).copied() else {
            return Err(self.missing(key, "a list of texts"));
        };
        let mut reader = Reader { bytes, at: 0 };
        let texts = (0..count).map(|_| reader.text().map(String::from_utf8_lossy));
        texts.collect::<std::result::Result<_, _>>().map_err(|_| self.missing(key, "a list of texts"))
    }

    pub(crate) fn numbers(&self, key: &str) -> Result<Vec<f64>> {
        let wrong = || self.missing(key, "a list of numbers");
        let Some(Value::List { kind, count, bytes }) = self.metadata.get(key).copied() else {
            return Err(wrong());
        };
        let mut reader = Reader { bytes, at: 0 };
        let number = |value| match value {
            Value::Whole(number) => Some(number as f64),
            Value::Real(number) => Some(number),
            _ => None,
        };
        let numbers = (0..count).map(|_| reader.value(kind).ok().and_then(number).ok_or_else(wrong));
        numbers.collect()
    }
}

/// As much of a name as an error shows.
pub(crate) fn truncate(name: &str) -> String {
    const LONGEST: usize = 60;
    name.chars().take(LONGEST).collect()
}
