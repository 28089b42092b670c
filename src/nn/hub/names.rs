//! The names of parameters in the files of a Hugging Face model.
//!
//! Our names are those of transformers 4.x without the prefix of the decoder. The files of a family have other prefixes, some of
//! them depending on the version of transformers that wrote them.

use anyhow::{Result, bail};

/// How a file names its arrays: our prefixes and the file's. No prefix starts with another one of the same side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamingScheme(pub(super) &'static [(&'static str, &'static str)]);

/// Our prefix of the decoder, of its head, of a vision transformer, and of the projector.
pub(super) const DECODER: &str = "model.";
pub(super) const HEAD: &str = "lm_head.";
pub(super) const TOWER: &str = "vision_tower.vision_model.";
pub(super) const PROJECTOR: &str = "multi_modal_projector.";

/// The naming schemes of a family.
pub struct Schemes {
    /// What the files of this family are, for errors: "LLaVA".
    pub(super) family: &'static str,
    /// The last one is that of models in memory in transformers 5, which adapters have.
    pub(super) all: &'static [NamingScheme],
}

impl Schemes {
    /// The scheme of models in memory in transformers 5, which adapters have.
    pub fn in_memory(&self) -> NamingScheme {
        self.all[self.all.len() - 1]
    }

    /// Recognizes the scheme of a file by its names.
    pub fn find(&self, names: &[&str]) -> Result<NamingScheme> {
        let length = |scheme: &NamingScheme| names.iter().filter_map(|name| scheme.prefix(name)).map(str::len).sum();
        let best: Option<(usize, &NamingScheme)> =
            self.all.iter().map(|scheme| (length(scheme), scheme)).max_by_key(|(length, _)| *length);
        let Some((_, scheme)) = best.filter(|(length, _)| *length > 0) else {
            let mut firsts: Vec<String> = self.all.iter().map(|scheme| format!("`{}`", scheme.0[0].1)).collect();
            firsts.dedup();
            bail!("no array name starts with {}: these are not the weights of {}", firsts.join(" or "), self.family);
        };
        let of_others = |name: &&str| self.all.iter().find_map(|other| other.prefix(name));
        let other = names.iter().filter(|name| scheme.prefix(name).is_none()).find_map(of_others);
        if let (Some(other), Some(own)) = (other, names.iter().find_map(|name| scheme.prefix(name))) {
            bail!("some array names start with `{own}`, others with `{other}`");
        }
        Ok(*scheme)
    }
}

impl NamingScheme {
    /// The name of a parameter in the file.
    pub fn to_file(self, name: &str) -> String {
        for (ours, theirs) in self.0 {
            if let Some(rest) = name.strip_prefix(ours) {
                return format!("{theirs}{rest}");
            }
        }
        name.to_string()
    }

    /// The parameter of a name in the file; none for a name that the scheme does not produce.
    pub fn to_parameter(self, name: &str) -> Option<String> {
        let found = self.0.iter().find_map(|(ours, theirs)| Some((ours, name.strip_prefix(theirs)?)));
        found.map(|(ours, rest)| format!("{ours}{rest}"))
    }

    /// The prefix of a name in the file; none for a name that the scheme does not produce.
    fn prefix(&self, name: &str) -> Option<&'static str> {
        self.0.iter().map(|(_, theirs)| *theirs).find(|theirs| name.starts_with(theirs))
    }
}

/// Whether an array is not a parameter but a buffer that old versions stored and that follows from the config.
pub fn is_buffer(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".embeddings.position_ids")
}
