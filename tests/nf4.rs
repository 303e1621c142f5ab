//! NF4 against bitsandbytes, byte for byte. Fixtures: `scripts/fixtures/nf4.py`.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::path::Path;
use vft::hub::safetensors::Checkpoint;
use vft::ops::nf4::quantize;
use vft::quant::Absmax;
use vft::quant::dynamic_map::dynamic_map;

const CASES: [&str; 5] = ["f32_64x128", "bf16_64x320", "f32_7x45", "f32_zero_block", "f32_256x128"];

fn open(name: &str) -> Checkpoint {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nf4");
    Checkpoint::open_file(&dir.join(format!("{name}.safetensors"))).unwrap()
}

fn floats(c: &Checkpoint, name: &str) -> Vec<f32> {
    c.tensor(name).unwrap().to_f32_vec()
}

#[test]
fn packed_bytes_are_bitsandbytes() {
    for case in CASES {
        let c = open(case);
        let ours = quantize(&floats(&c, "weight"), false);
        assert_eq!(ours.packed, c.tensor("packed").unwrap().bytes(), "{case}");
    }
}

#[test]
fn absmax_is_bitsandbytes_bit_for_bit() {
    for case in CASES {
        let c = open(case);
        let ours = quantize(&floats(&c, "weight"), false);
        assert_eq!(ours.absmax, Absmax::Plain(floats(&c, "absmax")), "{case}");
    }
}

#[test]
fn nested_offset_and_scales_are_bitsandbytes_bit_for_bit() {
    for case in CASES {
        let c = open(case);
        let Absmax::Nested { absmax2, offset, .. } = quantize(&floats(&c, "weight"), true).absmax
        else {
            panic!()
        };
        assert_eq!(offset, floats(&c, "nested_offset")[0], "{case}");
        assert_eq!(absmax2, floats(&c, "nested_absmax"), "{case}");
    }
}

/// bitsandbytes' CPU backend looks codes up in 65,536 bins: beside a midpoint it may be off by one.
#[test]
fn nested_codes_differ_from_bitsandbytes_only_beside_midpoints() {
    let map = dynamic_map(true);
    for case in CASES {
        let c = open(case);
        let ours = quantize(&floats(&c, "weight"), true);
        let Absmax::Nested { codes, absmax2, offset } = &ours.absmax else { panic!() };
        let theirs = c.tensor("nested_codes").unwrap();
        let absmax = floats(&c, "absmax");
        for (i, (a, b)) in codes.iter().zip(theirs.bytes()).enumerate().filter(|(_, (a, b))| a != b)
        {
            assert_eq!(a.abs_diff(*b), 1, "{case} {i}");
            let v = (absmax[i] - offset) / absmax2[i / 256];
            let midpoint = (map[usize::from(*a)] + map[usize::from(*b)]) / 2.0;
            assert!(
                (v - midpoint).abs() < 1.0 / 65_535.0,
                "{case} {i}: {v} is not beside {midpoint}"
            );
        }
    }
}

#[test]
fn dynamic_maps_are_bitsandbytes() {
    let c = open("maps");
    assert_eq!(dynamic_map(true), floats(&c, "signed"));
    assert_eq!(dynamic_map(false), floats(&c, "unsigned"));
}

#[test]
fn the_codebook_is_bitsandbytes() {
    assert_eq!(vft::quant::nf4::CODEBOOK.to_vec(), floats(&open("maps"), "nf4"));
}
