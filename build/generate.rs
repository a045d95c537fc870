//! Rust for reflected kernels: for each shader a module with `Args`, `Spec`, `Resolved`, `dispatch`, `resolve` and one
//! static `Kernel` per variant; and the list of all.

use crate::reflect::{Interface, Kind, Member, Record, SpecConstant};
use std::{collections::BTreeMap, fmt::Write};

/// A variant of a shader.
pub struct Compiled<'a> {
    pub name: &'a str,
    pub defines: &'a [String],
    pub interface: Interface,
}

pub fn kernels(families: &BTreeMap<&str, Vec<Compiled>>) -> String {
    let mut out = String::new();
    let mut all = Vec::new();
    let mut records = BTreeMap::new();
    for (family, variants) in families {
        let Compiled { name: first, interface, .. } = &variants[0];
        for Compiled { name, interface: other, .. } in variants {
            assert!(other == interface, "{name} and {first} are variants of {family} but differ in their interface");
            all.push(format!("{family}::{}", name.to_uppercase()));
        }
        write_family(&mut out, family, variants, interface);
        for record in &interface.records {
            let known = records.entry(record.name.as_str()).or_insert(record);
            assert!(*known == record, "{family} declares another struct {}", record.name);
        }
    }
    for record in records.values() {
        write_record(&mut out, record);
    }
    let _ = writeln!(out, "/// Every kernel, by name.\npub static KERNELS: &[&Kernel] = &[{}];", prefixed(&all));
    out
}

/// A buffer's element as a Rust struct of the same layout.
fn write_record(out: &mut String, record: &Record) {
    let _ = writeln!(
        out,
        "/// `struct {}` of the shaders.\n#[repr(C)]\n\
         #[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]\npub struct {} {{",
        record.name, record.name
    );
    for (index, member) in record.members.iter().enumerate() {
        assert!(member.offset as usize == index * 4, "{}.{} leaves a gap", record.name, member.name);
        let _ = writeln!(out, "pub {}: {},", member.name, rust_type(&member.kind));
    }
    out.push_str("}\n");
}

/// `const uint NAME = value;` lines of shared shader text as Rust constants.
pub fn constants(file: &str, glsl: &str) -> String {
    let mut out = String::new();
    for line in glsl.lines() {
        let Some(rest) = line.strip_prefix("const uint ") else { continue };
        let Some((name, value)) = rest.split_once(';').and_then(|(line, _)| line.split_once(" = ")) else { continue };
        let value = value.trim_end_matches('u');
        let _ = writeln!(out, "/// `{name}` of `{file}`.\npub const {name}: u32 = {value};");
    }
    out
}

fn prefixed(names: &[String]) -> String {
    names.iter().map(|name| format!("&{name}")).collect::<Vec<_>>().join(", ")
}

fn rust_type(kind: &Kind) -> &'static str {
    match kind {
        Kind::Pointer { .. } => "Tensor",
        Kind::U32 => "u32",
        Kind::I32 => "i32",
        Kind::F32 => "f32",
        Kind::Bool => "bool",
    }
}

fn scalar(kind: &Kind) -> &'static str {
    match kind {
        Kind::I32 => "I32",
        Kind::F32 => "F32",
        Kind::Bool => "Bool",
        Kind::U32 | Kind::Pointer { .. } => "U32",
    }
}

fn word(kind: &Kind, value: &str) -> String {
    match kind {
        Kind::F32 => format!("{value}.to_bits()"),
        Kind::Bool => format!("u32::from({value})"),
        Kind::I32 => format!("{value} as u32"),
        _ => value.to_owned(),
    }
}

fn from_word(kind: &Kind, value: &str) -> String {
    match kind {
        Kind::F32 => format!("f32::from_bits({value})"),
        Kind::Bool => format!("{value} != 0"),
        Kind::I32 => format!("{value} as i32"),
        _ => value.to_owned(),
    }
}

fn pointers(interface: &Interface) -> impl Iterator<Item = (&Member, bool)> {
    interface.members.iter().filter_map(|member| match member.kind {
        Kind::Pointer { writable } => Some((member, writable)),
        _ => None,
    })
}

fn scalars(interface: &Interface) -> impl Iterator<Item = &Member> {
    interface.members.iter().filter(|member| !matches!(member.kind, Kind::Pointer { .. }))
}

fn push_bytes(interface: &Interface) -> u32 {
    let end = |member: &Member| member.offset + if matches!(member.kind, Kind::Pointer { .. }) { 8 } else { 4 };
    let bytes = interface.members.iter().map(end).max().unwrap_or(0).next_multiple_of(8);
    assert!(bytes <= 128, "push constants of {bytes} bytes: Vulkan promises 128");
    bytes
}

fn write_family(out: &mut String, family: &str, variants: &[Compiled], interface: &Interface) {
    let _ = writeln!(
        out,
        "/// Bindings of `shaders/{family}.comp`.\npub mod {family} {{\n#[allow(unused_imports)]\nuse super::*;"
    );
    write_args(out, interface);
    write_spec(out, &interface.specialization);
    write_functions(out, interface);
    write_statics(out, family, variants, interface);
    out.push_str("}\n");
}

fn write_args(out: &mut String, interface: &Interface) {
    let lifetime = if pointers(interface).next().is_some() { "<'a>" } else { "" };
    let _ = writeln!(out, "/// Operands and push constants.\npub struct Args{lifetime} {{");
    for member in &interface.members {
        let kind = match member.kind {
            Kind::Pointer { writable: true } => "&'a mut Tensor",
            Kind::Pointer { writable: false } => "&'a Tensor",
            ref other => rust_type(other),
        };
        let _ = writeln!(out, "pub {}: {kind},", member.name);
    }
    let _ = writeln!(
        out,
        "}}\n/// A dispatch's arguments, read back for the twin.\n#[derive(Clone, Debug)]\npub struct Resolved {{"
    );
    for member in &interface.members {
        let _ = writeln!(out, "pub {}: {},", member.name, rust_type(&member.kind));
    }
    out.push_str("pub spec: Spec,\npub groups: [u32; 3],\n}\n");
}

fn write_spec(out: &mut String, constants: &[SpecConstant]) {
    out.push_str("/// Specialization constants.\n#[derive(Clone, Copy, Debug, PartialEq)]\npub struct Spec {\n");
    for constant in constants {
        let _ = writeln!(out, "pub {}: {},", constant.name, rust_type(&constant.kind));
    }
    out.push_str("}\n");
}

fn write_functions(out: &mut String, interface: &Interface) {
    let lifetime = if pointers(interface).next().is_some() { "<'_>" } else { "" };
    let _ = writeln!(
        out,
        "pub fn dispatch(kernel: &'static Kernel, spec: Spec, args: Args{lifetime}, groups: [u32; 3]) -> Dispatch {{\n\
         assert!(FAMILY.iter().any(|member| std::ptr::eq(*member, kernel)), \"{{}} is of another family\", kernel.name);\n\
         let mut push = vec![0u8; {}];",
        push_bytes(interface)
    );
    for member in scalars(interface) {
        let value = word(&member.kind, &format!("args.{}", member.name));
        let _ = writeln!(out, "put(&mut push, {}, {value});", member.offset);
    }
    let operands: Vec<_> = pointers(interface).map(|(member, _)| format!("args.{}.clone()", member.name)).collect();
    let words: Vec<_> =
        interface.specialization.iter().map(|spec| word(&spec.kind, &format!("spec.{}", spec.name))).collect();
    let _ = writeln!(out, "make(kernel, vec![{}], vec![{}], push, groups)\n}}", words.join(", "), operands.join(", "));
    out.push_str("pub fn resolve(dispatch: &Dispatch) -> Resolved {\n");
    out.push_str(
        "assert!(FAMILY.iter().any(|member| std::ptr::eq(*member, dispatch.kernel)), \"of another family\");\nResolved {\n",
    );
    for (index, (member, _)) in pointers(interface).enumerate() {
        let _ = writeln!(out, "{}: dispatch.operands[{index}].clone(),", member.name);
    }
    for member in scalars(interface) {
        let value = from_word(&member.kind, &format!("get(&dispatch.push, {})", member.offset));
        let _ = writeln!(out, "{}: {value},", member.name);
    }
    out.push_str("spec: Spec {\n");
    for (index, spec) in interface.specialization.iter().enumerate() {
        let value = from_word(&spec.kind, &format!("dispatch.specialization[{index}]"));
        let _ = writeln!(out, "{}: {value},", spec.name);
    }
    out.push_str("},\ngroups: dispatch.groups,\n}\n}\n");
}

fn write_statics(out: &mut String, family: &str, variants: &[Compiled], interface: &Interface) {
    let operands: String = pointers(interface)
        .map(|(member, writable)| {
            let Member { name, offset, .. } = member;
            format!("OperandInfo {{ name: \"{name}\", push_offset: {offset}, writable: {writable} }}, ")
        })
        .collect();
    let constants: String = scalars(interface)
        .map(|member| {
            let Member { name, offset, kind } = member;
            format!("ConstantInfo {{ name: \"{name}\", push_offset: {offset}, scalar: Scalar::{} }}, ", scalar(kind))
        })
        .collect();
    let specialization: String = interface
        .specialization
        .iter()
        .map(|SpecConstant { name, id, kind }| {
            format!("SpecInfo {{ name: \"{name}\", id: {id}, scalar: Scalar::{} }}, ", scalar(kind))
        })
        .collect();
    let mut names = Vec::new();
    for Compiled { name, defines, .. } in variants {
        let upper = name.to_uppercase();
        let _ = writeln!(
            out,
            "pub static {upper}: Kernel = Kernel {{ name: \"{name}\", family: \"{family}\", defines: &{defines:?},\n\
             spirv: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.spv\")), push_bytes: {},\n\
             operands: &[{operands}],\nconstants: &[{constants}],\nspecialization: &[{specialization}] }};",
            push_bytes(interface)
        );
        names.push(upper);
    }
    let _ = writeln!(out, "/// The variants.\npub static FAMILY: &[&Kernel] = &[{}];", prefixed(&names));
}
