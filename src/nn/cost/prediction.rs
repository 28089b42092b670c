//! The expected time of a pass, from its work and the peaks of a card.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Work;
use crate::Precision;
use crate::cuda::ops::recorder::{CopyKind, Operation};

/// The peaks of a GPU, and the shares of them that are assumed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Card {
    pub name: &'static str,
    /// Bytes.
    pub memory: u64,
    /// Seconds that an operation takes at least: from one launch to the next.
    pub launch: f64,
    /// Bytes per second of the GPU's memory.
    pub bandwidth: f64,
    /// Bytes per second of copies from and to the host.
    pub host_bandwidth: f64,
    /// FLOPs per second of products, by precision.
    pub f32_peak: f64,
    pub tf32_peak: f64,
    pub bf16_peak: f64,
    /// The assumed share of the peak that products reach, and of the bandwidth that kernels reach.
    pub product_share: f64,
    pub bandwidth_share: f64,
    /// The assumed share of the f32 peak that attention reaches without tensor cores, and of the bf16 peak with them.
    pub attention_share: f64,
    pub tensor_attention_share: f64,
}

impl Card {
    /// NVIDIA's data sheet (dense, SXM); the launch and the shares are assumptions.
    pub const H200: Card = Card {
        name: "H200",
        memory: 141_000_000_000,
        launch: 4e-6,
        bandwidth: 4.8e12,
        host_bandwidth: 50e9,
        f32_peak: 67e12,
        tf32_peak: 494e12,
        bf16_peak: 790e12,
        product_share: 0.7,
        bandwidth_share: 0.7,
        attention_share: 0.2,
        tensor_attention_share: 0.3,
    };

    /// FLOPs per second of products.
    pub fn peak(&self, precision: Precision) -> f64 {
        match precision {
            Precision::F32 => self.f32_peak,
            Precision::Tf32 => self.tf32_peak,
            Precision::Bf16 => self.bf16_peak,
        }
    }
}

/// The expected time of a pass.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    pub seconds: f64,
    /// Seconds by kernel, products together, and copies, the longest first.
    pub parts: Vec<(String, f64)>,
}

impl Prediction {
    /// Every operation takes as long as its launch, its bytes or its FLOPs, whichever is longest, and they run one after another.
    pub fn new(work: &Work, precision: Precision, card: &Card) -> Prediction {
        let mut parts: BTreeMap<&str, f64> = BTreeMap::new();
        let memory = card.bandwidth * card.bandwidth_share;
        for (operation, count) in work.operations() {
            let (name, seconds) = match *operation {
                Operation::Product { bytes, flops, .. } => {
                    let computing = flops as f64 / (card.peak(precision) * card.product_share);
                    ("products", computing.max(bytes as f64 / memory))
                }
                Operation::Kernel { name, bytes, flops } => {
                    let attention = if name.starts_with("wide_") {
                        card.bf16_peak * card.tensor_attention_share
                    } else {
                        card.f32_peak * card.attention_share
                    };
                    let computing = flops as f64 / attention;
                    (name, computing.max(bytes as f64 / memory))
                }
                Operation::Copy { kind, bytes } => {
                    let host = matches!(kind, CopyKind::HostToDevice | CopyKind::DeviceToHost);
                    ("copies", bytes as f64 / if host { card.host_bandwidth } else { memory })
                }
            };
            *parts.entry(name).or_default() += count as f64 * seconds.max(card.launch);
        }
        let mut parts: Vec<(String, f64)> = parts.into_iter().map(|(name, time)| (name.to_string(), time)).collect();
        parts.sort_by(|a, b| b.1.total_cmp(&a.1));
        Prediction { seconds: parts.iter().map(|(_, seconds)| seconds).sum(), parts }
    }
}
