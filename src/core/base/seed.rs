//! Named random streams. Every draw comes from a seed and a name, so a new stream does not change the values of
//! another.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

/// The root of all randomness of a stage instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seed(pub u64);

impl Seed {
    /// The generator of the stream called `name`. Equal seed and name give equal draws on every machine.
    pub fn stream(self, name: &str) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(self.key(name))
    }

    /// A seed for a part of the work: an item, a sample, an epoch.
    #[must_use]
    pub fn derive(self, name: &str) -> Seed {
        let key = self.key(name);
        let mut low = [0; 8];
        low.copy_from_slice(&key[..8]);
        Seed(u64::from_le_bytes(low))
    }

    fn key(self, name: &str) -> [u8; 32] {
        let mut bytes = self.0.to_le_bytes().to_vec();
        bytes.extend_from_slice(name.as_bytes());
        *super::Hash::of_bytes(&bytes).bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn streams_differ_by_name_and_repeat() {
        let draw = |seed: u64, name: &str| Seed(seed).stream(name).next_u64();
        assert_eq!(draw(1, "rollout"), draw(1, "rollout"));
        assert_ne!(draw(1, "rollout"), draw(1, "mix"));
        assert_ne!(draw(1, "rollout"), draw(2, "rollout"));
    }
}
