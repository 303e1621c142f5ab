//! No code but vft's own: pickles and Python of a repository are refused with a way, and the binary has no means to start a program.
use crate::common::*;
use std::fs;

#[test]
fn pickled_weights_are_refused() {
    let home = Home::new();
    let model = home.model();
    fs::rename(model.join("model.safetensors"), model.join("pytorch_model.bin")).unwrap();
    let model = model.to_string_lossy();
    let parts = ["holds no model.safetensors", "pickled weights are not read", "save_pretrained"];
    assert_refused(&home.smoke(&["--checkpoint_dir", &model]), &parts);
    assert_refused(&vft(&["generate", "--base", &model, "--prompt", "a"]), &parts);
}

#[test]
fn a_pickled_adapter_is_refused() {
    let home = Home::new();
    home.write("a/adapter_config.json", r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "lora_dropout": 0.0}"#);
    home.write("a/adapter_model.bin", "x");
    let output = home.smoke(&["--adapter_path", &home.text("a")]);
    assert_refused(&output, &["pickled weights only (adapter_model.bin)", "safe_serialization"]);
}

#[test]
fn rows_that_are_a_pickle_are_refused() {
    let home = Home::new();
    for name in ["rows.pkl", "rows.pt"] {
        let rows = home.write(name, "\u{80}\u{4}x");
        assert_refused(&home.smoke(&["--data.path", &rows]), &["is no data file by its name"]);
    }
}

#[test]
fn a_model_that_brings_code_is_refused_with_the_reason() {
    let home = Home::new();
    let from = "\"architectures\": [";
    let to = "\"auto_map\": {\"AutoModelForCausalLM\": \"modeling_x.XForCausalLM\"}, \"architectures\": [\"XForCausalLM\", ";
    edit(&home, "config.json", from, to);
    let output = home.smoke(&["--checkpoint_dir", &home.text("model")]);
    assert_refused(&output, &["`XForCausalLM` is not supported", "no code of a repository is run"]);
}

#[test]
fn a_key_that_asks_for_code_is_refused_with_the_reason() {
    let home = Home::new();
    let output = home.smoke(&["--trust_remote_code", "true"]);
    assert_refused(&output, &["`trust_remote_code` does not work here", "no code of a model's"]);
}

/// The functions that an ELF file asks the system's libraries for (gabi, `Elf64_Shdr` and `Elf64_Sym`).
#[cfg(all(target_os = "linux", target_pointer_width = "64", target_endian = "little"))]
fn imports(file: &str) -> Vec<String> {
    let elf = fs::read(file).unwrap();
    let number = |at: usize, bytes: usize| {
        let of = |i| u64::from(elf[at + i]) << (8 * i);
        (0..bytes).map(of).sum::<u64>() as usize
    };
    let (table, size, count) = (number(0x28, 8), number(0x3a, 2), number(0x3c, 2));
    let section = |i: usize| table + i * size;
    let place = |i: usize| (number(section(i) + 0x18, 8), number(section(i) + 0x20, 8));
    const DYNSYM: usize = 11;
    let symbols = (0..count).find(|i| number(section(*i) + 4, 4) == DYNSYM).unwrap();
    let (names, _) = place(number(section(symbols) + 0x28, 4));
    let (first, bytes) = place(symbols);
    let undefined = (first..first + bytes).step_by(24).filter(|at| number(at + 6, 2) == 0);
    let name = |at: usize| {
        let from = names + number(at, 4);
        let text = elf[from..].split(|b| *b == 0).next().unwrap();
        String::from_utf8_lossy(text).into_owned()
    };
    undefined.map(name).collect()
}

#[cfg(all(target_os = "linux", target_pointer_width = "64", target_endian = "little"))]
#[test]
fn the_binary_cannot_start_a_program() {
    let imports = imports(env!("CARGO_BIN_EXE_vft"));
    assert!(imports.iter().any(|i| i == "malloc"), "{imports:?}");
    let starts = |i: &&String| {
        ["exec", "fexec", "posix_spawn"].iter().any(|s| i.starts_with(s))
            || ["fork", "vfork", "system", "popen", "clone"].contains(&i.as_str())
    };
    let found: Vec<_> = imports.iter().filter(starts).collect();
    assert!(found.is_empty(), "{found:?}");
}
