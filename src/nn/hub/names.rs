//! The names of parameters in the files of a Hugging Face model.
//!
//! Our names are those of transformers 4.x without the prefix of the decoder. LLaVA's files have other prefixes for the
//! decoder and for the vision tower, depending on the version of transformers that wrote them.

use anyhow::{Result, bail};

/// How a file names its arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamingScheme {
    /// A language model: `model.layers`, `lm_head`.
    Decoder,
    /// LLaVA's files of all versions: `language_model.model.layers`, `language_model.lm_head`.
    Outer(TowerNames),
    /// LLaVA in memory since transformers 4.52, in some files and all adapters: `model.language_model.layers`,
    /// `model.vision_tower`, `lm_head`.
    Inner(TowerNames),
}

/// The names of the vision tower's arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TowerNames {
    /// `vision_tower.vision_model.encoder`, up to transformers 4.
    WithVisionModel,
    /// `vision_tower.encoder`, since transformers 5.
    Bare,
}

const DECODER: &str = "model.";
const HEAD: &str = "lm_head.";
const TOWER: &str = "vision_tower.vision_model.";
const PROJECTOR: &str = "multi_modal_projector.";
const NEWLINE: &str = "image_newline";
/// The prefixes of the parts of LLaVA.
const PARTS: [&str; 3] = ["language_model.", "vision_tower.", PROJECTOR];

impl NamingScheme {
    /// Recognizes the scheme of a file by its names.
    pub fn of(names: &[&str], has_vision: bool) -> Result<NamingScheme> {
        let has = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
        if !has_vision {
            if !has(DECODER) {
                bail!("no array name starts with `{DECODER}`: these are not the weights of a language model");
            }
            return Ok(NamingScheme::Decoder);
        }
        let tower =
            if has(TOWER) || has(&format!("model.{TOWER}")) { TowerNames::WithVisionModel } else { TowerNames::Bare };
        let part = |before: &str| PARTS.iter().find(|part| has(&format!("{before}{part}")));
        match (part(""), part("model.")) {
            (Some(_), None) => Ok(NamingScheme::Outer(tower)),
            (None, Some(_)) => Ok(NamingScheme::Inner(tower)),
            (Some(outer), Some(inner)) => bail!("some array names start with `{outer}`, others with `model.{inner}`"),
            (None, None) => {
                let (outer, inner) = (PARTS[0], format!("model.{}", PARTS[0]));
                bail!("no array name starts with `{outer}` or `{inner}`: these are not the weights of LLaVA")
            }
        }
    }

    /// The name of a parameter in the file.
    pub fn to_file(self, name: &str) -> String {
        for (ours, theirs) in self.prefixes() {
            if let Some(rest) = name.strip_prefix(ours) {
                return format!("{theirs}{rest}");
            }
        }
        name.to_string()
    }

    /// The parameter of a name in the file; none for a name that the scheme does not produce.
    pub fn to_parameter(self, name: &str) -> Option<String> {
        let found = self.prefixes().into_iter().find_map(|(ours, theirs)| Some((ours, name.strip_prefix(theirs)?)));
        found.map(|(ours, rest)| format!("{ours}{rest}"))
    }

    /// Our prefixes and the file's. No prefix starts with another one of the same side.
    fn prefixes(self) -> Vec<(&'static str, &'static str)> {
        let tower = |with_vision_model: &'static str, bare: &'static str| match self {
            NamingScheme::Outer(TowerNames::WithVisionModel) | NamingScheme::Inner(TowerNames::WithVisionModel) => {
                (TOWER, with_vision_model)
            }
            _ => (TOWER, bare),
        };
        match self {
            NamingScheme::Decoder => vec![(DECODER, DECODER), (HEAD, HEAD)],
            NamingScheme::Outer(_) => vec![
                (DECODER, "language_model.model."),
                (HEAD, "language_model.lm_head."),
                tower(TOWER, "vision_tower."),
                (PROJECTOR, PROJECTOR),
                (NEWLINE, NEWLINE),
            ],
            NamingScheme::Inner(_) => vec![
                (DECODER, "model.language_model."),
                (HEAD, HEAD),
                tower("model.vision_tower.vision_model.", "model.vision_tower."),
                (PROJECTOR, "model.multi_modal_projector."),
                (NEWLINE, "model.image_newline"),
            ],
        }
    }
}

/// Whether an array is not a parameter but a buffer that old versions stored and that follows from the config.
pub fn is_buffer(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".embeddings.position_ids")
}
