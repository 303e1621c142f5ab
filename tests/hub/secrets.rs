//! Canary secrets through all commands, in success and failure: none comes out, on no stream and in no file.
//!
//! Each canary holds the letters of [`MARK`]; files that the test itself writes a canary into lie in a folder that is not searched.

use super::home::Home;
use super::run::hub;
use super::server::{Reply, Server};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const MARK: &str = "anary";
const CANARY: &str = "hf_CanaryCanaryCanaryCanaryCanaryCana";
/// A token of a mirror, which has another shape.
const ODD: &str = "canary.of-another/shape_0123456789";
const SHORT: &[&str] = &[
    "--train.max_steps",
    "1",
    "--train.lr_warmup_steps",
    "0",
    "--eval.max_new_tokens",
    "2",
    "--precision",
    "32-true",
    "--device",
    "cpu",
];

/// Where a test's commands run, with a token in the environment and all diagnostics on.
struct Place {
    home: Home,
    endpoint: String,
    token: &'static str,
    variables: Vec<(&'static str, String)>,
}

impl Place {
    fn new(endpoint: &str, token: &'static str) -> Self {
        let home = Home::new();
        std::fs::create_dir(home.dir.path().join("work")).unwrap();
        std::fs::create_dir(home.dir.path().join("mine")).unwrap();
        Self { home, endpoint: endpoint.into(), token, variables: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    fn work(&self) -> PathBuf {
        self.home.dir.path().join("work")
    }

    /// A file of the user's, which may hold a canary.
    fn mine(&self, name: &str, text: &str) -> String {
        let path = self.home.dir.path().join("mine").join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let work = self.work();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vft"));
        command
            .args(args)
            .current_dir(&work)
            .env("HF_ENDPOINT", &self.endpoint)
            .env("HF_HOME", work.join("hf"))
            .env("VFT_CACHE", work.join("cache"))
            .env("TMPDIR", &work)
            .env("HF_TOKEN", self.token)
            .env("VFT_LOG", "trace")
            .env_remove("HF_HUB_OFFLINE");
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        command
    }

    /// Runs a command, which must end with `code` and show nothing.
    fn run(&self, code: i32, args: &[&str]) -> Output {
        let output = self.command(args).output().unwrap();
        let text = shown(&output);
        assert!(!text.contains(MARK), "{args:?} shows a canary:\n{text}");
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{text}");
        output
    }

    /// Asserts that no file that a command wrote holds a canary, nor any name.
    fn assert_clean(&self) {
        let (mut folders, mut files) = (vec![self.work()], 0);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                assert!(!path.to_string_lossy().contains(MARK), "{}", path.display());
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(bytes) = std::fs::read(&path) {
                    files += 1;
                    let found = bytes.windows(MARK.len()).any(|w| w == MARK.as_bytes());
                    assert!(!found, "{} holds a canary", path.display());
                }
            }
        }
        assert!(files > 0, "nothing was written");
    }
}

fn shown(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|s| String::from_utf8_lossy(s).into_owned()).concat()
}

#[test]
fn whole_runs_keep_their_secrets() {
    for token in [CANARY, ODD] {
        let server = hub();
        let place = Place::new(&server.url, token);
        let config = place.mine(
            "run.yml",
            &format!(
                "checkpoint_dir: org/tiny\naccess_token: {token}\nout_dir: out\ndata:\n  class_path: Alpaca\n  init_args:\n    \
                 file_url: {}/alpaca.json?X-Amz-Signature={CANARY}&download=true\n    download_dir: alpaca\n    val_split_fraction: 0.5\n",
                server.url
            ),
        );
        let config = ["--config", config.as_str()];
        let run =
            |verb: &[&str], more: &[&str]| place.run(0, &[verb, &config, more, SHORT].concat());
        let printed = run(&["finetune"], &["--print_config"]);
        assert!(shown(&printed).contains("alpaca.json?X-Amz-Signature=redacted&download=true"));
        run(&["data", "preview"], &[]);
        run(&["finetune"], &[]);
        let rows = place.mine(
            "rows.yml",
            &format!(
                "checkpoint_dir: org/tiny\naccess_token: {token}\nout_dir: out2\nlogger_name: tensorboard\ndata:\n  class_path: JSON\n  \
                 init_args:\n    path: org/rows\n    access_token: {token}\n"
            ),
        );
        place.run(0, &[&["finetune", "--config", &rows], SHORT].concat());
        let on = ["--precision", "32-true", "--device", "cpu"];
        let of = ["--base", "org/tiny", "--adapter", "out/final"];
        place.run(
            0,
            &[&["generate", "--prompt", "a", "--max-new-tokens", "2"], &of[..], &on].concat(),
        );
        place.run(0, &["merge", "--base", "org/tiny", "--adapter", "out/final", "--out", "merged"]);
        place.run(0, &["reproduce", "out"]);
        place.run(0, &["reproduce", "out2"]);
        place.assert_clean();
        let sent = server.log();
        let bearer = format!("Bearer {token}");
        assert!(sent.iter().any(|r| r.header("authorization") == Some(bearer.as_str())));
    }
}

#[test]
fn a_selftest_shows_nothing() {
    let place = Place::new("http://127.0.0.1:9", CANARY);
    place.run(2, &["selftest", "--quick", "--device", CANARY]);
    place.run(2, &["selftest", "--quick", CANARY]);
}

#[test]
fn a_broken_config_shows_nothing() {
    let place = Place::new("http://127.0.0.1:9", ODD);
    let url = format!("https://user:{CANARY}@host.invalid/x.json?token={CANARY}");
    let whole =
        "checkpoint_dir: org/tiny\ndata: {class_path: JSON, init_args: {path: rows.jsonl}}\n";
    let texts = [
        format!("access_token: \"{CANARY}\n"),
        format!("access_token:{CANARY}\n{whole}"),
        format!("{whole}access_token:{CANARY}\n"),
        format!("{{access_token:{CANARY}}}"),
        format!("{{access_token:{CANARY}, checkpoint_dir: x}}"),
        "{access_token:canary.odd/shape, checkpoint_dir: x}".into(),
        "{access_token=canary.odd/shape, checkpoint_dir: x}".into(),
        format!("{whole}acces_token: {CANARY}\n"),
        format!("{whole}Access_Token: {CANARY}\n"),
        format!("{whole}access_token: [{CANARY}]\n"),
        format!("{whole}access_token: {{{CANARY}: {CANARY}}}\n"),
        format!("{whole}access_token: *{CANARY}\n"),
        format!("{whole}access_token: !{CANARY} x\n"),
        format!("{whole}access_token: !!{CANARY}\n"),
        format!("{whole}access_token: &{CANARY}\n  - \n x"),
        format!("{whole}access_token: {CANARY}\naccess_token: {CANARY}\n"),
        format!("{whole}access_token: '{CANARY}'s\n"),
        format!("{whole}access_token: {CANARY}: x\n"),
        format!("{whole}access_token: @{CANARY}\n"),
        format!("{whole}access_token: {CANARY}\n  lora_r: x\n"),
        format!("{whole}{CANARY}: 1\n"),
        format!("{whole}precision: {CANARY}\n"),
        format!("{whole}lora_r: {CANARY}\n"),
        format!("{whole}train: {CANARY}\n"),
        format!("{whole}optimizer: {CANARY}\n"),
        format!("{whole}seed: {CANARY}\n"),
        format!("{whole}resume: {CANARY}\n"),
        format!("{whole}adapter_path: {url}\n"),
        format!("{whole}out_dir: {CANARY}\nlora_q: 1\n"),
        format!(
            "checkpoint_dir: {url}\ndata: {{class_path: JSON, init_args: {{path: rows.jsonl}}}}\n"
        ),
        format!("checkpoint_dir: {CANARY}/x/y\ndata: {CANARY}\n"),
        format!(
            "checkpoint_dir: org/tiny\ndata: {{class_path: JSON, init_args: {{path: \"{url}\"}}}}\n"
        ),
        format!(
            "checkpoint_dir: org/tiny\ndata: {{class_path: Alpaca, init_args: {{file_url: \"{url}\"}}}}\n"
        ),
        format!(
            "checkpoint_dir: org/tiny\ndata: {{class_path: JSON, init_args: {{path: x, columns: {{{CANARY}: {CANARY}}}}}}}\n"
        ),
        format!(
            "checkpoint_dir: org/tiny\ndata: {{class_path: JSON, init_args: {{dataset_mix: [{{path: x, access_token: {CANARY}}}]}}}}\n"
        ),
        format!("{whole}access_token: {ODD}\nlora_r: {ODD}\n"),
    ];
    for text in &texts {
        let file = place.mine("bad.yml", text);
        for verb in [&["finetune"][..], &["data", "preview"]] {
            let output = place.run(2, &[verb, &["--config", &file]].concat());
            assert!(shown(&output).contains("error: "), "{text}");
        }
    }
}

#[test]
fn a_misspelt_key_has_a_hint_without_its_value() {
    let place = Place::new("http://127.0.0.1:9", ODD);
    let file =
        place.mine("bad.yml", "checkpoint_dir: x\nacces_token: canary\ndata: {class_path: JSON}\n");
    let text = shown(&place.run(2, &["finetune", "--config", &file]));
    assert!(text.contains("unknown key `acces_token`"), "{text}");
    assert!(text.contains("did you mean `access_token`?"), "{text}");
}

#[test]
fn a_secret_on_the_command_line_is_refused_with_a_way() {
    let place = Place::new("http://127.0.0.1:9", ODD);
    let block = format!("{{class_path: JSON, init_args: {{path: x, access_token: {CANARY}}}}}");
    let equals = format!("--access_token={CANARY}");
    let url = format!("https://host.invalid/x.json?X-Amz-Signature={CANARY}");
    for secret in [
        &["--access_token", CANARY][..],
        &["--access_token", "canary"],
        &[&equals],
        &["--data.access_token", CANARY],
        &["--data.init_args.access_token", CANARY],
        &["--data", &block],
        &["--acces_token", CANARY],
        &["--data.file_url", &url],
    ] {
        for verb in [&["finetune"][..], &["data", "preview"]] {
            let text = shown(&place.run(2, &[verb, &["--checkpoint_dir", "x"], secret].concat()));
            assert!(text.contains("command line"), "{text}");
            assert!(text.contains("hint: set HF_TOKEN in the environment"), "{text}");
        }
    }
}

#[test]
fn other_commands_do_not_repeat_what_they_are_given() {
    let place = Place::new("http://127.0.0.1:9", ODD);
    let url = format!("https://user:{CANARY}@host.invalid/x?sig={CANARY}");
    for args in [
        &["generate", "--prompt", "a", "--base", "org/x", "--access_token", CANARY][..],
        &["generate", "--prompt", "a", "--base", CANARY],
        &["generate", "--prompt", "a", "--base", &url],
        &["generate", "--prompt", "a", "--precision", CANARY, "--base", "x"],
        &["merge", "--base", &url, "--adapter", "x", "--out", "y"],
        &["merge", "--base", "x", "--adapter", "y", "--out", "z", CANARY],
        &["reproduce", &url],
        &["reproduce", "x", "--moved", CANARY],
        &["finetune", "--config", &url],
        &["finetune", "--config", CANARY],
        &[CANARY],
    ] {
        place.run(2, args);
    }
}

#[test]
fn what_the_hub_refuses_shows_nothing() {
    for status in [401, 403, 404, 418, 500] {
        // A server that echoes what it was sent.
        let server = Server::start(move |request, _| {
            let echo = request.header("authorization").unwrap_or_default().to_owned();
            Reply::status(status)
                .header("x-error-message", &echo)
                .header("x-error-code", &echo)
                .header("retry-after", 0)
                .body(echo.as_bytes())
        });
        let place = Place::new(&server.url, ODD);
        place.run(2, &[&["finetune", "org/tiny", "--data.path", "org/rows"], SHORT].concat());
        place.run(2, &["generate", "--base", "org/tiny", "--prompt", "a"]);
        place.run(2, &["merge", "--base", "org/tiny", "--adapter", "x", "--out", "y"]);
    }
}

#[test]
fn redirects_and_signed_addresses_show_nothing() {
    let cdn = Server::start(|_, _| Reply::status(403).body(CANARY.as_bytes()));
    let to = format!("{}/model.safetensors?X-Amz-Signature={CANARY}", cdn.url);
    for target in [
        to.as_str(),
        &format!("ftp://user:{CANARY}@host/x"),
        &format!("http://u:{CANARY}@127.0.0.1:9/x"),
    ] {
        let target = target.to_owned();
        let server = Server::start(move |_, _| Reply::status(302).header("location", &target));
        let place = Place::new(&server.url, CANARY);
        place.run(2, &[&["finetune", "org/tiny", "--data.path", "org/rows"], SHORT].concat());
    }
}

#[test]
fn what_stands_in_the_environment_shows_nothing() {
    let with_proxy = format!("http://user:{CANARY}@127.0.0.1:9");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/smoke/model");
    let base = ["finetune", "--checkpoint_dir", model.to_str().unwrap(), "--data", "Alpaca"];
    let args = [&base[..], &["--data.file_url", "https://host.invalid/x.json"], SHORT].concat();
    let dead = Place::new("http://127.0.0.1:9", CANARY);
    for name in ["HTTPS_PROXY", "ALL_PROXY", "https_proxy"] {
        Place::new("http://127.0.0.1:9", CANARY).with(name, &with_proxy).run(2, &args);
    }
    Place::new(&format!("https://user:{CANARY}@host.invalid"), CANARY)
        .run(2, &[&["finetune", "org/tiny", "--data.path", "org/rows"], SHORT].concat());
    for token in ["hf_Canary\nX-Evil: canary", "hf_Canary canary"] {
        Place { token, ..Place::new("http://127.0.0.1:9", CANARY) }
            .run(2, &["generate", "--base", "org/tiny", "--prompt", "a"]);
    }
    dead.with("VFT_LOG", &format!("{CANARY}=what"))
        .run(2, &["generate", "--base", "org/tiny", "--prompt", "a"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_with_a_token_has_no_core_dump_and_no_token_among_its_arguments() {
    let server = Server::start(|_, _| {
        std::thread::sleep(Duration::from_secs(60));
        Reply::status(404)
    });
    let place = Place::new(&server.url, CANARY);
    let mut child = place
        .command(&["generate", "--base", "org/tiny", "--prompt", "a"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let since = Instant::now();
    while server.log().is_empty() && since.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let of = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap();
    let (limits, arguments) = (of("limits"), of("cmdline"));
    child.kill().unwrap();
    child.wait().unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    let soft = core.split_whitespace().nth(4).unwrap();
    assert!(["0", "1"].contains(&soft), "{core}");
    assert!(!arguments.contains(MARK), "{arguments}");
}
