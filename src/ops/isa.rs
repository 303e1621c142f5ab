//! Instruction sets of the processor, and the one that everything on the CPU is computed with.
//!
//! | word of `VFT_CPU` | what it needs | f32 products | bf16 products |
//! |---|---|---|---|
//! | `avx512bf16` | AVX-512 F, BW, VL, BF16 | as `avx512` | in bf16, as are attention and rows of bf16 |
//! | `avx512` | x86-64-v4 | 16 lanes | widened to f32 |
//! | `avx2` | x86-64-v3 (AVX2 and FMA) | 8 lanes | widened to f32 |
//! | `portable` | nothing | 4 lanes | widened to f32 |
//!
//! Without the word it is the best that the processor has. Results differ between sets by rounding only.

use super::bf16_gemm;
use candle_core::{Error, Result};
use pulp::Arch;
use std::sync::OnceLock;

/// An instruction set; a greater one is expected to be faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What the target guarantees.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 without bf16.
    Avx512,
    /// AVX-512 with products of pairs in bf16.
    Avx512Bf16,
}

impl Isa {
    /// All of them, best first.
    pub const ALL: [Self; 4] = [Self::Avx512Bf16, Self::Avx512, Self::Avx2, Self::Portable];

    /// Its word in `VFT_CPU`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Avx512Bf16 => "avx512bf16",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Avx512Bf16 => bf16_gemm::supported(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => pulp::x86::V4::is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => pulp::x86::V3::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        }
    }

    /// Those of this processor, best first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// The best of this processor.
    pub fn best() -> Self {
        Self::available().next().unwrap_or(Self::Portable)
    }

    /// What loops and f32 products are compiled for: a set that the processor lacks is replaced by the next that it has.
    pub(super) fn arch(self) -> Arch {
        #[cfg(target_arch = "x86_64")]
        {
            use pulp::x86::{V3, V4};
            match (self, V4::try_new(), V3::try_new()) {
                (Self::Avx512Bf16 | Self::Avx512, Some(simd), _) => Arch::V4(simd),
                (Self::Avx512Bf16 | Self::Avx512 | Self::Avx2, _, Some(simd)) => Arch::V3(simd),
                _ => Arch::Scalar,
            }
        }
        // Elsewhere the vectors that pulp knows are part of what the target guarantees.
        #[cfg(not(target_arch = "x86_64"))]
        Arch::new()
    }
}

static CHOSEN: OnceLock<std::result::Result<Isa, String>> = OnceLock::new();

/// Makes `isa` the set of this process, if the processor has it, `VFT_CPU` asks for none and nothing was computed yet.
pub fn prefer(isa: Isa) {
    if isa.is_available() && std::env::var_os("VFT_CPU").is_none() {
        let _ = CHOSEN.set(Ok(isa));
    }
}

/// The instruction set of this process: what `VFT_CPU` asked for at the first call, or the best.
///
/// # Errors
/// When `VFT_CPU` asks for what the processor lacks, or is none of the words.
pub fn chosen() -> Result<Isa> {
    let asked = || read(std::env::var_os("VFT_CPU").map(|w| w.to_string_lossy().into_owned()));
    CHOSEN.get_or_init(asked).clone().map_err(Error::msg)
}

/// As [`chosen`], for loops: one load and one comparison.
///
/// A wrong word is refused where a context for the CPU is made. What runs without one, beside a device, takes the best.
#[inline(always)]
pub(super) fn chosen_arch() -> Arch {
    static ARCH: OnceLock<Arch> = OnceLock::new();
    *ARCH.get_or_init(|| chosen().unwrap_or_else(|_| Isa::best()).arch())
}

fn read(word: Option<String>) -> std::result::Result<Isa, String> {
    let list = |isas: &mut dyn Iterator<Item = Isa>| {
        isas.map(|isa| format!("`{}`, ", isa.word())).collect::<String>()
            + "or nothing for the best"
    };
    let Some(word) = word else { return Ok(Isa::best()) };
    match Isa::ALL.into_iter().find(|isa| isa.word() == word) {
        Some(isa) if isa.is_available() => Ok(isa),
        Some(_) => Err(format!(
            "VFT_CPU={word}: this processor lacks it; write {}",
            list(&mut Isa::available())
        )),
        None => Err(format!("VFT_CPU={word}: write {}", list(&mut Isa::ALL.into_iter()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_gives_its_set_or_says_that_it_is_missing() {
        for isa in Isa::ALL {
            match read(Some(isa.word().to_owned())) {
                Ok(read) => assert!(read == isa && isa.is_available()),
                Err(text) => assert!(!isa.is_available() && text.contains("`portable`"), "{text}"),
            }
        }
    }

    #[test]
    fn no_word_gives_the_best() {
        let best = read(None).unwrap();
        assert!(Isa::available().all(|isa| isa <= best));
    }

    #[test]
    fn another_word_is_refused_with_the_list() {
        for word in ["f32", "", "AVX2"] {
            let text = read(Some(word.to_owned())).unwrap_err();
            assert!(text.starts_with(&format!("VFT_CPU={word}: ")), "{text}");
            assert!(Isa::ALL.iter().all(|isa| text.contains(isa.word())), "{text}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_forced_set_is_what_loops_are_compiled_for() {
        for isa in Isa::available() {
            let fits = match isa.arch() {
                Arch::V4(_) => isa >= Isa::Avx512,
                Arch::V3(_) => isa == Isa::Avx2,
                _ => isa == Isa::Portable,
            };
            assert!(fits, "{isa:?}");
        }
    }
}
