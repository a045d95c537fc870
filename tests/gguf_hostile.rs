//! The demo model, damaged in over 500 ways: each gives a model or an error that names the place, quickly and in
//! bounded memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

use hesper::gguf::{self, Gguf};

/// Counts the bytes that the current thread holds, and the most it held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    HELD.set(HELD.get() + change);
    PEAK.set(PEAK.get().max(HELD.get()));
}

// SAFETY: both only count, and pass everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a number in the header means, so that the worst values for it can be tried.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Field {
    Count,
    Length,
    ValueKind,
    Rank,
    Dimension,
    TensorKind,
    Offset,
}

/// The header's fields and their places, by a walk of its own that trusts the undamaged file.
struct Walk<'a> {
    file: &'a [u8],
    at: usize,
    fields: Vec<(Field, usize)>,
}

impl Walk<'_> {
    fn u32(&mut self, field: Field) -> u32 {
        self.fields.push((field, self.at));
        self.at += 4;
        u32::from_le_bytes(self.file[self.at - 4..self.at].try_into().unwrap())
    }

    fn u64(&mut self, field: Field) -> u64 {
        self.fields.push((field, self.at));
        self.at += 8;
        u64::from_le_bytes(self.file[self.at - 8..self.at].try_into().unwrap())
    }

    fn string(&mut self) {
        let length = self.u64(Field::Length);
        self.at += length as usize;
    }

    fn value(&mut self, kind: u32) {
        match kind {
            8 => self.string(),
            9 => {
                let element = self.u32(Field::ValueKind);
                (0..self.u64(Field::Count)).for_each(|_| self.value(element));
            }
            0 | 1 | 7 => self.at += 1,
            2 | 3 => self.at += 2,
            4..=6 => self.at += 4,
            _ => self.at += 8,
        }
    }

    fn header(&mut self) {
        self.at = 8;
        let (tensors, entries) = (self.u64(Field::Count), self.u64(Field::Count));
        for _ in 0..entries {
            self.string();
            let kind = self.u32(Field::ValueKind);
            self.value(kind);
        }
        for _ in 0..tensors {
            self.string();
            for _ in 0..self.u32(Field::Rank) {
                self.u64(Field::Dimension);
            }
            self.u32(Field::TensorKind);
            self.u64(Field::Offset);
        }
    }
}

/// Values to put in place of a field's own.
fn worst(field: Field, own: u64, file_bytes: u64) -> Vec<u64> {
    match field {
        Field::Count => vec![0, own - 1, own + 1, own * 1000, file_bytes, 1 << 32, 1 << 62, u64::MAX / 8, u64::MAX],
        Field::Length => vec![0, own + 1, own + 8, 65_536, file_bytes, u64::from(u32::MAX), 1 << 63, u64::MAX],
        Field::ValueKind => vec![0, 5, 7, 8, 9, 10, 13, 255, u64::from(u32::MAX)],
        Field::Rank => vec![0, own + 1, 4, 5, 255, u64::from(u32::MAX)],
        Field::Dimension => vec![0, 1, own + 1, own * 2, 1 << 31, 1 << 32, 1 << 62, u64::MAX],
        Field::TensorKind => vec![0, 1, 2, 3, 12, 17, 39, 99, u64::from(u32::MAX)],
        Field::Offset => vec![0, own + 1, own + 32, file_bytes, 1 << 63, u64::MAX - 31, u64::MAX],
    }
}

/// Every `n`th of the fields, so that each kind keeps about `wanted`, the first and last among them.
fn sampled(fields: &[(Field, usize)], kind: Field, wanted: usize) -> Vec<(Field, usize)> {
    let of_kind: Vec<_> = fields.iter().copied().filter(|(field, _)| *field == kind).collect();
    let last = of_kind.len() - 1;
    (0..wanted.min(of_kind.len())).map(|i| of_kind[i * last / (wanted - 1).min(last).max(1)]).collect()
}

/// One way to damage the file: `length` bytes of it are kept, and `bytes` put at `at`.
struct Mutation {
    what: String,
    length: usize,
    at: usize,
    bytes: Vec<u8>,
    /// No correct reading exists, so an error is the only right answer.
    fatal: bool,
}

impl Mutation {
    fn apply(&self, file: &[u8]) -> Vec<u8> {
        let mut damaged = file[..self.length].to_vec();
        damaged[self.at..self.at + self.bytes.len()].copy_from_slice(&self.bytes);
        damaged
    }
}

fn mutations(file: &[u8]) -> Vec<Mutation> {
    let mut walk = Walk { file, at: 0, fields: Vec::new() };
    walk.header();
    let (fields, header_end) = (walk.fields, walk.at);
    let cut = |length: usize| Mutation {
        what: format!("cut to {length} bytes"),
        length,
        at: 0,
        bytes: Vec::new(),
        fatal: true,
    };
    let put = |what: String, at: usize, bytes: &[u8], fatal: bool| Mutation {
        what,
        length: file.len(),
        at,
        bytes: bytes.to_vec(),
        fatal,
    };
    let mut all = Vec::new();
    for (kind, wanted) in [
        (Field::Count, 8),
        (Field::Length, 12),
        (Field::ValueKind, 8),
        (Field::Rank, 6),
        (Field::Dimension, 8),
        (Field::TensorKind, 6),
        (Field::Offset, 8),
    ] {
        for (field, at) in sampled(&fields, kind, wanted) {
            let bytes = if matches!(field, Field::ValueKind | Field::Rank | Field::TensorKind) { 4 } else { 8 };
            let mut own = [0; 8];
            own[..bytes].copy_from_slice(&file[at..at + bytes]);
            for value in worst(field, u64::from_le_bytes(own), file.len() as u64) {
                let what = format!("{field:?} at {at} set to {value}");
                all.push(put(what, at, &value.to_le_bytes()[..bytes], value == u64::MAX));
            }
            all.extend([cut(at), cut(at + bytes / 2), cut(at + bytes)]);
        }
    }
    let ends = [0, 1, 3, 4, 7, 8, 23, 24, header_end - 1, header_end, file.len() / 2, file.len() - 64];
    all.extend(ends.map(cut));
    // A linear congruential generator (Knuth's constants): the same flips in every run.
    let mut state: u64 = 1;
    for _ in 0..150 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (at, bit) = ((state >> 33) as usize % header_end, (state >> 30) & 7);
        all.push(put(format!("bit {bit} of byte {at} flipped"), at, &[file[at] ^ 1 << bit], false));
    }
    all
}

/// Reads all that the file holds, as the program would.
fn read_all(gguf: &Gguf) {
    gguf::inspect::print(gguf, &mut std::io::sink()).unwrap();
    for tensor in gguf.tensors() {
        let mut row = vec![0.0; tensor.cols];
        tensor.kind.dequantize(&gguf.bytes(tensor)[..tensor.bytes / tensor.rows], &mut row);
    }
    let _ = gguf.string_array("tokenizer.ggml.tokens");
    let _ = gguf.i32_array("tokenizer.ggml.token_type");
    let _ = gguf.u32("qwen3.block_count");
}

#[test]
fn five_hundred_damaged_files_are_refused_or_read() {
    let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/models/hesper-demo-Q8_0.gguf")).unwrap();
    let mutations = mutations(&file);
    assert!(mutations.len() >= 500, "only {} mutations", mutations.len());
    let (mut refused, mut slowest, mut most) = (0, Duration::ZERO, 0);
    for mutation in mutations {
        let (what, fatal, damaged) = (&mutation.what, mutation.fatal, mutation.apply(&file));
        // The whole header is about 70 KiB; nothing may need memory out of proportion to that.
        PEAK.set(HELD.get());
        let before = HELD.get();
        let start = Instant::now();
        match Gguf::parse("damaged", damaged) {
            Ok(gguf) => {
                assert!(!fatal, "{what}: accepted");
                read_all(&gguf);
            }
            Err(error) => {
                let text = error.to_string();
                let place = ["damaged: byte ", "damaged: key \"", "damaged: tensor \""];
                assert!(place.iter().any(|place| text.starts_with(place)), "{what}: no place in: {text}");
                assert!(text.len() < 600, "{what}: {} bytes of text", text.len());
                refused += 1;
            }
        }
        slowest = slowest.max(start.elapsed());
        most = most.max(PEAK.get() - before);
        assert!(PEAK.get() - before < 1 << 20, "{what}: {} bytes held", PEAK.get() - before);
    }
    println!("refused {refused}, slowest {slowest:?}, most memory {most} bytes beside the file");
    assert!(refused > 400, "only {refused} refused");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}
