//! LitGPT's data classes on its own rows: defaults, samples, split and order are what LitGPT made of them
//! (`tests/fixtures/litgpt`, `scripts/fixtures/litgpt_data.py`). Each run is a command line on files that lie as the class keeps them.
//!
//! Where vft differs on purpose, a test shows how: conversations stay whole unless `multi_turn` says otherwise (here it does, to be
//! compared), a BOS that the style writes is not stripped, nor an EOS that ends the prompt.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use vft::config::class::{CLASSES, DataClass, FLAN_SUBSETS, Holdout, Home};
use vft::config::{RunConfig, TrainOn};
use vft::data::dataset::DataSet;
use vft::data::store::Example;
use vft::data::style::Style;
use vft::data::tokenizer::Tokenizer;
use vft::hub::config::HfConfig;
use vft::model::families;
use vft::train::sources::{self, Sources};

const IGNORED: i32 = -100;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// A class as LitGPT has it, and the folder of its raw files.
struct Theirs {
    class: &'static DataClass,
    folder: PathBuf,
    expected: Value,
}

fn classes() -> Vec<Theirs> {
    let data = root().join("tests/fixtures/litgpt/data");
    let theirs = |class: &'static DataClass| {
        let folder = data.join(class.name);
        let expected = json(&folder.join("expected.json"));
        Theirs { class, folder, expected }
    };
    CLASSES.iter().map(theirs).collect()
}

/// The bundled model's tokenizer without its chat template, so that prompts are written in the class' style; `edit` changes
/// tokenizer_config.json and tokenizer.json.
fn model(edit: impl Fn(&mut Value, &mut Value)) -> TempDir {
    let (home, smoke) = (tempfile::tempdir().unwrap(), root().join("configs/smoke/model"));
    fs::copy(smoke.join("config.json"), home.path().join("config.json")).unwrap();
    let [mut config, mut tokenizer] =
        ["tokenizer_config.json", "tokenizer.json"].map(|name| json(&smoke.join(name)));
    edit(&mut config, &mut tokenizer);
    fs::write(home.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    fs::write(home.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    home
}

/// What a command line reads with a model's tokenizer.
fn load(model: &Path, arguments: &[String]) -> DataSet {
    sources(model, arguments).data
}

fn sources(model: &Path, arguments: &[String]) -> Sources {
    let model_argument = ["--checkpoint_dir".to_owned(), model.to_string_lossy().into_owned()];
    let config = RunConfig::load(None, &[&model_argument[..], arguments].concat()).unwrap();
    let mut spec = families::spec(&HfConfig::load(model).unwrap()).unwrap();
    // The bundled model sees 256 tokens; some prompts of these styles have more bytes.
    spec.context = 4096;
    sources::load(&config, &Tokenizer::load(model).unwrap(), &spec).unwrap()
}

/// The class' files where it looks for them: `download_dir/file_name`, the splits of a repository, a folder for its configuration.
fn lay_out(theirs: &Theirs, home: &Path) -> PathBuf {
    let dir = home.join(theirs.class.download_dir.trim_start_matches("./"));
    let within = match theirs.class.home {
        Home::Hub(_, Some(name), ..) => dir.join(name),
        _ => dir.clone(),
    };
    copy(&theirs.folder, &within);
    fs::remove_file(within.join("expected.json")).unwrap();
    dir
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|e| (e.path(), e.file_name())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

/// LitGPT's arguments of a run as ours, with its way to take conversations apart.
fn arguments(theirs: &Theirs, init_args: &Value, dir: &Path) -> Vec<String> {
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let mut arguments =
        vec!["--data".to_owned(), theirs.expected["class_path"].as_str().unwrap().to_owned()];
    let mut set = |key: &str, value: String| arguments.extend([format!("--data.{key}"), value]);
    for (key, value) in init_args.as_object().unwrap() {
        match (key.as_str(), value) {
            ("json_path", value) => set(key, path(value.as_str().unwrap())),
            (_, Value::String(text)) => set(key, text.clone()),
            (_, value) => set(key, value.to_string()),
        }
    }
    if theirs.class.home != Home::Path {
        set("download_dir", dir.to_string_lossy().into_owned());
    }
    if theirs.class.multi_turn {
        let all = init_args["include_multiturn_conversations"] == true;
        set("multi_turn", if all { "pairs" } else { "first" }.into());
    }
    arguments
}

/// What LitGPT trains on: prompt and answer encoded apart, and EOS.
struct Oracle(tokenizers::Tokenizer);

impl Oracle {
    fn new(model: &Path) -> Self {
        Self(tokenizers::Tokenizer::from_file(model.join("tokenizer.json")).unwrap())
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        self.0.encode(text, false).unwrap().get_ids().to_vec()
    }

    fn id(&self, token: &str) -> u32 {
        self.0.token_to_id(token).unwrap()
    }

    /// Ids and labels.
    fn sample(&self, pair: &Value, mask_prompt: bool) -> (Vec<u32>, Vec<i32>) {
        let [prompt, answer] = [0, 1].map(|i| self.ids(pair[i].as_str().unwrap()));
        let ids = [prompt.as_slice(), &answer, &[self.id("<|im_end|>")]].concat();
        let masked = if mask_prompt { prompt.len() } else { 0 };
        let label = |(i, id): (usize, &u32)| if i < masked { IGNORED } else { *id as i32 };
        let labels = ids.iter().enumerate().map(label).collect();
        (ids, labels)
    }
}

fn owned(example: Example<'_>) -> (Vec<u32>, Vec<i32>) {
    (example.ids.to_vec(), example.labels.to_vec())
}

#[test]
fn every_class_has_its_fixture() {
    let data = root().join("tests/fixtures/litgpt/data");
    let folders = fs::read_dir(data).unwrap().map(|e| e.unwrap().path());
    let mut names: Vec<_> =
        folders.filter(|p| p.is_dir()).map(|p| p.file_name().unwrap().to_owned()).collect();
    let mut ours: Vec<_> = CLASSES.iter().map(|c| c.name).collect();
    names.sort();
    ours.sort_unstable();
    assert_eq!(names, ours);
}

#[test]
fn samples_of_every_class_are_litgpts() {
    let model = model(|_, _| ());
    let oracle = Oracle::new(model.path());
    for theirs in classes() {
        let home = tempfile::tempdir().unwrap();
        let dir = lay_out(&theirs, home.path());
        for run in list(&theirs.expected["runs"]) {
            for mask_prompt in [false, true] {
                let what = format!("{} {} {mask_prompt}", theirs.class.name, run["init_args"]);
                let mut arguments = arguments(&theirs, &run["init_args"], &dir);
                arguments.extend(["--data.mask_prompt".into(), mask_prompt.to_string()]);
                let data = load(model.path(), &arguments);
                let expected = |part: &str| {
                    let samples = list(&run[part]).iter();
                    samples.map(|p| oracle.sample(p, mask_prompt)).collect::<Vec<_>>()
                };
                let train: Vec<_> = (0..data.train_len()).map(|i| owned(data.train(i))).collect();
                let val: Vec<_> = (0..data.val_len()).map(|i| owned(data.val(i))).collect();
                assert_eq!(train, expected("train"), "training samples of {what}");
                assert_eq!(val, expected("val"), "validation samples of {what}");
                let epochs: Vec<Vec<usize>> =
                    serde_json::from_value(run["epochs"].clone()).unwrap();
                assert_eq!(data.epochs().take(2).collect::<Vec<_>>(), epochs, "order of {what}");
            }
        }
    }
}

#[test]
fn defaults_of_every_class_are_litgpts() {
    for Theirs { class, expected, .. } in classes() {
        let (name, defaults) = (class.name, &expected["defaults"]);
        let mut arguments =
            vec!["--checkpoint_dir", "m", "--data", expected["class_path"].as_str().unwrap()];
        if class.home == Home::Path {
            arguments.extend(["--data.json_path", "rows.json"]);
        }
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        let config = RunConfig::load(None, &arguments).unwrap();
        let set = &config.data.sets[0];
        assert_eq!(set.class.name, name);
        assert_eq!(defaults["seed"], config.data.seed, "{name}");
        assert_eq!(defaults["ignore_index"], config.data.ignore_index, "{name}");
        assert_eq!(defaults["mask_prompt"] == true, set.train_on == TrainOn::Assistant, "{name}");
        if let Some(fraction) = defaults["val_split_fraction"].as_f64() {
            let (Holdout::Random(ours) | Holdout::TrainTest(ours)) = class.holdout;
            assert_eq!(ours, fraction, "{name}");
        }
        if let Some(dir) = defaults["download_dir"].as_str() {
            assert_eq!(set.download_dir, Path::new(".").join(dir), "{name}");
        }
        let style = |name: &str| Style::named(name, None).unwrap();
        assert_eq!(style(class.style), style(defaults["prompt_style"].as_str().unwrap()), "{name}");
        let hub = &expected["load_dataset"];
        match class.home {
            Home::File(file, url) => {
                assert_eq!(
                    (&defaults["file_name"], &defaults["file_url"]),
                    (&file.into(), &url.into())
                );
            }
            Home::Hub(repo, config, train, val) => {
                assert_eq!((&hub["path"], &hub["name"]), (&repo.into(), &config.into()));
                // Without a split LitGPT takes `train` out of all.
                let splits: Value = match val {
                    Some(val) => vec![train, val].into(),
                    None => train.into(),
                };
                let asked =
                    if hub["split"].is_null() { "train".into() } else { hub["split"].clone() };
                assert_eq!(asked, splits, "{name}");
            }
            Home::Subsets(url) => {
                assert_eq!(defaults["url"], url);
                assert_eq!(expected["subsets"], Value::from(FLAN_SUBSETS.to_vec()));
            }
            Home::Pair(..) | Home::Path => assert!(hub.is_null(), "{name}"),
        }
    }
}

#[test]
fn a_repositorys_splits_may_lie_flat() {
    let model = model(|_, _| ());
    for theirs in classes().iter().filter(|t| matches!(t.class.home, Home::Hub(..))) {
        let run = &theirs.expected["runs"][0];
        let arguments = arguments(theirs, &run["init_args"], &theirs.folder);
        let pairs = arguments.chunks(2).filter(|pair| !pair[0].ends_with("download_dir"));
        let mut arguments = pairs.flatten().cloned().collect::<Vec<_>>();
        arguments.extend(["--data.path".into(), theirs.folder.to_string_lossy().into_owned()]);
        let data = load(model.path(), &arguments);
        let lengths = ["train", "val"].map(|part| list(&run[part]).len());
        assert_eq!([data.train_len(), data.val_len()], lengths, "{}", theirs.class.name);
    }
}

#[test]
fn conversations_stay_whole_and_every_answer_is_trained() {
    let model = model(|_, _| ());
    let oracle = Oracle::new(model.path());
    let file = root().join("tests/fixtures/litgpt/data/LIMA/train.jsonl");
    let text = [
        "--data",
        "LIMA",
        "--data.prompt_style",
        "ChatMLNoSys",
        "--data.mask_prompt",
        "true",
        "--train.shuffle",
        "false",
    ];
    let mut arguments = text.map(str::to_owned).to_vec();
    arguments.extend(["--data.val_split_fraction", "0", "--data.path"].map(str::to_owned));
    arguments.push(file.to_string_lossy().into_owned());
    let data = load(model.path(), &arguments);
    for (i, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
        let row: Value = serde_json::from_str(line).unwrap();
        let (mut ids, mut labels): (Vec<u32>, Vec<i32>) = Default::default();
        // A question that nobody answers is left out.
        for (j, exchange) in list(&row["conversations"]).chunks_exact(2).enumerate() {
            let turn = format!(
                "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
                exchange[0].as_str().unwrap()
            );
            let prompt = if j == 0 { turn } else { format!("\n{turn}") };
            let (more, their_labels) =
                oracle.sample(&vec![prompt.into(), exchange[1].clone()].into(), true);
            ids.extend(more);
            labels.extend(their_labels);
        }
        assert_eq!(owned(data.train(i)), (ids, labels), "{row}");
    }
}

/// The first sample of a row whose prompt is `{instruction}` between `before` and `after`.
fn templated(model: &Path, template: &str) -> Vec<u32> {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("rows.jsonl");
    fs::write(&file, "{\"instruction\": \"hỏi\", \"output\": \"đáp\"}\n").unwrap();
    let file = file.to_string_lossy();
    let arguments = [
        "--data",
        "JSON",
        "--data.path",
        &file,
        "--data.prompt_template",
        template,
        "--data.val_split_fraction",
        "0",
    ];
    load(model, &arguments.map(str::to_owned)).train(0).ids.to_vec()
}

/// What LitGPT does to VinaSmol's samples: BOS is `<|im_start|>` there, and the first one is stripped.
#[test]
fn a_bos_that_the_style_writes_stays() {
    let model = model(|config, _| config["bos_token"] = "<|im_start|>".into());
    let oracle = Oracle::new(model.path());
    let ids = templated(model.path(), "<|im_start|>user\n{instruction}");
    assert_eq!(ids[..1], [oracle.id("<|im_start|>")]);
}

/// A tokenizer that puts `<s>` before every text and, where asked to, `</s>` after it.
fn adds(config: &mut Value, tokenizer: &mut Value, eos: bool) {
    let special = |token: &str| serde_json::json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = serde_json::json!({"Sequence": {"id": "A", "type_id": 0}});
    let mut single = vec![special("<s>"), text];
    let mut known = serde_json::json!({"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}});
    if eos {
        single.push(special("</s>"));
        known["</s>"] = serde_json::json!({"id": "</s>", "ids": [2], "tokens": ["</s>"]});
        config["eos_token"] = "</s>".into();
    }
    tokenizer["post_processor"]["single"] = single.into();
    tokenizer["post_processor"]["special_tokens"] = known;
}

#[test]
fn bos_is_added_once() {
    let model = model(|config, tokenizer| adds(config, tokenizer, false));
    let oracle = Oracle::new(model.path());
    let rest = [oracle.ids("hỏi"), oracle.ids("đáp"), oracle.ids("<|im_end|>")].concat();
    let whole = [&[oracle.id("<s>")], rest.as_slice()].concat();
    assert_eq!(templated(model.path(), "{instruction}"), whole);
    assert_eq!(templated(model.path(), "<s>{instruction}"), whole);
}

/// LitGPT strips it, and with it the end of a turn that a template closes so.
#[test]
fn an_eos_that_ends_the_prompt_stays() {
    let plain = model(|_, _| ());
    let oracle = Oracle::new(plain.path());
    let sample = |eos: &str| ["hỏi", eos, "đáp", eos].map(|text| oracle.ids(text)).concat();
    assert_eq!(templated(plain.path(), "{instruction}<|im_end|>"), sample("<|im_end|>"));
    let closing = model(|config, tokenizer| adds(config, tokenizer, true));
    let with_bos = |ids: Vec<u32>| [vec![oracle.id("<s>")], ids].concat();
    assert_eq!(templated(closing.path(), "{instruction}</s>"), with_bos(sample("</s>")));
    // One that the tokenizer alone puts there would end the question.
    let asked = ["hỏi", "đáp", "</s>"].map(|text| oracle.ids(text)).concat();
    assert_eq!(templated(closing.path(), "{instruction}"), with_bos(asked));
}

/// Whether a note with `part` is told of JSON's fixture `file` with `model`'s tokenizer.
fn told(model: &Path, file: &str, part: &str) -> bool {
    let path = root().join("tests/fixtures/litgpt/data/JSON").join(file);
    let path = path.to_string_lossy();
    let arguments = ["--data", "JSON", "--data.path", &path, "--data.prompt_style", "ChatMLNoSys"];
    sources(model, &arguments.map(str::to_owned)).notes.iter().any(|n| n.contains(part))
}

#[test]
fn held_out_rows_are_told_where_nobody_asked_for_them() {
    let model = model(|_, _| ());
    let told = |file: &str| told(model.path(), file, "are held out for validation");
    assert_eq!([told("data.jsonl"), told("directory")], [true, false]);
}

#[test]
fn a_bos_that_stays_is_told_where_litgpt_strips_it() {
    let opens = model(|config, _| config["bos_token"] = "<|im_start|>".into());
    let known = tempfile::tempdir().unwrap();
    let known = known.path().join("SmolLM2-360M-Instruct");
    copy(opens.path(), &known);
    let told = |model: &Path| told(model, "data.jsonl", "keep the BOS");
    let plain = model(|_, _| ());
    assert_eq!([told(opens.path()), told(&known), told(plain.path())], [true, false, false]);
}
