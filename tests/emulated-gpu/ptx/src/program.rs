//! A kernel, ready to run.

use crate::machine::Step;

/// A kernel, ready to run.
pub struct Program {
    pub name: String,
    /// Bytes of static shared memory. Dynamic shared memory follows.
    pub shared: usize,
    /// Bytes of private memory of a thread.
    pub local: usize,
    pub(crate) blocks: Vec<Block>,
    /// Numbers of rows of registers of up to 32 bits, and of 64 bits.
    pub(crate) narrow: u32,
    pub(crate) wide: u32,
    pub(crate) narrow_constants: Vec<(u32, u32)>,
    pub(crate) wide_constants: Vec<(u32, u64)>,
    pub(crate) specials: Vec<(u32, Special)>,
}

impl Program {
    pub(crate) fn new(name: &str) -> Program {
        Program {
            name: name.to_string(),
            shared: 0,
            local: 0,
            blocks: Vec::new(),
            narrow: 0,
            wide: 0,
            narrow_constants: Vec::new(),
            wide_constants: Vec::new(),
            specials: Vec::new(),
        }
    }

    /// 32-bit registers of a thread, two for one of 64 bits. `ptxas` needs far fewer.
    pub fn registers(&self) -> u32 {
        self.narrow + 2 * self.wide
    }
}

/// A basic block: instructions without a branch between them.
#[derive(Default)]
pub(crate) struct Block {
    pub(crate) steps: Vec<Step>,
    pub(crate) end: End,
    /// The row with the mask of the lanes that must be here before the first instruction runs.
    pub(crate) warp_mask: Option<u32>,
}

#[derive(Clone, Debug, Default)]
pub(crate) enum End {
    #[default]
    Next,
    Goto(u32),
    /// To `target` where the predicate in the row is true, otherwise to the next block.
    Branch {
        row: u32,
        negated: bool,
        target: u32,
    },
    /// To the target at the index in the row.
    Table {
        row: u32,
        targets: Vec<u32>,
    },
    Barrier(Option<Reduction>),
    Exit,
}

/// What `bar.red` computes of a predicate of all threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reduction {
    pub(crate) kind: ReductionKind,
    pub(crate) from: u32,
    pub(crate) negated: bool,
    pub(crate) to: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum ReductionKind {
    Count,
    And,
    Or,
}

/// Registers with the position of a thread. The number is the axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Lane,
    Warp,
    Warps,
    LaneMask(LaneMask),
    DynamicShared,
    /// The index of the multiprocessor, and others without a meaning here.
    Zero,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneMask {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl LaneMask {
    pub(crate) fn of(self, lane: u32) -> u32 {
        let own = 1u32 << lane;
        match self {
            LaneMask::Equal => own,
            LaneMask::Less => own - 1,
            LaneMask::LessOrEqual => own | (own - 1),
            LaneMask::Greater => !(own | (own - 1)),
            LaneMask::GreaterOrEqual => !(own - 1),
        }
    }
}

impl Special {
    pub(crate) fn parse(operand: &str) -> Option<Special> {
        let (name, axis) = operand.strip_prefix('%')?.split_once('.').unwrap_or((&operand[1..], "x"));
        let axis = ["x", "y", "z"].iter().position(|known| *known == axis)?;
        Some(match name {
            "tid" => Special::Tid(axis),
            "ntid" => Special::Ntid(axis),
            "ctaid" => Special::Ctaid(axis),
            "nctaid" => Special::Nctaid(axis),
            "laneid" => Special::Lane,
            "warpid" => Special::Warp,
            "nwarpid" => Special::Warps,
            "lanemask_eq" => Special::LaneMask(LaneMask::Equal),
            "lanemask_lt" => Special::LaneMask(LaneMask::Less),
            "lanemask_le" => Special::LaneMask(LaneMask::LessOrEqual),
            "lanemask_gt" => Special::LaneMask(LaneMask::Greater),
            "lanemask_ge" => Special::LaneMask(LaneMask::GreaterOrEqual),
            "dynamic_smem_size" => Special::DynamicShared,
            "smid" | "clock" | "gridid" => Special::Zero,
            _ => return None,
        })
    }
}
