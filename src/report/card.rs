//! The model card: `README.md` beside an adapter, as the Hugging Face Hub shows it.
//!
//! YAML between `---` lines (what the Hub filters by), then Markdown: what was trained on what, the numbers, how to use it. Licence and
//! languages are not known here and not guessed. Ids that the Hub does not know are not named in the YAML, which it would refuse.
//! huggingface.co/docs/hub/model-cards · PEFT 0.21 `create_or_update_model_card`

use super::markup::{code, plain, yaml};
use std::fmt::Write;

/// A model or a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its id on the Hub, or its path.
    pub name: String,
    /// Whether the name is an id on the Hub.
    pub on_hub: bool,
}

/// The rows that were trained on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Where they come from.
    pub sources: Vec<Source>,
    /// Rows to train on.
    pub train: usize,
    /// Rows to validate on.
    pub validation: usize,
    /// Tokens of all rows.
    pub tokens: u64,
    /// Those among them that are trained.
    pub target_tokens: u64,
    /// Tokens of the longest row.
    pub longest: usize,
    /// What else became of rows, a sentence each: cut, left out.
    pub notes: Vec<String>,
}

/// How a prompt for the model is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// By the chat template beside the tokenizer.
    ChatTemplate,
    /// By the chat template beside the tokenizer, which was made from a prompt style.
    Made {
        /// The style's name.
        name: String,
    },
    /// By a prompt style that has no chat template: its name, and what it makes of an example question.
    Style {
        /// LitGPT's name of the style.
        name: String,
        /// A whole prompt, up to where the answer begins.
        example: String,
    },
}

/// How the run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    /// Optimizer steps done.
    pub steps: usize,
    /// Times that the rows were seen.
    pub epochs: f64,
    /// Tokens trained on, over all steps.
    pub tokens: u64,
    /// Loss of the last step.
    pub train_loss: Option<f64>,
    /// Loss of the last validation; its perplexity follows.
    pub val_loss: Option<f64>,
    /// Tokens per second over the whole run.
    pub tokens_per_s: f64,
    /// Wall time in seconds.
    pub elapsed_s: f64,
    /// Peak memory, of the device where there is one.
    pub peak_mem_bytes: u64,
    /// The device and its precision.
    pub device: String,
}

/// What a card says.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// The adapter's name.
    pub title: String,
    /// The model that it was trained on.
    pub base: Source,
    /// What the base was packed to: `bnb.nf4`.
    pub quantize: Option<String>,
    /// The adapter's directory, or its id on the Hub.
    pub adapter: String,
    /// Rank.
    pub rank: usize,
    /// Trainable parameters.
    pub trainable: usize,
    /// The data.
    pub rows: Rows,
    /// How prompts are made.
    pub prompt: Prompt,
    /// Hyperparameters by the config's keys.
    pub settings: Vec<(String, String)>,
    /// The end of the run.
    pub results: Results,
    /// The picture of the run, as a path from the card.
    pub curve: Option<String>,
    /// vft's version.
    pub version: String,
}

impl Card {
    /// The text of `README.md`.
    pub fn markdown(&self) -> String {
        let mut out = self.front_matter();
        let _ = writeln!(out, "\n# {}\n", plain(&self.title));
        let _ = writeln!(out, "{}\n", self.summary());
        if let Some(curve) = &self.curve {
            let _ = writeln!(out, "![Loss and learning rate by step]({})\n", link(curve));
        }
        out.push_str("## Results\n\n| | |\n|---|---|\n");
        for (name, value) in self.results.table() {
            let _ = writeln!(out, "| {name} | {} |", plain(&value));
        }
        out.push_str("\n## Data\n\n");
        out.push_str(&self.rows.text(&self.prompt));
        out.push_str("\n## Hyperparameters\n\n| key | value |\n|---|---|\n");
        for (key, value) in &self.settings {
            let _ = writeln!(out, "| {} | {} |", code(key, true), code(value, true));
        }
        out.push_str("\n## Use\n\n");
        out.push_str(&self.usage());
        let _ = writeln!(out, "\nTrained with vft {}.", plain(&self.version));
        out
    }

    fn front_matter(&self) -> String {
        let mut out = String::from("---\n");
        let mut tags = vec!["lora".to_owned(), "vft".to_owned()];
        if self.quantize.is_some() {
            tags.insert(1, "qlora".into());
        }
        if let Some(id) = self.base.id() {
            let _ = writeln!(out, "base_model: {}", yaml(id));
            tags.push(format!("base_model:adapter:{id}"));
        }
        out.push_str("library_name: peft\npipeline_tag: text-generation\ntags:\n");
        for tag in tags {
            let _ = writeln!(out, "- {}", yaml(&tag));
        }
        let mut ids = self.rows.sources.iter().filter_map(Source::id).peekable();
        if ids.peek().is_some() {
            out.push_str("datasets:\n");
        }
        for id in ids {
            let _ = writeln!(out, "- {}", yaml(id));
        }
        out + "---\n"
    }

    /// What was trained, in a sentence or two.
    fn summary(&self) -> String {
        let packed = self.quantize.as_ref().map_or(String::new(), |q| {
            format!(", whose weights were packed to 4 bits ({})", code(q, false))
        });
        let kind = if self.quantize.is_some() { "QLoRA" } else { "LoRA" };
        format!(
            "A {kind} adapter of rank {} for {}{packed}: {} trained parameters.",
            self.rank,
            self.base.text(""),
            grouped(self.trainable as u64)
        )
    }
}

impl Source {
    /// The id, if the Hub can know it: `name` or `owner/name`.
    fn id(&self) -> Option<&str> {
        let word = |w: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            w.starts_with(|c: char| c.is_ascii_alphanumeric()) && w.chars().all(plain)
        };
        let mut words = self.name.split('/');
        let ok = words.clone().count() <= 2 && words.all(word);
        (self.on_hub && ok).then_some(&*self.name)
    }

    /// The name, as a link to a `place` of the Hub where it has one.
    fn text(&self, place: &str) -> String {
        match self.id() {
            Some(id) => format!("[{}](https://huggingface.co/{place}{id})", plain(id)),
            None => code(&self.name, false),
        }
    }
}

impl Rows {
    fn text(&self, prompt: &Prompt) -> String {
        let names: Vec<_> = self.sources.iter().map(|s| s.text("datasets/")).collect();
        let names =
            if names.is_empty() { String::new() } else { format!("{}: ", names.join(", ")) };
        let share = 100.0 * self.target_tokens as f64 / self.tokens.max(1) as f64;
        let style = match prompt {
            Prompt::ChatTemplate => "the chat template beside the tokenizer".to_owned(),
            Prompt::Made { name } => {
                format!(
                    "the chat template beside the tokenizer: the prompt style {}",
                    code(name, false)
                )
            }
            Prompt::Style { name, .. } => format!("the prompt style {}", code(name, false)),
        };
        let mut out = format!(
            "{names}{} rows to train on and {} to validate on, {} tokens, of which {share:.0} % are trained; the longest row has {}. \
             Prompts are made by {style}.\n",
            grouped(self.train as u64),
            grouped(self.validation as u64),
            grouped(self.tokens),
            grouped(self.longest as u64)
        );
        for note in &self.notes {
            let _ = write!(out, "\n- {}", plain(note));
        }
        if !self.notes.is_empty() {
            out.push('\n');
        }
        out
    }
}

impl Results {
    fn table(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        rows.extend(self.train_loss.map(|l| ("Training loss", format!("{l:.4}"))));
        rows.extend(self.val_loss.map(|l| ("Validation loss", format!("{l:.4}"))));
        rows.extend(self.val_loss.map(|l| ("Perplexity", format!("{:.3}", l.exp()))));
        rows.extend([
            ("Steps", format!("{} ({:.2} epochs)", grouped(self.steps as u64), self.epochs)),
            ("Tokens", grouped(self.tokens)),
            ("Tokens per second", grouped(self.tokens_per_s.round() as u64)),
            ("Time", duration(self.elapsed_s)),
            ("Peak memory", format!("{:.2} GiB", self.peak_mem_bytes as f64 / f64::from(1 << 30))),
            ("Device", self.device.clone()),
        ]);
        rows
    }
}

/// A whole number with its thousands apart.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let parts: Vec<&str> = {
        let first = digits.len() % 3;
        let (head, rest) = digits.split_at(first);
        let groups = (0..rest.len() / 3).map(|i| &rest[3 * i..3 * i + 3]);
        std::iter::once(head).filter(|h| !h.is_empty()).chain(groups).collect()
    };
    parts.join(",")
}

fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// A path as the target of a link.
fn link(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./~".contains(&b);
    path.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> Card {
        Card {
            title: "vi-alpaca".into(),
            base: Source { name: "HuggingFaceTB/SmolLM2-360M-Instruct".into(), on_hub: true },
            quantize: None,
            adapter: "out/vi-alpaca/final".into(),
            rank: 16,
            trainable: 1_638_400,
            rows: Rows {
                sources: vec![Source { name: "tsdocode/vi_alpaca_clean".into(), on_hub: true }],
                train: 27_000,
                validation: 1_086,
                tokens: 4_870_123,
                target_tokens: 3_214_281,
                longest: 1_024,
                notes: vec!["12 rows were cut to 1024 tokens".into()],
            },
            prompt: Prompt::ChatTemplate,
            settings: vec![
                ("lora_r".into(), "16".into()),
                ("optimizer".into(), "AdamW, lr 0.0002, betas [0.9, 0.95]".into()),
            ],
            results: Results {
                steps: 6_750,
                epochs: 2.0,
                tokens: 9_740_246,
                train_loss: Some(1.234_56),
                val_loss: Some(1.5),
                tokens_per_s: 12_345.6,
                elapsed_s: 789.4,
                peak_mem_bytes: 3 << 29,
                device: "cpu, bf16-true".into(),
            },
            curve: Some("curve.svg".into()),
            version: "0.1.0".into(),
        }
    }

    /// Names that would be marks, ends of cells and fences, other YAML keys, other commands.
    fn hostile() -> Card {
        let name = "my`models`|x\nlicense: mit #1 <b>'$(rm)'";
        Card {
            title: format!("# {name}"),
            base: Source { name: name.into(), on_hub: false },
            quantize: Some("bnb.nf4-dq".into()),
            adapter: name.into(),
            rank: 33,
            rows: Rows {
                sources: vec![
                    Source { name: name.into(), on_hub: false },
                    Source { name: name.into(), on_hub: true },
                ],
                notes: vec![name.into()],
                ..card().rows
            },
            prompt: Prompt::Style {
                name: name.into(),
                example: "```\n### 'Hỏi':\n\"a\\b\"".into(),
            },
            settings: vec![(name.into(), name.into())],
            results: Results { device: name.into(), val_loss: None, ..card().results },
            curve: Some("a (1).svg".into()),
            ..card()
        }
    }

    #[test]
    fn a_card_is_as_it_was_looked_at() {
        let want = include_str!("../../tests/fixtures/report/card.md");
        assert!(card().markdown() == want, "{}", card().markdown());
    }

    #[test]
    fn a_card_of_hostile_names_is_as_it_was_looked_at() {
        let want = include_str!("../../tests/fixtures/report/card_hostile.md");
        assert!(hostile().markdown() == want, "{}", hostile().markdown());
    }

    #[test]
    fn a_made_template_is_given_to_vllm() {
        let prompt = Prompt::Made { name: "alpaca".into() };
        let text = Card { prompt, adapter: "out/my run".into(), ..card() }.markdown();
        assert!(text.contains(" --chat-template 'out/my run/chat_template.jinja'\n"), "{text}");
        assert!(text.contains("beside the tokenizer: the prompt style `alpaca`."), "{text}");
        assert!(text.contains("apply_chat_template"), "{text}");
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn time_is_told_in_two_units() {
        assert_eq!([59.4, 61.0, 7_384.0].map(duration), ["59 s", "1 min 1 s", "2 h 3 min"]);
    }
}
