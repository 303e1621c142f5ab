"""Load an adapter that vft wrote in Python PEFT, under two names, and compare greedy answers and logits with the base.

usage: python scripts/check_peft.py BASE_DIR ADAPTER_DIR PROMPT      (transformers, peft)
Prints the answer; `vft generate --base BASE_DIR --adapter ADAPTER_DIR --precision 32-true --prompt PROMPT` prints the same.
"""
import sys, warnings
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

base, adapter, prompt = sys.argv[1:]
tok = AutoTokenizer.from_pretrained(adapter)
ids = tok.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
load = lambda: AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
plain, logits = load()(ids).logits, {}
keys = set(safe_open(f"{adapter}/adapter_model.safetensors", "pt").keys())
for name in ("default", "another"):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning)  # missing or unexpected adapter keys are warnings in PEFT
        m = PeftModel.from_pretrained(load(), adapter, adapter_name=name).eval()
    loaded = sum(f".{name}." in n for n, _ in m.named_parameters())
    assert loaded == len(keys), f"{loaded} of {len(keys)} tensors under the name {name}"
    logits[name] = m(ids).logits
assert torch.equal(logits["default"], logits["another"]), "the adapter's name changes the logits"
assert not torch.allclose(plain, logits["default"]), "the adapter changes nothing"
print(tok.decode(m.generate(input_ids=ids, max_new_tokens=32, do_sample=False)[0, ids.shape[1]:], skip_special_tokens=True))
