//! Metadata values: their kinds in the file, and a view of one value in the file's bytes.

use super::cursor::Cursor;

/// The kinds of metadata value that GGUF knows, by their number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ValueKind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

use ValueKind as Kind;

impl ValueKind {
    pub fn from_id(id: u32) -> Option<ValueKind> {
        const KINDS: [Kind; 13] = [
            Kind::U8,
            Kind::I8,
            Kind::U16,
            Kind::I16,
            Kind::U32,
            Kind::I32,
            Kind::F32,
            Kind::Bool,
            Kind::String,
            Kind::Array,
            Kind::U64,
            Kind::I64,
            Kind::F64,
        ];
        KINDS.get(id as usize).copied()
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::U8 => "u8",
            Kind::I8 => "i8",
            Kind::U16 => "u16",
            Kind::I16 => "i16",
            Kind::U32 => "u32",
            Kind::I32 => "i32",
            Kind::F32 => "f32",
            Kind::Bool => "bool",
            Kind::String => "string",
            Kind::Array => "array",
            Kind::U64 => "u64",
            Kind::I64 => "i64",
            Kind::F64 => "f64",
        }
    }

    /// Bytes of one value in the file; none for strings and arrays, whose length is written before them.
    pub fn fixed_bytes(self) -> Option<usize> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::String | Kind::Array => None,
        }
    }
}

/// One metadata value. Integers of all widths are widened; floats keep theirs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
}

impl<'a> Value<'a> {
    /// The value of a number or bool of `kind` in exactly its bytes.
    pub(super) fn fixed(kind: ValueKind, bytes: &[u8]) -> Option<Value<'a>> {
        Some(match kind {
            Kind::U8 => Value::Unsigned(bytes.first().copied()?.into()),
            Kind::I8 => Value::Signed((bytes.first().copied()? as i8).into()),
            Kind::U16 => Value::Unsigned(u16::from_le_bytes(bytes.try_into().ok()?).into()),
            Kind::I16 => Value::Signed(i16::from_le_bytes(bytes.try_into().ok()?).into()),
            Kind::U32 => Value::Unsigned(u32::from_le_bytes(bytes.try_into().ok()?).into()),
            Kind::I32 => Value::Signed(i32::from_le_bytes(bytes.try_into().ok()?).into()),
            Kind::U64 => Value::Unsigned(u64::from_le_bytes(bytes.try_into().ok()?)),
            Kind::I64 => Value::Signed(i64::from_le_bytes(bytes.try_into().ok()?)),
            Kind::F32 => Value::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            Kind::F64 => Value::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            Kind::Bool => Value::Bool(bytes.first().copied()? != 0),
            Kind::String | Kind::Array => return None,
        })
    }

    pub fn as_u64(self) -> Option<u64> {
        match self {
            Value::Unsigned(value) => Some(value),
            Value::Signed(value) => value.try_into().ok(),
            _ => None,
        }
    }

    pub fn as_u32(self) -> Option<u32> {
        self.as_u64()?.try_into().ok()
    }

    pub fn as_i32(self) -> Option<i32> {
        match self {
            Value::Unsigned(value) => value.try_into().ok(),
            Value::Signed(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// A float of either width, rounded to the nearest `f32`; integers are not floats.
    pub fn as_f32(self) -> Option<f32> {
        match self {
            Value::F32(value) => Some(value),
            Value::F64(value) => Some(value as f32),
            _ => None,
        }
    }

    pub fn as_bool(self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_str(self) -> Option<&'a str> {
        match self {
            Value::String(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_array(self) -> Option<Array<'a>> {
        match self {
            Value::Array(value) => Some(value),
            _ => None,
        }
    }
}

/// An array of numbers, bools or strings, decoded while it is walked. Arrays of arrays do not reach this type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    pub(super) element: ValueKind,
    pub(super) count: usize,
    pub(super) bytes: &'a [u8],
}

impl<'a> Array<'a> {
    pub fn element(&self) -> ValueKind {
        self.element
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.bytes, 0);
        let element = self.element;
        (0..self.count).map_while(move |_| match element.fixed_bytes() {
            Some(bytes) => Value::fixed(element, cursor.take(bytes as u64, "an element").ok()?),
            None => cursor.string("an element").ok().map(Value::String),
        })
    }
}
