//! The sets of a config as files and encoders: what `data` means once the model and its tokenizer are known.

use super::locate::{SetPaths, locate};
use super::remote::Remote;
use crate::config::class::{Holdout, Home};
use crate::config::{MultiTurn, RunConfig, SetSection, TrainOn};
use crate::data::dataset::{Ask, DataSet, Options};
use crate::data::encode::Encoder;
use crate::data::row::Columns;
use crate::data::style::{Exchange, Style};
use crate::data::template;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Problem, Result, UserError};
use crate::model::spec::DecoderSpec;
use serde_json::Map;
use tracing::debug;

/// All rows of a run, encoded.
pub struct Sources {
    /// The rows.
    pub data: DataSet,
    /// The style of each set.
    pub styles: Vec<Style>,
    /// The files of each set.
    pub files: Vec<SetPaths>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Finds, reads and encodes the rows of every set.
///
/// # Errors
/// When rows are not where they should be, or are not what they should be.
pub fn load(config: &RunConfig, tokenizer: &Tokenizer, spec: &DecoderSpec) -> Result<Sources> {
    let remote = Remote::of_data(config);
    let (mut asks, mut styles, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let mut paths = Vec::new();
    for set in &config.data.sets {
        let style = style(config, set, tokenizer, &mut notes)?;
        if keeps_bos(config, &style, tokenizer) {
            notes.push(format!(
                "prompts in the style `{}` keep the BOS that they begin with; LitGPT strips it",
                style.name()
            ));
        }
        styles.push(style.clone());
        let (train, val) = locate(config, set, &remote, &mut notes)?;
        paths.push(SetPaths::of(&train, val.as_ref()));
        tell_of_rows(set, val.is_some(), &mut notes);
        let holdout = match (set.val_split_fraction, set.class.holdout) {
            (None, holdout) => holdout,
            (Some(fraction), Holdout::Random(_)) => Holdout::Random(fraction),
            (Some(fraction), Holdout::TrainTest(_)) => Holdout::TrainTest(fraction),
        };
        let pairs = set.columns.iter().map(|(part, column)| (part.as_str(), column.clone()));
        let columns = Columns::new(pairs).map_err(|e| config.problem(&set.key("columns"), e))?;
        asks.push(Ask {
            train,
            val,
            holdout,
            by_sample: set.multi_turn != MultiTurn::Conversation
                && matches!(holdout, Holdout::Random(_)),
            most: set.max_samples,
            encoder: Encoder {
                tokenizer,
                style,
                chosen: set.prompt_style.is_some() || set.prompt_template.is_some(),
                train_on: set.train_on,
                multi_turn: set.multi_turn,
                limit: config.train.max_seq_length,
                context: spec.context,
                vocab: spec.vocab,
                ignore_index: config.data.ignore_index,
            },
            columns,
            weight: set.weight,
        });
    }
    let options = Options {
        seed: config.data.seed,
        shuffle: config.train.shuffle,
        on_bad_row: config.data.on_bad_row,
    };
    if config.data.sets.iter().any(|s| s.train_on == TrainOn::All) {
        notes.push(
            "prompts are trained like answers, as in LitGPT; mask_prompt: true trains answers only"
                .into(),
        );
    }
    debug!(sets = asks.len(), "reads rows");
    let data = on_threads(config.data.num_workers, || DataSet::load(&asks, options))?;
    tokenizer.forget_words();
    let (again, rows) = (data.trained_too(), data.val_len());
    if again > 0 {
        notes.push(format!(
            "{again} of the {rows} validation rows are trained on too, token for token: their loss tells nothing about new rows"
        ));
    }
    notes.dedup();
    Ok(Sources { data, styles, files: paths, notes })
}

/// Stack that rows take besides their template.
const BESIDES: usize = 8 << 20;

/// Does `work` on as many threads as the config says, or on all cores. They have the stack that a chat template may take: one that is made for each
/// row costs several times what the row does.
fn on_threads<T: Send>(
    threads: Option<usize>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .stack_size(template::STACK + BESIDES)
        .build();
    match pool {
        Ok(pool) => pool.install(work),
        Err(e) => {
            let count = threads.map_or_else(|| "as many as cores".into(), |n| n.to_string());
            Err(Problem::new(format!("threads to read rows ({count}) cannot be started: {e}"))
                .hint("set `data.init_args.num_workers` to fewer")
                .into())
        }
    }
}

/// What LitGPT does too, but not what everyone expects.
fn tell_of_rows(set: &SetSection, has_val: bool, notes: &mut Vec<String>) {
    if let (Home::Path, Holdout::Random(share), None, false) =
        (set.class.home, set.class.holdout, set.val_split_fraction, has_val)
    {
        notes.push(format!(
            "{share} of the rows are held out for validation, as in LitGPT; `{}` says otherwise",
            set.key("val_split_fraction")
        ));
    }
}

/// Whether prompts begin with a BOS that LitGPT strips: the tokenizer does not put it there, and the model is not of the kind that LitGPT
/// knows by its directory's name.
fn keeps_bos(config: &RunConfig, style: &Style, tokenizer: &Tokenizer) -> bool {
    let name = config.checkpoint_dir.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("SmolLM2") && name.ends_with("Instruct") {
        return false;
    }
    let nothing = Map::new();
    let exchange = Exchange { system: None, instruction: "a", input: "", columns: &nothing };
    let starts = |text: &str, special| {
        let ids = tokenizer.encode(text, special).unwrap_or_default();
        ids.first().is_some_and(|id| Some(*id) == tokenizer.bos_id)
    };
    style.prompt(&exchange).is_ok_and(|prompt| starts(&prompt, false)) && !starts("a", true)
}

/// Checks the prompt styles that a config names: all of them, before anything is opened.
///
/// # Errors
/// When one is unknown, or a template is none.
pub fn check_styles(config: &RunConfig) -> Result<()> {
    let asked = config.data.sets.iter().map(|set| asked_for(config, set));
    UserError::check(asked.filter_map(Result::err).flat_map(|e| e.problems).collect())
}

/// The style that a set asks for, if it asks for one.
fn asked_for(config: &RunConfig, set: &SetSection) -> Result<Option<Style>> {
    let at = |key: &str, e: Problem| {
        let placed = config.problem(&set.key(key), e.message);
        UserError::from(Problem { hint: e.hint, ..placed })
    };
    if let Some(text) = &set.prompt_template {
        return Style::template(text).map(Some).map_err(|e| at("prompt_template", e));
    }
    let Some(name) = &set.prompt_style else { return Ok(None) };
    let style = Style::named(name, set.system_message.as_deref());
    style.map(Some).map_err(|e| at("prompt_style", e))
}

fn style(
    config: &RunConfig,
    set: &SetSection,
    tokenizer: &Tokenizer,
    notes: &mut Vec<String>,
) -> Result<Style> {
    if let Some(style) = asked_for(config, set)? {
        return Ok(style);
    }
    let of_class = set.class.style;
    if tokenizer.template.is_some() {
        notes.push(format!(
            "prompts are written by the tokenizer's chat template; LitGPT writes {} as `prompt_style: {of_class}`",
            set.class.name
        ));
        return Ok(Style::chat_template());
    }
    notes.push(format!(
        "prompts are written as `prompt_style: {of_class}`: the tokenizer has no chat template"
    ));
    Ok(Style::named(of_class, None)?)
}
