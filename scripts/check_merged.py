"""Load a merged directory in transformers and compare its logits with base + adapter in PEFT: weights as they are stored, arithmetic in
f64, so that what differs is the weights (in f32 two ways to add the same numbers differ by up to 3e-6).

usage: python scripts/check_merged.py BASE_DIR ADAPTER_DIR MERGED_DIR [--nf4 | --nf4-dq]      (transformers, peft; bitsandbytes for --nf4)
With --nf4 or --nf4-dq the base's linears are first replaced by bitsandbytes' round trip in the base's dtype: what a merge with
`--base-weights dequant` folded the adapter into. Prints |ours - theirs| / |theirs|; fails above 1e-6 where the merged weights are f32, above
2e-2 where they are rounded to 16 bits.
"""
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base, adapter, merged, *flags = sys.argv[1:]
torch.manual_seed(0)
load = lambda path, dtype=torch.float32: AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager").eval()


def round_trip(model, stored, nested):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    for name, p in model.named_parameters():
        if name.endswith("proj.weight"):
            blocks = p.data.to(stored).reshape(-1, 64)  # blocks are of the flattened matrix
            p.data = dequantize_4bit(*quantize_4bit(blocks, blocksize=64, quant_type="nf4", compress_statistics=nested)).float().reshape(p.shape)


model, info = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
assert not info["missing_keys"] and not info["mismatched_keys"], info
stored = AutoModelForCausalLM.from_pretrained(merged, dtype="auto").dtype
config = json.load(open(f"{merged}/config.json"))
tied = model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()
assert tied == config.get("tie_word_embeddings", False), "the head is tied against the config"
theirs = load(base)
if flags:
    round_trip(theirs, stored, flags == ["--nf4-dq"])
ids = torch.randint(0, config["vocab_size"], (4, 24))
with torch.no_grad():
    plain = theirs.double()(ids).logits.clone()
    want, got = PeftModel.from_pretrained(theirs, adapter).double().eval()(ids).logits, model.double().eval()(ids).logits
distance = lambda x: float((want - x).norm() / want.norm())
error, moved = distance(got), distance(plain)
print(f"{stored}, head {'tied' if tied else 'of its own'}: {error:.2e} from base + adapter, which is {moved:.2e} from the base")
assert moved > 1e-3, "the adapter changes nothing"
assert error <= (1e-6 if stored == torch.float32 else 2e-2), "the merged model is another"
