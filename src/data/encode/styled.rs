//! Prompts and answers in a prompt style: encoded apart, as LitGPT does, so that no token crosses the boundary.
//!
//! ids = BOS? prompt₁ answer₁ EOS prompt₂ answer₂ EOS …; BOS only where the tokenizer adds it and the style has not written it.

use super::super::row::{Role, Row, Turn};
use super::super::style::Exchange;
use super::chat::leave_out;
use super::{Encoder, Fault, IGNORED, Tokens};
use crate::config::TrainOn;
use serde_json::Map;

impl Encoder<'_> {
    /// A conversation or instruction in the style.
    pub(super) fn styled(&self, row: &Row) -> Result<Tokens, Fault> {
        let nothing = Map::new();
        let (mut ids, mut labels, mut asked) = (Vec::new(), Vec::new(), None);
        let mut add = |(more_ids, more_labels, prompt): Tokens| {
            asked.get_or_insert(prompt);
            ids.extend(more_ids);
            labels.extend(more_labels);
        };
        match row {
            Row::Instruction { system, history, instruction, input, output, columns } => {
                let last_only = self.train_on == TrainOn::Last;
                for (i, (question, answer)) in history.iter().enumerate() {
                    let system = system.as_deref().filter(|_| i == 0);
                    let exchange = Exchange { system, instruction: question, input: "", columns };
                    add(self.part(&exchange, answer, i == 0, !last_only)?);
                }
                let first = history.is_empty();
                let system = system.as_deref().filter(|_| first);
                let exchange = Exchange { system, instruction, input, columns };
                add(self.part(&exchange, output, first, true)?);
            }
            Row::Conversation { turns, .. } => {
                let last = turns.iter().rposition(|t| t.role == Role::Assistant);
                let mut system = None;
                let mut question: Option<&Turn> = None;
                let mut first = true;
                for (i, turn) in turns.iter().enumerate() {
                    let calls = turn.role == Role::Tool || turn.extra.contains_key("tool_calls");
                    match turn.role {
                        _ if calls => return Err(no_tools(self.style.name())),
                        Role::System if i == 0 => system = Some(turn.content.as_str()),
                        Role::User => question = Some(turn),
                        Role::Assistant => {
                            let asked = question.take().ok_or("an answer follows no question")?;
                            let exchange = Exchange {
                                system,
                                instruction: &asked.content,
                                input: "",
                                columns: &nothing,
                            };
                            let trained =
                                turn.train && (self.train_on != TrainOn::Last || last == Some(i));
                            let mut tokens = self.part(&exchange, &turn.content, first, trained)?;
                            self.leave_parts_out(&mut tokens, turn)?;
                            add(tokens);
                            first = false;
                        }
                        _ => {
                            return Err(
                                "a system turn stands in the middle of the conversation".into()
                            );
                        }
                    }
                }
            }
            _ => return Err("is neither an instruction nor a conversation".into()),
        }
        Ok((ids, labels, asked.unwrap_or(0)))
    }

    fn part(
        &self,
        exchange: &Exchange<'_>,
        answer: &str,
        first: bool,
        trained: bool,
    ) -> Result<Tokens, Fault> {
        let prompt =
            if first { self.style.prompt(exchange) } else { self.style.next_prompt(exchange) };
        let prompt = prompt.map_err(|message| {
            let hint = "`prompt_style: chat_template` writes it if the tokenizer has a template";
            let system = message.contains("system text");
            Fault { message, hint: system.then(|| hint.to_owned()) }
        })?;
        let (ids, mut labels, asked) = self.exchange(&prompt, answer, first)?;
        if !trained {
            labels[asked..].fill(IGNORED);
        }
        Ok((ids, labels, asked))
    }

    /// Takes the parts of an answer that are not trained out of the labels of its exchange.
    fn leave_parts_out(&self, tokens: &mut Tokens, answer: &Turn) -> Result<(), Fault> {
        let (_, labels, asked) = tokens;
        if !answer.untrained.is_empty() {
            let encoded = self.tokenizer.encode_with_bytes(&answer.content);
            let (_, bytes) = encoded.map_err(|e| e.to_string())?;
            leave_out(&mut labels[*asked..], &bytes, answer.untrained.iter().cloned());
        }
        Ok(())
    }

    /// Prompt and answer encoded apart, and EOS; `first` may get what the tokenizer puts in front of a text.
    pub(super) fn exchange(
        &self,
        prompt: &str,
        answer: &str,
        first: bool,
    ) -> Result<Tokens, Fault> {
        let encode = |text: &str| self.tokenizer.encode(text, false).map_err(|e| e.to_string());
        let plain = encode(prompt)?;
        let starts_with_bos = !plain.is_empty() && plain.first() == self.tokenizer.bos_id.as_ref();
        let mut ids = if starts_with_bos || !first {
            plain.clone()
        } else {
            self.tokenizer.with_special(prompt, plain.clone()).map_err(|e| e.to_string())?
        };
        // A tokenizer that closes every text with EOS would close the prompt too; an EOS that the prompt itself ends with stays.
        let added = ids.len() > plain.len();
        if let Some((last, before)) = ids.split_last().filter(|_| added)
            && Some(*last) == self.tokenizer.eos_id
            && before.ends_with(&plain)
            && !(before.is_empty() && self.tokenizer.bos_id == self.tokenizer.eos_id)
        {
            ids.pop();
        }
        let masked = ids.len();
        ids.extend(encode(answer)?);
        let eos = self
            .tokenizer
            .eos_id
            .ok_or("the tokenizer has no EOS token, so no answer could end")?;
        if ids.last() != Some(&eos) || ids.len() == masked {
            ids.push(eos);
        }
        let mut labels: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
        if self.train_on != TrainOn::All {
            labels[..masked].fill(IGNORED);
        }
        Ok((ids, labels, masked))
    }
}

fn no_tools(style: &str) -> Fault {
    Fault {
        message: format!("calls tools, for which the style `{style}` has no place"),
        hint: Some(
            "`prompt_style: chat_template` writes them if the tokenizer's template can".into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::shipped::Shipped;
    use super::super::super::style::Style;
    use super::super::super::template::ChatTemplate;
    use super::super::super::tokenizer::Tokenizer;
    use super::*;
    use crate::config::MultiTurn;
    use std::collections::BTreeMap;
    use std::path::Path;

    /// The bundled tokenizer, which puts `around` round a text: `$A` is the text.
    fn tokenizer(around: &[&str]) -> Tokenizer {
        let home = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/smoke/model");
        std::fs::copy(
            from.join("tokenizer_config.json"),
            home.path().join("tokenizer_config.json"),
        )
        .unwrap();
        let text = std::fs::read_to_string(from.join("tokenizer.json")).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let plain = tokenizers::Tokenizer::from_file(from.join("tokenizer.json")).unwrap();
        let id = |t: &str| plain.token_to_id(t).unwrap();
        let piece = |t: &&str| match *t {
            "$A" => serde_json::json!({"Sequence": {"id": "A", "type_id": 0}}),
            t => serde_json::json!({"SpecialToken": {"id": t, "type_id": 0}}),
        };
        let tokens = around.iter().filter(|t| **t != "$A");
        let tokens: Map<_, _> = tokens
            .map(|t| ((*t).to_owned(), serde_json::json!({"id": t, "ids": [id(t)], "tokens": [t]})))
            .collect();
        json["post_processor"]["single"] = around.iter().map(piece).collect();
        json["post_processor"]["special_tokens"] = tokens.into();
        std::fs::write(home.path().join("tokenizer.json"), json.to_string()).unwrap();
        Tokenizer::load(home.path()).unwrap()
    }

    /// A conversation as it is trained, and as the shipped template writes it, both as text.
    fn both(around: &[&str], style: Style, system: Option<&str>) -> [String; 2] {
        let tokenizer = tokenizer(around);
        let Shipped::Made(source) = Shipped::of(std::slice::from_ref(&style), &tokenizer, true)
        else {
            panic!("no template");
        };
        let encoder = Encoder {
            tokenizer: &tokenizer,
            style,
            chosen: true,
            train_on: TrainOn::Assistant,
            multi_turn: MultiTurn::Conversation,
            limit: None,
            context: 1000,
            vocab: 1000,
            ignore_index: -100,
        };
        let system = system.map(|s| Turn::new(Role::System, s));
        let said = ["đất", "trời", "mưa<|im_end|>", "nắng<|im_end|>"].into_iter().enumerate();
        let role = |i: usize| if i.is_multiple_of(2) { Role::User } else { Role::Assistant };
        let said = said.map(|(i, text)| Turn::new(role(i), text));
        let turns: Vec<Turn> = system.into_iter().chain(said).collect();
        let (ids, ..) =
            encoder.styled(&Row::Conversation { turns: turns.clone(), tools: None }).unwrap();
        let template = ChatTemplate::new(Path::new("t"), &source, BTreeMap::new()).unwrap();
        let text = template.render(&turns, false).unwrap();
        let written = tokenizer.encode(&text, false).unwrap();
        [&ids, &written].map(|ids| tokenizer.decode(ids, false).unwrap())
    }

    const ROUND: [&[&str]; 4] =
        [&["$A"], &["<s>", "$A"], &["<s>", "$A", "<|im_end|>"], &["$A", "<|im_end|>"]];

    #[test]
    fn the_shipped_template_writes_what_is_trained() {
        for around in ROUND {
            for (name, system) in [("chatml", Some("S")), ("alpaca", None), ("phi-2", None)] {
                let [trained, written] = both(around, Style::named(name, None).unwrap(), system);
                assert_eq!(written, trained, "{name} {around:?}");
            }
        }
    }

    #[test]
    fn the_shipped_template_does_not_repeat_bos() {
        for around in ROUND {
            let style = Style::template("<s> {instruction} ").unwrap();
            let [trained, written] = both(around, style, None);
            assert_eq!(written, trained, "{around:?}");
            assert_eq!(written.matches("<s>").count(), 2, "{written}");
        }
    }
}
