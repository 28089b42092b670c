//! Which stages get several instances, shown by the names of the instances.

use expect_test::expect;

use super::support::{load, names};

/// A post-training study: the models of all mixes are evaluated, and one of them is also trained on preferences.
pub(super) const STUDY: &str = r#"
name = "study"

[stage.base]
kind = "base"

[stage.format]
kind = "mix"
sources = {}

[stage.mix]
kind = "mix"
[stage.mix.sources]
cot = { from = "format", weight = 0.5 }
direct = { from = "format", weight = 0.5 }

[stage.sft]
kind = "sft"
model = "base"
data = "mix"

[stage.rollout]
kind = "rollout"
model = "sft@mix=both"
samples = 8

[stage.pairs]
kind = "pairs"
rollouts = "rollout"

[stage.dpo]
kind = "dpo"
policy = "sft@mix=both"
pairs = "pairs"
beta = 0.1

[stage.rft]
kind = "sft"
model = "sft@mix=both"
data = "mix@mix=cot"
lr = 0.5

[stage.eval]
kind = "eval"
model = ["sft", "dpo", "rft"]
prompt = ["direct", "cot"]

[axis.mix]
variants.cot = { "stage.mix.sources.direct" = "remove" }
variants.direct = { "stage.mix.sources.cot" = "remove" }
variants.both = {}

[seeds]
values = [0, 1]
from = ["sft"]
"#;

#[test]
fn an_axis_multiplies_only_affected_stages() {
    let (experiment, expansion) = load(STUDY);
    expect![[r#"
        base
        format
        mix@mix=cot <- format
        mix@mix=direct <- format
        mix@mix=both <- format format
        sft@mix=cot,seed=0 <- base mix@mix=cot
        sft@mix=direct,seed=0 <- base mix@mix=direct
        sft@mix=both,seed=0 <- base mix@mix=both
        sft@mix=cot,seed=1 <- base mix@mix=cot
        sft@mix=direct,seed=1 <- base mix@mix=direct
        sft@mix=both,seed=1 <- base mix@mix=both
        rollout@seed=0 <- sft@mix=both,seed=0
        rollout@seed=1 <- sft@mix=both,seed=1
        pairs@seed=0 <- rollout@seed=0
        pairs@seed=1 <- rollout@seed=1
        dpo@seed=0 <- sft@mix=both,seed=0 sft@mix=both,seed=0 pairs@seed=0
        dpo@seed=1 <- sft@mix=both,seed=1 sft@mix=both,seed=1 pairs@seed=1
        rft@seed=0 <- sft@mix=both,seed=0 mix@mix=cot
        rft@seed=1 <- sft@mix=both,seed=1 mix@mix=cot
        eval@mix=cot,model=sft,prompt=direct,seed=0 <- sft@mix=cot,seed=0
        eval@mix=direct,model=sft,prompt=direct,seed=0 <- sft@mix=direct,seed=0
        eval@mix=both,model=sft,prompt=direct,seed=0 <- sft@mix=both,seed=0
        eval@mix=cot,model=sft,prompt=direct,seed=1 <- sft@mix=cot,seed=1
        eval@mix=direct,model=sft,prompt=direct,seed=1 <- sft@mix=direct,seed=1
        eval@mix=both,model=sft,prompt=direct,seed=1 <- sft@mix=both,seed=1
        eval@mix=cot,model=sft,prompt=cot,seed=0 <- sft@mix=cot,seed=0
        eval@mix=direct,model=sft,prompt=cot,seed=0 <- sft@mix=direct,seed=0
        eval@mix=both,model=sft,prompt=cot,seed=0 <- sft@mix=both,seed=0
        eval@mix=cot,model=sft,prompt=cot,seed=1 <- sft@mix=cot,seed=1
        eval@mix=direct,model=sft,prompt=cot,seed=1 <- sft@mix=direct,seed=1
        eval@mix=both,model=sft,prompt=cot,seed=1 <- sft@mix=both,seed=1
        eval@model=dpo,prompt=direct,seed=0 <- dpo@seed=0
        eval@model=dpo,prompt=direct,seed=1 <- dpo@seed=1
        eval@model=dpo,prompt=cot,seed=0 <- dpo@seed=0
        eval@model=dpo,prompt=cot,seed=1 <- dpo@seed=1
        eval@model=rft,prompt=direct,seed=0 <- rft@seed=0
        eval@model=rft,prompt=direct,seed=1 <- rft@seed=1
        eval@model=rft,prompt=cot,seed=0 <- rft@seed=0
        eval@model=rft,prompt=cot,seed=1 <- rft@seed=1"#]]
    .assert_eq(&names(&expansion));
    expect![[r#"[("mix", ["cot", "direct", "both"]), ("seed", ["0", "1"])]"#]]
        .assert_eq(&format!("{:?}", experiment.axes));
}
