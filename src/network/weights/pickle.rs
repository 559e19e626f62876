//! Where the weights of a PyTorch checkpoint lie. Its pickle is read by candle's interpreter, which makes values and
//! runs nothing; what that takes on trust is checked first.

use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use candle_core::DType;
use candle_core::pickle::{Object, Stack};
use zip::{CompressionMethod, ZipArchive};

use crate::error::{Error, ErrorKind, Result};
use crate::network::weights::file::{Relayout, StoredDtype, TensorLocation, TensorLocations};

/// The pickle of a checkpoint of a thousand tensors has a tenth of a megabyte.
const LONGEST: u64 = 16 << 20;

/// The tensors of a checkpoint, by name.
pub(crate) fn places(path: &str, file: &[u8]) -> Result<TensorLocations> {
    let broken = |what: String| {
        Error::new(ErrorKind::Weights, format!("{path} is not a checkpoint that can be read: {what}"))
            .help("take the model's safetensors, or save it as such: model.save_pretrained(folder)")
    };
    if !file.starts_with(b"PK") {
        return Err(broken("it is no archive, as torch.save writes them since PyTorch 1.6".into()));
    }
    let mut zip = ZipArchive::new(Cursor::new(file)).map_err(|error| broken(error.to_string()))?;
    let mut pickles = (0..zip.len()).filter(|&index| {
        let name = zip.by_index_raw(index).and_then(|entry| Ok(entry.name()?.into_owned()));
        name.is_ok_and(|name| name == "data.pkl" || name.ends_with("/data.pkl"))
    });
    let index = pickles.next().ok_or_else(|| broken("it holds no data.pkl".into()))?;
    let (folder, pickle) = {
        let entry = zip.by_index(index).map_err(|error| broken(error.to_string()))?;
        let name = entry.name().map_err(|error| broken(error.to_string()))?;
        let folder = name.trim_end_matches(".pkl").to_string();
        drop(name);
        let mut pickle = Vec::new();
        entry.take(LONGEST + 1).read_to_end(&mut pickle).map_err(|error| broken(error.to_string()))?;
        (folder, pickle)
    };
    if pickle.len() as u64 > LONGEST {
        return Err(broken(format!("its pickle has more than {LONGEST} bytes")));
    }
    check(&pickle).map_err(broken)?;
    let dict = catch_unwind(AssertUnwindSafe(|| {
        let mut stack = Stack::empty();
        stack.read_loop(&mut pickle.as_slice())?;
        stack.finalize()
    }));
    let dict = match dict {
        Ok(Ok(dict)) => dict,
        Ok(Err(error)) => return Err(broken(error.to_string())),
        Err(_) => return Err(broken("its pickle is not that of tensors".into())),
    };
    let entries = match dict {
        Object::Dict(entries) => entries,
        // An OrderedDict with attributes, as `state_dict()` gives.
        Object::Build { callable, .. } => match *callable {
            Object::Dict(entries) => entries,
            _ => return Err(broken("it does not hold a dictionary of tensors".into())),
        },
        _ => return Err(broken("it does not hold a dictionary of tensors".into())),
    };
    let mut places = Vec::new();
    for (name, value) in entries {
        let info = catch_unwind(AssertUnwindSafe(|| value.into_tensor_info(name, Path::new(&folder))));
        let info = match info {
            Ok(Ok(Some(info))) => info,
            Ok(Ok(None)) => continue,
            Ok(Err(error)) => return Err(broken(error.to_string())),
            Err(_) => return Err(broken("a tensor in it is not described as tensors are".into())),
        };
        let of = |what: &str| {
            broken(format!("of the tensor `{}`, {what}", info.name.chars().take(60).collect::<String>()))
        };
        let entry = zip.by_name(&info.path).map_err(|error| of(&error.to_string()))?;
        if entry.compression() != CompressionMethod::Stored {
            return Err(of("the numbers are compressed"));
        }
        let (start, size) = (entry.data_start().and_then(|start| usize::try_from(start).ok()), entry.size());
        let shape = info.layout.dims().to_vec();
        let width = info.dtype.size_in_bytes();
        let count = shape.iter().try_fold(1usize, |all, &len| all.checked_mul(len));
        let within = count.and_then(|count| {
            // candle counts it in bytes.
            let from = info.layout.start_offset();
            let to = from.checked_add(count.checked_mul(width)?).filter(|&to| to as u64 <= size)?;
            let start = start?;
            Some(start.checked_add(from)?..start.checked_add(to).filter(|&to| to <= file.len())?)
        });
        let Some(range) = within.filter(|range| range.start <= range.end) else {
            return Err(of("the numbers are said to lie beyond what is there"));
        };
        if !info.layout.is_contiguous() {
            return Err(of("the numbers are not in order"));
        }
        let stored = match info.dtype {
            dtype @ (DType::F16 | DType::BF16 | DType::F32 | DType::F64) => StoredDtype::Plain(dtype),
            other => StoredDtype::Other(format!("{other:?}")),
        };
        places.push((info.name, TensorLocation { stored, shape, range, change: Relayout::None }));
    }
    Ok(places)
}

/// How deep a value is, and of how many parts it consists.
type Extent = (usize, usize);

/// Follows a pickle by the extents of its values alone: candle's interpreter makes room for any length that a text
/// announces, copies what is asked for again, and goes as deep as values do.
fn check(pickle: &[u8]) -> std::result::Result<(), String> {
    const DEEPEST: usize = 100;
    const LARGEST: usize = 2 << 20;
    let mut rest = pickle;
    let mut copied = 0usize;
    let mut stack: Vec<Option<Extent>> = Vec::new();
    let mut memo = std::collections::HashMap::<u32, Extent>::new();
    let short = || "its pickle ends too early".to_string();
    loop {
        let mut take = |len: usize| -> std::result::Result<&[u8], String> {
            let (taken, left) = rest.split_at_checked(len).ok_or_else(short)?;
            rest = left;
            Ok(taken)
        };
        let number =
            |bytes: &[u8]| bytes.iter().rev().fold(0u32, |number, &byte| number << 8 | u32::from(byte));
        let code = take(1)?[0];
        let pop = |stack: &mut Vec<Option<Extent>>, count: usize| -> std::result::Result<Extent, String> {
            let mut joined = (0, 1);
            for _ in 0..count {
                let (deep, parts) = stack.pop().flatten().ok_or("its pickle takes what is not there")?;
                joined = (joined.0.max(deep + 1), joined.1 + parts);
            }
            Ok(joined)
        };
        let to_mark = |stack: &mut Vec<Option<Extent>>| -> std::result::Result<Extent, String> {
            let mark = stack.iter().rposition(Option::is_none).ok_or("its pickle takes what is not there")?;
            let joined = stack.drain(mark..).flatten();
            Ok(joined.fold((1, 1), |joined, (deep, parts)| (joined.0.max(deep + 1), joined.1 + parts)))
        };
        let leaf = (1, 1);
        let made = match code {
            0x80 => {
                take(1)?;
                None
            }
            b'c' => {
                for _ in 0..2 {
                    let line = rest.iter().position(|&byte| byte == b'\n').ok_or_else(short)?;
                    rest = &rest[line + 1..];
                }
                Some(leaf)
            }
            b'K' => take(1).map(|_| Some(leaf))?,
            b'M' => take(2).map(|_| Some(leaf))?,
            b'J' => take(4).map(|_| Some(leaf))?,
            b'G' => take(8).map(|_| Some(leaf))?,
            0x8a => {
                let len = take(1)?[0];
                if len > 8 {
                    return Err("its pickle has a number of more than 8 bytes".into());
                }
                take(len.into()).map(|_| Some(leaf))?
            }
            b'X' => {
                let len = number(take(4)?) as usize;
                take(len).map(|_| Some((1, 1 + len / 64)))?
            }
            b'N' | 0x88 | 0x89 | b'}' | b']' | b')' => Some(leaf),
            b'(' => {
                stack.push(None);
                None
            }
            b't' | b'd' => Some(to_mark(&mut stack)?),
            b'e' | b'u' => {
                let (deep, parts) = to_mark(&mut stack)?;
                let (old, already) = pop(&mut stack, 1)?;
                Some((old.max(deep), already + parts))
            }
            b'Q' | 0x85 => Some(pop(&mut stack, 1)?),
            b'R' | b'b' | 0x81 | 0x86 | b'a' => Some(pop(&mut stack, 2)?),
            b's' | 0x87 => Some(pop(&mut stack, 3)?),
            b'q' | b'r' => {
                let id = number(take(if code == b'q' { 1 } else { 4 })?);
                let last = stack.last().copied().flatten().ok_or("its pickle keeps what is not there")?;
                copied += last.1;
                memo.insert(id, last);
                None
            }
            b'h' | b'j' => {
                let id = number(take(if code == b'h' { 1 } else { 4 })?);
                let kept = *memo.get(&id).ok_or("its pickle asks for what it did not keep")?;
                copied += kept.1;
                Some(kept)
            }
            b'.' => return Ok(()),
            other => {
                return Err(format!("its pickle has an instruction {other:#04x}, which no tensors need"));
            }
        };
        if let Some(extent) = made {
            if extent.0 > DEEPEST || extent.1 > LARGEST {
                return Err("its pickle is larger or deeper than that of tensors".into());
            }
            stack.push(Some(extent));
        }
        if copied > LARGEST {
            return Err("its pickle is larger or deeper than that of tensors".into());
        }
    }
}
