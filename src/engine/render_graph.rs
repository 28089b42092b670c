//! Renders the graph as text: dot, mermaid or JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use super::graph::Graph;
use ablate_experiment::Expansion;

/// An output format of `ablate graph`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphFormat {
    Dot,
    Mermaid,
    Json,
}

#[derive(Serialize)]
struct Diagram {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

#[derive(Serialize)]
struct Node {
    name: String,
    kind: &'static str,
    instances: usize,
    /// Axes whose values differ between the instances of this node.
    axes: BTreeSet<String>,
}

#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: String,
    to: String,
    role: String,
}

impl Graph {
    /// One node per stage with its number of instances; with `expanded`, one node per instance.
    pub fn render(&self, expansion: &Expansion, format: GraphFormat, expanded: bool) -> String {
        let diagram = self.diagram(expansion, expanded);
        match format {
            GraphFormat::Dot => dot(&diagram),
            GraphFormat::Mermaid => mermaid(&diagram),
            GraphFormat::Json => {
                let text = serde_json::to_string_pretty(&diagram);
                text.unwrap_or_else(|error| panic!("BUG: a diagram is plain data: {error}")) + "\n"
            }
        }
    }

    fn diagram(&self, expansion: &Expansion, expanded: bool) -> Diagram {
        let name = |index: usize| {
            let instance = &expansion.instances[index];
            if expanded { instance.name.clone() } else { instance.stage.clone() }
        };
        let mut nodes: Vec<Node> = Vec::new();
        let mut node_by_name: BTreeMap<String, usize> = BTreeMap::new();
        for (index, instance) in expansion.instances.iter().enumerate() {
            let name = name(index);
            let index = *node_by_name.entry(name.clone()).or_insert_with(|| {
                nodes.push(Node { name, kind: instance.kind.name, instances: 0, axes: BTreeSet::new() });
                nodes.len() - 1
            });
            nodes[index].instances += 1;
            nodes[index].axes.extend(instance.point.keys().cloned());
        }
        let edges: BTreeSet<Edge> = self
            .edges()
            .map(|(from, to, role)| Edge { from: name(from.0), to: name(to.0), role: role.to_string() })
            .collect();
        Diagram { nodes, edges: edges.into_iter().collect() }
    }
}

/// `12 x prompt, seed` for a node of several instances; `None` for a node of one.
fn multiplicity(node: &Node) -> Option<String> {
    let axes: Vec<&str> = node.axes.iter().map(String::as_str).collect();
    (node.instances > 1).then(|| format!("{} x {}", node.instances, axes.join(", ")))
}

fn dot(diagram: &Diagram) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = "digraph ablate {\n  rankdir=LR;\n  node [shape=box];\n".to_string();
    for node in &diagram.nodes {
        let more = multiplicity(node).map(|more| format!("\n{more}")).unwrap_or_default();
        let label = quoted(&format!("{}\n{}{more}", node.name, node.kind)).replace('\n', "\\n");
        let _ = writeln!(text, "  {} [label={label}];", quoted(&node.name));
    }
    for edge in &diagram.edges {
        let _ = writeln!(text, "  {} -> {} [label={}];", quoted(&edge.from), quoted(&edge.to), quoted(&edge.role));
    }
    text + "}\n"
}

fn mermaid(diagram: &Diagram) -> String {
    let escaped =
        |text: &str| text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;");
    let index = |name: &str| diagram.nodes.iter().position(|node| node.name == name).unwrap_or_default();
    let mut text = "flowchart LR\n".to_string();
    for (number, node) in diagram.nodes.iter().enumerate() {
        let more = multiplicity(node).map(|more| format!("<br/>{}", escaped(&more))).unwrap_or_default();
        let _ = writeln!(text, "  n{number}[\"{}<br/>{}{more}\"]", escaped(&node.name), escaped(node.kind));
    }
    for edge in &diagram.edges {
        let _ = writeln!(text, "  n{} -->|\"{}\"| n{}", index(&edge.from), escaped(&edge.role), index(&edge.to));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::support::TestProject;
    use ablate_experiment::InstanceId;
    use expect_test::expect;
    use serde_json::json;

    fn sweep() -> Expansion {
        TestProject::new().stages(&[
            ("read", json!({ "path": "data.txt" })),
            ("train@seed=0", json!({ "kind": "model", "from": ["read"], "seed": 0 })),
            ("train@seed=1", json!({ "kind": "model", "from": ["read"], "seed": 1 })),
            ("eval@seed=0", json!({ "from": ["train@seed=0", "read"] })),
            ("eval@seed=1", json!({ "from": ["train@seed=1", "read"] })),
        ])
    }

    #[test]
    fn axes_are_collapsed_unless_expanded() {
        let expansion = sweep();
        let graph = Graph::new(&expansion);
        expect![[r#"
            digraph ablate {
              rankdir=LR;
              node [shape=box];
              "read" [label="read\ntext"];
              "train" [label="train\nmodel\n2 x seed"];
              "eval" [label="eval\ntext\n2 x seed"];
              "read" -> "eval" [label="from.1"];
              "read" -> "train" [label="from.0"];
              "train" -> "eval" [label="from.0"];
            }
        "#]]
        .assert_eq(&graph.render(&expansion, GraphFormat::Dot, false));
        expect![[r#"
            flowchart LR
              n0["read<br/>text"]
              n1["train@seed=0<br/>model"]
              n2["train@seed=1<br/>model"]
              n3["eval@seed=0<br/>text"]
              n4["eval@seed=1<br/>text"]
              n0 -->|"from.1"| n3
              n0 -->|"from.1"| n4
              n0 -->|"from.0"| n1
              n0 -->|"from.0"| n2
              n1 -->|"from.0"| n3
              n2 -->|"from.0"| n4
        "#]]
        .assert_eq(&graph.render(&expansion, GraphFormat::Mermaid, true));
        let json = graph.render(&expansion, GraphFormat::Json, false);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["nodes"][1], json!({ "name": "train", "kind": "model", "instances": 2, "axes": ["seed"] }));
        assert_eq!(json["edges"][0], json!({ "from": "read", "to": "eval", "role": "from.1" }));
    }

    #[test]
    fn paths_and_neighbours_follow_the_edges() {
        let expansion = sweep();
        let graph = Graph::new(&expansion);
        let ids = |numbers: &[usize]| numbers.iter().copied().map(InstanceId).collect::<BTreeSet<_>>();
        assert_eq!(graph.longest_paths(|_| 1.0), [3.0, 2.0, 2.0, 1.0, 1.0]);
        assert_eq!(graph.upstream(InstanceId(3)), ids(&[0, 1]));
        assert_eq!(graph.downstream(InstanceId(0)), ids(&[1, 2, 3, 4]));
    }
}
