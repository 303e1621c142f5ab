//! Notices of three clouds, played on loopback, and of a file; services that are not there, slow or lie.

use crate::common::{Watched, vft};
use crate::server::{Reply, Request, Server};
use rustix::process::Signal;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use vft::config::Preemption;
use vft::train::preemption::Source;

const ACTION: &str = "/latest/meta-data/spot/instance-action";

/// What one look at `server` finds.
fn look(asked: Preemption, server: &Server) -> Result<Option<String>, String> {
    Source::at(&asked, Some(&server.url)).look()
}

/// A server of one cloud that answers as `answer` says, if it is asked as that cloud wants.
fn cloud(header: (&'static str, &'static str), answer: fn(&str) -> Reply) -> Server {
    Server::start(move |request, _| {
        if request.method != "GET" || request.header(header.0) != Some(header.1) {
            return Reply::status(400);
        }
        answer(&request.path)
    })
}

/// AWS with IMDSv2: the n-th token is `token-n`, and holds for two requests.
fn aws(action: fn() -> Reply) -> Server {
    Server::start(move |request: &Request, before| {
        match (request.method.as_str(), request.path.as_str()) {
            ("PUT", "/latest/api/token") => {
                match request.header("x-aws-ec2-metadata-token-ttl-seconds") {
                    Some("21600") => {
                        Reply::status(200).body(format!("token-{}", before + 1).as_bytes())
                    }
                    _ => Reply::status(400),
                }
            }
            ("GET", ACTION) => {
                // Request 2 comes with the first token and is refused, request 3 with the second.
                let valid = if before < 2 { "token-1" } else { "token-2" };
                let token = request.header("x-aws-ec2-metadata-token");
                if token == Some(valid) { action() } else { Reply::status(401) }
            }
            _ => Reply::status(404),
        }
    })
}

fn google(answer: fn(&str) -> Reply) -> Server {
    cloud(("metadata-flavor", "Google"), answer)
}

fn azure(answer: fn(&str) -> Reply) -> Server {
    cloud(("metadata", "true"), answer)
}

fn text(text: &str) -> Reply {
    Reply::status(200).body(text.as_bytes())
}

#[test]
fn aws_tells_of_an_interruption() {
    let server = aws(|| text(r#"{"action": "terminate", "time": "2017-09-18T08:22:00Z"}"#));
    let notice = look(Preemption::Aws, &server).unwrap().unwrap();
    assert_eq!(notice, "AWS: terminate at 2017-09-18T08:22:00Z");
}

#[test]
fn aws_tells_of_none() {
    assert_eq!(look(Preemption::Aws, &aws(|| Reply::status(404))), Ok(None));
}

#[test]
fn a_token_of_aws_that_expired_is_replaced() {
    let server = aws(|| Reply::status(404));
    let mut source = Source::at(&Preemption::Aws, Some(&server.url));
    let looks: Vec<_> = (0..3).map(|_| source.look()).collect();
    assert_eq!(looks, [Ok(None), Ok(None), Ok(None)]);
    let tokens = server.lines().iter().filter(|l| l.starts_with("PUT")).count();
    assert_eq!(tokens, 2);
}

#[test]
fn aws_without_the_service_is_no_notice() {
    let server = Server::start(|_, _| Reply::status(403));
    assert_eq!(look(Preemption::Aws, &server), Err("/latest/api/token answers 403".into()));
}

#[test]
fn gcp_tells_of_a_preemption() {
    let server = google(|path| match path {
        "/computeMetadata/v1/instance/preempted" => text("TRUE"),
        _ => Reply::status(404),
    });
    let notice = look(Preemption::Gcp, &server).unwrap().unwrap();
    assert_eq!(notice, "GCP: the instance is preempted");
}

#[test]
fn gcp_tells_of_none() {
    assert_eq!(look(Preemption::Gcp, &google(|_| text("FALSE\n"))), Ok(None));
}

/// The machine is `vm_1`; the events are those of its scale set.
fn scale_set(path: &str, events: &str) -> Reply {
    match path {
        "/metadata/scheduledevents?api-version=2020-07-01" => {
            text(&format!(r#"{{"DocumentIncarnation": 3, "Events": [{events}]}}"#))
        }
        "/metadata/instance/compute/name?api-version=2021-02-01&format=text" => text("vm_1"),
        _ => Reply::status(404),
    }
}

#[test]
fn azure_tells_of_a_preemption() {
    let server = azure(|path| {
        scale_set(
            path,
            r#"{"EventId": "a", "EventType": "Preempt", "ResourceType": "VirtualMachine", "Resources": ["vm_0", "VM_1"],
                "EventStatus": "Scheduled", "NotBefore": "Mon, 19 Sep 2016 18:29:47 GMT", "DurationInSeconds": -1}"#,
        )
    });
    let notice = look(Preemption::Azure, &server).unwrap().unwrap();
    assert_eq!(notice, "Azure: Preempt not before Mon, 19 Sep 2016 18:29:47 GMT");
}

#[test]
fn azure_tells_of_a_termination() {
    let server = azure(|path| scale_set(path, r#"{"EventType": "Terminate"}"#));
    assert_eq!(look(Preemption::Azure, &server), Ok(Some("Azure: Terminate".into())));
}

#[test]
fn azure_tells_of_other_machines_and_other_events() {
    let server = azure(|path| {
        scale_set(
            path,
            r#"{"EventType": "Preempt", "Resources": ["vm_10"]}, {"EventType": "Freeze", "Resources": ["vm_1"]},
               {"EventType": "Reboot", "Resources": ["vm_1"]}"#,
        )
    });
    assert_eq!(look(Preemption::Azure, &server), Ok(None));
}

#[test]
fn azure_tells_of_none() {
    assert_eq!(look(Preemption::Azure, &azure(|path| scale_set(path, ""))), Ok(None));
}

#[test]
fn a_file_is_a_notice_once_it_is_there() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("notice");
    let mut source = Source::at(&Preemption::File(file.clone()), None);
    assert_eq!(source.look(), Ok(None));
    std::fs::write(&file, "").unwrap();
    assert_eq!(source.look(), Ok(Some(format!("{} is there", file.display()))));
}

const CLOUDS: [Preemption; 3] = [Preemption::Aws, Preemption::Gcp, Preemption::Azure];

/// A page of a captive portal, nonsense, broken JSON, deep JSON, nothing, other codes, redirects.
#[test]
fn nonsense_is_no_notice() {
    let answers: [fn() -> Reply; 8] = [
        || text("<html>TRUE</html>"),
        || text("\u{1}\u{1b}[2J"),
        || Reply::status(200).body(&[0xff, 0xfe, 0]),
        || text(r#"{"action": 5, "Events": {}}"#),
        || text(&"[".repeat(60_000)),
        || text(""),
        || Reply::status(500).body(b"TRUE"),
        || Reply::status(302).header("location", "http://127.0.0.1:9/"),
    ];
    for answer in answers {
        let server = Server::start(move |_, _| answer());
        for cloud in CLOUDS {
            let found = look(cloud.clone(), &server);
            assert!(found.is_err(), "{cloud}: {found:?}");
        }
    }
}

#[test]
fn an_answer_without_end_is_cut_off() {
    let server = Server::start(|_, _| Reply::status(200).body(&vec![b'x'; 1 << 20]).chunked());
    for cloud in CLOUDS {
        let why = look(cloud, &server).unwrap_err();
        assert!(why.contains("more than 65536 bytes"), "{why}");
    }
}

#[test]
fn a_service_that_keeps_silent_is_left_after_5_s() {
    let server = Server::start(|_, _| {
        std::thread::sleep(Duration::from_secs(60));
        text("TRUE")
    });
    let began = Instant::now();
    assert_eq!(look(Preemption::Gcp, &server), Err("no answer within 5 s".into()));
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[test]
fn what_a_service_sends_cannot_paint_the_terminal() {
    let server = aws(|| text(r#"{"action": "a\u001b[2J\nb", "time": "now"}"#));
    assert_eq!(look(Preemption::Aws, &server), Ok(Some("AWS: a [2J b at now".into())));
}

fn run(home: &Path, more: &[&str], address: &str) -> Watched {
    let mut command: Command = vft(home);
    command.args(["finetune", "--config", "configs/smoke.yml", "--device", "cpu"]);
    command.args(["--out_dir", &home.join("out").to_string_lossy()]).args(more);
    command.env("VFT_METADATA_URL", address).env("http_proxy", "http://127.0.0.1:9");
    Watched::start(command)
}

/// A machine that is taken away while the run trains; on the next one it goes on.
#[test]
fn a_notice_saves_and_ends_the_run() {
    let home = tempfile::tempdir().unwrap();
    let notice = home.path().join("notice");
    let asked = format!("file:{}", notice.display());
    let args = ["--train.epochs", "100000", "--train.preemption", &asked, "--resume", "auto"];
    let mut first = run(home.path(), &args, "");
    first.until("step 1/").unwrap();
    std::fs::write(&notice, "").unwrap();
    assert_eq!(first.end(), Some(75), "{}", first.text());
    assert!(first.has("preempted ("), "{}", first.text());
    // Another machine.
    std::fs::remove_file(&notice).unwrap();
    let mut second = run(home.path(), &args, "");
    second.until("taken up after step").unwrap();
    second.signal(Signal::TERM);
    assert_eq!(second.end(), Some(75));
}

#[test]
fn a_notice_of_a_cloud_ends_the_run() {
    let (home, server) = (tempfile::tempdir().unwrap(), google(|_| text("TRUE")));
    let args = ["--train.epochs", "100000", "--train.preemption", "gcp"];
    let mut run = run(home.path(), &args, &server.url);
    assert_eq!(run.end(), Some(75), "{}", run.text());
    assert!(run.has("preempted (GCP: the instance is preempted)"), "{}", run.text());
}

#[test]
fn a_service_that_is_not_there_is_told_once_and_stops_nothing() {
    let home = tempfile::tempdir().unwrap();
    let args = ["--train.max_steps", "10", "--train.preemption", "azure"];
    let mut run = run(home.path(), &args, "http://127.0.0.1:9");
    assert_eq!(run.end(), Some(0), "{}", run.text());
    let told = run.lines().filter(|line| line.contains("train.preemption: no word"));
    assert_eq!(told.count(), 1, "{}", run.text());
}
