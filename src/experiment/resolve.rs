//! References: from the names that inputs have to the outputs that they mean, once every stage's outputs are known.
//! Knows nothing of what the stages come to at each point.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::declaration::StageDeclaration;
use super::own::{OwnInput, OwnPoint, OwnPoints, OwnSource};
use super::problems::Problems;
use super::text::list;
use ablate_core::base::Diagnostic;
use ablate_core::base::diagnostic::nearest;
use ablate_core::stage::{ArtifactKind, OutputSpec, Reference};

impl OwnPoints<'_> {
    /// The own points of every stage that is wanted: all of them, or the targets and what they read. `None` for the
    /// others, and for one of which something is wrong.
    pub(crate) fn wanted(&mut self, problems: &mut Problems) -> Vec<Option<Vec<OwnPoint>>> {
        let stages = &self.declaration.stages;
        let mut own: Vec<Option<Vec<OwnPoint>>> = stages.iter().map(|_| None).collect();
        let Some(targets) = &self.declaration.targets else {
            for (own, stage) in own.iter_mut().zip(stages) {
                *own = self.of(stage, problems);
            }
            return own;
        };
        let mut open: Vec<usize> =
            targets.iter().filter_map(|(name, _)| self.stages.get(name.as_str()).copied()).collect();
        let mut seen: BTreeSet<usize> = open.iter().copied().collect();
        while let Some(index) = open.pop() {
            own[index] = self.of(&stages[index], problems);
            for input in own[index].iter().flatten().flat_map(|point| &point.inputs) {
                if let OwnSource::Reference { reference, .. } = &input.source
                    && let Some(above) = self.stages.get(reference.stage.as_str())
                    && seen.insert(*above)
                {
                    open.push(*above);
                }
            }
        }
        own
    }

    /// Finds the outputs that the inputs of all stages name; a stage of which one cannot be found is taken out.
    pub(crate) fn resolve(&self, own: &mut [Option<Vec<OwnPoint>>], problems: &mut Problems) {
        let outputs: Vec<Cow<'static, [OutputSpec]>> = own
            .iter()
            .zip(&self.declaration.stages)
            .map(|(points, stage)| match points.as_ref().and_then(|points| points.first()) {
                Some(point) => point.outputs.clone(),
                None => Cow::Borrowed(stage.kind.outputs),
            })
            .collect();
        for (points, stage) in own.iter_mut().zip(&self.declaration.stages) {
            let mut sound = true;
            for input in points.iter_mut().flatten().flat_map(|point| &mut point.inputs) {
                let OwnSource::Reference { reference, accepts } = &input.source else { continue };
                match self.output(stage, input, reference, accepts, &outputs, problems) {
                    Some(source) => input.source = source,
                    None => sound = false,
                }
            }
            if !sound {
                *points = None;
            }
        }
    }

    /// The output that a reference means; what it comes to at each point is not asked here.
    fn output(
        &self,
        stage: &StageDeclaration<'_>,
        input: &OwnInput,
        reference: &Reference,
        accepts: &[ArtifactKind],
        outputs: &[Cow<'static, [OutputSpec]>],
        problems: &mut Problems,
    ) -> Option<OwnSource> {
        let (role, place) = (&input.named, &input.place);
        let key = format!("stage.{}.{role}", stage.name);
        let mut wrong = |message: String, label: &str, help: Option<String>| {
            let mut diagnostic = Diagnostic::error(format!("`{key}`: {message}")).at(place.clone(), label);
            if place != stage.header {
                diagnostic = diagnostic.at(stage.header.clone(), "in this stage");
            }
            problems.push(match help {
                Some(help) => diagnostic.help(help),
                None => diagnostic,
            });
            None
        };
        let name = reference.stage.as_str();
        let Some(index) = self.stages.get(name).copied() else {
            if self.declaration.unusable.contains(name) {
                return None;
            }
            let help = match nearest(name, self.stages.keys().copied()) {
                Some(near) => format!("a stage of a similar name exists: `{near}`"),
                None => format!("the stages are {}", list(self.stages.keys())),
            };
            return wrong(format!("stage `{name}` is not defined"), "no stage of this name", Some(help));
        };
        let outputs = &outputs[index];
        let named = |output: &String| outputs.iter().find(|spec| spec.name == *output);
        if let Some(output) = reference.output.as_ref().filter(|output| named(output).is_none()) {
            let names = outputs.iter().map(|spec| &*spec.name);
            let help = match nearest(output, names.clone()) {
                Some(near) => format!("an output of a similar name exists: `{near}`"),
                None => format!("the outputs are {}", list(names)),
            };
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
                None => format!("`{name}` gives {}", gives(outputs)),
            };
            let needs: Vec<String> = accepts.iter().map(ToString::to_string).collect();
            return wrong(format!("{gives}; `{role}` needs {}", needs.join(" or ")), "", None);
        };
        let output = Arc::from(&*spec.name);
        Some(OwnSource::Output { stage: index, pins: reference.pins.clone(), output, kind: spec.kind })
    }
}

fn gives(outputs: &[OutputSpec]) -> String {
    let mut kinds: Vec<String> = Vec::new();
    for spec in outputs {
        let kind = spec.kind.to_string();
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds.join(", ")
}
