//! GGUF files: block formats against llama.cpp's bytes, the demo model, round trips, every malformation, split files.

use std::path::Path;

use hesper::gguf::{self, BlockFormat, Error, Gguf, Value, ValueKind, Writer};
use proptest::prelude::*;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/hesper-demo-Q8_0.gguf");

fn fixture(format: BlockFormat, extension: &str) -> Vec<u8> {
    let path =
        format!("{}/tests/fixtures/blocks/{}.{extension}", env!("CARGO_MANIFEST_DIR"), format.name().to_lowercase());
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}; see scripts/fixtures/block_formats"))
}

#[test]
fn every_block_format_is_bitwise_what_llama_cpp_reads() {
    for format in BlockFormat::ALL {
        let (blocks, values) = (fixture(format, "blocks"), fixture(format, "values"));
        let expected: Vec<u32> = values.chunks_exact(4).map(|v| u32::from_le_bytes(v.try_into().unwrap())).collect();
        assert_eq!(expected.len(), 8 * 256);
        assert_eq!(format.row_bytes(256).unwrap() * 8, blocks.len(), "{}", format.name());
        let mut found = vec![f32::NAN; expected.len()];
        format.dequantize(&blocks, &mut found);
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let wanted = f32::from_bits(*expected);
            assert_eq!(found.to_bits(), *expected, "{} value {i}: {found} for {wanted}", format.name());
        }
        // A row at a time gives the same as all at once.
        let mut row = vec![f32::NAN; 256];
        format.dequantize(&blocks[blocks.len() / 8 * 3..][..blocks.len() / 8], &mut row);
        assert_eq!(row, found[3 * 256..4 * 256], "{}", format.name());
    }
}

#[test]
fn block_formats_name_and_size_themselves() {
    assert_eq!(BlockFormat::from_id(12), Some(BlockFormat::Q4_K));
    assert_eq!(BlockFormat::from_id(17), None);
    assert_eq!((BlockFormat::Q4_K.name(), BlockFormat::Q4_K.variant()), ("Q4_K", "q4_k"));
    assert_eq!(BlockFormat::Q4_0.row_bytes(64), Some(36));
    assert_eq!(BlockFormat::Q4_0.row_bytes(65), None);
    assert_eq!(BlockFormat::F32.row_bytes(usize::MAX), None);
    for format in BlockFormat::ALL {
        assert_eq!(BlockFormat::from_id(format.id()), Some(format));
        assert_eq!(format.variant(), format.name().to_lowercase());
    }
}

#[test]
fn the_demo_model_opens() {
    let gguf = Gguf::open(DEMO).unwrap();
    assert_eq!((gguf.version(), gguf.alignment(), gguf.parts()), (3, 32, 1));
    assert_eq!(gguf.str("general.architecture").unwrap(), "qwen3");
    assert_eq!(gguf.u32("qwen3.block_count").unwrap(), 4);
    assert_eq!(gguf.f32("qwen3.rope.freq_base").unwrap(), 1e6);
    let tokens = gguf.string_array("tokenizer.ggml.tokens").unwrap();
    assert_eq!(tokens.len(), 2048);
    assert!(tokens.contains(&"<|im_end|>"));
    assert_eq!(gguf.i32_array("tokenizer.ggml.token_type").unwrap().len(), 2048);
    let embedding = gguf.tensor("token_embd.weight").unwrap();
    assert_eq!((embedding.kind, embedding.cols, embedding.rows), (BlockFormat::Q8_0, 256, 2048));
    assert_eq!(gguf.bytes(embedding).len(), 2048 * 256 / 32 * 34);
    let parameters: usize = gguf.tensors().iter().map(|tensor| tensor.elements()).sum();
    assert_eq!(parameters, 3_672_832);
    assert_eq!(gguf.file_bytes(), std::fs::metadata(DEMO).unwrap().len());
}

#[test]
fn getters_check_kind_and_range() {
    let bytes = Writer::new()
        .u64("big", 1 << 40)
        .u8("small", 7)
        .i32("negative", -1)
        .f64("double", 0.5)
        .bool("yes", true)
        .i32_array("ids", &[1, -2])
        .string_array("words", &["a", "ü"])
        .finish();
    let gguf = Gguf::parse("tiny", bytes).unwrap();
    assert_eq!(gguf.u64("big").unwrap(), 1 << 40);
    assert_eq!((gguf.u32("small").unwrap(), gguf.opt_u32("absent").unwrap()), (7, None));
    assert_eq!((gguf.f32("double").unwrap(), gguf.bool("yes").unwrap()), (0.5, true));
    assert_eq!(gguf.i32_array("ids").unwrap(), [1, -2]);
    assert_eq!(gguf.string_array("words").unwrap(), ["a", "ü"]);
    let text = |error: Error| error.to_string();
    assert_eq!(
        text(gguf.u32("big").unwrap_err()),
        "tiny: key \"big\" is the integer 1099511627776, but an integer of 0 to 4294967295 is needed; \
         convert the model again"
    );
    assert!(text(gguf.u32("negative").unwrap_err()).contains("is the integer -1, but"));
    assert!(text(gguf.u32_array("ids").unwrap_err()).contains("is an array of 2 i32, but an array of integers of 0"));
    assert!(text(gguf.str("yes").unwrap_err()).contains("is the bool true, but a string"));
    assert!(text(gguf.f32("small").unwrap_err()).contains("a float is needed"));
    assert!(text(gguf.str("absent").unwrap_err()).contains("key \"absent\" is missing"));
    assert!(text(gguf.tensor("absent").unwrap_err()).contains("tensor \"absent\" is missing"));
    assert_eq!(gguf.value("small"), Some(Value::Unsigned(7)));
}

#[test]
fn the_listing_shows_everything_once() {
    let bytes = Writer::new()
        .string("general.name", "bell \u{7} ring")
        .u32_array("many", &[1, 2, 3, 4, 5, 6, 7, 8])
        .f32("eps", 1e-6)
        .f32_tensor("norm", &[4], &[1.0; 4])
        .tensor("w", BlockFormat::Q8_0, &[32, 2], &[0; 68])
        .finish();
    let mut listing = Vec::new();
    gguf::inspect::print(&Gguf::parse("tiny", bytes).unwrap(), &mut listing).unwrap();
    let expected = r#"tiny: 352 bytes, GGUF version 3, alignment 32

metadata: 3 entries
  general.name  string    "bell \u{7} ring"
  many          [u32]     [1, 2, 3, 4, 5, 6, … (8 in all)]
  eps           f32       1e-6

tensors: 2 (shape: cols × rows × …)
  norm  F32                  4            16 bytes
  w     Q8_0            32 × 2            68 bytes

totals
  F32       1 tensors               4 values              16 bytes  32.00 bits a value
  Q8_0      1 tensors              64 values              68 bytes  8.50 bits a value
  all       2 tensors              68 values              84 bytes  9.88 bits a value
"#;
    assert_eq!(String::from_utf8(listing).unwrap(), expected);
}

#[test]
fn a_large_vocabulary_is_read_fast() {
    let tokens: Vec<String> = (0..150_000).map(|i| format!("token{i}")).collect();
    let bytes = Writer::new().string_array("tokenizer.ggml.tokens", &tokens).finish();
    // Against a copy of the same strings, so that slow machines and emulators do not matter. The best of five each: other
    // tests run beside this one.
    let best = |work: &dyn Fn()| {
        let times = (0..5).map(|_| {
            let start = std::time::Instant::now();
            work();
            start.elapsed()
        });
        times.min().unwrap()
    };
    let copying = best(&|| drop(std::hint::black_box(tokens.clone())));
    let reading = best(&|| {
        let gguf = Gguf::parse("vocabulary", bytes.clone()).unwrap();
        assert_eq!(gguf.string_array("tokenizer.ggml.tokens").unwrap()[149_999], "token149999");
    });
    assert!(reading < copying * 10, "{reading:?} to read, {copying:?} to copy");
}

/// A small valid file to break: one key and two tensors. Its fields lie at the offsets the tests use.
fn small() -> Vec<u8> {
    Writer::new().u32("k", 1).f32_tensor("a", &[8], &[1.0; 8]).f32_tensor("b", &[4, 2], &[2.0; 8]).finish()
}

const KEY: usize = 24; // length 8, "k", kind 4, value 4
const TENSOR_A: usize = KEY + 8 + 1 + 4 + 4; // length 8, "a", rank 4, dimension 8, kind 4, offset 8
const TENSOR_B: usize = TENSOR_A + 8 + 1 + 4 + 8 + 4 + 8;

/// What reading `small` says when `bytes` are put at `at`.
fn broken(at: usize, bytes: &[u8]) -> String {
    let mut file = small();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    Gguf::parse("small", file).expect_err("a broken file was accepted").to_string()
}

#[test]
fn every_malformation_is_named_with_its_place() {
    assert!(Gguf::parse("small", small()).is_ok());
    let huge = u64::MAX.to_le_bytes();
    let cases: Vec<(String, &str)> = vec![
        (broken(0, b"GGML"), "small: byte 0: this is not a GGUF file: it begins with \"GGML\"; give the path of"),
        (broken(4, &[0, 0, 0, 3]), "byte 4: this is a big-endian GGUF file; only little-endian"),
        (broken(4, &[1, 0, 0, 0]), "byte 4: this is GGUF version 1; versions 2 and 3 are supported; convert"),
        (broken(4, &[9, 0, 0, 0]), "byte 4: this is GGUF version 9"),
        (broken(8, &huge), "byte 8: the header claims 18446744073709551615 tensors, more than the file's"),
        (broken(16, &huge), "byte 16: the header claims 18446744073709551615 metadata entries"),
        (broken(KEY, &huge), "byte 32: a metadata key needs 18446744073709551615 bytes, but only"),
        (broken(KEY, &[0]), "byte 24: a metadata key is 0 bytes long"),
        (broken(KEY + 8, &[0xff]), "byte 32: a metadata key is not UTF-8"),
        (broken(KEY + 9, &[13]), "key \"k\" (byte 33): value type 13 does not exist"),
        (broken(KEY + 9, &[8]), "key \"k\" (byte 45): the string needs"),
        (broken(TENSOR_A, &[65]), "byte 41: a tensor's name is 65 bytes long; 1 to 64"),
        (broken(TENSOR_A + 9, &[0]), "tensor \"a\" (byte 50): it has 0 dimensions; 1 to 4"),
        (broken(TENSOR_A + 9, &[5]), "tensor \"a\" (byte 50): it has 5 dimensions"),
        (broken(TENSOR_A + 13, &[0]), "tensor \"a\" (byte 50): a dimension is 0"),
        (broken(TENSOR_A + 13, &huge), "tensor \"a\" (byte 50): its dimensions' product is too large"),
        (broken(TENSOR_B + 13, &huge[..7]), "tensor \"b\""),
        (broken(TENSOR_A + 21, &[17]), "tensor \"a\" (byte 62): type IQ2_XS is not supported; supported are F32, F16"),
        (broken(TENSOR_A + 21, &[99]), "type 99 (unknown) is not supported"),
        (broken(TENSOR_A + 21, &[2]), "its rows of 8 are not whole Q4_0 blocks of 32"),
        (broken(TENSOR_A + 25, &[1]), "tensor \"a\" (byte 128): its offset 1 is not a multiple of the alignment 32"),
        (broken(TENSOR_B + 33, &[0]), "tensor \"b\" (byte 128): its data overlaps that of \"a\""),
        (broken(TENSOR_B + 33, &[64]), "its 32 bytes at offset 64 of the data do not fit the file of 192 bytes"),
        (broken(TENSOR_A + 13, &[9]), "tensor \"b\" (byte 160): its data overlaps that of \"a\""),
        (broken(TENSOR_B + 8, b"a"), "tensor \"a\""),
    ];
    for (text, expected) in cases {
        assert!(text.contains(expected), "{text}\n  lacks: {expected}");
    }
}

#[test]
fn whole_file_malformations_are_named() {
    let error = |bytes: Vec<u8>| Gguf::parse("x", bytes).expect_err("a broken file was accepted").to_string();
    let mut file = small();
    file.extend([0; 32]);
    assert!(error(file).contains("byte 192: 32 bytes at the end belong to no tensor"));
    assert!(error(Vec::new()).contains("byte 0: the GGUF magic needs 4 bytes, but only 0 are left"));
    let twice = Writer::new().u32("key", 1).u32("key", 2).finish();
    assert!(error(twice).contains("key \"key\" (byte 58): the key occurs twice"));
    let twice = Writer::new().f32_tensor("t", &[8], &[0.0; 8]).f32_tensor("t", &[8], &[0.0; 8]).finish();
    assert!(error(twice).contains("tensor \"t\" (byte 128): the tensor's name occurs twice"));
    for alignment in [4, 48, 1 << 20] {
        let text = error(Writer::new().u32("general.alignment", alignment).finish());
        assert!(text.contains(&format!("it is the integer {alignment}, but a power of two of 8 to 65536")), "{text}");
    }
    assert!(error(Writer::new().string("general.alignment", "32").finish()).contains("it is the string \"32\""));
    let mut gap = Writer::new().f32_tensor("a", &[8], &[0.0; 8]).f32_tensor("b", &[24], &[0.0; 24]).finish();
    let offset = 24 + 33 + 25;
    gap[offset..offset + 8].copy_from_slice(&64u64.to_le_bytes());
    gap.extend([0; 32]);
    assert!(error(gap).contains("tensor \"b\" (byte 160): the 32 bytes before its data belong to no tensor"));
}

#[test]
fn arrays_are_bounded() {
    // key "a": kind 9, then the element kind at 37, the count at 41, the elements at 49
    let with = |element: u32, count: u64| {
        let mut file = Writer::new().u32_array("a", &[0; 64]).finish();
        file[37..41].copy_from_slice(&element.to_le_bytes());
        file[41..49].copy_from_slice(&count.to_le_bytes());
        Gguf::parse("x", file).expect_err("a broken array was accepted").to_string()
    };
    assert!(with(4, 1 << 62).contains("key \"a\" (byte 49): an array of 4611686018427387904 u32 needs"));
    assert!(with(8, 1 << 62).contains("an array of 4611686018427387904 strings does not fit"));
    assert!(with(9, 1).contains("key \"a\" (byte 49): arrays of arrays are not supported"));
    assert!(with(13, 1).contains("key \"a\" (byte 37): value type 13 does not exist"));
    let mut file = Writer::new().bool_array("a", &[true, false, true]).finish();
    file[50] = 2;
    let text = Gguf::parse("x", file).unwrap_err().to_string();
    assert!(text.contains("key \"a\" (byte 50): a bool is 2, not 0 or 1"), "{text}");
}

#[test]
fn alignment_and_version_two_are_read() {
    let bytes = Writer::new().version(2).alignment(256).f32_tensor("a", &[3], &[1.0, 2.0, 3.0]).finish();
    let gguf = Gguf::parse("x", bytes).unwrap();
    assert_eq!((gguf.version(), gguf.alignment()), (2, 256));
    let tensor = gguf.tensor("a").unwrap();
    assert_eq!(tensor.offset, 256);
    let mut values = [0.0; 3];
    tensor.kind.dequantize(gguf.bytes(tensor), &mut values);
    assert_eq!(values, [1.0, 2.0, 3.0]);
}

#[test]
fn files_that_cannot_be_opened_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = Gguf::open(folder.path().join("absent.gguf")).unwrap_err().to_string();
    assert!(text.contains("absent.gguf: No such file") && text.contains("check the path"), "{text}");
    assert!(Gguf::open(folder.path()).unwrap_err().to_string().contains("not a regular file"));
    let empty = folder.path().join("empty.gguf");
    std::fs::write(&empty, b"").unwrap();
    assert!(Gguf::open(&empty).unwrap_err().to_string().contains("the GGUF magic needs 4 bytes"));
}

/// Part `number` of three, with one tensor of its own; `claimed` is what its metadata says its number is.
fn write_part(folder: &Path, number: u16, claimed: u16, tensor: &str) {
    let mut writer = Writer::new();
    if number == 0 {
        writer.string("general.architecture", "llama");
    }
    writer.u16("split.no", claimed).u16("split.count", 3).i32("split.tensors.count", 3);
    writer.f32_tensor(tensor, &[2], &[f32::from(number), 0.5]);
    let path = folder.join(format!("m-{:05}-of-00003.gguf", number + 1));
    std::fs::write(path, writer.finish()).unwrap();
}

fn split_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, tensor) in [(0, "a"), (1, "b"), (2, "c")] {
        write_part(folder.path(), number, number, tensor);
    }
    folder
}

#[test]
fn a_split_model_is_one_model() {
    let folder = split_folder();
    let gguf = Gguf::open(folder.path().join("m-00001-of-00003.gguf")).unwrap();
    assert_eq!((gguf.parts(), gguf.tensors().len()), (3, 3));
    assert_eq!(gguf.str("general.architecture").unwrap(), "llama");
    for (i, name) in ["a", "b", "c"].into_iter().enumerate() {
        let tensor = gguf.tensor(name).unwrap();
        assert_eq!(gguf.bytes(tensor)[..4], (i as f32).to_le_bytes(), "{name}");
    }
}

#[test]
fn a_split_model_s_faults_are_named() {
    let open = |folder: &tempfile::TempDir, name: &str| {
        Gguf::open(folder.path().join(name)).expect_err("a broken split was accepted").to_string()
    };
    const FIRST: &str = "m-00001-of-00003.gguf";
    let text = open(&split_folder(), "m-00002-of-00003.gguf");
    assert!(text.contains("it is part 2 of a model split into 3; open the first: ") && text.ends_with(FIRST), "{text}");

    let folder = split_folder();
    std::fs::remove_file(folder.path().join("m-00003-of-00003.gguf")).unwrap();
    let text = open(&folder, FIRST);
    assert!(text.contains("part 3 of 3 is missing; put it at ") && text.contains("m-00003-of-00003.gguf"), "{text}");

    let folder = split_folder();
    write_part(folder.path(), 1, 2, "b");
    let text = open(&folder, FIRST);
    assert!(text.contains("its name says part 2 of 3, its metadata part 3 of 3"), "{text}");

    let folder = split_folder();
    write_part(folder.path(), 2, 2, "a");
    let text = open(&folder, FIRST);
    assert!(text.contains("m-00003-of-00003.gguf: tensor \"a\" (byte 160): the tensor's name occurs twice"), "{text}");

    let folder = split_folder();
    std::fs::rename(folder.path().join(FIRST), folder.path().join("renamed.gguf")).unwrap();
    let text = open(&folder, "renamed.gguf");
    assert!(text.contains("it is the first of 3 files, whose name must end in -00001-of-00003.gguf"), "{text}");

    let folder = split_folder();
    let whole = std::fs::read(folder.path().join(FIRST)).unwrap();
    assert!(Gguf::parse("m", whole).unwrap_err().to_string().contains("can only be opened by its path"));
    let damaged = Writer::new().u16("split.no", 1).u16("split.count", 3).i32("split.tensors.count", 3).finish();
    std::fs::write(folder.path().join("m-00002-of-00003.gguf"), damaged).unwrap();
    assert!(open(&folder, FIRST).contains("its 3 files hold 2 tensors, but 3 belong to it"));
}

/// Reads everything a file holds.
fn walk(gguf: &Gguf) {
    gguf::inspect::print(gguf, &mut std::io::sink()).unwrap();
    for tensor in gguf.tensors() {
        assert_eq!(gguf.bytes(tensor).len(), tensor.bytes);
    }
}

fn any_format() -> impl Strategy<Value = BlockFormat> {
    prop::sample::select(BlockFormat::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(
        numbers in prop::collection::vec(any::<i64>(), 0..8),
        text in any::<String>(),
        words in prop::collection::vec(any::<String>(), 0..20),
        floats in prop::collection::vec(any::<f32>(), 0..20),
        shapes in prop::collection::vec((any_format(), 1usize..3, 1usize..4, 1usize..3), 0..6),
        alignment in prop::sample::select(vec![8u32, 32, 4096]),
    ) {
        let mut writer = Writer::new();
        writer.alignment(alignment).string("text", &text).string_array("words", &words).f32_array("floats", &floats);
        for (i, number) in numbers.iter().enumerate() {
            writer.i64(&format!("n{i}"), *number);
        }
        let mut tensors = Vec::new();
        for (i, (kind, blocks, rows, planes)) in shapes.into_iter().enumerate() {
            let cols = blocks * kind.block_elements();
            let bytes = vec![i as u8; kind.row_bytes(cols).unwrap() * rows * planes];
            writer.tensor(&format!("t{i}"), kind, &[cols, rows, planes], &bytes);
            tensors.push((kind, vec![cols, rows, planes], bytes));
        }
        let gguf = Gguf::parse("x", writer.finish()).unwrap();
        prop_assert_eq!(gguf.alignment(), alignment as usize);
        prop_assert_eq!(gguf.str("text").unwrap(), text);
        prop_assert_eq!(gguf.string_array("words").unwrap(), words);
        let read: Vec<u32> = gguf.f32_array("floats").unwrap().into_iter().map(f32::to_bits).collect();
        prop_assert_eq!(read, floats.into_iter().map(f32::to_bits).collect::<Vec<_>>());
        for (i, number) in numbers.into_iter().enumerate() {
            prop_assert_eq!(gguf.value(&format!("n{i}")), Some(Value::Signed(number)));
        }
        prop_assert_eq!(gguf.tensors().len(), tensors.len());
        for (tensor, (kind, dims, bytes)) in gguf.tensors().iter().zip(tensors) {
            prop_assert_eq!((tensor.kind, &tensor.dims), (kind, &dims));
            prop_assert_eq!((tensor.cols, tensor.rows), (dims[0], dims[1] * dims[2]));
            prop_assert_eq!(gguf.bytes(tensor), bytes);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), header in any::<bool>()) {
        let mut file = if header { b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec() } else { Vec::new() };
        file.extend(bytes);
        if let Ok(gguf) = Gguf::parse("x", file) {
            walk(&gguf);
        }
    }

    #[test]
    fn random_changes_never_panic(changes in prop::collection::vec((0usize..192, any::<u8>()), 1..6), cut in 0usize..200) {
        let mut file = small();
        for (at, byte) in changes {
            file[at] = byte;
        }
        file.truncate(cut.max(24));
        if let Ok(gguf) = Gguf::parse("x", file) {
            walk(&gguf);
        }
    }

    #[test]
    fn any_block_bytes_dequantize(format in any_format(), bytes in prop::collection::vec(any::<u8>(), 420)) {
        let blocks = bytes.len() / format.block_bytes();
        let mut values = vec![0.0; blocks * format.block_elements()];
        format.dequantize(&bytes[..blocks * format.block_bytes()], &mut values);
    }
}

#[test]
fn a_file_can_be_copied_entry_by_entry() {
    let gguf = Gguf::open(DEMO).unwrap();
    let mut writer = Writer::new();
    for (key, kind, value) in gguf.metadata() {
        writer.value(key, kind, value);
    }
    for tensor in gguf.tensors() {
        writer.tensor(&tensor.name, tensor.kind, &tensor.dims, gguf.bytes(tensor));
    }
    assert_eq!(writer.finish(), std::fs::read(DEMO).unwrap());
    assert!(gguf.metadata().any(|(_, kind, _)| kind == ValueKind::Array));
}
