//! `vft data preview`: the data of a run, looked at.

use crate::common::*;

fn preview(more: &[&str]) -> String {
    let mut args = vec!["data", "preview", "--config", "configs/smoke.yml"];
    args.extend(more);
    let output = vft(&args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_numbers_come_first_and_then_the_samples_of_the_first_epoch() {
    let text = preview(&["-n", "1"]);
    let (numbers, sample) = text.split_once("\n\n").unwrap();
    assert!(numbers.starts_with(
        "data: 304 training and 16 validation rows, 6765 tokens, 17 % trained, longest 25\n"
    ));
    assert_eq!(
        sample,
        "configs/smoke/data.jsonl:184: 25 tokens, 5 trained\n│ ⟨|im_start|⟩user\n│ từ đầu tiên\n\
         │ trăng chim sông gió⟨|im_end|⟩\n│ ⟨|im_start|⟩assistant\n│ ⟦trăng⟨|im_end|⟩⟧\n│\n"
    );
}

#[test]
fn a_row_is_found_by_its_line_and_keys_may_stand_before() {
    let text = preview(&["--train.max_seq_length", "20", "--row", "3"]);
    assert!(text.contains("\nconfigs/smoke/data.jsonl:3: 20 tokens"), "{text}");
    assert_eq!(text.matches("\nconfigs/smoke/").count(), 1);
}

#[test]
fn a_line_without_a_row_names_the_lines_next_to_it() {
    let home = Home::new();
    let rows = "{\"text\":\"chó\"}\n\n\n{\"text\":\"mèo\"}\n";
    let path = home.write("rows.jsonl", rows);
    let args =
        ["data", "preview", "--config", "configs/smoke.yml", "--data.path", &path, "--row", "2"];
    assert_refused(&vft(&args), &["no row starts in line 2", "start in lines 1 and 4"]);
}

#[test]
fn a_row_that_was_passed_over_says_so() {
    let home = Home::new();
    let path =
        home.write("rows.jsonl", "{\"text\":\"chó mèo\"}\n{\"text\":5}\n{\"text\":\"mèo chó\"}\n");
    let text = preview(&["--data.path", &path, "--data.on_bad_row", "skip", "--row", "2"]);
    assert!(text.ends_with("rows.jsonl:2: passed over, it cannot be used\n"), "{text}");
}

#[test]
fn no_samples_leave_the_numbers() {
    assert!(!preview(&["-n", "0"]).contains('│'));
}

#[test]
fn colours_are_given_when_asked_for() {
    assert!(preview(&["-n", "1", "--color", "always"]).contains("\x1b[1;32mtrăng"));
}

#[test]
fn a_pipe_gets_no_colours() {
    assert!(!preview(&["-n", "1"]).contains('\x1b'));
}

#[test]
fn columns_that_would_move_the_cursor_are_escaped_in_messages() {
    let home = Home::new();
    let path = home.write("rows.jsonl", "{\"text\":\"chó mèo\"}\n{\"a\\u001b[2J\":1}\n");
    let text = preview(&["--data.path", &path, "--data.on_bad_row", "skip", "-n", "0"]);
    assert!(text.contains("`a\\u{1b}[2J`"), "{text}");
}

#[test]
fn a_bad_number_is_refused() {
    let args =
        ["data", "preview", "--config", "configs/smoke.yml", "--train.max_steps", "3", "-n", "x"];
    assert_refused(&vft(&args), &["`-n`: `x` is no number"]);
}

#[test]
fn a_run_shows_its_first_sample() {
    let home = Home::new();
    let run = home.smoke(&["--train.max_steps", "1"]);
    assert!(stderr(&run).contains(
        "first sample: configs/smoke/data.jsonl:184: 25 tokens, 5 trained\n│ ⟨|im_start|⟩user\n"
    ));
}

#[test]
fn an_input_that_a_template_names_by_its_column_is_not_lost() {
    let home = Home::new();
    let path = home.write("rows.csv", "title,body,reply\nlặp lại,chó,chó\n");
    let columns = "{instruction: title, input: body, output: reply}";
    let told = |template| {
        let args =
            ["--data.path", &path, "--data.columns", columns, "--data.prompt_template", template];
        preview(&[&args[..], &["--data.val_split_fraction", "0"]].concat()).contains("leaves out")
    };
    assert!(!told("{title} {body}:"));
    assert!(told("{title}:"));
}

#[test]
fn a_mix_tells_what_each_set_gives() {
    let home = Home::new();
    let rows = home.write("rows.jsonl", &"{\"text\":\"chó mèo\"}\n".repeat(4));
    let mix = format!("[{{path: {rows}, weight: 0.5}}, {{path: {rows}, weight: 2}}]");
    let config = format!(
        "checkpoint_dir: {ROOT}/configs/smoke/model\ndata:\n  class_path: JSON\n  init_args:\n    val_split_fraction: 0\n    dataset_mix: {mix}\n"
    );
    let config = home.write("run.yml", &config);
    let output = vft(&["data", "preview", "--config", &config, "-n", "0"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("data: 8 training (10 an epoch) and 0 validation rows"), "{text}");
    assert_eq!(text.matches("4 training rows, weight").count(), 2);
}
