//! The graph of instances: which instance reads which, and how long the chains are. Only this file uses petgraph
//! (`tests/tidy.rs`).

use std::collections::BTreeSet;
use std::sync::Arc;

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};

use ablate_experiment::{Expansion, InstanceId, Upstream};

/// An edge goes from an instance to an instance that reads its outputs. Its weight is the role of the input.
#[derive(Clone, Debug)]
pub struct Graph {
    graph: DiGraph<InstanceId, Arc<str>>,
}

impl Graph {
    pub fn new(expansion: &Expansion) -> Graph {
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

    /// The instances that an instance reads, without duplicates.
    pub fn upstream(&self, id: InstanceId) -> BTreeSet<InstanceId> {
        self.graph.neighbors_directed(node(id), Direction::Incoming).map(|node| self.graph[node]).collect()
    }

    /// The instances that read an instance, without duplicates.
    pub fn downstream(&self, id: InstanceId) -> BTreeSet<InstanceId> {
        self.graph.neighbors_directed(node(id), Direction::Outgoing).map(|node| self.graph[node]).collect()
    }

    /// For each instance, the total weight of the heaviest path that starts at it. The scheduler starts the instance
    /// with the longest path first.
    pub fn longest_paths(&self, weight: impl Fn(InstanceId) -> f64) -> Vec<f64> {
        let order = petgraph::algo::toposort(&self.graph, None)
            .unwrap_or_else(|_| panic!("BUG: the expansion holds a cycle, which its checks exclude"));
        let mut lengths = vec![0.0; self.graph.node_count()];
        for index in order.into_iter().rev() {
            let downstream = self.graph.neighbors_directed(index, Direction::Outgoing);
            let longest = downstream.map(|node| lengths[node.index()]).fold(0.0, f64::max);
            lengths[index.index()] = longest + weight(self.graph[index]);
        }
        lengths
    }

    /// (instance, reader, role) for every edge, in a fixed order.
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
