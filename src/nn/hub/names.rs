//! What parameters are called in the files of a hub model. Knows no weights.
//!
//! Ours are the names of transformers 4.x without the prefix of the decoder. LLaVA's files have three more ways, by the
//! version of transformers that wrote them, and two for the tower.

use anyhow::{Result, bail};

/// How a file names its arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// A decoder alone: `model.layers`, `lm_head`.
    Decoder,
    /// LLaVA's files of all versions: `language_model.model.layers`, `language_model.lm_head`.
    Outer(Tower),
    /// LLaVA in memory since transformers 4.52, in some files and all adapters: `model.language_model.layers`,
    /// `model.vision_tower`, `lm_head`.
    Inner(Tower),
}

/// What the tower's arrays are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tower {
    /// `vision_tower.vision_model.encoder`, up to transformers 4.
    Wrapped,
    /// `vision_tower.encoder`, since transformers 5.
    Bare,
}

const DECODER: &str = "model.";
const HEAD: &str = "lm_head.";
const TOWER: &str = "vision_tower.vision_model.";
const PROJECTOR: &str = "multi_modal_projector.";
const NEWLINE: &str = "image_newline";
/// What LLaVA consists of.
const PARTS: [&str; 3] = ["language_model.", "vision_tower.", PROJECTOR];

impl Scheme {
    /// The scheme of a file, by its names. `eyes`: whether the model takes images.
    pub fn of(names: &[&str], eyes: bool) -> Result<Scheme> {
        let has = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
        if !eyes {
            if !has(DECODER) {
                bail!("no array's name begins with `{DECODER}`: these are not the weights of a language model");
            }
            return Ok(Scheme::Decoder);
        }
        let wrapped = if has(TOWER) || has(&format!("model.{TOWER}")) { Tower::Wrapped } else { Tower::Bare };
        let part = |before: &str| PARTS.iter().find(|part| has(&format!("{before}{part}")));
        match (part(""), part("model.")) {
            (Some(_), None) => Ok(Scheme::Outer(wrapped)),
            (None, Some(_)) => Ok(Scheme::Inner(wrapped)),
            (Some(outer), Some(inner)) => bail!("some arrays' names begin with `{outer}`, others with `model.{inner}`"),
            (None, None) => {
                let (outer, inner) = (PARTS[0], format!("model.{}", PARTS[0]));
                bail!("no array's name begins with `{outer}` or `{inner}`: these are not the weights of LLaVA")
            }
        }
    }

    /// What the file calls a parameter.
    pub fn in_file(self, name: &str) -> String {
        for (ours, theirs) in self.prefixes() {
            if let Some(rest) = name.strip_prefix(ours) {
                return format!("{theirs}{rest}");
            }
        }
        name.to_string()
    }

    /// The parameter that the file calls so; None for a name that the scheme does not make.
    pub fn parameter(self, name: &str) -> Option<String> {
        let found = self.prefixes().into_iter().find_map(|(ours, theirs)| Some((ours, name.strip_prefix(theirs)?)));
        found.map(|(ours, rest)| format!("{ours}{rest}"))
    }

    /// Our prefixes and the file's. None of ours begins with another, and none of the file's.
    fn prefixes(self) -> Vec<(&'static str, &'static str)> {
        let tower = |wrapped: &'static str, bare: &'static str| match self {
            Scheme::Outer(Tower::Wrapped) | Scheme::Inner(Tower::Wrapped) => (TOWER, wrapped),
            _ => (TOWER, bare),
        };
        match self {
            Scheme::Decoder => vec![(DECODER, DECODER), (HEAD, HEAD)],
            Scheme::Outer(_) => vec![
                (DECODER, "language_model.model."),
                (HEAD, "language_model.lm_head."),
                tower(TOWER, "vision_tower."),
                (PROJECTOR, PROJECTOR),
                (NEWLINE, NEWLINE),
            ],
            Scheme::Inner(_) => vec![
                (DECODER, "model.language_model."),
                (HEAD, HEAD),
                tower("model.vision_tower.vision_model.", "model.vision_tower."),
                (PROJECTOR, "model.multi_modal_projector."),
                (NEWLINE, "model.image_newline"),
            ],
        }
    }
}

/// Whether an array is no parameter but a table that old versions stored and that follows from the config.
pub fn is_table(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".embeddings.position_ids")
}
