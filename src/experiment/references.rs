//! Resolves the references of inputs to outputs. It runs after all stages are parsed, because a stage's table may
//! declare its outputs.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::declaration::StageDeclaration;
use super::diagnostics::{Diagnostics, known_names};
use super::stage_variants::{StageVariant, VariantBuilder, VariantInput, VariantSource};
use ablate_core::base::Diagnostic;
use ablate_core::stage::{ArtifactKind, OutputSpec, Reference};

impl VariantBuilder<'_> {
    /// The variants of the targets and of the stages that they read; of all stages without `targets`. `None` for other
    /// stages and for those with errors.
    pub(crate) fn build_targets(&mut self, diagnostics: &mut Diagnostics) -> Vec<Option<Vec<StageVariant>>> {
        let stages = &self.declaration.stages;
        let mut variants: Vec<Option<Vec<StageVariant>>> = stages.iter().map(|_| None).collect();
        let Some(targets) = &self.declaration.targets else {
            for (variants, stage) in variants.iter_mut().zip(stages) {
                *variants = self.build(stage, diagnostics);
            }
            return variants;
        };
        let mut pending: Vec<usize> =
            targets.iter().filter_map(|(name, _)| self.stages.get(name.as_str()).copied()).collect();
        let mut seen: BTreeSet<usize> = pending.iter().copied().collect();
        while let Some(index) = pending.pop() {
            variants[index] = self.build(&stages[index], diagnostics);
            for input in variants[index].iter().flatten().flat_map(|variant| &variant.inputs) {
                if let VariantSource::Reference { reference, .. } = &input.source
                    && let Some(upstream) = self.stages.get(reference.stage.as_str())
                    && seen.insert(*upstream)
                {
                    pending.push(*upstream);
                }
            }
        }
        variants
    }

    /// Replaces every reference with the output that it names. A stage with a wrong reference is reported and set to
    /// `None`.
    pub(crate) fn resolve(&self, variants: &mut [Option<Vec<StageVariant>>], diagnostics: &mut Diagnostics) {
        let outputs: Vec<Cow<'static, [OutputSpec]>> = variants
            .iter()
            .zip(&self.declaration.stages)
            .map(|(variants, stage)| match variants.as_ref().and_then(|variants| variants.first()) {
                Some(variant) => variant.outputs.clone(),
                None => Cow::Borrowed(stage.kind.outputs),
            })
            .collect();
        for (variants, stage) in variants.iter_mut().zip(&self.declaration.stages) {
            let mut valid = true;
            for input in variants.iter_mut().flatten().flat_map(|variant| &mut variant.inputs) {
                let VariantSource::Reference { reference, accepts } = &input.source else { continue };
                match self.output(stage, input, reference, accepts, &outputs, diagnostics) {
                    Some(source) => input.source = source,
                    None => valid = false,
                }
            }
            if !valid {
                *variants = None;
            }
        }
    }

    /// The output that a reference names.
    fn output(
        &self,
        stage: &StageDeclaration<'_>,
        input: &VariantInput,
        reference: &Reference,
        accepts: &[ArtifactKind],
        outputs: &[Cow<'static, [OutputSpec]>],
        diagnostics: &mut Diagnostics,
    ) -> Option<VariantSource> {
        let (role, span) = (&input.key, &input.span);
        let key = format!("stage.{}.{role}", stage.name);
        let mut wrong = |message: String, label: &str, help: Option<String>| {
            let mut diagnostic = Diagnostic::error(format!("`{key}`: {message}")).at(span.clone(), label);
            if span != stage.header {
                diagnostic = diagnostic.at(stage.header.clone(), "in this stage");
            }
            diagnostic.help.extend(help);
            diagnostics.push(diagnostic);
            None
        };
        let name = reference.stage.as_str();
        let Some(index) = self.stages.get(name).copied() else {
            if self.declaration.invalid_stages.contains(name) {
                return None;
            }
            let help = known_names("stage", name, self.stages.keys().copied());
            return wrong(format!("stage `{name}` is not defined"), "no stage of this name", Some(help));
        };
        let outputs = &outputs[index];
        let named = |output: &String| outputs.iter().find(|spec| spec.name == *output);
        if let Some(output) = reference.output.as_ref().filter(|output| named(output).is_none()) {
            let help = known_names("output", output, outputs.iter().map(|spec| &*spec.name));
            return wrong(format!("`{name}` has no output `{output}`"), "", Some(help));
        }
        let found = match reference.output.as_ref().and_then(named) {
            Some(spec) => (accepts.is_empty() || accepts.contains(&spec.kind)).then_some(spec),
            None if accepts.is_empty() => outputs.first(),
            None => accepts.iter().find_map(|accepted| outputs.iter().find(|spec| spec.kind == *accepted)),
        };
        let Some(spec) = found else {
            let gives = match &reference.output {
                Some(output) => {
                    let spec = named(output)?;
                    format!("`{name}:{output}` is {}", spec.kind)
                }
                None => format!("`{name}` gives {}", kinds_of(outputs)),
            };
            let needs: Vec<String> = accepts.iter().map(ToString::to_string).collect();
            return wrong(format!("{gives}; `{role}` needs {}", needs.join(" or ")), "", None);
        };
        let output = Arc::from(&*spec.name);
        Some(VariantSource::Output { stage: index, pins: reference.pins.clone(), output, kind: spec.kind })
    }
}

fn kinds_of(outputs: &[OutputSpec]) -> String {
    let mut kinds: Vec<String> = Vec::new();
    for spec in outputs {
        let kind = spec.kind.to_string();
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds.join(", ")
}
