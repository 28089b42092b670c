//! The graph as text: dot, mermaid, JSON. Knows no plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use super::graph::Graph;
use ablate_experiment::Expansion;

/// A form that other programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphFormat {
    Dot,
    Mermaid,
    Json,
}

#[derive(Serialize)]
struct Drawing {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

#[derive(Serialize)]
struct Node {
    name: String,
    kind: &'static str,
    /// How many instances the node stands for.
    instances: usize,
    /// Axes along which they differ.
    axes: BTreeSet<String>,
}

#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: String,
    to: String,
    role: String,
}

impl Graph {
    /// The graph as text: a node per stage with the number of its instances, or with `expanded` a node per instance.
    pub fn draw(&self, expansion: &Expansion, format: GraphFormat, expanded: bool) -> String {
        let drawing = self.drawing(expansion, expanded);
        match format {
            GraphFormat::Dot => dot(&drawing),
            GraphFormat::Mermaid => mermaid(&drawing),
            GraphFormat::Json => {
                let text = serde_json::to_string_pretty(&drawing);
                text.unwrap_or_else(|error| panic!("BUG: a drawing is plain data: {error}")) + "\n"
            }
        }
    }

    fn drawing(&self, expansion: &Expansion, expanded: bool) -> Drawing {
        let name = |index: usize| {
            let instance = &expansion.instances[index];
            if expanded { instance.name.clone() } else { instance.stage.clone() }
        };
        let mut nodes: Vec<Node> = Vec::new();
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        for (index, instance) in expansion.instances.iter().enumerate() {
            let name = name(index);
            let place = *places.entry(name.clone()).or_insert_with(|| {
                nodes.push(Node { name, kind: instance.kind.name, instances: 0, axes: BTreeSet::new() });
                nodes.len() - 1
            });
            nodes[place].instances += 1;
            nodes[place].axes.extend(instance.point.keys().cloned());
        }
        let edges: BTreeSet<Edge> = self
            .edges()
            .map(|(from, to, role)| Edge { from: name(from.0), to: name(to.0), role: role.to_string() })
            .collect();
        Drawing { nodes, edges: edges.into_iter().collect() }
    }
}

/// `12 x prompt, seed`, for a node that stands for more than one instance.
fn multiplicity(node: &Node) -> Option<String> {
    let axes: Vec<&str> = node.axes.iter().map(String::as_str).collect();
    (node.instances > 1).then(|| format!("{} x {}", node.instances, axes.join(", ")))
}

fn dot(drawing: &Drawing) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = "digraph ablate {\n  rankdir=LR;\n  node [shape=box];\n".to_string();
    for node in &drawing.nodes {
        let more = multiplicity(node).map(|more| format!("\n{more}")).unwrap_or_default();
        let label = quoted(&format!("{}\n{}{more}", node.name, node.kind)).replace('\n', "\\n");
        let _ = writeln!(text, "  {} [label={label}];", quoted(&node.name));
    }
    for edge in &drawing.edges {
        let _ = writeln!(text, "  {} -> {} [label={}];", quoted(&edge.from), quoted(&edge.to), quoted(&edge.role));
    }
    text + "}\n"
}

fn mermaid(drawing: &Drawing) -> String {
    let escaped =
        |text: &str| text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;");
    let place = |name: &str| drawing.nodes.iter().position(|node| node.name == name).unwrap_or_default();
    let mut text = "flowchart LR\n".to_string();
    for (index, node) in drawing.nodes.iter().enumerate() {
        let more = multiplicity(node).map(|more| format!("<br/>{}", escaped(&more))).unwrap_or_default();
        let _ = writeln!(text, "  n{index}[\"{}<br/>{}{more}\"]", escaped(&node.name), escaped(node.kind));
    }
    for edge in &drawing.edges {
        let _ = writeln!(text, "  n{} -->|\"{}\"| n{}", place(&edge.from), escaped(&edge.role), place(&edge.to));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toys::Space;
    use ablate_experiment::InstanceId;
    use expect_test::expect;
    use serde_json::json;

    fn sweep() -> Expansion {
        Space::new().stages(&[
            ("read", json!({ "path": "data.txt" })),
            ("train@seed=0", json!({ "kind": "model", "from": ["read"], "seed": 0 })),
            ("train@seed=1", json!({ "kind": "model", "from": ["read"], "seed": 1 })),
            ("eval@seed=0", json!({ "from": ["train@seed=0", "read"] })),
            ("eval@seed=1", json!({ "from": ["train@seed=1", "read"] })),
        ])
    }

    #[test]
    fn axes_are_collapsed_unless_asked_for() {
        let expansion = sweep();
        let graph = Graph::of(&expansion);
        expect![[r#"
            digraph ablate {
              rankdir=LR;
              node [shape=box];
              "read" [label="read\ntoy"];
              "train" [label="train\nmodel\n2 x seed"];
              "eval" [label="eval\ntoy\n2 x seed"];
              "read" -> "eval" [label="from.1"];
              "read" -> "train" [label="from.0"];
              "train" -> "eval" [label="from.0"];
            }
        "#]]
        .assert_eq(&graph.draw(&expansion, GraphFormat::Dot, false));
        expect![[r#"
            flowchart LR
              n0["read<br/>toy"]
              n1["train@seed=0<br/>model"]
              n2["train@seed=1<br/>model"]
              n3["eval@seed=0<br/>toy"]
              n4["eval@seed=1<br/>toy"]
              n0 -->|"from.1"| n3
              n0 -->|"from.1"| n4
              n0 -->|"from.0"| n1
              n0 -->|"from.0"| n2
              n1 -->|"from.0"| n3
              n2 -->|"from.0"| n4
        "#]]
        .assert_eq(&graph.draw(&expansion, GraphFormat::Mermaid, true));
        let json = graph.draw(&expansion, GraphFormat::Json, false);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["nodes"][1], json!({ "name": "train", "kind": "model", "instances": 2, "axes": ["seed"] }));
        assert_eq!(json["edges"][0], json!({ "from": "read", "to": "eval", "role": "from.1" }));
    }

    #[test]
    fn chains_and_neighbours_follow_the_edges() {
        let expansion = sweep();
        let graph = Graph::of(&expansion);
        let ids = |numbers: &[usize]| numbers.iter().copied().map(InstanceId).collect::<BTreeSet<_>>();
        assert_eq!(graph.chains(|_| 1.0), [3.0, 2.0, 2.0, 1.0, 1.0]);
        assert_eq!(graph.above(InstanceId(3)), ids(&[0, 1]));
        assert_eq!(graph.below(InstanceId(0)), ids(&[1, 2, 3, 4]));
    }
}
