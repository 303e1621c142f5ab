//! Every named prompt style: LitGPT 0.5.13's, VinaSmol's, and two of our own that LitGPT has no names for.
//!
//! A conversation is `opening` (or `bare`, where there is no system text), the first question, its answer and EOS, then for each
//! later one `between`, the question, its answer and EOS. LitGPT writes single exchanges only: `between` is what the chat template
//! of the models that a style is for has there, and a new paragraph where there are none.
//! litgpt 0.5.13 `prompts.py` (Apache-2.0); facts of VinaSmol's `vinasmol_datamodule`

/// The text that a style's system slot is filled with when neither row nor configuration has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// The style has no place for a system text.
    None,
    /// Nothing: the system part is left out.
    Optional,
    /// This text.
    Default(&'static str),
    /// A text for exchanges with an input, and one for those without.
    ByInput(&'static str, &'static str),
}

/// A style as texts with `{system}`, `{instruction}` and `{input}`; `{{` and `}}` are braces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// Short name.
    pub name: Option<&'static str>,
    /// Class path; the bare class name is known too. `None`: a style of our own.
    pub class: Option<&'static str>,
    /// What fills the system slot.
    pub system: System,
    /// Whether `system_message` can be given.
    pub takes_message: bool,
    /// Whether white space round the system text is removed.
    pub(super) trims_system: bool,
    /// What stands before the first question.
    pub(super) opening: &'static str,
    /// The same without a system text.
    pub(super) bare: &'static str,
    /// A question and what opens its answer.
    pub(super) question: &'static str,
    /// The same where there is an input; `None`: an input is not used.
    pub(super) with_input: Option<&'static str>,
    /// What stands between an answer's EOS and the next question.
    pub(super) between: &'static str,
}

impl Named {
    /// The name to write in a configuration: the short one, or the class path.
    pub fn name(&self) -> &'static str {
        self.name.or(self.class).unwrap_or_default()
    }

    /// The class without its module.
    pub fn bare_class(&self) -> Option<&'static str> {
        self.class.and_then(|c| c.rsplit('.').next())
    }

    /// Every name that this style is known by.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        [self.name, self.class, self.bare_class()].into_iter().flatten()
    }

    /// Whether it writes an exchange's input.
    pub fn uses_input(&self) -> bool {
        self.with_input.is_some()
    }
}

const EMPTY: Named = Named {
    name: None,
    class: None,
    system: System::None,
    takes_message: false,
    trims_system: false,
    opening: "",
    bare: "",
    question: "{instruction}",
    with_input: None,
    between: "",
};

const CHATML: Named = Named {
    name: None,
    class: Some("litgpt.prompts.ChatML"),
    system: System::Optional,
    takes_message: true,
    opening: "<|im_start|>system\n{system}<|im_end|>\n",
    question: "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
    between: "\n",
    ..EMPTY
};

/// A subclass of LitGPT's ChatML with its own system text.
const fn chatml(name: &'static str, class: &'static str, system: System) -> Named {
    Named { name: Some(name), class: Some(class), system, takes_message: false, ..CHATML }
}

const DESCRIBES: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n";
const DESCRIBES_WITH_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further context. \
     Write a response that appropriately completes the request.\n\n";
const INSTRUCTION: &str = "### Instruction:\n{instruction}\n\n### Response:\n";

const LLAMA2: &str = "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  \
     Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. \
     Please ensure that your responses are socially unbiased and positive in nature.\n\n\
     If a question does not make any sense, or is not factually coherent, explain why instead of answering something not correct. \
     If you don't know the answer to a question, please don't share false information.";
const STABLELM_ALPHA: &str = "# StableLM Tuned (Alpha version)\n\
     - StableLM is a helpful and harmless open-source AI language model developed by StabilityAI.\n\
     - StableLM is excited to be able to help the user, but will refuse to do anything that could be considered harmful to the user.\n\
     - StableLM is more than just an information source, StableLM is also able to write poetry, short stories, and make jokes.\n\
     - StableLM will refuse to participate in anything that could harm a human.";
const PHI4_REASONING: &str = "You are Phi, a language model trained by Microsoft to help users. \
     Your role as an assistant involves thoroughly exploring questions through a systematic thinking process before providing the final \
     precise and accurate solutions. This requires engaging in a comprehensive cycle of analysis, summarizing, exploration, reassessment, \
     reflection, backtracing, and iteration to develop well-considered thinking process. Please structure your response into two main \
     sections: Thought and Solution using the specified format: <think> {Thought section} </think> {Solution section}. \
     In the Thought section, detail your reasoning process in steps. Each step should include detailed considerations such as analysing \
     questions, summarizing relevant findings, brainstorming new ideas, verifying the accuracy of the current steps, refining any errors, \
     and revisiting previous steps. In the Solution section, based on various attempts, explorations, and reflections from the Thought \
     section, systematically present the final solution that you deem correct. The Solution section should be logical, accurate, and \
     concise and detail necessary steps needed to reach the conclusion. Now, try to solve the following question through the above \
     guidelines:";
const SALAMANDRA: &str = "I am Salamandra, an AI language model developed at the Barcelona Supercomputing Centre (BSC) by the Language \
     Technologies Unit. My knowledge base was last updated on August 2023. Today Date: 2024-09-30\n\
     Soy Salamandra, un modelo lingüístico de IA desarrollado en el Barcelona Supercomputing Centre (BSC) por la Language Technologies \
     Unit. Mi base de conocimientos se actualizó por última vez en agosto de 2023.\n\
     Soc Salamandra, un model de llenguatge d'IA desenvolupat al Barcelona Supercomputing Centre (BSC) per la Language Technologies Unit.";

/// The styles, in LitGPT's order; its nameless ones, VinaSmol's and our own after them.
pub static STYLES: &[Named] = &[
    Named {
        name: Some("alpaca"),
        class: Some("litgpt.prompts.Alpaca"),
        system: System::ByInput(DESCRIBES_WITH_INPUT, DESCRIBES),
        opening: "{system}",
        question: INSTRUCTION,
        with_input: Some(
            "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
        ),
        between: "\n\n",
        ..EMPTY
    },
    Named {
        name: Some("flan"),
        class: Some("litgpt.prompts.FLAN"),
        system: System::Default(DESCRIBES),
        opening: "{system}",
        question: INSTRUCTION,
        between: "\n\n",
        ..EMPTY
    },
    Named {
        name: Some("longform"),
        class: Some("litgpt.prompts.Longform"),
        system: System::Default(DESCRIBES_WITH_INPUT),
        opening: "{system}",
        question: INSTRUCTION,
        between: "\n\n",
        ..EMPTY
    },
    Named {
        name: Some("stablelm-alpha"),
        class: Some("litgpt.prompts.StableLMAlpha"),
        system: System::Default(STABLELM_ALPHA),
        opening: "<|SYSTEM|>{system}",
        question: "<|USER|>{instruction}<|ASSISTANT|>",
        ..EMPTY
    },
    Named {
        name: Some("stablelm-zephyr"),
        class: Some("litgpt.prompts.StableLMZephyr"),
        question: "<|user|>\n{instruction}<|endoftext|>\n<|assistant|>\n",
        between: "\n",
        ..EMPTY
    },
    Named {
        name: Some("falcon"),
        class: Some("litgpt.prompts.Falcon"),
        question: "{instruction}\nAnswer:",
        between: "\n",
        ..EMPTY
    },
    Named {
        name: Some("llama2-function-calling"),
        class: Some("litgpt.prompts.Llama2FunctionCalling"),
        // "as possible" lacks its space, and the braces of the JSON are doubled: that is LitGPT's text.
        system: System::Default(
            "You are a helpful, respectful and honest assistant. Always answer as helpfully aspossible. \
             Your only response should be JSON formatted functions",
        ),
        trims_system: true,
        opening: "<FUNCTIONS>{{{{\"function\": \"search_bing\", \"description\": \"Search the web for content on Bing. \
                  This allows users to search online/the internet/the web for content.\", \"arguments\": [{{{{\"name\": \"query\", \
                  \"type\": \"string\", \"description\": \"The search query string\"}}}}]}}}}</FUNCTIONS>\n\n\
                  [INST]<<SYS>>\n{system}\n<</SYS>>\n\n",
        question: "{instruction}[/INST]\n\n",
        between: "[INST]",
        ..EMPTY
    },
    Named {
        name: Some("llama2"),
        class: Some("litgpt.prompts.Llama2"),
        system: System::Default(LLAMA2),
        opening: "[INST] <<SYS>>\n{system}\n<</SYS>>\n\n",
        question: " {instruction} [/INST] ",
        between: "[INST]",
        ..EMPTY
    },
    Named {
        name: Some("freewilly2"),
        class: Some("litgpt.prompts.FreeWilly2"),
        system: System::Default("This is a system prompt, please behave and help the user."),
        opening: "### System:\n{system}\n\n",
        question: "### User:\n{instruction}\n\n### Assistant:\n",
        between: "\n\n",
        ..EMPTY
    },
    Named {
        name: Some("platypus"),
        class: Some("litgpt.prompts.Platypus"),
        question: "### Instruction:\n\n{instruction}\n\n### Response:\n",
        between: "\n\n",
        ..EMPTY
    },
    Named {
        name: Some("stablecode"),
        class: Some("litgpt.prompts.StableCode"),
        question: "###Instruction\n{instruction}###Response\n",
        between: "\n",
        ..EMPTY
    },
    Named {
        name: Some("codellama"),
        class: Some("litgpt.prompts.CodeLlama"),
        system: System::Optional,
        opening: "[INST] <<SYS>>\n{system}\n<</SYS>>\n\n",
        bare: "[INST] ",
        question: "{instruction} [/INST]",
        between: "[INST] ",
        ..EMPTY
    },
    Named {
        name: Some("phi-1"),
        class: Some("litgpt.prompts.Phi1"),
        question: "{instruction}\n\nAnswer:",
        between: "\n\n",
        ..EMPTY
    },
    Named {
        name: Some("phi-2"),
        class: Some("litgpt.prompts.Phi2"),
        question: "Instruct: {instruction}\nOutput:",
        between: "\n",
        ..EMPTY
    },
    Named {
        name: Some("phi-3"),
        class: Some("litgpt.prompts.Phi3"),
        system: System::Default("You are a helpful assistant."),
        opening: "<|system|>\n{system}<|end|>\n",
        question: "<|user|>\n{instruction}<|end|>\n<|assistant|>\n",
        between: "\n",
        ..EMPTY
    },
    Named {
        name: Some("phi-4"),
        class: Some("litgpt.prompts.Phi4"),
        system: System::Optional,
        opening: "<|im_start|>system<|im_sep|>{system}<|im_end|>",
        question: "<|im_start|>user<|im_sep|>{instruction}<|im_end|><|im_start|>assistant<|im_sep|>",
        ..EMPTY
    },
    Named {
        name: Some("phi-4-reasoning"),
        class: Some("litgpt.prompts.Phi4Reasoning"),
        system: System::Default(PHI4_REASONING),
        // The first `<|im_start>` lacks its second bar: that is LitGPT's text.
        opening: "<|im_start>system<|im_sep|>{system}<|im_end|>",
        question: "<|im_start|>user<|im_sep|>{instruction}<|im_end|><|im_start|>assistant<|im_sep|>",
        ..EMPTY
    },
    Named {
        name: Some("phi-4-mini"),
        class: Some("litgpt.prompts.Phi4Mini"),
        system: System::Optional,
        opening: "<|system|>{system}<|end|>",
        question: "<|user|>{instruction}<|end|><|assistant|>",
        ..EMPTY
    },
    Named {
        name: Some("phi-4-mini-reasoning"),
        class: Some("litgpt.prompts.Phi4MiniReasoning"),
        system: System::Default("Your name is Phi, an AI math expert developed by Microsoft."),
        opening: "<|system|>{system}<|end|>",
        question: "<|user|>{instruction}<|end|><|assistant|>",
        ..EMPTY
    },
    Named {
        name: Some("tinyllama"),
        class: Some("litgpt.prompts.TinyLlama"),
        system: System::Default(
            "You are a friendly chatbot who always gives helpful, detailed, and polite answers.",
        ),
        opening: "<|system|>\n{system}</s>\n",
        question: "<|user|>\n{instruction}</s>\n<|assistant|>\n",
        between: "\n",
        ..EMPTY
    },
    Named {
        name: Some("gemma"),
        class: Some("litgpt.prompts.Gemma"),
        question: "<start_of_turn>user\n{instruction}<end_of_turn>\n<start_of_turn>model\n",
        between: "\n",
        ..EMPTY
    },
    Named {
        name: Some("llama3"),
        class: Some("litgpt.prompts.Llama3"),
        system: System::Default("You are a helpful assistant."),
        opening: "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
        question: "<|start_header_id|>user<|end_header_id|>\n\n{instruction}<|eot_id|>\
                   <|start_header_id|>assistant<|end_header_id|>\n\n",
        ..EMPTY
    },
    Named {
        name: Some("olmo"),
        class: Some("litgpt.prompts.OLMo"),
        bare: "<|endoftext|>",
        question: "<|user|>\n{instruction}\n<|assistant|>\n",
        between: "\n",
        ..EMPTY
    },
    chatml(
        "qwen2.5",
        "litgpt.prompts.Qwen2_5",
        System::Default("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    ),
    chatml(
        "qwen2.5-math",
        "litgpt.prompts.Qwen2_5_Math",
        System::Default("Please reason step by step, and put your final answer within \\boxed{}."),
    ),
    chatml(
        "qwq",
        "litgpt.prompts.QwQ",
        System::Default(
            "You are a helpful and harmless assistant. You are Qwen developed by Alibaba. You should think step-by-step.",
        ),
    ),
    chatml("qwen3", "litgpt.prompts.Qwen3", System::Optional),
    chatml(
        "smollm2",
        "litgpt.prompts.SmolLM2",
        System::Default("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    ),
    chatml("salamandra", "litgpt.prompts.Salamandra", System::Default(SALAMANDRA)),
    Named { class: Some("litgpt.prompts.Default"), between: "\n", ..EMPTY },
    CHATML,
    Named {
        class: Some("litgpt.prompts.Falcon3"),
        question: "<|user|>\n{instruction}<|endoftext|>\n<|assistant|>\n",
        between: "\n",
        ..EMPTY
    },
    Named {
        class: Some("litgpt.prompts.R1Base"),
        system: System::Optional,
        opening: "{system}",
        question: "<｜User｜>{instruction}<｜Assistant｜>",
        ..EMPTY
    },
    Named {
        class: Some("vinasmol_datamodule.ChatMLAlpaca"),
        system: System::ByInput(
            "You are a helpful assistant. Follow the user's instruction and use the supplied input as context to produce a complete, \
             relevant response. Stay concise, factual, and on-topic, and do not add unrelated content.\n\n",
            "You are a helpful assistant. Follow the user's request and provide a complete, relevant answer. \
             Stay concise, factual, and on-topic, and do not add unrelated content.\n\n",
        ),
        with_input: Some(
            "<|im_start|>user\n### Instruction:\n{instruction}### Context:\n{input}<|im_end|>\n<|im_start|>assistant\n",
        ),
        ..CHATML
    },
    Named {
        class: Some("vinasmol_datamodule.ChatMLNoSys"),
        system: System::None,
        takes_message: false,
        opening: "",
        ..CHATML
    },
    Named {
        name: Some("chatml"),
        class: None,
        with_input: Some(
            "<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n",
        ),
        ..CHATML
    },
    Named {
        name: Some("default"),
        with_input: Some("{instruction}\n{input}"),
        between: "\n",
        ..EMPTY
    },
];
