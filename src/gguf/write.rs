//! Writes GGUF files (version 3, little-endian) into memory, for tests and tools. It checks sizes, but not that the
//! metadata makes sense.

use super::blocks::BlockFormat;
use super::value::{Value, ValueKind};

/// Collects metadata and tensors in order; [`Writer::finish`] gives the file's bytes.
///
/// ```
/// use hesper::gguf::{Gguf, Writer};
/// let bytes = Writer::new().string("general.architecture", "qwen3").f32_tensor("x", &[2, 3], &[0.5; 6]).finish();
/// assert_eq!(Gguf::parse("tiny", bytes).unwrap().tensor("x").unwrap().rows, 3);
/// ```
#[derive(Clone, Debug)]
pub struct Writer {
    version: u32,
    alignment: usize,
    entries: u64,
    metadata: Vec<u8>,
    tensors: Vec<Tensor>,
}

#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    kind: BlockFormat,
    dims: Vec<usize>,
    bytes: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Writer {
        Writer { version: 3, alignment: 32, entries: 0, metadata: Vec::new(), tensors: Vec::new() }
    }
}

impl Writer {
    pub fn new() -> Writer {
        Writer::default()
    }

    /// The version in the header; 3 unless set. Version 2 has the same layout.
    pub fn version(&mut self, version: u32) -> &mut Writer {
        self.version = version;
        self
    }

    /// Sets the data's alignment (a power of two of at least 8) and writes `general.alignment`.
    pub fn alignment(&mut self, alignment: u32) -> &mut Writer {
        self.alignment = alignment as usize;
        self.u32("general.alignment", alignment)
    }

    fn entry(&mut self, key: &str, kind: ValueKind, value: &[u8]) -> &mut Writer {
        self.entries += 1;
        push_string(&mut self.metadata, key);
        self.metadata.extend((kind as u32).to_le_bytes());
        self.metadata.extend(value);
        self
    }

    pub fn u8(&mut self, key: &str, value: u8) -> &mut Writer {
        self.entry(key, ValueKind::U8, &[value])
    }

    pub fn u16(&mut self, key: &str, value: u16) -> &mut Writer {
        self.entry(key, ValueKind::U16, &value.to_le_bytes())
    }

    pub fn u32(&mut self, key: &str, value: u32) -> &mut Writer {
        self.entry(key, ValueKind::U32, &value.to_le_bytes())
    }

    pub fn i32(&mut self, key: &str, value: i32) -> &mut Writer {
        self.entry(key, ValueKind::I32, &value.to_le_bytes())
    }

    pub fn u64(&mut self, key: &str, value: u64) -> &mut Writer {
        self.entry(key, ValueKind::U64, &value.to_le_bytes())
    }

    pub fn i64(&mut self, key: &str, value: i64) -> &mut Writer {
        self.entry(key, ValueKind::I64, &value.to_le_bytes())
    }

    pub fn f32(&mut self, key: &str, value: f32) -> &mut Writer {
        self.entry(key, ValueKind::F32, &value.to_le_bytes())
    }

    pub fn f64(&mut self, key: &str, value: f64) -> &mut Writer {
        self.entry(key, ValueKind::F64, &value.to_le_bytes())
    }

    pub fn bool(&mut self, key: &str, value: bool) -> &mut Writer {
        self.entry(key, ValueKind::Bool, &[value.into()])
    }

    pub fn string(&mut self, key: &str, value: &str) -> &mut Writer {
        let mut bytes = Vec::new();
        push_string(&mut bytes, value);
        self.entry(key, ValueKind::String, &bytes)
    }

    fn array(&mut self, key: &str, element: ValueKind, count: usize, elements: &[u8]) -> &mut Writer {
        let mut bytes = (element as u32).to_le_bytes().to_vec();
        bytes.extend((count as u64).to_le_bytes());
        bytes.extend(elements);
        self.entry(key, ValueKind::Array, &bytes)
    }

    pub fn string_array<S: AsRef<str>>(&mut self, key: &str, values: &[S]) -> &mut Writer {
        let mut bytes = Vec::new();
        values.iter().for_each(|value| push_string(&mut bytes, value.as_ref()));
        self.array(key, ValueKind::String, values.len(), &bytes)
    }

    pub fn f32_array(&mut self, key: &str, values: &[f32]) -> &mut Writer {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, ValueKind::F32, values.len(), &bytes)
    }

    pub fn i32_array(&mut self, key: &str, values: &[i32]) -> &mut Writer {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, ValueKind::I32, values.len(), &bytes)
    }

    pub fn u32_array(&mut self, key: &str, values: &[u32]) -> &mut Writer {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, ValueKind::U32, values.len(), &bytes)
    }

    pub fn bool_array(&mut self, key: &str, values: &[bool]) -> &mut Writer {
        let bytes: Vec<u8> = values.iter().map(|value| u8::from(*value)).collect();
        self.array(key, ValueKind::Bool, values.len(), &bytes)
    }

    /// Copies an entry of another file, to rewrite a model with changes. `kind` is the value's kind in that file.
    ///
    /// # Panics
    /// When an integer does not fit `kind`, or `kind` is not the value's.
    pub fn value(&mut self, key: &str, kind: ValueKind, value: Value) -> &mut Writer {
        if let Value::Array(array) = value {
            return self.array(key, array.element, array.count, array.bytes);
        }
        let mut bytes = Vec::new();
        push_value(&mut bytes, kind, value).unwrap_or_else(|| panic!("{key}: {value:?} is not a {}", kind.name()));
        self.entry(key, kind, &bytes)
    }

    /// Adds a tensor: `dims` innermost first, `bytes` its blocks.
    ///
    /// # Panics
    /// When `bytes` is not exactly the blocks of these dimensions.
    pub fn tensor(&mut self, name: &str, kind: BlockFormat, dims: &[usize], bytes: &[u8]) -> &mut Writer {
        let rows: usize = dims[1..].iter().product();
        let expected = kind.row_bytes(dims[0]).map(|row| row * rows);
        assert_eq!(Some(bytes.len()), expected, "{name}: bytes of {dims:?} {}", kind.name());
        let (name, dims, bytes) = (name.to_owned(), dims.to_vec(), bytes.to_vec());
        self.tensors.push(Tensor { name, kind, dims, bytes });
        self
    }

    /// Adds an F32 tensor: `dims` innermost first.
    ///
    /// # Panics
    /// When `values` are not as many as the dimensions say.
    pub fn f32_tensor(&mut self, name: &str, dims: &[usize], values: &[f32]) -> &mut Writer {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, BlockFormat::F32, dims, &bytes)
    }

    /// The whole file. Each tensor is padded to the alignment, the last one too.
    pub fn finish(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend(self.entries.to_le_bytes());
        file.extend(&self.metadata);
        let mut offset = 0;
        for tensor in &self.tensors {
            push_string(&mut file, &tensor.name);
            file.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| file.extend((*dim as u64).to_le_bytes()));
            file.extend(tensor.kind.id().to_le_bytes());
            file.extend((offset as u64).to_le_bytes());
            offset += tensor.bytes.len().next_multiple_of(self.alignment);
        }
        for tensor in &self.tensors {
            file.resize(file.len().next_multiple_of(self.alignment), 0);
            file.extend(&tensor.bytes);
        }
        file.resize(file.len().next_multiple_of(self.alignment), 0);
        file
    }
}

fn push_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn push_value(bytes: &mut Vec<u8>, kind: ValueKind, value: Value) -> Option<()> {
    match (kind, value) {
        (ValueKind::F32, Value::F32(value)) => bytes.extend(value.to_le_bytes()),
        (ValueKind::F64, Value::F64(value)) => bytes.extend(value.to_le_bytes()),
        (ValueKind::Bool, Value::Bool(value)) => bytes.push(value.into()),
        (ValueKind::String, Value::String(value)) => push_string(bytes, value),
        (ValueKind::U8, Value::Unsigned(value)) => bytes.extend(u8::try_from(value).ok()?.to_le_bytes()),
        (ValueKind::U16, Value::Unsigned(value)) => bytes.extend(u16::try_from(value).ok()?.to_le_bytes()),
        (ValueKind::U32, Value::Unsigned(value)) => bytes.extend(u32::try_from(value).ok()?.to_le_bytes()),
        (ValueKind::U64, Value::Unsigned(value)) => bytes.extend(value.to_le_bytes()),
        (ValueKind::I8, Value::Signed(value)) => bytes.extend(i8::try_from(value).ok()?.to_le_bytes()),
        (ValueKind::I16, Value::Signed(value)) => bytes.extend(i16::try_from(value).ok()?.to_le_bytes()),
        (ValueKind::I32, Value::Signed(value)) => bytes.extend(i32::try_from(value).ok()?.to_le_bytes()),
        (ValueKind::I64, Value::Signed(value)) => bytes.extend(value.to_le_bytes()),
        _ => return None,
    }
    Some(())
}
