//! The data classes: what LitGPT's and VinaSmol's data modules read, how they split it, which prompt style they use.
//!
//! LitGPT 0.5.13 `litgpt/data/*.py`; Dolly as of 0.5.3; `vinasmol_datamodule/__init__.py`. Python is never imported: a class path is a name.

/// Where a class finds its rows when no `path` is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// Nowhere: `path` must be given.
    Path,
    /// One file: its name in `download_dir` and the address that it is fetched from.
    File(&'static str, &'static str),
    /// A training and a validation file, in `download_dir` or fetched from the address.
    Pair([&'static str; 2], &'static str),
    /// A file for each subset and split, `<subset>_<split>.jsonl`, fetched from `<url>/<split>/`.
    Subsets(&'static str),
    /// A data set on the Hub: repository, configuration, training and validation split.
    Hub(&'static str, Option<&'static str>, &'static str, Option<&'static str>),
}

/// How rows are held out for validation where the source has no split of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Holdout {
    /// torch's `random_split` of this fraction, after conversations are flattened.
    Random(f64),
    /// `datasets`' `train_test_split` of this fraction, before conversations are flattened.
    TrainTest(f64),
}

/// A data class.
#[derive(Debug, PartialEq)]
pub struct DataClass {
    /// Its name, without the module.
    pub name: &'static str,
    /// The module in front of it.
    pub module: &'static str,
    /// Where its rows are.
    pub home: Home,
    /// Where LitGPT keeps downloads of it.
    pub download_dir: &'static str,
    /// How rows are held out.
    pub holdout: Holdout,
    /// The prompt style it has in LitGPT.
    pub style: &'static str,
    /// Whether `include_multiturn_conversations` belongs to it.
    pub multi_turn: bool,
}

const LIT: &str = "litgpt.data";
const VINA: &str = "vinasmol_datamodule";
/// JSON's share of validation rows, and that of data sets which say none.
const SHARE: f64 = 0.05;

const fn class(
    name: &'static str,
    home: Home,
    download_dir: &'static str,
    holdout: Holdout,
) -> DataClass {
    DataClass { name, module: LIT, home, download_dir, holdout, style: "alpaca", multi_turn: false }
}

/// Every class.
pub const CLASSES: &[DataClass] = &[
    class("JSON", Home::Path, "./data/json", Holdout::Random(SHARE)),
    class(
        "Alpaca",
        Home::File(
            "alpaca_data_cleaned_archive.json",
            "https://raw.githubusercontent.com/tloen/alpaca-lora/main/alpaca_data_cleaned_archive.json",
        ),
        "./data/alpaca",
        Holdout::Random(0.03865),
    ),
    class(
        "Alpaca2k",
        Home::Hub("mhenrichsen/alpaca_2k_test", None, "train", None),
        "./data/alpaca2k",
        Holdout::TrainTest(0.05),
    ),
    class(
        "AlpacaGPT4",
        Home::File(
            "alpacagpt4_data_cleaned_archive.json",
            "https://raw.githubusercontent.com/Instruction-Tuning-with-GPT-4/GPT-4-LLM/main/data/alpaca_gpt4_data.json",
        ),
        "./data/alpacagpt4",
        Holdout::Random(0.03847),
    ),
    class(
        "Dolly",
        Home::File(
            "dolly_data_cleaned.json",
            "https://huggingface.co/datasets/databricks/databricks-dolly-15k/resolve/main/databricks-dolly-15k.jsonl",
        ),
        "./data/dolly",
        Holdout::Random(0.1),
    ),
    DataClass {
        multi_turn: true,
        ..class(
            "LIMA",
            Home::Hub("GAIR/lima", None, "train", None),
            "./data/lima",
            Holdout::Random(0.1),
        )
    },
    DataClass {
        multi_turn: true,
        ..class(
            "Deita",
            Home::Hub("HuggingFaceH4/deita-10k-v0-sft", None, "train_sft", Some("test_sft")),
            "./data/deita",
            Holdout::Random(SHARE),
        )
    },
    DataClass {
        style: "longform",
        ..class(
            "LongForm",
            Home::Pair(
                ["train.json", "val.json"],
                "https://raw.githubusercontent.com/akoksal/LongForm/main/dataset",
            ),
            "./data/longform",
            Holdout::Random(SHARE),
        )
    },
    DataClass {
        style: "flan",
        ..class(
            "FLAN",
            Home::Subsets("https://huggingface.co/datasets/Muennighoff/flan/resolve/main"),
            "./data/flan",
            Holdout::Random(SHARE),
        )
    },
    DataClass {
        module: VINA,
        ..class(
            "AlpacaVi",
            Home::File(
                "vi_alpaca_data.json",
                "https://huggingface.co/datasets/tsdocode/vi_alpaca_clean/resolve/main/vi_alpaca_data.json",
            ),
            "./data/vi_alpaca_clean",
            Holdout::Random(0.03865),
        )
    },
    DataClass {
        module: VINA,
        style: "ChatMLNoSys",
        multi_turn: true,
        ..class(
            "MultiTurnAlpacaVi",
            Home::Hub("lamhieu/alpaca_multiturns_dialogue_vi", None, "train", None),
            "./data/vi_multi_turn_alpaca",
            Holdout::TrainTest(0.078758),
        )
    },
    DataClass {
        module: VINA,
        style: "ChatMLNoSys",
        ..class(
            "MuriITVi",
            Home::Hub("akoksal/muri-it-language-split", Some("vie"), "train", Some("validation")),
            "./data/muri_it_vi",
            Holdout::Random(SHARE),
        )
    },
];

/// Data modules of LitGPT for pretraining.
const PRETRAINING: &[&str] = &[
    "TextFiles",
    "LitData",
    "TinyLlama",
    "TinyStories",
    "OpenWebText",
    "MicroLlama",
    "VinaSmolData",
];

impl DataClass {
    /// A class by its name, with or without its module.
    ///
    /// # Errors
    /// A message without place when there is no such class.
    pub fn named(text: &str) -> Result<&'static Self, String> {
        const FILES: &[&str] = &["json", "jsonl", "csv", "tsv", "parquet", "txt", "gz", "zst"];
        let (module, name) = text.rsplit_once('.').unwrap_or(("", text));
        if text.contains('/') || FILES.contains(&name) {
            return Err(format!(
                "`{text}` is no class but a place of rows; write it as `data.init_args.path`"
            ));
        }
        let found = CLASSES.iter().find(|c| c.name == name);
        if let Some(class) = found
            && (module.is_empty() || module == class.module)
        {
            return Ok(class);
        }
        if let Some(class) = found {
            return Err(format!(
                "`{text}` is unknown; `{}` is `{}.{}`, or without a module",
                class.name, class.module, class.name
            ));
        }
        if PRETRAINING.contains(&name) {
            return Err(format!(
                "`{text}` is for pretraining; `JSON` with `init_args.path` reads rows of any kind"
            ));
        }
        let names: Vec<&str> = CLASSES.iter().map(|c| c.name).collect();
        Err(format!(
            "{}; Python classes are not imported: write other data as `JSON` with `init_args.path`, and `columns` or `prompt_template`",
            super::choices::none_of(name, &names)
        ))
    }

    /// Whether a key of `init_args` means something to this class.
    pub fn takes(&self, arg: &str) -> bool {
        match arg {
            "include_multiturn_conversations" => self.multi_turn,
            "file_name" | "file_url" => matches!(self.home, Home::File(..)),
            "subsets" | "url" => matches!(self.home, Home::Subsets(_)),
            "download_dir" => self.home != Home::Path,
            "repo_id" | "revision" | "access_token" | "subset" => {
                matches!(self.home, Home::Hub(..) | Home::Path)
            }
            _ => true,
        }
    }
}

/// FLAN's subsets: LitGPT 0.5.13 `litgpt/data/flan.py::_supported_subsets`.
pub const FLAN_SUBSETS: &[&str] = &[
    "aeslc_10templates",
    "ag_news_subset_10templates",
    "anli_r1_10templates",
    "anli_r2_10templates",
    "anli_r3_10templates",
    "arc_challenge_10templates",
    "arc_easy_10templates",
    "bool_q_10templates",
    "cb_10templates",
    "cnn_dailymail_10templates",
    "cola_10templates",
    "common_gen_10templates",
    "copa_10templates",
    "coqa_10templates",
    "cosmos_qa_10templates",
    "dart_10templates",
    "definite_pronoun_resolution_10templates",
    "drop_10templates",
    "e2e_nlg_10templates",
    "fix_punct_10templates",
    "gigaword_10templates",
    "glue_mrpc_10templates",
    "glue_qqp_10templates",
    "hellaswag_10templates",
    "imdb_reviews_10templates",
    "math_dataset_10templates",
    "mnli_matched_10templates",
    "mnli_mismatched_10templates",
    "multi_news_10templates",
    "multirc_10templates",
    "natural_questions_10templates",
    "openbookqa_10templates",
    "opinion_abstracts_idebate_10templates",
    "opinion_abstracts_rotten_tomatoes_10templates",
    "para_crawl_enes_10templates",
    "paws_wiki_10templates",
    "piqa_10templates",
    "qnli_10templates",
    "quac_10templates",
    "record_10templates",
    "rte_10templates",
    "samsum_10templates",
    "sentiment140_10templates",
    "snli_10templates",
    "squad_v1_10templates",
    "squad_v2_10templates",
    "sst2_10templates",
    "story_cloze_10templates",
    "stsb_10templates",
    "trec_10templates",
    "trivia_qa_10templates",
    "true_case_10templates",
    "web_nlg_en_10templates",
    "wic_10templates",
    "wiki_lingua_english_en_10templates",
    "wmt14_enfr_10templates",
    "wmt16_translate_csen_10templates",
    "wmt16_translate_deen_10templates",
    "wmt16_translate_fien_10templates",
    "wmt16_translate_roen_10templates",
    "wmt16_translate_ruen_10templates",
    "wmt16_translate_tren_10templates",
    "wnli_10templates",
    "word_segment_10templates",
    "wsc_10templates",
    "yelp_polarity_reviews_10templates",
];
