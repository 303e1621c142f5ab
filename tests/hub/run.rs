//! Whole runs on what the Hub has: the binary, a model and a data set by their ids, a data class' file by its address.

use super::home::Home;
use super::server::{COMMIT, Reply, Repo, Request, Server};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const ROWS: &str = r#"[{"instruction": "từ đầu tiên", "input": "nhà nước chó", "output": "nhà"}, {"instruction": "từ đầu tiên", "input": "sách mưa", "output": "sách"}]"#;

/// The bundled model as `org/tiny`, rows as `org/rows` and as a file of its own.
pub(crate) fn hub() -> Server {
    let read = |name: &str| std::fs::read(format!("{ROOT}/configs/smoke/model/{name}")).unwrap();
    let names = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ];
    let files: Vec<(&'static str, Vec<u8>)> = names.map(|n| (n, read(n))).into();
    let files: Vec<(&'static str, &[u8])> = files.iter().map(|(n, b)| (*n, b.as_slice())).collect();
    let model = Repo::model(&files).large("model.safetensors", &read("model.safetensors"));
    let lines: Vec<String> = (0..20)
        .map(|i| format!(r#"{{"messages": [{{"role": "user", "content": "số {i}"}}, {{"role": "assistant", "content": "{i}"}}]}}"#))
        .collect();
    let rows = Repo::dataset(&[("data/train-00000-of-00001.jsonl", lines.join("\n").as_bytes())]);
    Server::start(move |request: &Request, _| {
        if request.path.split('?').next() == Some("/alpaca.json") {
            return Reply::status(200).body(ROWS.as_bytes());
        }
        if request.path.contains("/datasets/") {
            rows.answer(request)
        } else {
            model.answer(request)
        }
    })
}

fn vft(home: &Home, endpoint: &str, more: &[&str]) -> Output {
    let dir = home.dir.path();
    Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["finetune", "org/tiny", "--precision", "32-true", "--device", "cpu"])
        .args([
            "--train.max_steps",
            "1",
            "--train.lr_warmup_steps",
            "0",
            "--eval.final_validation",
            "false",
        ])
        .args(["--out_dir", &dir.join("out").to_string_lossy()])
        .args(more)
        .env("HF_ENDPOINT", endpoint)
        .env("HF_HOME", dir)
        .env_remove("HF_TOKEN")
        .current_dir(dir)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_model_and_rows_by_their_ids_train_an_adapter_that_names_them() {
    let (home, server) = (Home::new(), hub());
    let output = vft(&home, &server.url, &["--data.path", "org/rows"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let config = home.dir.path().join("out").join("final/adapter_config.json");
    let config = std::fs::read_to_string(config).unwrap();
    assert!(config.contains(r#""base_model_name_or_path": "org/tiny""#), "{config}");
}

#[test]
fn a_merge_takes_the_revision_that_the_adapter_was_trained_on() {
    let (home, server) = (Home::new(), hub());
    vft(&home, &server.url, &["--data.path", "org/rows", "--revision", "v1"]);
    let before = server.lines().len();
    let out = home.dir.path().join("out");
    let output = Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["merge", "--adapter", &out.join("final").to_string_lossy()])
        .args(["--out", &home.dir.path().join("merged").to_string_lossy()])
        .env("HF_ENDPOINT", &server.url)
        .env("HF_HOME", home.dir.path())
        .env_remove("HF_TOKEN")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(server.lines()[before..], ["GET /api/models/org/tiny/revision/v1?blobs=true"]);
}

#[test]
fn the_manifest_names_repositories_and_their_commits() {
    let (home, server) = (Home::new(), hub());
    vft(&home, &server.url, &["--data.path", "org/rows"]);
    let file = home.dir.path().join("out/final/manifest.json");
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let hub = |id: &str| serde_json::json!({"id": id, "commit": COMMIT});
    assert_eq!(manifest["run"]["base"]["hub"], hub("org/tiny"));
    assert_eq!(manifest["run"]["data"][0]["train"]["hub"], hub("org/rows"));
}

#[test]
fn what_was_fetched_serves_a_run_without_a_network() {
    let (home, server) = (Home::new(), hub());
    vft(&home, &server.url, &["--data.path", "org/rows"]);
    drop(server);
    let output = Command::new(env!("CARGO_BIN_EXE_vft"))
        .args([
            "generate",
            "--base",
            "org/tiny",
            "--prompt",
            "a",
            "--precision",
            "32-true",
            "--max-new-tokens",
            "2",
        ])
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", home.dir.path())
        .current_dir(home.dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn a_data_class_fetches_its_file_to_its_download_dir() {
    let (home, server) = (Home::new(), hub());
    let url = format!("{}/alpaca.json", server.url);
    let output = vft(
        &home,
        &server.url,
        &["--data", "Alpaca", "--data.file_url", &url, "--data.download_dir", "alpaca"],
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let kept = home.dir.path().join("alpaca").join("alpaca_data_cleaned_archive.json");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), ROWS);
}

#[test]
fn a_missing_model_names_the_key() {
    let (home, server) = (Home::new(), hub());
    let output =
        vft(&home, &server.url, &["--checkpoint_dir", "org/none", "--data.path", "org/rows"]);
    assert!(text(&output).contains("`checkpoint_dir`: "), "{}", text(&output));
}
