//! How an instruction row becomes text: the tokenizer's chat template, or a named style of LitGPT.

/// A prompt style.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// The tokenizer's own chat template.
    ChatTemplate,
    /// Stanford Alpaca's text.
    Alpaca,
    /// ChatML without a system prompt.
    ChatMl,
    /// The instruction alone.
    Default,
}

const WITH_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further context. \
     Write a response that appropriately completes the request.";
const WITHOUT_INPUT: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the request.";

impl Style {
    /// A style by LitGPT's short name or class path.
    ///
    /// # Errors
    /// When the name is unknown.
    pub fn named(name: &str) -> Result<Self, String> {
        match name.strip_prefix("litgpt.prompts.").unwrap_or(name) {
            "chat_template" => Ok(Self::ChatTemplate),
            "alpaca" | "Alpaca" => Ok(Self::Alpaca),
            "chatml" | "ChatML" => Ok(Self::ChatMl),
            "default" | "Default" => Ok(Self::Default),
            _ => {
                Err(format!("`{name}` is unknown; chat_template, alpaca, chatml and default work"))
            }
        }
    }

    /// The prompt's text; `None` for the chat template, which renders messages instead.
    pub fn prompt(self, instruction: &str, input: &str) -> Option<String> {
        match self {
            Self::ChatTemplate => None,
            Self::Alpaca if input.is_empty() => Some(format!(
                "{WITHOUT_INPUT}\n\n### Instruction:\n{instruction}\n\n### Response:\n"
            )),
            Self::Alpaca => Some(format!(
                "{WITH_INPUT}\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
            )),
            Self::ChatMl => Some(format!(
                "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
                joined(instruction, input)
            )),
            Self::Default => Some(joined(instruction, input)),
        }
    }
}

/// An instruction and its input as one user message.
pub fn joined(instruction: &str, input: &str) -> String {
    if input.is_empty() { instruction.to_owned() } else { format!("{instruction}\n{input}") }
}
