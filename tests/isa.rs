//! Every instruction set that this machine can force computes what it should, by the program's own checks; one that it lacks is
//! refused.

use std::process::{Command, Output};
use vft::ops::isa::Isa;

fn selftest(isa: Isa) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["selftest", "--device", "cpu", "--quick"])
        .env("VFT_CPU", isa.word())
        .output()
        .expect("the binary starts")
}

fn texts(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text)).concat()
}

#[test]
fn every_set_of_this_machine_passes_the_selftest() {
    for isa in Isa::available() {
        let output = selftest(isa);
        let text = texts(&output);
        assert_eq!(output.status.code(), Some(0), "VFT_CPU={}:\n{text}", isa.word());
        assert!(text.contains("verdict: this device computes what it should"), "{text}");
    }
}

#[test]
fn a_set_that_this_machine_lacks_is_refused() {
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
        let output = selftest(isa);
        let text = texts(&output);
        assert_eq!(output.status.code(), Some(2), "VFT_CPU={}:\n{text}", isa.word());
        assert!(
            text.contains(&format!("VFT_CPU={}: this processor lacks it", isa.word())),
            "{text}"
        );
    }
}
