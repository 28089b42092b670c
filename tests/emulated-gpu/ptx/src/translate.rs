//! Translates the text of a kernel into a program: each instruction becomes a closure over rows of registers.

use std::collections::HashMap;

use crate::inline::inline;
use crate::machine::{Lanes, Step, Word};
use crate::parse::{Item, Kernel, Module, parse_array, parse_number};
use crate::program::{Block, End, Program, Reduction, ReductionKind, Special};
use crate::rows::{Register, unary};
use crate::statement::{Result, Statement, code_of, split_list};
use crate::types::{Kind, PREDICATE, Type, U32};

pub(crate) struct Translator<'a> {
    module: &'a Module,
    kernel: &'a Kernel,
    /// The body of the kernel, in which functions are inlined.
    body: &'a [Item],
    scopes: Vec<HashMap<String, Register>>,
    /// The offsets of arrays.
    shared: HashMap<String, u64>,
    local: HashMap<String, u64>,
    /// The tables of `brx.idx`.
    tables: HashMap<String, Vec<String>>,
    narrow_numbers: HashMap<u32, u32>,
    wide_numbers: HashMap<u64, u32>,
    /// The row of the carry flag.
    carry: Option<u32>,
    pub(crate) program: Program,
}

impl Kernel {
    /// Translates the kernel. An instruction that is not supported is an error.
    pub fn compile(&self, module: &Module) -> Result<Program, String> {
        let body = inline(module, &self.body).map_err(|error| format!("kernel `{}`: {error}", self.name))?;
        let mut translator = Translator {
            module,
            kernel: self,
            body: &body,
            scopes: vec![HashMap::new()],
            shared: HashMap::new(),
            local: HashMap::new(),
            tables: HashMap::new(),
            narrow_numbers: HashMap::new(),
            wide_numbers: HashMap::new(),
            carry: None,
            program: Program::new(&self.name),
        };
        translator.translate().map_err(|error| format!("kernel `{}`: {error}", self.name))?;
        Ok(translator.program)
    }
}

/// The list of targets of `brx.idx`.
const TABLE: &str = ".branchtargets";

/// Whether a basic block ends with this statement.
fn ends_block(statement: &str) -> bool {
    let code = code_of(statement);
    let name = code.split('.').next().unwrap_or("");
    ["bra", "brx", "ret", "exit"].contains(&name)
        || (["bar", "barrier"].contains(&name) && !code.starts_with("bar.warp"))
}

/// Whether a basic block begins with this statement: its lanes wait for each other.
fn begins_block(statement: &str) -> bool {
    let code = code_of(statement);
    ["shfl.sync", "vote.sync", "redux.sync", "mma.sync", "ldmatrix.sync", "bar.warp.sync", "match."]
        .iter()
        .any(|name| code.starts_with(name))
}

impl Translator<'_> {
    fn mentions(&self, name: &str) -> bool {
        self.body.iter().any(|item| matches!(item, Item::Statement(statement) if statement.contains(name)))
    }

    fn translate(&mut self) -> Result<()> {
        self.lay_out_shared_memory()?;
        let labels = self.labels();
        let mut block = Block::default();
        let mut empty = true;
        for item in self.body {
            match item {
                Item::Open => self.scopes.push(HashMap::new()),
                Item::Close => drop(self.scopes.pop()),
                Item::Label(_) => {
                    if !empty {
                        self.program.blocks.push(std::mem::take(&mut block));
                    }
                    empty = true;
                }
                Item::Statement(statement) if statement.starts_with('.') => self.declare(statement)?,
                Item::Statement(text) => {
                    let in_statement = |error| format!("`{text}`: {error}");
                    if begins_block(text) && !empty {
                        self.program.blocks.push(std::mem::take(&mut block));
                    }
                    let statement = Statement::parse(text);
                    empty = ends_block(text);
                    if empty {
                        block.end = self.end(&statement, &labels).map_err(in_statement)?;
                        self.program.blocks.push(std::mem::take(&mut block));
                        continue;
                    }
                    if begins_block(text) {
                        block.warp_mask = Some(self.warp_mask(&statement).map_err(in_statement)?);
                    }
                    if let Some(step) = self.instruction(&statement).map_err(in_statement)? {
                        block.steps.push(step);
                    }
                }
            }
        }
        block.end = End::Exit;
        self.program.blocks.push(block);
        Ok(())
    }

    /// Static arrays first. All dynamic arrays begin behind them.
    fn lay_out_shared_memory(&mut self) -> Result<()> {
        let mut arrays = Vec::new();
        for (name, size) in &self.module.shared {
            if self.mentions(name) {
                arrays.push((name.clone(), *size));
            }
        }
        for item in self.body {
            if let Item::Statement(statement) = item
                && statement.starts_with(".shared")
            {
                let (name, size, _) = parse_array(statement)?;
                arrays.push((name, size));
            }
        }
        let (dynamic, fixed): (Vec<_>, Vec<_>) = arrays.into_iter().partition(|(_, size)| *size == 0);
        for (name, size) in fixed {
            let start = self.program.shared.next_multiple_of(16);
            self.shared.insert(name, start as u64);
            self.program.shared = start + size;
        }
        if !dynamic.is_empty() {
            self.program.shared = self.program.shared.next_multiple_of(16);
        }
        for (name, _) in dynamic {
            self.shared.insert(name, self.program.shared as u64);
        }
        Ok(())
    }

    /// The index of the basic block at each label. The label before a table is its name.
    fn labels(&mut self) -> HashMap<String, u32> {
        let mut labels = HashMap::new();
        let mut label = "";
        let mut count: u32 = 0;
        let mut empty = true;
        for item in self.body {
            match item {
                Item::Label(name) => {
                    count += u32::from(!empty);
                    labels.insert(name.clone(), count);
                    empty = true;
                    label = name;
                }
                Item::Statement(statement) if statement.starts_with(TABLE) => {
                    self.tables.insert(label.to_string(), split_list(&statement[TABLE.len()..]));
                }
                Item::Statement(statement) if !statement.starts_with('.') => {
                    count += u32::from(begins_block(statement) && !empty);
                    empty = ends_block(statement);
                    count += u32::from(empty);
                }
                _ => {}
            }
        }
        labels
    }

    fn declare(&mut self, statement: &str) -> Result<()> {
        let unsupported = || format!("`{statement}` is not supported");
        // In inline assembly, `.reg.b32` is one word.
        let statement = statement.replacen(".reg.", ".reg .", 1);
        let statement = statement.as_str();
        let mut words = statement.split_whitespace();
        match words.next() {
            Some(".reg") => {
                let ty = words.next().and_then(|word| Type::parse(&word[1..])).ok_or_else(unsupported)?;
                let names: String = words.collect();
                for name in names.split(',') {
                    match name.trim_end_matches('>').split_once('<') {
                        Some((prefix, count)) => {
                            let count: u32 = count.parse().map_err(|_| unsupported())?;
                            (0..count).for_each(|index| self.declare_register(format!("{prefix}{index}"), ty.bits));
                        }
                        None => self.declare_register(name.to_string(), ty.bits),
                    }
                }
            }
            // Parameters of a call are private memory.
            Some(".local" | ".param") => {
                let (name, size, _) = parse_array(statement)?;
                self.local.insert(name, self.program.local as u64);
                self.program.local += size.next_multiple_of(16);
            }
            // Shared arrays and tables are known already. The others are hints.
            Some(".shared" | TABLE | ".pragma" | ".maxntid" | ".minnctapersm") => {}
            _ => return Err(unsupported()),
        }
        Ok(())
    }

    fn declare_register(&mut self, name: String, bits: u32) {
        let bits = if bits == 8 { 16 } else { bits };
        let row = if bits == 64 { self.wide_row() } else { self.narrow_row() };
        self.scopes.last_mut().expect("a scope").insert(name, Register { bits, row });
    }

    pub(crate) fn narrow_row(&mut self) -> u32 {
        self.program.narrow += 1;
        self.program.narrow - 1
    }

    fn wide_row(&mut self) -> u32 {
        self.program.wide += 1;
        self.program.wide - 1
    }

    pub(crate) fn carry_row(&mut self) -> u32 {
        let row = self.carry.unwrap_or_else(|| self.narrow_row());
        self.carry = Some(row);
        row
    }

    fn end(&mut self, statement: &Statement, labels: &HashMap<String, u32>) -> Result<End> {
        let find = |label: &str| labels.get(label).copied().ok_or_else(|| format!("there is no label `{label}`"));
        match (statement.name(), &statement.guard) {
            ("bra", None) => Ok(End::Goto(find(statement.operand(0)?)?)),
            ("bra", Some((register, negated))) => {
                let target = find(statement.operand(0)?)?;
                Ok(End::Branch { row: self.register(register)?.row, negated: *negated, target })
            }
            ("brx", None) => {
                let [index, table] = statement.operands()?;
                let table = self.tables.get(table).ok_or("the table is not declared")?;
                let targets = table.iter().map(|label| find(label)).collect::<Result<_>>()?;
                Ok(End::Table { row: self.narrow(index, U32)?, targets })
            }
            ("ret" | "exit", None) => Ok(End::Exit),
            ("bar" | "barrier", None) if statement.has("sync") => {
                statement.allow(&["sync", "aligned", "cta"])?;
                match statement.operands.len() {
                    0 | 1 => Ok(End::Barrier(None)),
                    _ => Err("a barrier of some of the threads is not supported".to_string()),
                }
            }
            ("bar" | "barrier", None) if statement.has("red") && statement.operands.len() == 3 => {
                let [to, _, from] = statement.operands()?;
                let kinds = ["popc", "and", "or"];
                let kind = match statement.one_of(&kinds) {
                    Some("popc") => ReductionKind::Count,
                    Some("and") => ReductionKind::And,
                    Some("or") => ReductionKind::Or,
                    _ => return statement.unsupported(),
                };
                let (from, negated) = self.predicate(from)?;
                Ok(End::Barrier(Some(Reduction { kind, from, negated, to: self.register(to)?.row })))
            }
            _ => Err("not supported".to_string()),
        }
    }

    pub(crate) fn register(&self, name: &str) -> Result<Register> {
        let found = self.scopes.iter().rev().find_map(|scope| scope.get(name));
        found.copied().ok_or_else(|| format!("there is no register `{name}`"))
    }

    /// A register that is written. `_` is one that is not read.
    pub(crate) fn destination(&mut self, name: &str, bits: u32) -> Result<Register> {
        match (name, bits) {
            ("_", 64) => Ok(Register { bits: 64, row: self.wide_row() }),
            ("_", _) => Ok(Register { bits, row: self.narrow_row() }),
            _ => self.register(name),
        }
    }

    /// The row of an operand of up to 32 bits.
    pub(crate) fn narrow(&mut self, operand: &str, ty: Type) -> Result<u32> {
        if let Some(special) = Special::parse(operand) {
            return Ok(self.special(special));
        }
        if let Ok(register) = self.register(operand) {
            return if register.bits == 64 { Err(format!("`{operand}` has 64 bits")) } else { Ok(register.row) };
        }
        let value = self.value(operand)?;
        let value =
            if ty.is_floating() { value as u32 } else { Type { kind: Kind::Unsigned, ..ty }.extend(value) as u32 };
        Ok(self.constant(value))
    }

    fn special(&mut self, special: Special) -> u32 {
        if let Some((row, _)) = self.program.specials.iter().find(|known| known.1 == special) {
            return *row;
        }
        let row = self.narrow_row();
        self.program.specials.push((row, special));
        row
    }

    pub(crate) fn constant(&mut self, value: u32) -> u32 {
        if let Some(row) = self.narrow_numbers.get(&value) {
            return *row;
        }
        let row = self.narrow_row();
        self.narrow_numbers.insert(value, row);
        self.program.narrow_constants.push((row, value));
        row
    }

    pub(crate) fn wide(&mut self, operand: &str) -> Result<u32> {
        if let Ok(register) = self.register(operand) {
            return if register.bits == 64 {
                Ok(register.row)
            } else {
                Err(format!("`{operand}` has fewer than 64 bits"))
            };
        }
        let value = self.value(operand)?;
        if let Some(row) = self.wide_numbers.get(&value) {
            return Ok(*row);
        }
        let row = self.wide_row();
        self.wide_numbers.insert(value, row);
        self.program.wide_constants.push((row, value));
        Ok(row)
    }

    /// The row of an operand of a type.
    pub(crate) fn row(&mut self, operand: &str, ty: Type) -> Result<u32> {
        match (operand, ty.is_wide()) {
            ("_", _) => Ok(self.destination("_", ty.bits)?.row),
            (_, true) => self.wide(operand),
            (_, false) => self.narrow(operand, ty),
        }
    }

    /// The rows of the operands of a type.
    pub(crate) fn rows<const N: usize>(&mut self, operands: [&str; N], ty: Type) -> Result<[u32; N]> {
        let mut rows = [0; N];
        for (row, operand) in rows.iter_mut().zip(operands) {
            *row = self.row(operand, ty)?;
        }
        Ok(rows)
    }

    /// The row of a predicate, and whether it is negated.
    pub(crate) fn predicate(&mut self, operand: &str) -> Result<(u32, bool)> {
        let name = operand.trim_start_matches('!');
        Ok((self.narrow(name, PREDICATE)?, operand.starts_with('!')))
    }

    /// A number, or the address of a variable.
    fn value(&self, operand: &str) -> Result<u64> {
        if let Some(reason) = self.module.unsupported_data.get(operand) {
            return Err(format!("`{operand}`: {reason}"));
        }
        let known = parse_number(operand);
        let known = known.or_else(|| self.shared.get(operand).copied()).or_else(|| self.local.get(operand).copied());
        // Data of a module does not move, and the module exists as long as its kernels.
        let known = known.or_else(|| self.module.data.get(operand).map(crate::memory::Buffer::address));
        let param = || self.kernel.params.iter().find(|param| param.name == operand);
        let known = known.or_else(|| param().map(|param| param.offset as u64));
        known.ok_or_else(|| format!("`{operand}` is neither a register nor a number nor a variable"))
    }

    /// Whether an operand is a parameter of a call, not of the kernel.
    pub(crate) fn is_call_param(&self, operand: &str) -> bool {
        let inside = operand.trim_matches(['[', ']']);
        self.local.contains_key(inside.split('+').next().unwrap_or("").trim())
    }

    /// The register with an address and what is added to it, or the address alone.
    pub(crate) fn address(&mut self, operand: &str) -> Result<(Option<Register>, u64)> {
        let inside = operand.trim_matches(['[', ']']).trim();
        let (base, offset) = match inside.split_once('+') {
            Some((base, offset)) => {
                (base.trim(), parse_number(offset.trim()).ok_or_else(|| format!("`{operand}` is no address"))?)
            }
            None => (inside, 0),
        };
        match self.register(base) {
            Ok(register) => Ok((Some(register), offset)),
            Err(_) => Ok((None, self.value(base)?.wrapping_add(offset))),
        }
    }

    fn instruction(&mut self, statement: &Statement) -> Result<Option<Step>> {
        let Some(step) = self.unguarded(statement)? else { return Ok(None) };
        let Some((register, negated)) = &statement.guard else { return Ok(Some(step)) };
        let (row, negated) = (self.register(register)?.row, *negated);
        Ok(Some(Box::new(move |m, lanes| {
            let flags = u32::row(m, row);
            // SAFETY: a row has a value per thread.
            let is_chosen = |lane: usize| (unsafe { *flags.add(lane) } != 0) != negated;
            let mut chosen = Vec::with_capacity(lanes.len());
            lanes.each(|lane| {
                if is_chosen(lane) {
                    chosen.push(lane as u32);
                }
            });
            if chosen.len() == lanes.len() {
                step(m, lanes);
            } else if !chosen.is_empty() {
                step(m, Lanes::These(&chosen));
            }
        })))
    }

    /// `None` for an instruction without an effect.
    fn unguarded(&mut self, statement: &Statement) -> Result<Option<Step>> {
        let step = match statement.name() {
            "membar" | "fence" | "prefetch" | "prefetchu" | "discard" | "applypriority" | "nanosleep" => {
                return Ok(None);
            }
            "ld" | "ldu" => self.load(statement),
            "st" => self.store(statement),
            "atom" | "red" => self.atomic(statement),
            "cp" => self.async_copy(statement),
            "call" => self.call(statement),
            "trap" => Ok::<Step, _>(Box::new(|m, _| m.stop(|m| format!("{}: `trap`", m.place())))),
            "cvta" => self.convert_address(statement),
            "mov" => self.mov(statement),
            "cvt" => self.convert(statement),
            "setp" | "set" => self.compare(statement),
            "selp" | "slct" => self.select(statement),
            "shfl" => self.shuffle(statement),
            "vote" | "activemask" => self.vote(statement),
            "redux" => self.warp_reduce(statement),
            "mma" => self.matrix_multiply(statement),
            "ldmatrix" => self.load_matrix(statement),
            // The lanes have waited for each other before.
            "bar" if statement.has("warp") => Ok::<Step, _>(Box::new(|_, _| ())),
            _ => {
                let ty = statement.ty()?;
                match (ty.is_floating(), ty.bits, ty.kind) {
                    (false, ..) => self.integer(statement, ty),
                    (true, 16, _) | (_, _, Kind::FloatPair | Kind::BfloatPair) => self.half_float(statement, ty),
                    _ => self.float(statement, ty),
                }
            }
        };
        step.map(Some)
    }

    fn call(&mut self, statement: &Statement) -> Result<Step> {
        let names = || statement.operands.iter().map(|operand| operand.trim_matches(['(', ')']));
        if names().any(|name| name == "__assertfail") {
            return Ok(Box::new(|m, _| m.stop(|m| format!("{}: an assertion failed", m.place()))));
        }
        let name =
            names().find(|name| self.module.functions.contains_key(*name)).or_else(|| names().nth(1)).unwrap_or("");
        Err(format!("a call of the function `{name}`, which has no body here, is not supported"))
    }

    /// Addresses in global memory are generic addresses; those of other spaces lie in a window.
    fn convert_address(&mut self, statement: &Statement) -> Result<Step> {
        use crate::space::Space;
        statement.allow(&["to", "global", "const", "shared", "shared::cta", "local", "param", "param::entry"])?;
        let ty = statement.ty()?;
        let [d, a] = statement.operands()?;
        let [d, a] = self.rows([d, a], ty)?;
        let window = Space::of(statement)?.window();
        Ok(match (ty.is_wide(), statement.has("to")) {
            (true, false) => unary(d, a, move |a: u64| a.wrapping_add(window)),
            (true, true) => unary(d, a, move |a: u64| a.wrapping_sub(window)),
            (false, _) if window == 0 => unary(d, a, |a: u32| a),
            _ => return Err("generic addresses have 64 bits".to_string()),
        })
    }
}
