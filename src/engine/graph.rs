//! The graph of instances: who reads whom, and how long the chains are. The only home of the graph library.

use std::collections::BTreeSet;
use std::sync::Arc;

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};

use ablate_experiment::{Expansion, InstanceId, Upstream};

/// Edges go from an instance to those that read its outputs; the weight is the role it plays there.
#[derive(Clone, Debug)]
pub struct Graph {
    graph: DiGraph<InstanceId, Arc<str>>,
}

impl Graph {
    pub fn of(expansion: &Expansion) -> Graph {
        let mut graph = DiGraph::with_capacity(expansion.instances.len(), expansion.instances.len());
        for id in expansion.ids() {
            graph.add_node(id);
        }
        for id in expansion.ids() {
            for input in &expansion.get(id).inputs {
                if let Upstream::Output { instance, .. } = input.upstream {
                    graph.add_edge(node(instance), node(id), input.role.clone());
                }
            }
        }
        Graph { graph }
    }

    /// The instances that an instance reads, each once.
    pub fn above(&self, id: InstanceId) -> BTreeSet<InstanceId> {
        self.graph.neighbors_directed(node(id), Direction::Incoming).map(|node| self.graph[node]).collect()
    }

    /// The instances that read an instance, each once.
    pub fn below(&self, id: InstanceId) -> BTreeSet<InstanceId> {
        self.graph.neighbors_directed(node(id), Direction::Outgoing).map(|node| self.graph[node]).collect()
    }

    /// For each instance the weight of the heaviest chain that begins with it: what a run must still wait for.
    pub fn chains(&self, weight: impl Fn(InstanceId) -> f64) -> Vec<f64> {
        let order = petgraph::algo::toposort(&self.graph, None)
            .unwrap_or_else(|_| panic!("BUG: the expansion holds a cycle, which its checks exclude"));
        let mut chains = vec![0.0; self.graph.node_count()];
        for index in order.into_iter().rev() {
            let below = self.graph.neighbors_directed(index, Direction::Outgoing);
            let longest = below.map(|node| chains[node.index()]).fold(0.0, f64::max);
            chains[index.index()] = longest + weight(self.graph[index]);
        }
        chains
    }

    /// Reader, what it reads, and the role, in a fixed order.
    pub fn edges(&self) -> impl Iterator<Item = (InstanceId, InstanceId, &str)> {
        self.graph.edge_indices().filter_map(|edge| {
            let (from, to) = self.graph.edge_endpoints(edge)?;
            Some((self.graph[from], self.graph[to], &*self.graph[edge]))
        })
    }
}

fn node(id: InstanceId) -> NodeIndex {
    NodeIndex::new(id.0)
}
