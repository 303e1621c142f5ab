//! What layers keep between their passes.

/// What a layer keeps (`train.gradient_checkpointing`); the rest is computed again in the backward pass.
/// Chen et al. 2016, arXiv:1604.06174
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Everything (`none`).
    All,
    /// What surrounds attention; the wide gate and up, and the adapters' narrow products, are computed again (`mlp`).
    Attention,
    /// The residual stream, x and x₂ (`full`). The outputs of o and down are not computed again: nothing needs them.
    Residual,
}

impl Keep {
    /// Its name in a config.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "none",
            Self::Attention => "mlp",
            Self::Residual => "full",
        }
    }
}

/// What the layers of a model keep, counted from the first with an adapter on: the early ones less than the others. When an early layer is computed again the later ones have given
/// back what they kept, so what that takes for a moment is there already. For the same reason the last layer always keeps everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    early: usize,
    less: Keep,
    more: Keep,
}

impl Keeping {
    /// The same in all layers.
    pub const fn all(keep: Keep) -> Self {
        Self { early: 0, less: keep, more: keep }
    }

    /// The choices for a model of so many layers, from the fastest to the leanest.
    pub fn choices(layers: usize) -> impl Iterator<Item = Self> {
        let early = move |less, more| (1..layers).map(move |early| Self { early, less, more });
        let some = early(Keep::Attention, Keep::All).chain(early(Keep::Residual, Keep::Attention));
        std::iter::once(Self::all(Keep::All)).chain(some)
    }

    /// What layer `i` of `layers` keeps.
    pub fn of(self, i: usize, layers: usize) -> Keep {
        match i {
            i if i + 1 == layers => Keep::All,
            i if i < self.early => self.less,
            _ => self.more,
        }
    }

    /// Whether nothing leaner is to be had.
    pub fn is_leanest(self, layers: usize) -> bool {
        (0..layers.saturating_sub(1)).all(|i| self.of(i, layers) == Keep::Residual)
    }

    /// In words, for a model of so many layers.
    pub fn describe(self, layers: usize) -> String {
        let (less, more) = (self.less.name(), self.more.name());
        match self.early {
            0 => more.to_owned(),
            early if early + 1 >= layers => less.to_owned(),
            early => format!("{less} in {early} of {layers} layers, {more} in the others"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_go_from_everything_to_the_residual_stream() {
        let told: Vec<String> = Keeping::choices(3).map(|k| k.describe(3)).collect();
        let some = |less, more| format!("{less} in 1 of 3 layers, {more} in the others");
        let wanted = ["none", &some("mlp", "none"), "mlp", &some("full", "mlp"), "full"];
        assert_eq!(told, wanted);
    }

    #[test]
    fn the_last_choice_is_the_leanest() {
        assert!(Keeping::choices(3).last().unwrap().is_leanest(3));
    }
}
