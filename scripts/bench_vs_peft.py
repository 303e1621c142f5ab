"""vft against transformers + PEFT on the CPU: one random-weight SmolLM2-135M-shaped model, the same token ids, in turns.

usage: python scripts/bench_vs_peft.py VFT_BINARY [--rounds 3] [--precision 32-true] [--quantize null] [--decode]
       (torch, transformers, peft, for NF4 bitsandbytes; one to two minutes a round)
LoRA r 8 on all linear layers but the head, 2 x 256 tokens a step, 8 steps; medians over steps after the second.
--decode instead times 64 tokens of greedy decoding: 72 new tokens less 8, for vft as whole processes, against transformers' generate.
"""
import argparse, json, os, platform, statistics, subprocess, sys, tempfile, time

PEER = r'''
import json, resource, sys, time
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
model, rows, dtype = sys.argv[1], [json.loads(l)["input_ids"] for l in open(sys.argv[2])], getattr(torch, sys.argv[3])
kw = {}
if sys.argv[4] != "null":
    from transformers import BitsAndBytesConfig
    kw["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=sys.argv[4].endswith("dq"), bnb_4bit_compute_dtype=dtype)
m = get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=dtype, **kw), LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")).train()
m.config.use_cache = False
params = [p for p in m.parameters() if p.requires_grad]
opt = torch.optim.AdamW(params, lr=2e-4)
times, losses = [], []
for s in range(len(rows) // 2):
    ids = torch.tensor(rows[2 * s:2 * s + 2])
    t = time.perf_counter()
    loss = m(input_ids=ids, labels=ids).loss; loss.backward()
    torch.nn.utils.clip_grad_norm_(params, 1e9); opt.step(); opt.zero_grad(set_to_none=True)
    times.append(time.perf_counter() - t); losses.append(float(loss))
times = sorted(times[2:])
print(json.dumps(dict(tokens_per_s=512 / times[len(times) // 2], peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, first_loss=losses[0])))
'''
DECODE = r'''
import sys, time, torch
from transformers import AutoModelForCausalLM
m = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
def run(n):
    t = time.perf_counter(); m.generate(input_ids=ids, max_new_tokens=n, min_new_tokens=n, do_sample=False); return time.perf_counter() - t
run(8)
print(64 / (run(72) - run(8)))
'''
MAKE = r'''
import json, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
c = LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True, rms_norm_eps=1e-5, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2)
LlamaForCausalLM(c).bfloat16().save_pretrained(sys.argv[1])
g = torch.Generator().manual_seed(1)
with open(sys.argv[2], "w") as f:
    for r in torch.randint(5, 49152, (16, 256), generator=g).tolist():
        f.write(json.dumps(dict(input_ids=r, labels=r)) + "\n")
'''


def decode(a, model):
    dtype = "float32" if a.precision == "32-true" else "bfloat16"

    def seconds(n):
        base = [a.vft, "generate", "--base", model, "--device", "cpu", "--raw", "--prompt", "a b c d e f", "--precision", a.precision]
        start = time.perf_counter()
        subprocess.run([*base, "--max-new-tokens", str(n)], check=True, capture_output=True)
        return time.perf_counter() - start

    seconds(8)
    for i in range(a.rounds):
        peer = float(subprocess.run([sys.executable, "-c", DECODE, model, dtype], check=True, capture_output=True, text=True).stdout)
        vft = 64 / (seconds(72) - seconds(8))
        print(f"| {i + 1} | {peer:.0f} | {vft:.0f} | {vft / peer:.2f} |", flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("vft"); p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--decode", action="store_true")
    p.add_argument("--precision", default="32-true"); p.add_argument("--quantize", default="null")
    a = p.parse_args()
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    with tempfile.TemporaryDirectory() as home:
        model, data = f"{home}/model", f"{home}/rows.jsonl"
        subprocess.run([sys.executable, "-c", MAKE, model, data], check=True, stderr=subprocess.DEVNULL)
        for f in ("tokenizer.json", "tokenizer_config.json"):
            open(f"{model}/{f}", "w").write(open(f"{root}/configs/smoke/model/{f}").read())
        if a.decode:
            return decode(a, model)
        results = []
        for i in range(a.rounds):
            dtype = "float32" if a.precision == "32-true" else "bfloat16"
            peer = json.loads(subprocess.run([sys.executable, "-c", PEER, model, data, dtype, a.quantize], check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            out = f"{home}/out{i}"
            keys = dict(checkpoint_dir=model, out_dir=out, device="cpu", precision=a.precision, quantize=a.quantize, lora_r=8, lora_alpha=16, lora_dropout=0, lora_target_modules="all-linear", data="JSON")
            keys |= {"data.path": data, "data.val_split_fraction": 0, "train.global_batch_size": 2, "train.micro_batch_size": 2, "train.epochs": 1, "train.lr_warmup_steps": 0, "train.shuffle": "false", "optimizer.lr": 2e-4}
            subprocess.run([a.vft, "finetune", *[x for k, v in keys.items() for x in (f"--{k}", str(v))]], check=True, stderr=subprocess.DEVNULL)
            steps = [json.loads(l) for l in open(f"{out}/metrics.jsonl")]
            vft = dict(tokens_per_s=statistics.median(s["tokens_per_s"] for s in steps[2:]), peak_gib=steps[-1]["peak_mem_bytes"] / 2**30, first_loss=steps[0]["loss"])
            results.append((peer, vft))
            print(f"| {i + 1} | {peer['tokens_per_s']:.0f} | {vft['tokens_per_s']:.0f} | {vft['tokens_per_s'] / peer['tokens_per_s']:.2f} | {peer['peak_gib']:.2f} | {vft['peak_gib']:.2f} | {vft['peak_gib'] / peer['peak_gib']:.2f} | {peer['first_loss']:.5f} | {vft['first_loss']:.5f} |", flush=True)
    ratio = statistics.median(v["tokens_per_s"] / p["tokens_per_s"] for p, v in results)
    memory = statistics.median(v["peak_gib"] / p["peak_gib"] for p, v in results)
    print(f"\nmedian of ratios: {ratio:.2f} x tokens/s, {memory:.2f} x memory; {a.precision}, quantize {a.quantize}; {platform.processor() or platform.machine()}, {os.cpu_count()} cores")


main()
