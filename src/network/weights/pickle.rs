//! Where the weights of a PyTorch checkpoint lie. Its pickle is read by candle's interpreter, which makes values and
//! runs nothing; what that takes on trust is checked first.

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use candle_core::DType;
use candle_core::pickle::{Object, Stack, TensorInfo};
use zip::{CompressionMethod, ZipArchive};

use crate::error::{Error, ErrorKind, Result};
use crate::network::weights::file::{Relayout, StoredDtype, TensorLocation, TensorLocations};

/// The pickle of a checkpoint of a thousand tensors has a tenth of a megabyte.
const LONGEST: u64 = 16 << 20;

/// The tensors of a checkpoint, by name.
pub(crate) fn places(path: &str, file: &[u8]) -> Result<TensorLocations> {
    read(file).map_err(|what| {
        Error::new(ErrorKind::Weights, format!("{path} is not a checkpoint that can be read: {what}"))
            .help("take the model's safetensors, or save it as such: model.save_pretrained(folder)")
    })
}

/// What is wrong with a checkpoint.
type Fault<T> = std::result::Result<T, String>;

fn read(file: &[u8]) -> Fault<TensorLocations> {
    if !file.starts_with(b"PK") {
        return Err("it is no archive, as torch.save writes them since PyTorch 1.6".into());
    }
    let mut zip = ZipArchive::new(Cursor::new(file)).map_err(|error| error.to_string())?;
    let (folder, pickle) = pickle_of(&mut zip)?;
    check(&pickle)?;
    let mut places = Vec::new();
    for (name, value) in dictionary(&pickle)? {
        let info = catch_unwind(AssertUnwindSafe(|| value.into_tensor_info(name, Path::new(&folder))));
        match info {
            Ok(Ok(Some(info))) => {
                let place = locate(&mut zip, file.len(), &info).map_err(|what| {
                    let name: String = info.name.chars().take(60).collect();
                    format!("of the tensor `{name}`, {what}")
                })?;
                places.push((info.name, place));
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("a tensor in it is not described as tensors are".into()),
        }
    }
    Ok(places)
}

/// The pickle of an archive, and the folder that the numbers lie in beside it.
fn pickle_of(zip: &mut ZipArchive<Cursor<&[u8]>>) -> Fault<(String, Vec<u8>)> {
    let mut pickles = (0..zip.len()).filter(|&index| {
        let name = zip.by_index_raw(index).and_then(|entry| Ok(entry.name()?.into_owned()));
        name.is_ok_and(|name| name == "data.pkl" || name.ends_with("/data.pkl"))
    });
    let index = pickles.next().ok_or("it holds no data.pkl")?;
    let entry = zip.by_index(index).map_err(|error| error.to_string())?;
    let folder = entry.name().map_err(|error| error.to_string())?.trim_end_matches(".pkl").to_string();
    let mut pickle = Vec::new();
    entry.take(LONGEST + 1).read_to_end(&mut pickle).map_err(|error| error.to_string())?;
    if pickle.len() as u64 > LONGEST {
        return Err(format!("its pickle has more than {LONGEST} bytes"));
    }
    Ok((folder, pickle))
}

/// The dictionary that a pickle makes, by candle's interpreter.
fn dictionary(mut pickle: &[u8]) -> Fault<Vec<(Object, Object)>> {
    let made = catch_unwind(AssertUnwindSafe(|| {
        let mut stack = Stack::empty();
        stack.read_loop(&mut pickle)?;
        stack.finalize()
    }));
    let made = match made {
        Ok(Ok(made)) => made,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("its pickle is not that of tensors".into()),
    };
    let dict = match made {
        // An OrderedDict with attributes, as `state_dict()` gives.
        Object::Build { callable, .. } => *callable,
        made => made,
    };
    match dict {
        Object::Dict(entries) => Ok(entries),
        _ => Err("it does not hold a dictionary of tensors".into()),
    }
}

/// Where a tensor's numbers lie in a file of so many bytes.
fn locate(zip: &mut ZipArchive<Cursor<&[u8]>>, file_len: usize, info: &TensorInfo) -> Fault<TensorLocation> {
    let entry = zip.by_name(&info.path).map_err(|error| error.to_string())?;
    if entry.compression() != CompressionMethod::Stored {
        return Err("the numbers are compressed".into());
    }
    let shape = info.layout.dims().to_vec();
    let within = || {
        let count = shape.iter().try_fold(1usize, |all, &len| all.checked_mul(len))?;
        // candle counts it in bytes.
        let from = info.layout.start_offset();
        let to = from.checked_add(count.checked_mul(info.dtype.size_in_bytes())?)?;
        let start = usize::try_from(entry.data_start()?).ok()?;
        let range = start.checked_add(from)?..start.checked_add(to)?;
        (to as u64 <= entry.size() && range.end <= file_len).then_some(range)
    };
    let range = within().ok_or("the numbers are said to lie beyond what is there")?;
    if !info.layout.is_contiguous() {
        return Err("the numbers are not in order".into());
    }
    let stored = match info.dtype {
        dtype @ (DType::F16 | DType::BF16 | DType::F32 | DType::F64) => StoredDtype::Plain(dtype),
        other => StoredDtype::Other(format!("{other:?}")),
    };
    Ok(TensorLocation { stored, shape, range, change: Relayout::None })
}

/// What an instruction of a pickle does to the values on its stack, as far as their extents go.
enum Op {
    /// Nothing.
    Skip,
    /// Puts a value, of so many parts.
    Push(usize),
    /// Puts a mark.
    Mark,
    /// Makes one value of so many.
    Join(usize),
    /// Makes one value of all down to the last mark.
    JoinToMark,
    /// Adds all down to the last mark to the value below it.
    Extend,
    /// Keeps the value on top under a number.
    Keep(u32),
    /// Puts what is kept under a number.
    Recall(u32),
    /// Ends.
    Stop,
}

impl Op {
    /// Reads one, with its argument, off the front.
    fn read(rest: &mut &[u8]) -> Fault<Op> {
        let mut take = |len: usize| -> Fault<&[u8]> {
            let (taken, left) = rest.split_at_checked(len).ok_or("its pickle ends too early")?;
            *rest = left;
            Ok(taken)
        };
        let number =
            |bytes: &[u8]| bytes.iter().rev().fold(0u32, |number, &byte| number << 8 | u32::from(byte));
        let skip = |taken: Fault<&[u8]>, op: Op| taken.map(|_| op);
        match take(1)?[0] {
            0x80 => skip(take(1), Op::Skip),
            b'c' => {
                for _ in 0..2 {
                    while take(1)? != b"\n" {}
                }
                Ok(Op::Push(1))
            }
            b'K' => skip(take(1), Op::Push(1)),
            b'M' => skip(take(2), Op::Push(1)),
            b'J' => skip(take(4), Op::Push(1)),
            b'G' => skip(take(8), Op::Push(1)),
            0x8a => match take(1)?[0] {
                len @ 0..=8 => skip(take(len.into()), Op::Push(1)),
                _ => Err("its pickle has a number of more than 8 bytes".into()),
            },
            b'X' => {
                let len = number(take(4)?) as usize;
                skip(take(len), Op::Push(1 + len / 64))
            }
            b'N' | 0x88 | 0x89 | b'}' | b']' | b')' => Ok(Op::Push(1)),
            b'(' => Ok(Op::Mark),
            b't' | b'd' => Ok(Op::JoinToMark),
            b'e' | b'u' => Ok(Op::Extend),
            b'Q' | 0x85 => Ok(Op::Join(1)),
            b'R' | b'b' | 0x81 | 0x86 | b'a' => Ok(Op::Join(2)),
            b's' | 0x87 => Ok(Op::Join(3)),
            b'q' => Ok(Op::Keep(number(take(1)?))),
            b'r' => Ok(Op::Keep(number(take(4)?))),
            b'h' => Ok(Op::Recall(number(take(1)?))),
            b'j' => Ok(Op::Recall(number(take(4)?))),
            b'.' => Ok(Op::Stop),
            other => Err(format!("its pickle has an instruction {other:#04x}, which no tensors need")),
        }
    }
}

/// How deep a value is, and of how many parts it consists.
#[derive(Clone, Copy)]
struct Extent {
    depth: usize,
    parts: usize,
}

/// The extents of the values on a pickle's stack; nothing is a mark.
#[derive(Default)]
struct Extents(Vec<Option<Extent>>);

impl Extents {
    /// Takes so many values off, and gives the extent of one that holds them.
    fn pop(&mut self, count: usize) -> Fault<Extent> {
        let mut joined = Extent { depth: 0, parts: 1 };
        for _ in 0..count {
            let value = self.0.pop().flatten().ok_or("its pickle takes what is not there")?;
            joined = Extent { depth: joined.depth.max(value.depth + 1), parts: joined.parts + value.parts };
        }
        Ok(joined)
    }

    /// The same of all down to the last mark.
    fn pop_to_mark(&mut self) -> Fault<Extent> {
        let mark = self.0.iter().rposition(Option::is_none).ok_or("its pickle takes what is not there")?;
        let values = self.0.drain(mark..).flatten();
        Ok(values.fold(Extent { depth: 1, parts: 1 }, |joined, value| Extent {
            depth: joined.depth.max(value.depth + 1),
            parts: joined.parts + value.parts,
        }))
    }
}

/// Follows a pickle by the extents of its values alone: candle's interpreter makes room for any length that a text
/// announces, copies what is asked for again, and goes as deep as values do.
fn check(pickle: &[u8]) -> Fault<()> {
    const DEEPEST: usize = 100;
    const LARGEST: usize = 2 << 20;
    let mut rest = pickle;
    let mut copied = 0usize;
    let mut stack = Extents::default();
    let mut kept = HashMap::<u32, Extent>::new();
    loop {
        let made = match Op::read(&mut rest)? {
            Op::Stop => return Ok(()),
            Op::Skip => None,
            Op::Mark => {
                stack.0.push(None);
                None
            }
            Op::Push(parts) => Some(Extent { depth: 1, parts }),
            Op::Join(count) => Some(stack.pop(count)?),
            Op::JoinToMark => Some(stack.pop_to_mark()?),
            Op::Extend => {
                let (added, old) = (stack.pop_to_mark()?, stack.pop(1)?);
                Some(Extent { depth: old.depth.max(added.depth), parts: old.parts + added.parts })
            }
            Op::Keep(id) => {
                let last = stack.0.last().copied().flatten().ok_or("its pickle keeps what is not there")?;
                copied += last.parts;
                kept.insert(id, last);
                None
            }
            Op::Recall(id) => {
                let value = *kept.get(&id).ok_or("its pickle asks for what it did not keep")?;
                copied += value.parts;
                Some(value)
            }
        };
        let is_too_large = |made: &Extent| made.depth > DEEPEST || made.parts > LARGEST;
        if copied > LARGEST || made.as_ref().is_some_and(is_too_large) {
            return Err("its pickle is larger or deeper than that of tensors".into());
        }
        stack.0.extend(made.map(Some));
    }
}
