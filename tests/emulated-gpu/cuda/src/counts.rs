//! What has happened in the process, in all and per section, and its report as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) kernels: BTreeMap<String, Kernel>,
    pub(crate) graph_launches: u64,
    pub(crate) products: BTreeMap<String, Products>,
    pub(crate) host_to_device: Transfers,
    pub(crate) device_to_host: Transfers,
    pub(crate) device_to_device: Transfers,
    pub(crate) allocations: Transfers,
    pub(crate) memsets: Transfers,
    pub(crate) frees: u64,
    pub(crate) synchronizations: u64,
    pub(crate) modules: u64,
    pub(crate) peak_bytes: u64,
    pub(crate) bytes_in_use: u64,
    pub(crate) races: BTreeMap<String, u64>,
    pub(crate) faults: Vec<String>,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Kernel {
    pub(crate) launches: u64,
    pub(crate) threads: u64,
    pub(crate) instructions: u64,
    pub(crate) uneven_barriers: u64,
    pub(crate) shared_races: u64,
    pub(crate) block_races: u64,
    pub(crate) time: Duration,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Products {
    pub(crate) calls: u64,
    pub(crate) matrices: u64,
    pub(crate) flops: f64,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Transfers {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

impl Transfers {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }

    fn json(self) -> Value {
        json!({"count": self.count, "bytes": self.bytes})
    }
}

impl Kernel {
    pub(crate) fn add(&mut self, other: &Kernel) {
        self.launches += other.launches;
        self.threads += other.threads;
        self.instructions += other.instructions;
        self.uneven_barriers += other.uneven_barriers;
        self.shared_races += other.shared_races;
        self.block_races += other.block_races;
        self.time += other.time;
    }

    fn json(&self) -> Map<String, Value> {
        let value = json!({
            "launches": self.launches,
            "threads": self.threads,
            "instructions": self.instructions,
            "uneven_barriers": self.uneven_barriers,
            "shared_races": self.shared_races,
            "block_races": self.block_races,
            "seconds": self.time.as_secs_f64(),
        });
        if let Value::Object(map) = value { map } else { Map::new() }
    }
}

impl Counts {
    pub(crate) fn race(&mut self, race: &str) {
        // A program with a race in a loop does not fill the memory.
        if self.races.len() < 100 || self.races.contains_key(race) {
            *self.races.entry(race.to_string()).or_default() += 1;
        }
    }

    pub(crate) fn json(&self) -> Value {
        let mut all = Kernel::default();
        self.kernels.values().for_each(|kernel| all.add(kernel));
        let mut object = all.json();
        let kernels: Map<_, _> =
            self.kernels.iter().map(|(name, kernel)| (name.clone(), kernel.json().into())).collect();
        let by_function = |products: &Products| json!({"calls": products.calls, "matrices": products.matrices, "flops": products.flops});
        let functions: Map<_, _> =
            self.products.iter().map(|(name, products)| (name.clone(), by_function(products))).collect();
        let products = self.products.values();
        let rest = json!({
            "kernels": kernels,
            "graph_launches": self.graph_launches,
            "products": {
                "calls": products.clone().map(|products| products.calls).sum::<u64>(),
                "matrices": products.clone().map(|products| products.matrices).sum::<u64>(),
                "flops": products.map(|products| products.flops).sum::<f64>(),
                "functions": functions,
            },
            "host_to_device": self.host_to_device.json(),
            "device_to_host": self.device_to_host.json(),
            "device_to_device": self.device_to_device.json(),
            "allocations": self.allocations.json(),
            "frees": self.frees,
            "memsets": self.memsets.json(),
            "synchronizations": self.synchronizations,
            "modules": self.modules,
            "peak_bytes": self.peak_bytes,
            "bytes_in_use": self.bytes_in_use,
            "races": self.races,
            "faults": self.faults,
        });
        if let Value::Object(rest) = rest {
            object.extend(rest);
        }
        object.into()
    }
}
