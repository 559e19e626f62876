//! Tensors whose axes have names and labels: what every activation, weight and score is.

use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, ErrorKind, Result, nearest};
use crate::hook::Stack;
use crate::memory;

/// One axis of a [`NamedTensor`]: its name, its length, and a label for each index where there is one.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    name: &'static str,
    len: usize,
    labels: Option<Arc<[String]>>,
}

impl Axis {
    /// An axis whose entries are known by their index alone.
    pub fn unlabelled(name: &'static str, len: usize) -> Self {
        Axis { name, len, labels: None }
    }

    /// An axis with a label for each entry. Labels may repeat, as tokens do.
    pub fn labelled(name: &'static str, labels: impl Into<Arc<[String]>>) -> Self {
        let labels = labels.into();
        Axis { name, len: labels.len(), labels: Some(labels) }
    }

    /// The axis's name: `head`, `query`, `key`, `position`, ...
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The number of entries.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The labels, where the axis has them.
    pub fn labels(&self) -> Option<&[String]> {
        self.labels.as_deref()
    }

    /// The label of entry `index`, or the index itself where there are no labels.
    pub fn label(&self, index: usize) -> String {
        match self.labels.as_deref().and_then(|labels| labels.get(index)) {
            Some(label) => label.clone(),
            None => index.to_string(),
        }
    }

    /// The same entries under another name.
    pub fn renamed(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    fn narrowed(&self, start: usize, len: usize) -> Self {
        let labels = self.labels.as_deref().map(|labels| labels[start..start + len].into());
        Axis { name: self.name, len, labels }
    }
}

/// What the numbers of a [`NamedTensor`] are, which decides the colours they are drawn in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ValueKind {
    /// Numbers of either sign: a diverging scale around zero.
    #[default]
    Signed,
    /// Probabilities: a sequential scale from 0 to 1, or to less where all are small.
    Probability,
    /// Scores from 0 to 1 that are compared across pictures: a sequential scale from 0 to 1, always.
    Score,
    /// Numbers from zero up, such as losses and norms: a sequential scale from zero to the largest.
    Magnitude,
}

/// A tensor with a name for itself, for each axis, and for the entries of each axis.
///
/// ```
/// use headlight::{Axis, NamedTensor};
/// let scores = NamedTensor::from_vec(
///     "scores",
///     vec![0.1, 0.9],
///     vec![Axis::labelled("head", ["L0H0".to_string(), "L0H1".to_string()])],
/// )?;
/// assert_eq!(scores.value(&[1])?, 0.9);
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone)]
pub struct NamedTensor {
    name: String,
    tensor: Tensor,
    axes: Vec<Axis>,
    value_kind: ValueKind,
}

impl NamedTensor {
    /// Names the axes of a tensor. Fails unless there is one axis of the right length for each dimension.
    pub fn new(name: impl Into<String>, tensor: Tensor, axes: Vec<Axis>) -> Result<Self> {
        let name = name.into();
        let lens: Vec<usize> = axes.iter().map(Axis::len).collect();
        if tensor.dims() != lens {
            let names = axes.iter().map(|axis| format!("{} {}", axis.name, axis.len));
            return Err(Error::new(
                ErrorKind::Axes,
                format!(
                    "`{name}` has shape {:?}, but its axes are [{}]",
                    tensor.dims(),
                    names.collect::<Vec<_>>().join(", ")
                ),
            )
            .help("give one axis for each dimension, each as long as it"));
        }
        Ok(NamedTensor { name, tensor, axes, value_kind: ValueKind::default() })
    }

    /// Names numbers in row-major order, the last axis running fastest.
    pub fn from_vec(name: impl Into<String>, values: Vec<f32>, axes: Vec<Axis>) -> Result<Self> {
        let name = name.into();
        let lens: Vec<usize> = axes.iter().map(Axis::len).collect();
        let wanted = lens.iter().try_fold(1usize, |product, &len| product.checked_mul(len));
        if wanted != Some(values.len()) {
            return Err(Error::new(
                ErrorKind::Axes,
                format!("`{name}` has {} numbers, but its axes have lengths {lens:?}", values.len()),
            )
            .help("give as many numbers as the product of the lengths"));
        }
        NamedTensor::new(name, Tensor::from_vec(values, lens, &Device::Cpu)?, axes)
    }

    /// Says what the numbers are, for the colours.
    pub fn with_value_kind(mut self, value_kind: ValueKind) -> Self {
        self.value_kind = value_kind;
        self
    }

    /// The same values under another name.
    pub fn renamed(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What it is called: the title of its figure.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the numbers are.
    pub fn value_kind(&self) -> ValueKind {
        self.value_kind
    }

    /// The tensor itself, for candle.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The axes, in the tensor's order.
    pub fn axes(&self) -> &[Axis] {
        &self.axes
    }

    /// The length of each axis.
    pub fn shape(&self) -> Vec<usize> {
        self.axes.iter().map(Axis::len).collect()
    }

    /// The axis of that name.
    pub fn axis(&self, name: &str) -> Result<&Axis> {
        Ok(&self.axes[self.dim(name)?])
    }

    /// Writes two axes as lines, each entry under its label.
    pub(crate) fn write_rows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [rows, columns] = self.axes() else { return Err(fmt::Error) };
        let values = self.to_vec().map_err(|_| fmt::Error)?;
        for (row, values) in values.chunks(columns.len().max(1)).enumerate() {
            let each = values
                .iter()
                .enumerate()
                .map(|(column, value)| format!("{} {value:.3}", columns.label(column)));
            writeln!(f, "{}: {}", rows.label(row), each.collect::<Vec<_>>().join(", "))?;
        }
        Ok(())
    }

    /// One entry of an axis: the axis goes, the others stay.
    ///
    /// ```
    /// # use headlight::{Axis, NamedTensor};
    /// # let pattern = NamedTensor::from_vec("p", vec![0.; 8],
    /// #     vec![Axis::unlabelled("head", 2), Axis::unlabelled("query", 2), Axis::unlabelled("key", 2)])?;
    /// let second_head = pattern.select("head", 1)?;
    /// assert_eq!(second_head.shape(), [2, 2]);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn select(&self, axis: &str, index: usize) -> Result<NamedTensor> {
        let dim = self.dim(axis)?;
        let entry = &self.axes[dim];
        if index >= entry.len {
            return Err(self.out_of_range(entry, index));
        }
        let name = match &entry.labels {
            Some(labels) => format!("{} ({axis} {})", self.name, labels[index]),
            None => format!("{} ({axis} {index})", self.name),
        };
        let tensor = self.tensor.narrow(dim, index, 1)?.squeeze(dim)?;
        self.without(dim, name, tensor)
    }

    /// The entries `range` of an axis.
    pub fn slice(&self, axis: &str, range: std::ops::Range<usize>) -> Result<NamedTensor> {
        let dim = self.dim(axis)?;
        let entry = &self.axes[dim];
        if range.start >= range.end || range.end > entry.len {
            return Err(Error::new(
                ErrorKind::Axes,
                format!("`{}` has no entries {range:?} on axis `{axis}`", self.name),
            )
            .help(format!("a range has at least one entry and ends at {} at most", entry.len)));
        }
        let mut axes = self.axes.clone();
        axes[dim] = entry.narrowed(range.start, range.len());
        let tensor = self.tensor.narrow(dim, range.start, range.len())?;
        Ok(NamedTensor { tensor, axes, ..self.clone() })
    }

    /// The mean over an axis.
    pub fn mean(&self, axis: &str) -> Result<NamedTensor> {
        let dim = self.dim(axis)?;
        self.without(dim, format!("{}, mean over {axis}", self.name), self.tensor.mean(dim)?)
    }

    /// The sum over an axis.
    pub fn sum(&self, axis: &str) -> Result<NamedTensor> {
        let dim = self.dim(axis)?;
        self.without(dim, format!("{}, sum over {axis}", self.name), self.tensor.sum(dim)?)
    }

    /// This minus another of the same axes: always [`ValueKind::Signed`].
    pub fn sub(&self, other: &NamedTensor) -> Result<NamedTensor> {
        if self.shape() != other.shape() {
            return Err(Error::new(
                ErrorKind::Axes,
                format!(
                    "`{}` has shape {:?} and `{}` has {:?}: they cannot be subtracted",
                    self.name,
                    self.shape(),
                    other.name,
                    other.shape()
                ),
            )
            .help("select or slice until both have the same axes"));
        }
        self.has_room(1)?;
        let tensor = (&self.tensor - &other.tensor)?;
        let name = format!("{} minus {}", self.name, other.name);
        Ok(NamedTensor { name, tensor, axes: self.axes.clone(), value_kind: ValueKind::Signed })
    }

    /// How far this is from another of the same axes: the largest difference of two numbers at the same place.
    ///
    /// ```
    /// # use headlight::prelude::*;
    /// let run = Model::open("built-in")?.run_with_cache("the cat sat")?;
    /// assert_eq!(run.pattern(1)?.max_abs_diff(&run.pattern(1)?)?, 0.0);
    /// # Ok::<(), headlight::Error>(())
    /// ```
    pub fn max_abs_diff(&self, other: &NamedTensor) -> Result<f32> {
        // A comparison with NaN is a difference, not none.
        let larger = |a: f32, b: f32| if a.is_nan() || a > b { a } else { b };
        Ok(self.sub(other)?.to_vec()?.into_iter().map(f32::abs).fold(0.0, |most, x| larger(x, most)))
    }

    /// The number at one index for each axis.
    pub fn value(&self, index: &[usize]) -> Result<f32> {
        if index.len() != self.axes.len() {
            return Err(Error::new(
                ErrorKind::Axes,
                format!("`{}` has {} axes, not {}", self.name, self.axes.len(), index.len()),
            )
            .help(format!("its axes are {}", self.axis_names().join(", "))));
        }
        let mut tensor = self.tensor.clone();
        for (axis, &index) in self.axes.iter().zip(index) {
            if index >= axis.len {
                return Err(self.out_of_range(axis, index));
            }
            tensor = tensor.get(index)?;
        }
        Ok(tensor.to_dtype(DType::F32)?.to_scalar()?)
    }

    /// All numbers in row-major order.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        // Where they lie in another order they are copied into this one first.
        self.has_room(if self.tensor.is_contiguous() { 1 } else { 2 })?;
        Ok(self.tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }

    /// The names of the axes, in order.
    pub fn axis_names(&self) -> Vec<&'static str> {
        self.axes.iter().map(Axis::name).collect()
    }

    pub(crate) fn dim(&self, name: &str) -> Result<usize> {
        self.axes.iter().position(|axis| axis.name == name).ok_or_else(|| {
            let names = self.axis_names();
            let guess = nearest(name, names.iter().copied());
            Error::new(ErrorKind::Axes, format!("`{}` has no axis `{name}`", self.name)).help(match guess {
                Some(guess) => format!("did you mean `{guess}`? It has {}", names.join(", ")),
                None => format!("it has {}", names.join(", ")),
            })
        })
    }

    /// Fails if there is no memory for so many copies of its numbers.
    fn has_room(&self, copies: usize) -> Result<()> {
        const LITTLE: usize = 1 << 20;
        if self.tensor.elem_count() < LITTLE {
            return Ok(());
        }
        memory::check(&Device::Cpu, memory::floats(self.shape().into_iter().chain([copies])), || {
            let what = format!("to copy `{}`, {} numbers,", self.name, self.tensor.elem_count());
            (what, "take a part of it first, with `.select(axis, index)?` or `.slice(axis, from..to)?`")
        })
    }

    fn without(&self, dim: usize, name: String, tensor: Tensor) -> Result<NamedTensor> {
        let mut axes = self.axes.clone();
        axes.remove(dim);
        Ok(NamedTensor { name, tensor, axes, value_kind: self.value_kind })
    }

    fn out_of_range(&self, axis: &Axis, index: usize) -> Error {
        Error::new(
            ErrorKind::Axes,
            format!(
                "`{}` has {} entries on axis `{}`: {index} is out of range",
                self.name, axis.len, axis.name
            ),
        )
        .help(format!("use 0 to {}", axis.len.saturating_sub(1)))
    }
}

impl fmt::Debug for NamedTensor {
    /// The name, the axes, and the first numbers: `pattern [head 4, query 7, key 7] 1.0000 0.0000 ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        let axes = self.axes.iter().map(|axis| format!("{} {}", axis.name, axis.len));
        write!(f, "{} [{}]", self.name, axes.collect::<Vec<_>>().join(", "))?;
        let first = (self.tensor.flatten_all())
            .and_then(|flat| flat.narrow(0, 0, flat.elem_count().min(SHOWN)))
            .and_then(|flat| flat.to_dtype(DType::F32)?.to_vec1::<f32>());
        if let Ok(first) = first {
            first.iter().try_for_each(|value| write!(f, " {value:.4}"))?;
        }
        f.write_str(if self.tensor.elem_count() > SHOWN { " ..." } else { "" })
    }
}

/// The layers of a stack, under the letter that its heads' names have.
pub(crate) fn layer_axis(stack: Stack, n_layers: usize) -> Axis {
    Axis::labelled("layer", numbered(&stack.letter().to_string(), n_layers))
}

/// `L0`, `L1` and so on.
pub(crate) fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{prefix}{index}")).collect()
}
