//! A readable listing of a file, for `hesper inspect`. Text from the file is escaped, so that a hostile file cannot
//! steer a terminal.

use std::io::{self, Write};

use super::blocks::BlockFormat;
use super::error::quoted;
use super::{Gguf, TensorInfo, Value, ValueKind};

/// Elements of an array that are shown.
const SHOWN: usize = 6;

/// Writes the file's size and version, its metadata, its tensors, and totals per block format.
pub fn print(gguf: &Gguf, out: &mut impl Write) -> io::Result<()> {
    let (parts, version, alignment) = (gguf.parts(), gguf.version(), gguf.alignment());
    let files = if parts > 1 { format!(" in {parts} files") } else { String::new() };
    writeln!(
        out,
        "{}: {} bytes{files}, GGUF version {version}, alignment {alignment}",
        gguf.file(),
        gguf.file_bytes()
    )?;
    print_metadata(gguf, out)?;
    print_tensors(gguf.tensors(), out)?;
    print_totals(gguf.tensors(), out)
}

fn print_metadata(gguf: &Gguf, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\nmetadata: {} entries", gguf.metadata.len())?;
    let width = gguf.metadata().map(|(key, ..)| key.len()).max().unwrap_or(0).min(60);
    for (key, kind, value) in gguf.metadata() {
        let kind = match value {
            Value::Array(array) => format!("[{}]", array.element().name()),
            _ => kind.name().to_owned(),
        };
        writeln!(out, "  {:width$}  {kind:8}  {}", escaped(key), shown(value))?;
    }
    Ok(())
}

fn print_tensors(tensors: &[TensorInfo], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\ntensors: {} (shape: cols × rows × …)", tensors.len())?;
    let width = tensors.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0);
    for tensor in tensors {
        let shape = tensor.dims.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ");
        let (name, kind) = (escaped(&tensor.name), tensor.kind.name());
        writeln!(out, "  {name:width$}  {kind:4}  {shape:>16}  {:>12} bytes", tensor.bytes)?;
    }
    Ok(())
}

fn print_totals(tensors: &[TensorInfo], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\ntotals")?;
    let of = |kind: BlockFormat| tensors.iter().filter(move |tensor| tensor.kind == kind);
    for kind in BlockFormat::ALL {
        if of(kind).next().is_some() {
            print_total(kind.name(), of(kind), out)?;
        }
    }
    print_total("all", tensors.iter(), out)
}

fn print_total<'a>(
    label: &str,
    tensors: impl Iterator<Item = &'a TensorInfo> + Clone,
    out: &mut impl Write,
) -> io::Result<()> {
    // Sums of tensors that all lie in mapped files: their bytes cannot overflow, nor can their values, 8 or fewer a byte.
    let values: u64 = tensors.clone().map(|tensor| tensor.elements() as u64).sum();
    let bytes: u64 = tensors.clone().map(|tensor| tensor.bytes as u64).sum();
    let bits = if values == 0 { 0.0 } else { bytes as f64 * 8.0 / values as f64 };
    let count = tensors.count();
    writeln!(out, "  {label:4}  {count:>5} tensors  {values:>14} values  {bytes:>14} bytes  {bits:.2} bits a value")
}

fn shown(value: Value) -> String {
    let Value::Array(array) = value else { return scalar(value) };
    let mut items: Vec<String> = array.iter().take(SHOWN).map(scalar).collect();
    if array.len() > SHOWN {
        items.push(format!("… ({} in all)", array.len()));
    }
    format!("[{}]", items.join(", "))
}

fn scalar(value: Value) -> String {
    match value {
        Value::Unsigned(value) => value.to_string(),
        Value::Signed(value) => value.to_string(),
        Value::F32(value) => format!("{value:?}"),
        Value::F64(value) => format!("{value:?}"),
        Value::Bool(value) => value.to_string(),
        Value::String(value) if value.len() > 80 => format!("{} ({} bytes)", quoted(value), value.len()),
        Value::String(value) => quoted(value),
        Value::Array(array) => describe(Value::Array(array)),
    }
}

fn escaped(name: &str) -> String {
    name.escape_debug().collect()
}

/// A value in a few words, for error messages: its kind and what it is.
pub(super) fn describe(value: Value) -> String {
    match value {
        Value::Unsigned(_) | Value::Signed(_) => format!("the integer {}", scalar(value)),
        Value::F32(_) | Value::F64(_) => format!("the float {}", scalar(value)),
        Value::Bool(_) => format!("the bool {}", scalar(value)),
        Value::String(_) => format!("the string {}", scalar(value)),
        Value::Array(array) => match array.element() {
            ValueKind::String => format!("an array of {} strings", array.len()),
            element => format!("an array of {} {}", array.len(), element.name()),
        },
    }
}
