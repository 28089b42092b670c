//! The types of instructions.

/// The type of an operation, such as `.u32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Type {
    pub(crate) kind: Kind,
    pub(crate) bits: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unsigned,
    Signed,
    Bits,
    Float,
    /// bfloat16: the upper half of an `f32`.
    Bfloat,
    /// An `f32` with 10 bits of mantissa.
    Tf32,
    /// Two `f16` in 32 bits.
    FloatPair,
    /// Two bfloat16 in 32 bits.
    BfloatPair,
    Predicate,
}

pub(crate) const U32: Type = Type { kind: Kind::Unsigned, bits: 32 };
pub(crate) const PREDICATE: Type = Type { kind: Kind::Predicate, bits: 1 };

impl Type {
    pub(crate) fn parse(text: &str) -> Option<Type> {
        let of = |kind, bits| Some(Type { kind, bits });
        match text {
            "pred" => return Some(PREDICATE),
            "bf16" => return of(Kind::Bfloat, 16),
            "bf16x2" => return of(Kind::BfloatPair, 32),
            "f16x2" => return of(Kind::FloatPair, 32),
            "tf32" => return of(Kind::Tf32, 32),
            _ => {}
        }
        let kind = match text.chars().next()? {
            'u' => Kind::Unsigned,
            's' => Kind::Signed,
            'b' => Kind::Bits,
            'f' => Kind::Float,
            _ => return None,
        };
        let bits = text[1..].parse().ok()?;
        [8, 16, 32, 64].contains(&bits).then_some(Type { kind, bits })
    }

    pub(crate) fn is(self, kind: Kind, bits: u32) -> bool {
        self.kind == kind && self.bits == bits
    }

    pub(crate) fn is_wide(self) -> bool {
        self.bits == 64
    }

    pub(crate) fn is_signed(self) -> bool {
        self.kind == Kind::Signed
    }

    /// Whether values are floating-point numbers of any format.
    pub(crate) fn is_floating(self) -> bool {
        matches!(self.kind, Kind::Float | Kind::Bfloat | Kind::Tf32 | Kind::FloatPair | Kind::BfloatPair)
    }

    pub(crate) fn bytes(self) -> u64 {
        u64::from(self.bits / 8)
    }

    /// The lowest `bits` of a value, extended to 64 bits by the sign of the type.
    pub(crate) fn extend(self, value: u64) -> u64 {
        let unused = 64 - self.bits;
        if self.is_signed() { ((value << unused) as i64 >> unused) as u64 } else { value << unused >> unused }
    }
}
