//! The tensor section: names, formats, dimensions and places, each checked against the file before it is believed. It
//! knows nothing of what a tensor means to a model.

use super::blocks::BlockFormat;
use super::cursor::Cursor;
use super::error::Fault;

/// Longest tensor name, by the specification.
const NAME_BYTES_MAX: usize = 64;
/// Smallest description: a one-letter name, its length, the dimension count, one dimension, the type, the offset.
pub(super) const TENSOR_BYTES_MIN: usize = 8 + 1 + 4 + 8 + 4 + 8;

/// What the file says of one tensor. Its bytes are `rows` rows of `format.row_bytes(cols)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    pub kind: BlockFormat,
    /// The file's dimensions, innermost first: `[cols, rows, …]`, 1 to 4 of them, none zero.
    pub dims: Vec<usize>,
    /// Values in a row: the innermost dimension, a whole number of blocks.
    pub cols: usize,
    /// The product of all other dimensions.
    pub rows: usize,
    /// Bytes of all rows.
    pub bytes: usize,
    /// Which file of a split model, from 0.
    pub part: usize,
    /// First byte in that file.
    pub offset: usize,
}

impl TensorInfo {
    /// Number of values; cannot overflow, which was checked when the file was read.
    pub fn elements(&self) -> usize {
        self.cols * self.rows
    }
}

/// Reads `count` descriptions, whose offsets are still relative to the data section.
pub(super) fn read(cursor: &mut Cursor, count: usize, part: usize) -> Result<Vec<TensorInfo>, Fault> {
    let mut tensors = Vec::new();
    for _ in 0..count {
        let name = cursor.name("a tensor's name", NAME_BYTES_MAX)?;
        tensors.push(read_one(cursor, name, part).map_err(|fault| fault.in_tensor(name))?);
    }
    Ok(tensors)
}

fn read_one(cursor: &mut Cursor, name: &str, part: usize) -> Result<TensorInfo, Fault> {
    let at = cursor.at();
    let rank = cursor.u32("the number of dimensions")?;
    if !(1..=4).contains(&rank) {
        return Err(Fault::damaged(at, format!("it has {rank} dimensions; 1 to 4 are allowed")));
    }
    let too_large = || Fault::damaged(at, "its dimensions' product is too large");
    let mut dims = Vec::with_capacity(rank as usize);
    for _ in 0..rank {
        match cursor.u64("a dimension")? {
            0 => return Err(Fault::damaged(at, "a dimension is 0")),
            dim => dims.push(usize::try_from(dim).map_err(|_| too_large())?),
        }
    }
    let kind = read_format(cursor)?;
    let cols = dims[0];
    let rows = dims[1..].iter().try_fold(1usize, |product, dim| product.checked_mul(*dim)).ok_or_else(too_large)?;
    rows.checked_mul(cols).ok_or_else(too_large)?;
    if !cols.is_multiple_of(kind.block_elements()) {
        let (name, block) = (kind.name(), kind.block_elements());
        return Err(Fault::damaged(at, format!("its rows of {cols} are not whole {name} blocks of {block}")));
    }
    let bytes = kind.row_bytes(cols).and_then(|row| row.checked_mul(rows)).ok_or_else(too_large)?;
    let at = cursor.at();
    let offset = usize::try_from(cursor.u64("the data's offset")?)
        .map_err(|_| Fault::damaged(at, "its offset is outside the file"))?;
    Ok(TensorInfo { name: name.to_owned(), kind, dims, cols, rows, bytes, part, offset })
}

/// ggml's numbers of the types that are not read here, for the error message.
const OTHER_FORMATS: [(u32, &str); 25] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (31, "Q4_0_4_4"),
];

fn read_format(cursor: &mut Cursor) -> Result<BlockFormat, Fault> {
    let at = cursor.at();
    let id = cursor.u32("the tensor's type")?;
    if let Some(format) = BlockFormat::from_id(id) {
        return Ok(format);
    }
    let name = OTHER_FORMATS.iter().find(|(other, _)| *other == id);
    let name = name.map_or_else(|| format!("type {id} (unknown)"), |(_, name)| format!("type {name}"));
    let supported = BlockFormat::ALL.map(BlockFormat::name).join(", ");
    let problem = format!("{name} is not supported; supported are {supported}");
    Err(Fault::unsupported(at, problem, "take the model in one of these, or quantize it again"))
}

/// Makes offsets absolute, and checks that they are aligned, inside the file, in no other tensor, and that no bytes
/// but padding are left between or after them. `header_end` is the first byte after the descriptions.
pub(super) fn place(
    tensors: &mut [TensorInfo],
    header_end: usize,
    alignment: usize,
    file_bytes: usize,
) -> Result<(), Fault> {
    let data_start = header_end.next_multiple_of(alignment);
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_unstable_by_key(|i| tensors[*i].offset);
    // A file without tensors may end without padding.
    let mut used = if tensors.is_empty() { header_end } else { data_start };
    let mut before: Option<usize> = None;
    for i in order {
        let end = place_one(&tensors[i], before.map(|i| &tensors[i]), used, data_start, alignment, file_bytes)
            .map_err(|fault| fault.in_tensor(&tensors[i].name))?;
        tensors[i].offset += data_start;
        before = Some(i);
        used = end;
    }
    if file_bytes - used >= alignment {
        let problem = format!("{} bytes at the end belong to no tensor", file_bytes - used);
        return Err(Fault::damaged(used, problem));
    }
    Ok(())
}

/// The end of `tensor`, which must begin at the first aligned byte from `used`, where the one `before` it ends.
fn place_one(
    tensor: &TensorInfo,
    before: Option<&TensorInfo>,
    used: usize,
    data_start: usize,
    alignment: usize,
    file_bytes: usize,
) -> Result<usize, Fault> {
    let bytes = tensor.bytes;
    if !tensor.offset.is_multiple_of(alignment) {
        let problem = format!("its offset {} is not a multiple of the alignment {alignment}", tensor.offset);
        return Err(Fault::damaged(data_start, problem));
    }
    let range = data_start.checked_add(tensor.offset).and_then(|start| Some((start, start.checked_add(bytes)?)));
    let Some((start, end)) = range.filter(|(_, end)| *end <= file_bytes) else {
        let problem = format!(
            "its {bytes} bytes at offset {} of the data do not fit the file of {file_bytes} bytes",
            tensor.offset
        );
        return Err(Fault::damaged(data_start, problem));
    };
    match before {
        Some(before) if start < used => {
            Err(Fault::damaged(start, format!("its data overlaps that of {}", super::error::quoted(&before.name))))
        }
        _ if start > used.next_multiple_of(alignment) => {
            Err(Fault::damaged(start, format!("the {} bytes before its data belong to no tensor", start - used)))
        }
        _ => Ok(end),
    }
}
