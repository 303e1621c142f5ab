use super::*;
use std::path::Path;

fn tokenizer() -> Tokenizer {
    Tokenizer::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/smoke/model")).unwrap()
}

/// The ids of a text, and labels for the tokens in `trained`.
fn sample(text: &str, trained: std::ops::Range<usize>) -> (Vec<u32>, Vec<i32>) {
    let ids = tokenizer().encode(text, false).unwrap();
    let label = |(t, id): (usize, &u32)| if trained.contains(&t) { *id as i32 } else { IGNORED };
    let labels = ids.iter().enumerate().map(label).collect();
    (ids, labels)
}

fn plain(text: &str, trained: std::ops::Range<usize>) -> String {
    let (ids, labels) = sample(text, trained);
    let example = Example { ids: &ids, labels: &labels };
    super::text(&tokenizer(), example, Fate::Whole, Marks::Brackets, None).unwrap()
}

const CHAT: &str = "<|im_start|>user\n chó mèo<|im_end|>\n<|im_start|>assistant\n chó<|im_end|>\n";

#[test]
fn brackets_hold_what_is_trained() {
    assert_eq!(
        plain(CHAT, 10..12),
        "│ ⟨|im_start|⟩user\n│  chó mèo⟨|im_end|⟩\n│ ⟨|im_start|⟩assistant\n│ ⟦ chó⟨|im_end|⟩⟧\n│\n"
    );
}

#[test]
fn the_first_token_is_never_trained() {
    assert_eq!(plain(" chó mèo", 0..2), "│  chó⟦ mèo⟧\n");
}

#[test]
fn what_a_terminal_would_obey_or_hide_is_escaped() {
    assert_eq!(
        plain("a\x1b[2J\r\u{9b}b\u{202e}c\u{200b}\u{7}", 0..0),
        "│ a\\u{1b}[2J\\r\\u{9b}b\\u{202e}c\\u{200b}\\u{7}\n"
    );
}

#[test]
fn brackets_in_the_data_are_not_the_marks() {
    assert_eq!(plain("a⟦b⟩", 0..0), "│ a\\u{27e6}b\\u{27e9}\n");
}

#[test]
fn a_character_of_several_tokens_is_whole() {
    assert_eq!(plain("日本🐉", 0..0), "│ 日本🐉\n");
}

#[test]
fn bytes_that_are_no_character_do_not_swallow_what_follows() {
    let (mut ids, _) = sample("🐉", 0..0);
    ids.truncate(2);
    let (more, _) = sample("<|im_end|> ok", 0..0);
    ids.extend(more);
    let labels = vec![IGNORED; ids.len()];
    let example = Example { ids: &ids, labels: &labels };
    let text = super::text(&tokenizer(), example, Fate::Whole, Marks::Brackets, None).unwrap();
    assert_eq!(text, "│ \u{fffd}⟨|im_end|⟩ ok\n");
}

#[test]
fn an_id_without_a_token_is_named() {
    let example = Example { ids: &[383, 5000], labels: &[IGNORED, IGNORED] };
    let text = super::text(&tokenizer(), example, Fate::Whole, Marks::Brackets, None).unwrap();
    assert!(text.ends_with("⟨no token 5000⟩\n"), "{text}");
}

#[test]
fn colours_end_with_their_line() {
    let (ids, labels) = sample(" chó\n mèo<|im_end|>", 2..4);
    let example = Example { ids: &ids, labels: &labels };
    let text = super::text(&tokenizer(), example, Fate::Whole, Marks::Color, None).unwrap();
    assert_eq!(
        text,
        "│ \x1b[2m chó\x1b[0m\n│ \x1b[1;32m mèo\x1b[0m\x1b[1;32m\x1b[7m<|im_end|>\x1b[0m\n"
    );
}

#[test]
fn little_room_shows_what_is_around_the_first_trained_token() {
    let text = format!("{}<|im_end|> chim{}", " chó".repeat(40), " mèo".repeat(40));
    let (ids, mut labels) = sample(&text, 0..0);
    let end = ids.iter().position(|id| *id == 4).unwrap();
    labels[end] = 4;
    let example = Example { ids: &ids, labels: &labels };
    let text = super::text(&tokenizer(), example, Fate::Cut, Marks::Brackets, Some(40)).unwrap();
    assert_eq!(text, "│ … chó chó chó chó chó⟦⟨|im_end|⟩⟧ chim mèo…\n");
}

#[test]
fn a_text_that_was_cut_ends_with_scissors() {
    let (ids, labels) = sample(" chó mèo", 1..2);
    let example = Example { ids: &ids, labels: &labels };
    let text = super::text(&tokenizer(), example, Fate::Cut, Marks::Brackets, None).unwrap();
    assert_eq!(text, "│  chó⟦ mèo⟧✂\n");
}

#[test]
fn tokens_stand_one_a_line_with_labels_that_differ() {
    let (ids, mut labels) = sample(" chó\n mèo", 1..3);
    labels[2] = 7;
    let example = Example { ids: &ids, labels: &labels };
    let lines = super::tokens(&tokenizer(), example, Marks::Brackets).unwrap();
    let want = format!(
        "│      0 {:>7}   \" chó\"\n│      1 {:>7}  ⟦\"\\n\"⟧\n│      2 {:>7}  ⟦\" mèo\"⟧  label 7\n",
        ids[0], ids[1], ids[2]
    );
    assert_eq!(lines, want);
}

#[test]
fn a_heading_names_file_line_part_and_counts() {
    let example = Example { ids: &[1, 2, 3], labels: &[1, IGNORED, 3] };
    let origin = Origin { path: Path::new("a\x1b.jsonl"), line: 7, part: 1, fate: Fate::Shortened };
    assert_eq!(
        heading(example, &origin),
        "a\\u{1b}.jsonl:7, part 2: 3 tokens, 1 trained; its last exchanges are cut off, train.max_seq_length"
    );
}
