//! How to use an adapter, as its card tells: with PEFT, vft, vLLM.

use super::card::{Card, Prompt};
use super::markup::{block, quoted, shell};

/// Ranks that vLLM has room for; 16 where nothing is said. vLLM 0.11 `config/lora.py`
const VLLM_RANKS: [usize; 9] = [1, 8, 16, 32, 64, 128, 256, 320, 512];

impl Card {
    /// Commands and code for PEFT, vft and vLLM.
    pub(super) fn usage(&self) -> String {
        let (base, adapter) = (shell(&self.base.name), shell(&self.adapter));
        let quantize =
            self.quantize.as_ref().map_or(String::new(), |q| format!(" --quantize {}", shell(q)));
        let (raw, prompt) = match &self.prompt {
            Prompt::ChatTemplate | Prompt::Made { .. } => ("", "Xin chào!".to_owned()),
            Prompt::Style { example, .. } => (" --raw", example.clone()),
        };
        // A shell's argument is one line here: what $'…' would be for others.
        let asked = if prompt.contains('\n') { dollar_quoted(&prompt) } else { shell(&prompt) };
        let mut out = String::from("With PEFT:\n\n");
        out.push_str(&block("python", &self.python()));
        out.push_str("\nWith vft, on the base or as full weights:\n\n");
        out.push_str(&block(
            "sh",
            &format!(
                "vft generate --base {base} --adapter {adapter}{quantize}{raw} --prompt {asked}\n\
                 vft merge --base {base} --adapter {adapter} --out merged"
            ),
        ));
        let room = VLLM_RANKS.into_iter().find(|r| *r >= self.rank.max(16));
        let room =
            room.filter(|r| *r > 16).map_or(String::new(), |r| format!(" --max-lora-rank {r}"));
        out.push_str("\nWith vLLM:\n\n");
        let name = identifier(&self.title);
        let lora = shell(&format!("{name}={}", self.adapter));
        // vLLM takes the base's chat template if it is given no other.
        let (template, request) = match &self.prompt {
            Prompt::ChatTemplate => (String::new(), String::new()),
            Prompt::Made { .. } => {
                let file = shell(&format!("{}/chat_template.jinja", self.adapter));
                (format!(" --chat-template {file}"), String::new())
            }
            Prompt::Style { example, .. } => {
                let (name, example) = (quoted(&name), quoted(example));
                let body =
                    format!("{{\"model\": {name}, \"prompt\": {example}, \"max_tokens\": 256}}");
                let url = "http://localhost:8000/v1/completions";
                let kind = "'Content-Type: application/json'";
                (String::new(), format!("\ncurl {url} -H {kind} -d {}", shell(&body)))
            }
        };
        let serve =
            format!("vllm serve {base} --enable-lora --lora-modules {lora}{room}{template}");
        out.push_str(&block("sh", &(serve + &request)));
        if let Prompt::Style { .. } = &self.prompt {
            out.push_str("\nThere is no chat template for such prompts: do not ask for chat completions, whose prompts would be others.\n");
        }
        out
    }

    fn python(&self) -> String {
        let (import, packed) = match self.quantize.as_deref() {
            None => ("", String::new()),
            Some(q) => {
                let nested = if q.ends_with("-dq") { "True" } else { "False" };
                let config = format!(
                    ", quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=\"nf4\", \
                     bnb_4bit_use_double_quant={nested}, bnb_4bit_compute_dtype=\"bfloat16\")"
                );
                (", BitsAndBytesConfig", config)
            }
        };
        let (base, adapter) = (quoted(&self.base.name), quoted(&self.adapter));
        let inputs = match &self.prompt {
            Prompt::ChatTemplate | Prompt::Made { .. } => "messages = [{\"role\": \"user\", \"content\": \"Xin chào!\"}]\n\
                inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors=\"pt\")"
                .to_owned(),
            Prompt::Style { example, .. } => {
                format!("inputs = tokenizer({}, return_tensors=\"pt\")", quoted(example))
            }
        };
        format!(
            "from peft import PeftModel\n\
             from transformers import AutoModelForCausalLM, AutoTokenizer{import}\n\n\
             base = AutoModelForCausalLM.from_pretrained({base}{packed})\n\
             model = PeftModel.from_pretrained(base, {adapter})\n\
             tokenizer = AutoTokenizer.from_pretrained({adapter})\n\
             {inputs}\n\
             answer = model.generate(**inputs, max_new_tokens=256)[0, inputs[\"input_ids\"].shape[1]:]\n\
             print(tokenizer.decode(answer, skip_special_tokens=True))"
        )
    }
}

/// A name that can stand for a model in a request.
fn identifier(title: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = title.chars().map(plain).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "adapter".into() } else { name.into() }
}

/// Text of several lines as bash's `$'…'`.
fn dollar_quoted(text: &str) -> String {
    let escaped = text.replace('\\', r"\\").replace('\'', r"\'").replace('\n', r"\n");
    format!("$'{}'", escaped.chars().filter(|c| !c.is_control()).collect::<String>())
}
