//! The graph of an experiment's stages as SVG: one box per stage, in layers from left to right (Sugiyama's method).

use std::collections::BTreeMap;
use std::fmt::Write;

use super::escape::escape;
use super::stages;
use crate::input::{GraphNode, NodeState};

const BOX: (f64, f64) = (118.0, 42.0);
const LAYER: f64 = 156.0;
/// Height of a box in its layer, with the space around it.
const BOX_SLOT: f64 = 58.0;
/// Height of a dummy node in its layer.
const DUMMY_SLOT: f64 = 22.0;

#[derive(Clone, Debug, Default, PartialEq)]
struct StageBox {
    name: String,
    kind: String,
    instances: usize,
    done: usize,
}

/// A node of the drawing.
struct Node {
    /// None for a dummy node, which a long edge passes through.
    stage: Option<usize>,
    layer: usize,
    y: f64,
}

struct Drawing {
    stages: Vec<StageBox>,
    nodes: Vec<Node>,
    /// Parts of edges, between adjacent layers.
    segments: Vec<(usize, usize)>,
}

/// The SVG. Empty for an empty graph.
pub(super) fn svg(instances: &[GraphNode]) -> String {
    let (stages, edges) = group_by_stage(instances);
    if stages.is_empty() {
        return String::new();
    }
    let mut drawing = assign_layers(stages, &edges);
    drawing.reduce_crossings();
    drawing.assign_heights();
    drawing.render()
}

/// The stages in order of appearance, and the edges between different stages.
fn group_by_stage(instances: &[GraphNode]) -> (Vec<StageBox>, Vec<(usize, usize)>) {
    let mut index: BTreeMap<&str, usize> = BTreeMap::new();
    let mut stages: Vec<StageBox> = Vec::new();
    let mut stage_of: BTreeMap<&str, usize> = BTreeMap::new();
    for node in instances {
        let stage = *index.entry(&node.stage).or_insert_with(|| {
            stages.push(StageBox { name: node.stage.clone(), kind: node.kind.clone(), ..StageBox::default() });
            stages.len() - 1
        });
        stages[stage].instances += 1;
        stages[stage].done += usize::from(node.state == NodeState::Done);
        stage_of.insert(&node.instance, stage);
    }
    let mut edges: Vec<(usize, usize)> = Vec::new();
    for node in instances {
        let to = stage_of[node.instance.as_str()];
        for from in node.reads.iter().filter_map(|name| stage_of.get(name.as_str())) {
            if *from != to && !edges.contains(&(*from, to)) {
                edges.push((*from, to));
            }
        }
    }
    (stages, edges)
}

/// Assigns layers by longest path, and adds a dummy node to every layer that an edge skips.
fn assign_layers(stages: Vec<StageBox>, edges: &[(usize, usize)]) -> Drawing {
    let mut layers = vec![0usize; stages.len()];
    // One round per stage is enough. The bound on the layer stops the rounds for a cycle.
    for _ in 0..stages.len() {
        for &(from, to) in edges {
            layers[to] = layers[to].max((layers[from] + 1).min(stages.len()));
        }
    }
    let mut nodes: Vec<Node> =
        layers.iter().enumerate().map(|(stage, &layer)| Node { stage: Some(stage), layer, y: 0.0 }).collect();
    let mut segments = Vec::new();
    for &(from, to) in edges {
        let mut last = from;
        for layer in layers[from] + 1..layers[to] {
            nodes.push(Node { stage: None, layer, y: 0.0 });
            segments.push((last, nodes.len() - 1));
            last = nodes.len() - 1;
        }
        segments.push((last, to));
    }
    Drawing { stages, nodes, segments }
}

impl Drawing {
    /// Orders the nodes of each layer by the mean position of their neighbors, left to right and back.
    fn reduce_crossings(&mut self) {
        let mut layers = self.layers();
        for layer in &layers {
            for (position, &node) in layer.iter().enumerate() {
                self.nodes[node].y = position as f64;
            }
        }
        for round in 0..12 {
            let forward = round % 2 == 0;
            let count = layers.len();
            for step in 0..count {
                let layer = if forward { step } else { count - 1 - step };
                let key = |node: usize| self.barycenter(node, Some(forward)).unwrap_or(self.nodes[node].y);
                let mut keyed: Vec<(f64, usize)> = layers[layer].iter().map(|&node| (key(node), node)).collect();
                keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
                layers[layer] = keyed.into_iter().map(|(_, node)| node).collect();
                for (position, &node) in layers[layer].iter().enumerate() {
                    self.nodes[node].y = position as f64;
                }
            }
        }
    }

    /// Assigns heights: near the mean of the neighbors, with a gap to the nodes above and below.
    fn assign_heights(&mut self) {
        let mut layers = self.layers();
        for layer in &mut layers {
            layer.sort_by(|&a, &b| self.nodes[a].y.total_cmp(&self.nodes[b].y));
            let mut y = 0.0;
            for pair in 0..layer.len() {
                if pair > 0 {
                    y += self.gap(layer[pair - 1], layer[pair]);
                }
                self.nodes[layer[pair]].y = y;
            }
            for &node in layer.iter() {
                self.nodes[node].y -= y / 2.0;
            }
        }
        for _ in 0..24 {
            for layer in &layers {
                let targets: Vec<f64> =
                    layer.iter().map(|&node| self.barycenter(node, None).unwrap_or(self.nodes[node].y)).collect();
                // The middle of two passes: one moves nodes down from the top, the other up from the bottom.
                let mut down = targets.clone();
                let mut up = targets.clone();
                for i in 1..layer.len() {
                    down[i] = down[i].max(down[i - 1] + self.gap(layer[i - 1], layer[i]));
                }
                for i in (0..layer.len().saturating_sub(1)).rev() {
                    up[i] = up[i].min(up[i + 1] - self.gap(layer[i], layer[i + 1]));
                }
                for (i, &node) in layer.iter().enumerate() {
                    self.nodes[node].y = f64::midpoint(down[i], up[i]);
                }
            }
        }
    }

    fn layers(&self) -> Vec<Vec<usize>> {
        let count = self.nodes.iter().map(|node| node.layer + 1).max().unwrap_or(0);
        let mut layers = vec![Vec::new(); count];
        for (index, node) in self.nodes.iter().enumerate() {
            layers[node.layer].push(index);
        }
        layers
    }

    /// The mean height of the neighbors in the layer before (`Some(true)`), after (`Some(false)`), or in both.
    fn barycenter(&self, node: usize, before: Option<bool>) -> Option<f64> {
        let neighbors = self.segments.iter().filter_map(|&(from, to)| match before {
            Some(true) | None if to == node => Some(from),
            Some(false) | None if from == node => Some(to),
            _ => None,
        });
        crate::statistics::series::mean(neighbors.map(|neighbor| self.nodes[neighbor].y))
    }

    fn gap(&self, above: usize, below: usize) -> f64 {
        let half = |node: usize| if self.nodes[node].stage.is_some() { BOX_SLOT / 2.0 } else { DUMMY_SLOT / 2.0 };
        half(above) + half(below)
    }

    fn render(&self) -> String {
        let top = self.nodes.iter().map(|node| node.y).fold(f64::INFINITY, f64::min) - BOX.1 / 2.0 - 4.0;
        let bottom = self.nodes.iter().map(|node| node.y).fold(f64::NEG_INFINITY, f64::max) + BOX.1 / 2.0 + 4.0;
        let last = self.nodes.iter().map(|node| node.layer).max().unwrap_or(0);
        let (width, height) = (last as f64 * LAYER + BOX.0 + 8.0, bottom - top);
        let x = |node: &Node| node.layer as f64 * LAYER + 4.0;
        let mut text = format!(
            "<svg class=\"graph w{}\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" role=\"group\" aria-label=\"stages\">",
            width_class(width)
        );
        for &(from, to) in &self.segments {
            let (from, to) = (&self.nodes[from], &self.nodes[to]);
            let start = x(from) + if from.stage.is_some() { BOX.0 } else { BOX.0 / 2.0 };
            let end = x(to) + if to.stage.is_some() { 0.0 } else { BOX.0 / 2.0 };
            let (y0, y1, middle) = (from.y - top, to.y - top, f64::midpoint(start, end));
            _ = write!(
                text,
                "<path class=\"edge\" d=\"M{start:.1} {y0:.1}C{middle:.1} {y0:.1} {middle:.1} {y1:.1} {end:.1} {y1:.1}\"/>"
            );
        }
        for node in &self.nodes {
            let Some((number, stage)) = node.stage.map(|number| (number, &self.stages[number])) else { continue };
            let (left, upper) = (x(node), node.y - top - BOX.1 / 2.0);
            let class = if stage.done == stage.instances { "node" } else { "node open" };
            let count = match (stage.done, stage.instances) {
                (1, 1) => String::new(),
                (done, all) if done == all => format!(" · {all}"),
                (done, all) => format!(" · {done} of {all}"),
            };
            let title = format!("{}: {} of {} instances done", stage.name, stage.done, stage.instances);
            _ = write!(
                text,
                "<a class=\"{class}\" href=\"#{}\"><title>{}</title><rect x=\"{left:.1}\" y=\"{upper:.1}\" width=\"{}\" height=\"{}\" rx=\"6\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{}</text><text class=\"sub\" x=\"{:.1}\" y=\"{:.1}\">{}</text></a>",
                stages::id(number),
                escape(&title),
                BOX.0,
                BOX.1,
                left + BOX.0 / 2.0,
                upper + 18.0,
                escape(&truncate(&stage.name, 17)),
                left + BOX.0 / 2.0,
                upper + 33.0,
                escape(&truncate(&format!("{}{count}", stage.kind), 20)),
            );
        }
        text.push_str("</svg>");
        text
    }
}

/// The class that keeps the text of a wide graph legible: a number of steps of 10 rem, `w0` to `w30`, below which the page
/// does not shrink the graph.
fn width_class(width: f64) -> usize {
    ((0.7 * width / 160.0) as usize).min(30)
}

fn truncate(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_string();
    }
    text.chars().take(length - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An instance `stage` or `stage@point`.
    fn node(instance: &str, reads: &[&str]) -> GraphNode {
        GraphNode {
            instance: instance.to_string(),
            stage: instance.split('@').next().unwrap_or_default().to_string(),
            kind: "train".to_string(),
            state: NodeState::Done,
            reads: reads.iter().map(|name| (*name).to_string()).collect(),
        }
    }

    #[test]
    fn instances_of_a_stage_share_a_box() {
        let nodes = [node("a", &[]), node("b@x=1", &["a"]), node("b@x=2", &["a"]), node("c", &["b@x=1", "b@x=2"])];
        let (stages, edges) = group_by_stage(&nodes);
        assert_eq!(stages.iter().map(|stage| stage.instances).collect::<Vec<_>>(), [1, 2, 1]);
        assert_eq!(edges, [(0, 1), (1, 2)]);
        let svg = svg(&nodes);
        assert_eq!((svg.matches("<rect").count(), svg.matches("<path").count()), (3, 2));
        assert!(svg.contains("train · 2"));
    }

    #[test]
    fn long_edges_have_dummy_nodes() {
        let (stages, edges) =
            group_by_stage(&[node("a", &[]), node("b", &["a"]), node("c", &["b"]), node("d", &["c", "a"])]);
        let drawing = assign_layers(stages, &edges);
        assert_eq!(drawing.nodes.iter().map(|node| node.layer).collect::<Vec<_>>(), [0, 1, 2, 3, 1, 2]);
        assert!(drawing.segments.iter().all(|&(from, to)| drawing.nodes[from].layer + 1 == drawing.nodes[to].layer));
    }

    #[test]
    fn boxes_of_a_layer_do_not_overlap() {
        let nodes: Vec<GraphNode> = std::iter::once(node("a", &[]))
            .chain((0..5).map(|index| node(&format!("b{index}"), &["a"])))
            .chain([node("c", &["b0", "b4", "a"])])
            .collect();
        let (stages, edges) = group_by_stage(&nodes);
        let mut drawing = assign_layers(stages, &edges);
        drawing.reduce_crossings();
        drawing.assign_heights();
        for mut layer in drawing.layers() {
            layer.sort_by(|&a, &b| drawing.nodes[a].y.total_cmp(&drawing.nodes[b].y));
            for pair in layer.windows(2) {
                let apart = drawing.nodes[pair[1]].y - drawing.nodes[pair[0]].y;
                assert!(apart >= drawing.gap(pair[0], pair[1]) - 1e-6, "{apart}");
            }
        }
    }

    #[test]
    fn a_cycle_and_an_empty_graph_are_rendered() {
        assert_eq!(svg(&[]), "");
        assert!(svg(&[node("a", &["b"]), node("b", &["a"])]).contains("<rect"));
    }
}
