//! Pins: named sets of results that `gc` keeps, whatever happens to their experiments.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::{Store, file_name};
use ablate_core::base::diagnostic::nearest;
use ablate_core::base::{Hash, files};

/// A named set of results that `gc` keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub name: String,
    /// Creation time (RFC 3339, UTC).
    pub made: String,
    /// Name of its experiment.
    pub experiment: String,
    pub fingerprints: BTreeSet<Hash>,
}

impl Store {
    /// Stores a pin and replaces one of the same name.
    pub fn pin(&self, pin: &Pin) -> Result<()> {
        files::write_json(&self.pin_path(&pin.name), pin)
    }

    /// Removes a pin. Its results stay until `gc`.
    pub fn unpin(&self, name: &str) -> Result<()> {
        if self.pin_path(name).exists() {
            return files::remove_file(&self.pin_path(name));
        }
        let pins = self.pins()?;
        match nearest(name, pins.iter().map(|pin| pin.name.as_str())) {
            Some(near) => bail!("there is no pin `{name}`\nhelp: a pin of a similar name exists: `{near}`"),
            None => bail!("there is no pin `{name}`"),
        }
    }

    /// Every pin, sorted by name. An unreadable pin is an error, because `gc` must not remove its results.
    pub fn pins(&self) -> Result<Vec<Pin>> {
        let folder = self.root().join("pins");
        // Names that start with a dot are temporary files.
        let names = files::list_names(&folder)?.into_iter().filter(|name| !name.starts_with('.'));
        names.map(|name| files::read_json(&folder.join(name))).collect()
    }

    fn pin_path(&self, name: &str) -> PathBuf {
        self.root().join("pins").join(format!("{}.json", file_name(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::support::temp_store;

    #[test]
    fn pin_stays_until_unpinned() {
        let (_folder, store) = temp_store();
        let pin = |name: &str| Pin {
            name: name.to_string(),
            made: String::new(),
            experiment: "study".to_string(),
            fingerprints: BTreeSet::from([Hash::of_bytes(name.as_bytes())]),
        };
        store.pin(&pin("paper")).unwrap();
        store.pin(&pin("camera ready")).unwrap();
        assert_eq!(store.pins().unwrap(), [pin("camera ready"), pin("paper")]);
        let error = store.unpin("papr").unwrap_err().to_string();
        assert_eq!(error, "there is no pin `papr`\nhelp: a pin of a similar name exists: `paper`");
        store.unpin("paper").unwrap();
        assert_eq!(store.pins().unwrap(), [pin("camera ready")]);
        files::write_atomic(&store.pin_path("camera ready"), b"{").unwrap();
        assert!(store.pins().is_err());
    }
}
