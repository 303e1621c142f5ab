//! The chat template that goes with an adapter: prompts are to be written as they were trained, wherever they are written.

use super::style::{Marks, Style};
use super::tokenizer::Tokenizer;

/// The chat template beside an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shipped {
    /// The base's, if it has one.
    Base,
    /// One that is made from the prompt style, as text.
    Made(String),
    /// None; why.
    Nothing(String),
}

impl Shipped {
    /// What goes with an adapter whose sets were written in `styles`; `asks` says whether any row has a prompt.
    pub fn of(styles: &[Style], tokenizer: &Tokenizer, asks: bool) -> Self {
        let [first, others @ ..] = styles else { return Self::Base };
        let made = || {
            if others.iter().any(|s| s != first) {
                let mut names: Vec<_> = styles.iter().map(|s| format!("`{}`", s.name())).collect();
                names.dedup();
                let names = names.join(", ");
                return Err(format!("the sets do not have the same prompt style: {names}"));
            }
            first.jinja(&marks(tokenizer)?)
        };
        if !asks || styles.iter().all(Style::is_chat_template) {
            return Self::Base;
        }
        made().map_or_else(Self::Nothing, Self::Made)
    }

    /// What to tell where there is none.
    pub fn note(&self) -> Option<String> {
        let Self::Nothing(why) = self else { return None };
        Some(format!(
            "no chat_template.jinja goes with the adapter: {why}; its README.md shows how to prompt"
        ))
    }
}

/// The tokens round a conversation in training.
fn marks(tokenizer: &Tokenizer) -> Result<Marks, String> {
    let text = |ids: &[u32]| {
        let text = tokenizer.decode(ids, false).map_err(|e| e.to_string())?;
        let again = tokenizer.encode(&text, false).map_err(|e| e.to_string())?;
        if again == ids { Ok(text) } else { Err(format!("`{text}` is no text of its token")) }
    };
    let eos = tokenizer.eos_id.ok_or("the tokenizer has no EOS token")?;
    let around = tokenizer.around().ok_or("the tokenizer does not open every text alike")?;
    let (before, after) = around;
    if !after.is_empty() && after != [eos] {
        return Err("the tokenizer closes every text with a token other than EOS".into());
    }
    let (eos, bos) = (text(&[eos])?, tokenizer.bos_id.filter(|_| !before.is_empty()));
    let before = if before.is_empty() { String::new() } else { text(before)? };
    Ok(Marks { before, bos: bos.map(|id| text(&[id])).transpose()?, eos })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn shipped(styles: &[Style], asks: bool) -> Shipped {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/smoke/model");
        Shipped::of(styles, &Tokenizer::load(&model).unwrap(), asks)
    }

    fn named(name: &str) -> Style {
        Style::named(name, None).unwrap()
    }

    #[test]
    fn sets_of_different_styles_have_no_template() {
        let Shipped::Nothing(why) = shipped(&[named("alpaca"), Style::chat_template()], true)
        else {
            panic!()
        };
        let want = "the sets do not have the same prompt style: `alpaca`, `chat_template`";
        assert_eq!(why, want);
    }

    #[test]
    fn sets_of_one_style_have_its_template() {
        let one = shipped(&[named("alpaca")], true);
        assert!(matches!(one, Shipped::Made(_)));
        assert_eq!(shipped(&[named("alpaca"), named("alpaca")], true), one);
    }

    #[test]
    fn rows_that_ask_nothing_leave_the_bases() {
        assert_eq!(shipped(&[named("alpaca")], false), Shipped::Base);
    }
}
