//! Reads a kernel's interface from unoptimized SPIR-V: the push-constant block and the specialization constants.
//! Only the shape that this project's shaders have is accepted; anything else is an error that names it.

use rspirv::{
    dr::{Instruction, Module, Operand},
    spirv::{BuiltIn, Decoration, Op, StorageClass},
};

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A buffer address; `writable` unless the pointee is `readonly`.
    Pointer {
        writable: bool,
    },
    U32,
    I32,
    F32,
    Bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub name: String,
    pub offset: u32,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SpecConstant {
    pub name: String,
    pub id: u32,
    pub kind: Kind,
}

/// A struct that a buffer holds an array of.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub name: String,
    pub members: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    pub members: Vec<Member>,
    pub specialization: Vec<SpecConstant>,
    pub records: Vec<Record>,
}

pub fn interface(bytes: &[u8]) -> Result<Interface, String> {
    let module = rspirv::dr::load_bytes(bytes).map_err(|error| format!("not SPIR-V: {error}"))?;
    let reader = Reader { module: &module };
    Ok(Interface {
        members: reader.push_members()?,
        specialization: reader.specialization()?,
        records: reader.records()?,
    })
}

struct Reader<'a> {
    module: &'a Module,
}

impl Reader<'_> {
    fn definition(&self, id: u32) -> Result<&Instruction, String> {
        self.module
            .types_global_values
            .iter()
            .find(|instruction| instruction.result_id == Some(id))
            .ok_or_else(|| format!("no definition of id {id}"))
    }

    fn name(&self, id: u32) -> Option<String> {
        self.module.debug_names.iter().find_map(|instruction| match instruction.operands.as_slice() {
            [Operand::IdRef(target), Operand::LiteralString(name)]
                if instruction.class.opcode == Op::Name && *target == id =>
            {
                Some(name.clone())
            }
            _ => None,
        })
    }

    fn member_name(&self, id: u32, member: u32) -> Option<String> {
        self.module.debug_names.iter().find_map(|instruction| match instruction.operands.as_slice() {
            [Operand::IdRef(target), Operand::LiteralBit32(index), Operand::LiteralString(name)]
                if *target == id && *index == member =>
            {
                Some(name.clone())
            }
            _ => None,
        })
    }

    fn member_decoration(&self, id: u32, member: u32, wanted: Decoration) -> Option<Option<u32>> {
        self.module.annotations.iter().find_map(|instruction| match instruction.operands.as_slice() {
            [Operand::IdRef(target), Operand::LiteralBit32(index), Operand::Decoration(decoration), rest @ ..]
                if *target == id && *index == member && *decoration == wanted =>
            {
                Some(rest.first().and_then(|operand| match operand {
                    Operand::LiteralBit32(value) => Some(*value),
                    _ => None,
                }))
            }
            _ => None,
        })
    }

    fn scalar(&self, id: u32) -> Result<Kind, String> {
        let definition = self.definition(id)?;
        match (definition.class.opcode, definition.operands.as_slice()) {
            (Op::TypeInt, [Operand::LiteralBit32(32), Operand::LiteralBit32(0)]) => Ok(Kind::U32),
            (Op::TypeInt, [Operand::LiteralBit32(32), Operand::LiteralBit32(1)]) => Ok(Kind::I32),
            (Op::TypeFloat, [Operand::LiteralBit32(32), ..]) => Ok(Kind::F32),
            (Op::TypeBool, _) => Ok(Kind::Bool),
            (
                Op::TypePointer,
                [Operand::StorageClass(StorageClass::PhysicalStorageBuffer), Operand::IdRef(pointee)],
            ) => {
                let read_only = self.member_decoration(*pointee, 0, Decoration::NonWritable).is_some();
                Ok(Kind::Pointer { writable: !read_only })
            }
            (opcode, operands) => Err(format!("a {opcode:?} {operands:?} where a pointer or 32-bit scalar must stand")),
        }
    }

    fn push_members(&self) -> Result<Vec<Member>, String> {
        let variable = self.module.types_global_values.iter().find(|instruction| {
            instruction.class.opcode == Op::Variable
                && instruction.operands.first() == Some(&Operand::StorageClass(StorageClass::PushConstant))
        });
        let Some(variable) = variable else { return Ok(Vec::new()) };
        let pointer = self.definition(variable.result_type.ok_or("a variable without type")?)?;
        let Some(Operand::IdRef(block)) = pointer.operands.get(1) else { return Err("a pointer to nothing".into()) };
        self.members(*block)
    }

    fn members(&self, block: u32) -> Result<Vec<Member>, String> {
        let members = &self.definition(block)?.operands;
        (0u32..)
            .zip(members)
            .map(|(index, member)| {
                let Operand::IdRef(member) = member else { return Err("a struct member without type".to_owned()) };
                let name = self.member_name(block, index).ok_or("a struct has no names (was it optimized?)")?;
                let offset = self
                    .member_decoration(block, index, Decoration::Offset)
                    .flatten()
                    .ok_or_else(|| format!("{name} has no offset"))?;
                let kind = self.scalar(*member).map_err(|problem| format!("{name}: {problem}"))?;
                Ok(Member { name, offset, kind })
            })
            .collect()
    }

    /// The structs in `buffer … { Struct v[]; }` blocks, but those with addresses: they are another kernel's push constants.
    fn records(&self) -> Result<Vec<Record>, String> {
        let mut records = Vec::new();
        for array in self.module.types_global_values.iter().filter(|i| i.class.opcode == Op::TypeRuntimeArray) {
            let Some(Operand::IdRef(element)) = array.operands.first() else { continue };
            if self.definition(*element)?.class.opcode == Op::TypeStruct {
                let name = self.name(*element).ok_or("a struct has no name")?;
                let members = self.members(*element)?;
                if !members.iter().any(|member| matches!(member.kind, Kind::Pointer { .. })) {
                    records.push(Record { name, members });
                }
            }
        }
        records.sort_by(|a, b| a.name.cmp(&b.name));
        records.dedup();
        Ok(records)
    }

    /// The first component of `gl_WorkGroupSize`, which has no name of its own.
    fn workgroup_width(&self) -> Option<u32> {
        let composite =
            self.module.annotations.iter().find_map(|instruction| match instruction.operands.as_slice() {
                [
                    Operand::IdRef(target),
                    Operand::Decoration(Decoration::BuiltIn),
                    Operand::BuiltIn(BuiltIn::WorkgroupSize),
                ] => Some(*target),
                _ => None,
            })?;
        match self.definition(composite).ok()?.operands.first() {
            Some(Operand::IdRef(width)) => Some(*width),
            _ => None,
        }
    }

    fn specialization(&self) -> Result<Vec<SpecConstant>, String> {
        let width = self.workgroup_width();
        let mut found = self
            .module
            .annotations
            .iter()
            .filter_map(|instruction| match instruction.operands.as_slice() {
                [Operand::IdRef(target), Operand::Decoration(Decoration::SpecId), Operand::LiteralBit32(id)] => {
                    Some((*target, *id))
                }
                _ => None,
            })
            .map(|(target, id)| {
                let name = if width == Some(target) { Some("local_size".to_owned()) } else { self.name(target) };
                let name = name.ok_or_else(|| format!("specialization constant {id} has no name"))?.to_lowercase();
                let kind = self.scalar(self.definition(target)?.result_type.ok_or("a constant without type")?)?;
                Ok(SpecConstant { name, id, kind })
            })
            .collect::<Result<Vec<_>, String>>()?;
        found.sort_by_key(|constant| constant.id);
        Ok(found)
    }
}
