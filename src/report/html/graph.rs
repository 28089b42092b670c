//! The graph of an experiment as an SVG: one box per stage, in layers from left to right. Knows no engine.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::escape::escape;
use crate::input::{GraphNode, NodeState};

const BOX: (f64, f64) = (118.0, 42.0);
const LAYER: f64 = 156.0;
/// Between the middles of two boxes of a layer, and of a box and an edge that passes.
const SLOT: f64 = 58.0;
const PASSING: f64 = 22.0;

/// One stage with its instances.
#[derive(Clone, Debug, Default, PartialEq)]
struct StageBox {
    name: String,
    kind: String,
    instances: usize,
    done: usize,
}

/// A place in the drawing: a stage, or a point through which a long edge passes.
struct Place {
    stage: Option<usize>,
    layer: usize,
    y: f64,
}

struct Drawing {
    stages: Vec<StageBox>,
    places: Vec<Place>,
    /// Pieces of edges between neighbouring layers.
    segments: Vec<(usize, usize)>,
}

/// The SVG; empty for an empty graph.
pub(super) fn svg(nodes: &[GraphNode]) -> String {
    let (stages, edges) = collapse(nodes);
    if stages.is_empty() {
        return String::new();
    }
    let mut drawing = place(stages, &edges);
    drawing.order();
    drawing.settle();
    drawing.draw()
}

/// Stages in order of appearance, and the edges between different ones.
fn collapse(nodes: &[GraphNode]) -> (Vec<StageBox>, Vec<(usize, usize)>) {
    let mut index: BTreeMap<&str, usize> = BTreeMap::new();
    let mut stages: Vec<StageBox> = Vec::new();
    let mut stage_of: BTreeMap<&str, usize> = BTreeMap::new();
    for node in nodes {
        let stage = *index.entry(&node.stage).or_insert_with(|| {
            stages.push(StageBox { name: node.stage.clone(), kind: node.kind.clone(), ..StageBox::default() });
            stages.len() - 1
        });
        stages[stage].instances += 1;
        stages[stage].done += usize::from(node.state == NodeState::Done);
        stage_of.insert(&node.instance, stage);
    }
    let mut edges: Vec<(usize, usize)> = Vec::new();
    for node in nodes {
        let to = stage_of[node.instance.as_str()];
        for from in node.reads.iter().filter_map(|name| stage_of.get(name.as_str())) {
            if *from != to && !edges.contains(&(*from, to)) {
                edges.push((*from, to));
            }
        }
    }
    (stages, edges)
}

/// Layers by longest path, and a passing point in every layer that an edge skips.
fn place(stages: Vec<StageBox>, edges: &[(usize, usize)]) -> Drawing {
    let mut layers = vec![0usize; stages.len()];
    // As many rounds as stages suffice; edges that run in a circle cannot keep it going.
    for _ in 0..stages.len() {
        for &(from, to) in edges {
            layers[to] = layers[to].max((layers[from] + 1).min(stages.len()));
        }
    }
    let mut places: Vec<Place> =
        layers.iter().enumerate().map(|(stage, &layer)| Place { stage: Some(stage), layer, y: 0.0 }).collect();
    let mut segments = Vec::new();
    for &(from, to) in edges {
        let mut last = from;
        for layer in layers[from] + 1..layers[to] {
            places.push(Place { stage: None, layer, y: 0.0 });
            segments.push((last, places.len() - 1));
            last = places.len() - 1;
        }
        segments.push((last, to));
    }
    Drawing { stages, places, segments }
}

impl Drawing {
    /// Puts the places of each layer in an order with few crossings: by the mean of their neighbours' positions,
    /// left to right and back (Sugiyama's method with barycentres).
    fn order(&mut self) {
        let mut layers = self.layers();
        for layer in &layers {
            for (position, &place) in layer.iter().enumerate() {
                self.places[place].y = position as f64;
            }
        }
        for round in 0..12 {
            let forward = round % 2 == 0;
            let count = layers.len();
            for step in 0..count {
                let layer = if forward { step } else { count - 1 - step };
                let key = |place: usize| self.pull(place, Some(forward)).unwrap_or(self.places[place].y);
                let mut keyed: Vec<(f64, usize)> = layers[layer].iter().map(|&place| (key(place), place)).collect();
                keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
                layers[layer] = keyed.into_iter().map(|(_, place)| place).collect();
                for (position, &place) in layers[layer].iter().enumerate() {
                    self.places[place].y = position as f64;
                }
            }
        }
    }

    /// Gives every place its height: near the mean of its neighbours, apart from those above and below.
    fn settle(&mut self) {
        let mut layers = self.layers();
        for layer in &mut layers {
            layer.sort_by(|&a, &b| self.places[a].y.total_cmp(&self.places[b].y));
            let mut y = 0.0;
            for pair in 0..layer.len() {
                if pair > 0 {
                    y += self.gap(layer[pair - 1], layer[pair]);
                }
                self.places[layer[pair]].y = y;
            }
            for &place in layer.iter() {
                self.places[place].y -= y / 2.0;
            }
        }
        for _ in 0..24 {
            for layer in &layers {
                let wanted: Vec<f64> =
                    layer.iter().map(|&place| self.pull(place, None).unwrap_or(self.places[place].y)).collect();
                // Push down from the top, up from the bottom, and take the middle.
                let mut down = wanted.clone();
                let mut up = wanted.clone();
                for i in 1..layer.len() {
                    down[i] = down[i].max(down[i - 1] + self.gap(layer[i - 1], layer[i]));
                }
                for i in (0..layer.len().saturating_sub(1)).rev() {
                    up[i] = up[i].min(up[i + 1] - self.gap(layer[i], layer[i + 1]));
                }
                for (i, &place) in layer.iter().enumerate() {
                    self.places[place].y = f64::midpoint(down[i], up[i]);
                }
            }
        }
    }

    fn layers(&self) -> Vec<Vec<usize>> {
        let count = self.places.iter().map(|place| place.layer + 1).max().unwrap_or(0);
        let mut layers = vec![Vec::new(); count];
        for (index, place) in self.places.iter().enumerate() {
            layers[place.layer].push(index);
        }
        layers
    }

    /// Mean height of the neighbours: those before (`Some(true)`), after (`Some(false)`), or all.
    fn pull(&self, place: usize, before: Option<bool>) -> Option<f64> {
        let neighbours = self.segments.iter().filter_map(|&(from, to)| match before {
            Some(true) | None if to == place => Some(from),
            Some(false) | None if from == place => Some(to),
            _ => None,
        });
        crate::statistics::series::mean(neighbours.map(|neighbour| self.places[neighbour].y))
    }

    fn gap(&self, above: usize, below: usize) -> f64 {
        let half = |place: usize| if self.places[place].stage.is_some() { SLOT / 2.0 } else { PASSING / 2.0 };
        half(above) + half(below)
    }

    fn draw(&self) -> String {
        let top = self.places.iter().map(|place| place.y).fold(f64::INFINITY, f64::min) - BOX.1 / 2.0 - 4.0;
        let bottom = self.places.iter().map(|place| place.y).fold(f64::NEG_INFINITY, f64::max) + BOX.1 / 2.0 + 4.0;
        let last = self.places.iter().map(|place| place.layer).max().unwrap_or(0);
        let (width, height) = (last as f64 * LAYER + BOX.0 + 8.0, bottom - top);
        let x = |place: &Place| place.layer as f64 * LAYER + 4.0;
        let mut text = format!(
            "<svg class=\"dag\" viewBox=\"0 0 {width:.0} {height:.0}\" style=\"max-width:{width:.0}px;min-width:{:.0}px\" role=\"img\" aria-label=\"graph of the stages\">",
            width * 0.7
        );
        for &(from, to) in &self.segments {
            let (from, to) = (&self.places[from], &self.places[to]);
            let start = x(from) + if from.stage.is_some() { BOX.0 } else { BOX.0 / 2.0 };
            let end = x(to) + if to.stage.is_some() { 0.0 } else { BOX.0 / 2.0 };
            let (y0, y1, middle) = (from.y - top, to.y - top, f64::midpoint(start, end));
            _ = write!(
                text,
                "<path class=\"edge\" d=\"M{start:.1} {y0:.1}C{middle:.1} {y0:.1} {middle:.1} {y1:.1} {end:.1} {y1:.1}\"/>"
            );
        }
        for place in &self.places {
            let Some(stage) = place.stage.map(|stage| &self.stages[stage]) else { continue };
            let (left, upper) = (x(place), place.y - top - BOX.1 / 2.0);
            let class = if stage.done == stage.instances { "node" } else { "node open" };
            let count = match (stage.done, stage.instances) {
                (1, 1) => String::new(),
                (done, all) if done == all => format!(" · {all}"),
                (done, all) => format!(" · {done} of {all}"),
            };
            let title = format!("{}: {} of {} instances done", stage.name, stage.done, stage.instances);
            _ = write!(
                text,
                "<g class=\"{class}\"><title>{}</title><rect x=\"{left:.1}\" y=\"{upper:.1}\" width=\"{}\" height=\"{}\" rx=\"6\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{}</text><text class=\"sub\" x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
                escape(&title),
                BOX.0,
                BOX.1,
                left + BOX.0 / 2.0,
                upper + 18.0,
                escape(&short(&stage.name, 17)),
                left + BOX.0 / 2.0,
                upper + 33.0,
                escape(&short(&format!("{}{count}", stage.kind), 20)),
            );
        }
        text.push_str("</svg>");
        text
    }
}

fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_string();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(instance: &str, reads: &[&str]) -> GraphNode {
        GraphNode {
            instance: instance.to_string(),
            stage: instance.split('@').next().unwrap_or_default().to_string(),
            kind: "toy".to_string(),
            state: NodeState::Done,
            reads: reads.iter().map(|name| (*name).to_string()).collect(),
        }
    }

    #[test]
    fn instances_of_a_stage_are_one_box() {
        let nodes = [node("a", &[]), node("b@x=1", &["a"]), node("b@x=2", &["a"]), node("c", &["b@x=1", "b@x=2"])];
        let (stages, edges) = collapse(&nodes);
        assert_eq!(stages.iter().map(|stage| stage.instances).collect::<Vec<_>>(), [1, 2, 1]);
        assert_eq!(edges, [(0, 1), (1, 2)]);
        let svg = svg(&nodes);
        assert_eq!((svg.matches("<rect").count(), svg.matches("<path").count()), (3, 2));
        assert!(svg.contains("toy · 2"));
    }

    #[test]
    fn a_long_edge_passes_through_every_layer() {
        let (stages, edges) = collapse(&[node("a", &[]), node("b", &["a"]), node("c", &["b"]), node("d", &["c", "a"])]);
        let drawing = place(stages, &edges);
        assert_eq!(drawing.places.iter().map(|place| place.layer).collect::<Vec<_>>(), [0, 1, 2, 3, 1, 2]);
        assert!(drawing.segments.iter().all(|&(from, to)| drawing.places[from].layer + 1 == drawing.places[to].layer));
    }

    #[test]
    fn boxes_of_a_layer_stay_apart() {
        let nodes: Vec<GraphNode> = std::iter::once(node("a", &[]))
            .chain((0..5).map(|index| node(&format!("b{index}"), &["a"])))
            .chain([node("c", &["b0", "b4", "a"])])
            .collect();
        let (stages, edges) = collapse(&nodes);
        let mut drawing = place(stages, &edges);
        drawing.order();
        drawing.settle();
        for mut layer in drawing.layers() {
            layer.sort_by(|&a, &b| drawing.places[a].y.total_cmp(&drawing.places[b].y));
            for pair in layer.windows(2) {
                let apart = drawing.places[pair[1]].y - drawing.places[pair[0]].y;
                assert!(apart >= drawing.gap(pair[0], pair[1]) - 1e-6, "{apart}");
            }
        }
    }

    #[test]
    fn a_circle_and_an_empty_graph_are_drawn_without_harm() {
        assert_eq!(svg(&[]), "");
        assert!(svg(&[node("a", &["b"]), node("b", &["a"])]).contains("<rect"));
    }
}
