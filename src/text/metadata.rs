//! The vocabulary's keys in a model file's metadata.

use super::vocabulary::{Vocabulary, VocabularyError};
use crate::gguf::{Error, Gguf};

impl Vocabulary {
    /// Reads what the file says. Keys of other types than the GGUF specification gives them are errors.
    pub fn from_gguf(gguf: &Gguf) -> Result<Vocabulary, VocabularyError> {
        read(gguf).map_err(|error| VocabularyError::Metadata(error.to_string()))
    }
}

fn read(gguf: &Gguf) -> Result<Vocabulary, Error> {
    let text = |key: &str| Ok::<_, Error>(gguf.opt_str(key)?.map(str::to_owned));
    let texts = |values: Vec<&str>| values.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let mut named_chat_templates = Vec::new();
    for name in gguf.opt_string_array("tokenizer.chat_templates")?.unwrap_or_default() {
        if let Some(source) = text(&format!("tokenizer.chat_template.{name}"))? {
            named_chat_templates.push((name.to_owned(), source));
        }
    }
    Ok(Vocabulary {
        model: gguf.str("tokenizer.ggml.model")?.to_owned(),
        pre: text("tokenizer.ggml.pre")?,
        name: text("general.name")?,
        tokens: texts(gguf.string_array("tokenizer.ggml.tokens")?),
        scores: gguf.opt_f32_array("tokenizer.ggml.scores")?.unwrap_or_default(),
        token_types: gguf.opt_i32_array("tokenizer.ggml.token_type")?.unwrap_or_default(),
        merges: texts(gguf.opt_string_array("tokenizer.ggml.merges")?.unwrap_or_default()),
        bos: gguf.opt_u32("tokenizer.ggml.bos_token_id")?,
        eos: gguf.opt_u32("tokenizer.ggml.eos_token_id")?,
        eot: gguf.opt_u32("tokenizer.ggml.eot_token_id")?,
        eom: gguf.opt_u32("tokenizer.ggml.eom_token_id")?,
        unknown: gguf.opt_u32("tokenizer.ggml.unknown_token_id")?,
        add_bos: gguf.opt_bool("tokenizer.ggml.add_bos_token")?,
        add_eos: gguf.opt_bool("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: gguf.opt_bool("tokenizer.ggml.add_space_prefix")?,
        chat_template: text("tokenizer.chat_template")?,
        named_chat_templates,
    })
}
