//! The plans of every family, without a device: each at tiny dimensions as a snapshot, and the bounds on dispatches and
//! barriers that decoding promises.

#[path = "models/synthetic.rs"]
#[allow(dead_code)] // shared with the models' tests
mod synthetic;

use hesper::engine::runner::{Options, Planned};
use hesper::gguf::{BlockFormat, Gguf};
use hesper::kernels::policy::Policy;
use hesper::model::lower::{Mode, Model, PlanKey};
use hesper::plan::profile::stretches;
use hesper::plan::{Dispatch, Plan, Region};
use synthetic::{Formats, Shape, Synthetic, TINY};

/// Most dispatches, and most barriers, of a layer of decoding; behind many tokens a GPU has one of either more.
const LAYER_MAX: usize = 5;
/// The same where every matrix of a layer has another format, which no tool writes.
const MIXED_LAYER_MAX: usize = 7;

fn parse(model: &Synthetic) -> Gguf {
    Gguf::parse(&model.name, model.gguf()).unwrap_or_else(|error| panic!("{error}"))
}

fn model(gguf: &Gguf, software: bool, context_tokens: u32) -> Model {
    let policy = if software { Policy::SOFTWARE } else { Policy::GPU };
    let context_tokens = Some(context_tokens);
    let options = Options { context_tokens, sequences: 2, chunk_rows: 8, ..Options::alone(policy) };
    Planned::new(gguf, &options).unwrap_or_else(|error| panic!("{error}")).model
}

fn lower(gguf: &Gguf, software: bool, key: PlanKey) -> Plan {
    model(gguf, software, 64).lower(key)
}

/// A token of each of `rows` sequences, of which one is as long as a context of 4096 lets it be.
fn deep(gguf: &Gguf, software: bool, rows: u32) -> Plan {
    let model = model(gguf, software, 4096);
    model.lower(model.decode_key(rows, 4095))
}

fn keys() -> [PlanKey; 5] {
    let key = |mode, rows, outputs| PlanKey { mode, rows, outputs, splits: 1 };
    [
        PlanKey::decode(1),
        PlanKey::decode(2),
        key(Mode::Prefill, 4, 0),
        key(Mode::Prefill, 8, 1),
        key(Mode::Logits, 8, 8),
    ]
}

/// A profile runs layers beside each other: what kernels index memory by must still be what `begin` has written.
#[test]
fn stretches_of_a_plan_leave_its_rows_alone() {
    for shape in families() {
        let gguf = parse(&Synthetic::new(shape, Formats::All(BlockFormat::Q8_0)));
        let plans = keys().into_iter().flat_map(|key| [false, true].map(|software| lower(&gguf, software, key)));
        for plan in plans.chain([deep(&gguf, false, 1)]) {
            let parts = stretches(&plan);
            let dispatches: Vec<&Dispatch> = parts.iter().flat_map(Plan::dispatches).collect();
            assert_eq!(dispatches.len(), plan.dispatches().count(), "{}", plan.name);
            let mut read = 0;
            for (at, dispatch) in dispatches.iter().enumerate() {
                let indices = dispatch.accesses().filter(|(tensor, info)| {
                    ["rows", "outputs", "select"].contains(&info.name)
                        && !info.writable
                        && tensor.region == Region::Arena
                });
                for (tensor, _) in indices {
                    let writes = |earlier: &&&Dispatch| {
                        earlier.accesses().any(|(other, info)| info.writable && other.overlaps(tensor))
                    };
                    let last = dispatches[..at].iter().rev().find(writes).expect("somebody has written it");
                    assert_eq!(last.kernel.name, "begin", "{}: {}", plan.name, dispatch.label);
                    read += 1;
                }
            }
            assert!(read > 1, "{}: nothing was looked at", plan.name);
        }
    }
}

/// One of each family.
fn families() -> [Shape; 3] {
    [
        TINY,
        Shape { architecture: "qwen2", biases: true, kv_heads: 1, ..TINY },
        Shape { architecture: "llama", tied: false, output_bias: true, frequency_factors: true, ..TINY },
    ]
}

#[test]
fn every_family_has_a_snapshot() {
    assert_eq!(families().len(), hesper::model::families::ALL.len(), "a family is missing here");
    for shape in families() {
        let gguf = parse(&Synthetic::new(shape, Formats::All(BlockFormat::Q8_0)));
        for (device, software) in [("software", true), ("gpu", false)] {
            let plans: Vec<String> = keys().map(|key| lower(&gguf, software, key).to_string()).into();
            insta::assert_snapshot!(format!("{}-{device}", shape.architecture), plans.join("\n"));
        }
    }
}

/// The plan for long sequences is a GPU's alone.
#[test]
fn decoding_behind_many_tokens_has_a_snapshot() {
    let gguf = parse(&Synthetic::new(TINY, Formats::All(BlockFormat::Q8_0)));
    insta::assert_snapshot!("qwen3-gpu-deep", deep(&gguf, false, 2).to_string());
    assert_eq!(deep(&gguf, true, 2).name, PlanKey::decode(2).to_string());
}

/// Which plan decodes a token, by its position: merging must pay, and bits depend on the size of splits.
#[test]
fn short_sequences_are_not_split() {
    let gguf = parse(&Synthetic::new(TINY, Formats::All(BlockFormat::Q8_0)));
    let splits = |context, positions: [u32; 4]| {
        positions.map(|position| model(&gguf, false, context).decode_key(1, position).splits)
    };
    assert_eq!(splits(4096, [0, 511, 512, 4127]), [1, 1, 17, 17]);
    // Only steps that run past its end would be split.
    assert_eq!(splits(512, [0, 511, 512, 543]), [1; 4]);
    assert_eq!(splits(513, [0, 511, 512, 543]), [1, 1, 3, 3]);
}

/// On a CPU driver a layer of decoding is attention and one dispatch behind it where products are as small as these; where
/// workgroups may wait for each other all layers are one dispatch, with the head.
#[test]
fn layers_are_chains() {
    for shape in families() {
        let gguf = parse(&Synthetic::new(shape, Formats::All(BlockFormat::Q8_0)));
        let mut model = model(&gguf, true, 64);
        let mut lower = |side_by_side| {
            model.policy.side_by_side = side_by_side;
            model.lower(PlanKey::decode(1))
        };
        let [apart, alone, chained, many] = [0, 1, 2, 64].map(&mut lower);
        let layers = model.weights.layers.len();
        let count = |plan: &Plan, family: &str| plan.dispatches().filter(|d| d.kernel.family == family).count();
        let counts = |plan| ["mat_mul", "attend", "chain"].map(|family| count(plan, family));
        // The first query, key and value, and the head, stand alone.
        assert_eq!(counts(&alone), [2, layers, layers], "{alone}");
        // No two workgroups may attend to the same heads.
        let expected = if shape.kv_heads > 1 { [0, 0, 1] } else { [1, layers, layers] };
        assert_eq!(counts(&chained), expected, "{chained}");
        assert_eq!(count(&many, "attend"), layers, "{many}");
        for plan in [&alone, &chained, &many] {
            assert_chains(plan, &apart);
        }
    }
}

/// The parts of `apart`, in the same order, and memory of their own for all stages.
fn assert_chains(chained: &Plan, apart: &Plan) {
    let parts = |plan: &Plan| plan.dispatches().flat_map(Dispatch::parts).map(|part| part.label.clone()).collect();
    let [parts, expected]: [Vec<String>; 2] = [parts(chained), parts(apart)];
    assert_eq!(parts, expected, "the same parts in the same order");
    assert_eq!(chained.traffic_bytes(), apart.traffic_bytes());
    let records =
        |plan: &Plan| plan.dispatches().filter(|d| !d.stages.is_empty()).flat_map(|d| d.operands.clone()).collect();
    let records: Vec<_> = records(chained);
    for (at, tensor) in records.iter().enumerate() {
        assert!(records[..at].iter().all(|other| !tensor.overlaps(other)), "{tensor} is taken twice");
    }
    assert_eq!(chained.stages_bytes(), records.last().expect("there are some").end_bytes());
}

/// Parts in formats of their own cannot share a matrix.
#[test]
fn mixed_formats_have_a_snapshot() {
    let shape = Shape { width: 256, heads: 4, head_dim: 64, rotary: 64, feed_forward: 256, ..TINY };
    let gguf = parse(&Synthetic::new(shape, Formats::Mixed));
    insta::assert_snapshot!("mixed-software", lower(&gguf, true, PlanKey::decode(1)).to_string());
}

/// Small matrices have their norms fused on every device; on CPU drivers their products are one dispatch.
#[test]
fn a_layer_of_a_small_model_takes_few_dispatches() {
    let files = [1, 2].map(|layers| parse(&Synthetic::new(Shape { layers, ..TINY }, Formats::All(BlockFormat::Q8_0))));
    for (software, few) in [(true, 2), (false, 5)] {
        let [one, two] = [0, 1].map(|file| lower(&files[file], software, PlanKey::decode(1)));
        assert_eq!((two.dispatches().count() - one.dispatches().count(), two.barriers() - one.barriers()), (few, few));
    }
    let [one, two] = [0, 1].map(|file| deep(&files[file], false, 1));
    assert_eq!((two.dispatches().count() - one.dispatches().count(), two.barriers() - one.barriers()), (6, 6));
}

#[test]
fn decoding_takes_few_dispatches_and_barriers() {
    for model in synthetic::all() {
        let files = [1, 2].map(|layers| parse(&Synthetic::new(Shape { layers, ..model.shape }, model.formats)));
        let plans = |plan: &dyn Fn(&Gguf) -> Plan| [plan(&files[0]), plan(&files[1])];
        let shallow = [true, false].map(|software| plans(&|gguf| lower(gguf, software, PlanKey::decode(1))));
        for ([one, two], more) in
            shallow.into_iter().map(|both| (both, 0)).chain([(plans(&|gguf| deep(gguf, false, 1)), 1)])
        {
            let dispatches = two.dispatches().count() - one.dispatches().count();
            let barriers = two.barriers() - one.barriers();
            let what = format!("{}, {}: {dispatches} dispatches and {barriers} barriers a layer", model.name, two.name);
            let most = more + if model.formats == Formats::Mixed { MIXED_LAYER_MAX } else { LAYER_MAX };
            assert!((1..=most).contains(&dispatches) && barriers <= most, "{what}");
        }
    }
}
