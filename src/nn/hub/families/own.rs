//! Models in our own layout. Only their adapters are written with these names, which are those of the parameters.

use crate::hub::names::{DECODER, HEAD, NamingScheme, PROJECTOR, Schemes};

/// Our prefix of the tower.
const TOWER: &str = "vision_tower.";

pub(in crate::hub) const SCHEMES: Schemes = Schemes {
    family: "a model in ablate's own layout",
    all: &[NamingScheme(&[(DECODER, DECODER), (HEAD, HEAD), (TOWER, TOWER), (PROJECTOR, PROJECTOR)])],
};
