// What every shader starts with: the extensions this project allows itself, and typed views of memory.
// No operand is a descriptor: each is a 64-bit address in the push constants. `…In` views are readonly, which the
// build reads as `&Tensor`; `…Out` views become `&mut Tensor`.
#extension GL_EXT_buffer_reference : require
#extension GL_EXT_buffer_reference2 : require
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_shader_8bit_storage : require
#extension GL_EXT_shader_explicit_arithmetic_types_int8 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int16 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int32 : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require

layout(buffer_reference, scalar, buffer_reference_align = 4) readonly buffer FloatIn { float v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer FloatOut { float v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly buffer Vec2In { vec2 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer Vec4In { vec4 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) buffer Vec4Out { vec4 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) readonly buffer UintIn { uint v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer UintOut { uint v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer Uvec2Out { uvec2 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer Uvec4In { uvec4 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) buffer Uvec4Out { uvec4 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 2) readonly buffer HalfIn { float16_t v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 2) buffer HalfOut { float16_t v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 2) readonly buffer UshortIn { uint16_t v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 2) buffer UshortOut { uint16_t v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 1) readonly buffer ByteIn { uint8_t v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 1) buffer SignedByteOut { int8_t v[]; };
