//! The operations of a pass, counted.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cuda::ops::recorder::{CopyKind, Operation};

/// What a GPU does in a pass: each operation with the number of times.
#[derive(Clone, Debug, Default)]
pub struct Work(BTreeMap<Operation, u64>);

/// All calls of one kernel, or of products of one size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkItem {
    /// A kernel's name, `product m x n x k`, or the direction of a copy.
    pub name: String,
    pub calls: u64,
    /// Bytes read and written, each once.
    pub bytes: u64,
    /// A multiply-add counts as two.
    pub flops: u64,
}

impl Work {
    pub(super) fn new(operations: Vec<Operation>) -> Work {
        let mut work = Work::default();
        for operation in operations {
            *work.0.entry(operation).or_default() += 1;
        }
        work
    }

    /// The operations, and how often each is done.
    pub(super) fn operations(&self) -> impl Iterator<Item = (&Operation, u64)> {
        self.0.iter().map(|(operation, count)| (operation, *count))
    }

    /// This work and then another.
    #[must_use]
    pub fn and(&self, other: &Work) -> Work {
        let mut sum = self.clone();
        for (operation, count) in other.operations() {
            *sum.0.entry(operation.clone()).or_default() += count;
        }
        sum
    }

    /// Kernels that are launched, without those of cuBLAS.
    pub fn launches(&self) -> u64 {
        self.count(|operation| matches!(operation, Operation::Kernel { .. }))
    }

    /// Calls of cuBLAS.
    pub fn products(&self) -> u64 {
        self.count(|operation| matches!(operation, Operation::Product { .. }))
    }

    /// Floating-point operations of products and attention.
    pub fn flops(&self) -> f64 {
        self.operations().map(|(operation, count)| operation.flops() as f64 * count as f64).sum()
    }

    /// Bytes that products and kernels read and write.
    pub fn bytes(&self) -> f64 {
        let bytes = |(operation, count): (&Operation, u64)| match operation {
            Operation::Kernel { bytes, .. } | Operation::Product { bytes, .. } => *bytes as f64 * count as f64,
            Operation::Copy { .. } => 0.0,
        };
        self.operations().map(bytes).sum()
    }

    /// Bytes that are copied to the GPU, and to the host.
    pub fn copied(&self) -> [u64; 2] {
        [CopyKind::HostToDevice, CopyKind::DeviceToHost].map(|kind| self.copies(kind).1)
    }

    /// The number of copies of a kind, and their bytes.
    pub(crate) fn copies(&self, kind: CopyKind) -> (u64, u64) {
        let of_kind = self.operations().filter_map(|(operation, count)| match operation {
            Operation::Copy { kind: found, bytes } if *found == kind => Some((count, count * bytes)),
            _ => None,
        });
        of_kind.fold((0, 0), |(calls, bytes), (count, more)| (calls + count, bytes + more))
    }

    /// By kernel, size of product and direction of copies, the largest FLOPs first, then the largest bytes.
    pub fn items(&self) -> Vec<WorkItem> {
        let mut items: BTreeMap<String, WorkItem> = BTreeMap::new();
        for (operation, calls) in self.operations() {
            let name = operation.to_string();
            let item = items.entry(name.clone()).or_insert(WorkItem { name, calls: 0, bytes: 0, flops: 0 });
            item.calls += calls;
            item.bytes += calls * operation.bytes();
            item.flops += calls * operation.flops();
        }
        let mut items: Vec<WorkItem> = items.into_values().collect();
        items.sort_by_key(|item| std::cmp::Reverse((item.flops, item.bytes)));
        items
    }

    fn count(&self, counts: impl Fn(&Operation) -> bool) -> u64 {
        self.operations().filter(|(operation, _)| counts(operation)).map(|(_, count)| count).sum()
    }
}
