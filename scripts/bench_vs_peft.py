"""vft against transformers + PEFT on the CPU, in turns, on random-weight models and the same token ids. Called by bench_vs_peft.sh.

usage: python scripts/bench_vs_peft.py VFT [TABLE ...] [--rounds 3] [--limits JSON] [--products BENCH] [--parts BENCH] [--only CASE]
LoRA r 8 on all linear layers but the head; tokens/s are medians over steps after the second, memory is the process's peak.
FLOPs are those of the frozen products, forward and backward, by formula; causal attention is counted in the table of growth. What an aim
needs of the register peak counts attention, the adapters' products and what vft computes again too: above 100 % no program reaches it here that
computes as much, but for the peak's own noise.
"""
import argparse, functools, json, os, platform, re, statistics, subprocess, sys, tempfile, time

# Rows of the head that are multiplied at a time: for torch such that logits stay near, for vft what its head takes (ops/head).
HEAD_ROWS = (4096, 1024)
# vocabulary, hidden, feed-forward, layers, heads, key/value heads
SHAPES = {
    "135M": (49152, 576, 1536, 30, 9, 3),
    "360M": (49152, 960, 2560, 32, 15, 5),
    "C 2048": (32000, 2048, 5632, 4, 32, 4),
    "C 2560": (32000, 2560, 6912, 4, 20, 20),
    "odd": (20011, 1000, 2731, 8, 10, 5),
}
PEER = r'''
import json, resource, sys, time
began = time.time()
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
a = json.loads(sys.argv[1])
dtype, rows, m = getattr(torch, a["dtype"]), [json.loads(l)["input_ids"] for l in open(a["data"])], a["batch"]
kw = {}
if a["quantize"]:
    from transformers import BitsAndBytesConfig
    kw["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=a["quantize"].endswith("dq"), bnb_4bit_compute_dtype=dtype)
model = AutoModelForCausalLM.from_pretrained(a["model"], dtype=dtype, **kw)
if a["quantize"]: # as PEFT's guide to quantization does it: what is not quantized becomes f32
    from peft import prepare_model_for_kbit_training
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=a["checkpointing"])
elif a["checkpointing"]:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False)); model.enable_input_require_grads()
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, lora_dropout=a.get("lora_dropout", 0.0), target_modules="all-linear", task_type="CAUSAL_LM")).train()
model.config.use_cache = False
if a.get("start"):
    model.save_pretrained(a["start"])
params = [p for p in model.parameters() if p.requires_grad]
opt = torch.optim.AdamW(params, lr=2e-4)
run = torch.compile(model) if a["compile"] else model
times, losses, first = [], [], None
for s in range(len(rows) // m):
    ids = torch.tensor(rows[m * s:m * (s + 1)])
    t = time.perf_counter()
    loss = run(input_ids=ids, labels=ids).loss; loss.backward()
    torch.nn.utils.clip_grad_norm_(params, 1e9); opt.step(); opt.zero_grad(set_to_none=True)
    times.append(time.perf_counter() - t); losses.append(float(loss))
    first = first or time.time() - began
times = sorted(times[2:]) or times
held = None
if a.get("held_out"):
    with torch.no_grad():
        ids = torch.tensor([json.loads(l)["input_ids"] for l in open(a["held_out"])])
        held = float(model(input_ids=ids, labels=ids).loss)
print(json.dumps(dict(losses=losses, held=held, tokens_per_s=ids.numel() / times[len(times) // 2], peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, loss=losses[0], first=first)))
'''
DECODE = r'''
import sys, time, torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
kw = dict(quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)) if sys.argv[2] == "nf4" else {}
m = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16, **kw)
ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
def run(n):
    t = time.perf_counter(); m.generate(input_ids=ids, max_new_tokens=n, min_new_tokens=n, do_sample=False); return time.perf_counter() - t
run(8)
print(64 / (run(72) - run(8)))
'''
MAKE = r'''
import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
v, c, f, l, h, k = map(int, sys.argv[2:])
torch.manual_seed(0)
cfg = LlamaConfig(vocab_size=v, hidden_size=c, intermediate_size=f, num_hidden_layers=l, num_attention_heads=h, num_key_value_heads=k, tie_word_embeddings=True, rms_norm_eps=1e-5, max_position_embeddings=8192, bos_token_id=1, eos_token_id=2)
LlamaForCausalLM(cfg).bfloat16().save_pretrained(sys.argv[1])
'''
TORCH = r'''
import json, sys, time, torch
def least(run):
    run(); times, end = [], time.perf_counter() + 1
    while time.perf_counter() < end:
        begun = time.perf_counter(); run(); times.append(time.perf_counter() - begun)
    return min(times)
found, dtype, rows = {}, dict(bf16=torch.bfloat16, f32=torch.float32)[sys.argv[1]], int(sys.argv[2])
for weight in sys.argv[3:]:
    out, inp = map(int, weight.split("x"))
    w, x, dy = (torch.randn(*shape).to(dtype) for shape in ((out, inp), (rows, inp), (rows, out)))
    found[weight] = [least(lambda: torch.nn.functional.linear(x, w)), least(lambda: dy @ w)]
print(json.dumps(found))
'''
HOME = tempfile.TemporaryDirectory()
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")


def model(shape):
    path = f"{HOME.name}/{shape}".replace(" ", "")
    if not os.path.isdir(path):
        subprocess.run([sys.executable, "-c", MAKE, path, *map(str, SHAPES[shape])], check=True, stderr=subprocess.DEVNULL)
        for f in ("tokenizer.json", "tokenizer_config.json"):
            open(f"{path}/{f}", "w").write(open(f"{ROOT}/configs/smoke/model/{f}").read())
    return path


def data(shape, batch, length, steps):
    path, state = f"{HOME.name}/{batch}x{length}x{steps}-{shape}.jsonl".replace(" ", ""), 1
    if not os.path.exists(path):
        with open(path, "w") as f:
            for _ in range(batch * steps):
                row = []
                for _ in range(length):
                    state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
                    row.append(5 + (state >> 33) % (SHAPES[shape][0] - 5))
                f.write(json.dumps(dict(input_ids=row, labels=row)) + "\n")
    return path


def vft(a, shape, batch, length, steps, precision="bf16-true", quantize=None, checkpointing="none", **more):
    out, began = tempfile.mkdtemp(dir=HOME.name), time.time()
    keys = dict(checkpoint_dir=model(shape), out_dir=f"{out}/run", device="cpu", precision=precision, quantize=quantize or "null", lora_r=8, lora_alpha=16, lora_dropout=0, lora_target_modules="all-linear", data="JSON")
    keys |= {"data.path": data(shape, batch, length, steps), "data.val_split_fraction": 0, "train.global_batch_size": batch, "train.micro_batch_size": batch, "train.epochs": 1, "train.lr_warmup_steps": 0, "train.shuffle": "false", "train.gradient_checkpointing": checkpointing, "optimizer.lr": 2e-4} | more
    command = [a.vft, "finetune", *[x for k, v in keys.items() if v is not None for x in (f"--{k}", str(v))]]
    with tempfile.TemporaryFile("w+") as err:
        process, metrics, first, ended = subprocess.Popen(command, stderr=err, stdout=subprocess.DEVNULL), f"{out}/run/metrics.jsonl", None, 0
        while not ended:
            if first is None and os.path.exists(metrics) and os.path.getsize(metrics):
                first = time.time() - began
            ended, status, usage = os.wait4(process.pid, os.WNOHANG if first is None else 0)
            time.sleep(0.005)
        code = process.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        told = err.read()
    if code:
        sys.exit(told)
    records = [json.loads(l) for l in open(f"{out}/run/metrics.jsonl")]
    evals, records = [r for r in records if "val_loss" in r], [r for r in records if "loss" in r]
    plan = next(l for l in told.splitlines() if l.startswith("memory: "))
    layers = SHAPES[shape][3] # of which the last is never computed again
    again = {policy: min(int(some or layers), layers - 1) for policy, some in re.findall(r"\b(mlp|full)(?: in (\d+) of)?", plan)}
    if len(again) == 2:
        again["mlp"] = layers - 1 - again["full"]
    rates = [s["tokens_per_s"] for s in records[2:]] or [s["tokens_per_s"] for s in records]
    return dict(losses=[s["loss"] for s in records], held=evals[-1]["val_loss"] if evals else None, tokens_per_s=statistics.median(rates), peak=usage.ru_maxrss / 2**20, loss=records[0]["loss"], planned=float(plan.split()[1]), first=first, again=again)


def peer(shape, batch, length, steps, precision="bf16-true", quantize=None, checkpointing="none", compile=False, **more):
    args = more | dict(model=model(shape), data=more.get("data") or data(shape, batch, length, steps), batch=batch, dtype="float32" if precision == "32-true" else "bfloat16", quantize=quantize, checkpointing=checkpointing == "full", compile=compile)
    done = subprocess.run([sys.executable, "-c", PEER, json.dumps(args)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def flops(shape, length=0):
    """Of one token: frozen products forward and backward; with a length, causal attention too."""
    v, c, f, l, h, k = SHAPES[shape]
    d = c // h
    layer = c * h * d * 2 + 2 * c * k * d + 3 * c * f
    return 4 * (l * layer + v * c) - 2 * c * d * (h + 2 * k) + l * 7 * h * d * length


def again_flops(shape, again, length=0, rank=0):
    """Of one token: what vft computes again, by layers of each policy: products; with a length, attention too; with a rank, adapters too."""
    v, c, f, l, h, k = SHAPES[shape]
    q, kv = c // h * h, c // h * k
    mlp = 2 * (2 * c * f + 2 * rank * (c + f) + rank * (q + f)) # o's and down's narrow products for the gradients alone
    full = mlp + 2 * (c * q + 2 * c * kv + rank * (3 * c + q + 2 * kv)) + 2 * q * length
    mlp += 2 * rank * 3 * c
    return again.get("mlp", 0) * mlp + again.get("full", 0) * full


def all_flops(shape, length, again={}, rank=8):
    """Of one token: all products, with causal attention, the adapters of all linear layers but the head, and what is computed again."""
    v, c, f, l, h, k = SHAPES[shape]
    q, kv = c // h * h, c // h * k
    return flops(shape, length) + l * 6 * rank * (2 * (c + q) + 2 * (c + kv) + 3 * (c + f)) + again_flops(shape, again, length, rank)


def products_alone(shape, seconds, part, again):
    """Seconds of a step's frozen products by those of each weight, the head's in parts of the vocabulary; with those that are computed again."""
    v, l = SHAPES[shape][0], SHAPES[shape][3]
    (q, q_back), (kv, kv_back), (up, up_back), (down, down_back), (head, head_back) = seconds
    layers = l * (2 * q + 2 * kv + 2 * up + down + 2 * q_back + 2 * kv_back + 2 * up_back + down_back)
    layers += again.get("mlp", 0) * 2 * up + again.get("full", 0) * (2 * up + q + 2 * kv)
    return layers - q_back - 2 * kv_back + v / part * (head + head_back)


def weights(shape, part):
    """Its kinds of weights, out x in: q and o, k and v, gate and up, down, a part of the head."""
    _, c, f, _, h, k = SHAPES[shape]
    return [f"{c}x{c}", f"{c // h * k}x{c}", f"{f}x{c}", f"{c}x{f}", f"{part}x{c}"]


def machine():
    model = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores"


def auto(memory):
    return {"checkpointing": "auto", "train.max_memory": memory}


CASES = [
    ("135M bf16, eager", ("135M", 2, 256, 8), dict(), 2.8, 0.30),
    ("135M bf16, eager, dropout of 0.05 on both sides", ("135M", 2, 256, 8), dict(lora_dropout=0.05), 2.8, 0.30),
    ("135M bf16, compiled", ("135M", 2, 256, 8), dict(compile=True), 1.8, 0.30),
    ("135M NF4", ("135M", 2, 256, 8), dict(quantize="bnb.nf4"), 2.5, 0.17),
    ("135M NF4-dq", ("135M", 2, 256, 8), dict(quantize="bnb.nf4-dq"), 2.5, 0.17),
    ("135M NF4-dq, full checkpointing", ("135M", 2, 256, 8), dict(quantize="bnb.nf4-dq", checkpointing="full"), 3.0, 0.20),
    ("135M NF4-dq, PEFT with full checkpointing, vft with auto in 300 MiB", ("135M", 2, 256, 8), dict(quantize="bnb.nf4-dq", checkpointing="full", ours=auto("300MiB")), 3.0, 0.20),
    ("135M f32", ("135M", 2, 256, 8), dict(precision="32-true"), 1.6, 0.40),
    ("360M bf16, 1 x 512", ("360M", 1, 512, 7), dict(), 1.9, 0.30),
    ("360M bf16, 1 x 512, vft with auto in 1000 MiB", ("360M", 1, 512, 7), dict(ours=auto("1000MiB")), 1.9, 0.30),
    ("360M NF4, 1 x 512", ("360M", 1, 512, 7), dict(quantize="bnb.nf4"), 2.4, 0.17),
]


def compare(a):
    limits = json.loads(a.limits) if a.limits else {}
    print("| case | PEFT tokens/s | vft tokens/s | ratio (rounds) | aim | PEFT GiB | vft GiB | ratio | aim | first loss, PEFT | vft | share of the register peak | what the aim needs |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name, work, how, speed, memory in CASES:
        if a.only and a.only not in name:
            continue
        rounds = []
        for _ in range(a.rounds):
            p = peer(*work, **{k: x for k, x in how.items() if k != "ours"})
            own = {k: x for k, x in how.items() if k not in ("compile", "ours")} | how.get("ours", {})
            v = vft(a, *work, **own)
            rounds.append((p, v))
        median = lambda f: statistics.median(f(p, v) for p, v in rounds)
        ratios = sorted(v["tokens_per_s"] / p["tokens_per_s"] for p, v in rounds)
        rate = median(lambda p, v: v["tokens_per_s"])
        peak = limits.get("f32_gflops" if "f32" in name else "bf16_gflops")
        share = f"{rate * flops(work[0]) / peak / 1e7:.0f} %" if peak else ""
        needed = f"{speed * median(lambda p, v: p['tokens_per_s']) * all_flops(work[0], work[2], rounds[0][1]['again']) / peak / 1e7:.0f} %" if peak else ""
        print(f"| {name} | {median(lambda p, v: p['tokens_per_s']):.0f} | {rate:.0f} | {statistics.median(ratios):.2f} ({', '.join(f'{r:.2f}' for r in ratios)}) | {speed} | {median(lambda p, v: p['peak']):.2f} | {median(lambda p, v: v['peak']):.2f} | {median(lambda p, v: v['peak'] / p['peak']):.3f} | {memory} | {rounds[0][0]['loss']:.4f} | {rounds[0][1]['loss']:.4f} | {share} | {needed} |", flush=True)


def checkpointing(a):
    print("| 135M bf16, tokens a step | policy | tokens/s | time over none | GiB | memory over none |\n|---|---|---|---|---|---|")
    for batch, length in [(2, 256), (4, 512)]:
        found = {k: [] for k in ("none", "mlp", "full")}
        for _ in range(a.rounds):
            for k in found:
                found[k].append(vft(a, "135M", batch, length, 6, checkpointing=k))
        for k, runs in found.items():
            time_ratio = statistics.median(n["tokens_per_s"] / r["tokens_per_s"] for n, r in zip(found["none"], runs))
            print(f"| {batch * length} | {k} | {statistics.median(r['tokens_per_s'] for r in runs):.0f} | {time_ratio:.2f} | {runs[0]['peak']:.2f} | {runs[0]['peak'] / found['none'][0]['peak']:.2f} |", flush=True)


def growth(a):
    print("| shape | sequences | tokens/s | GFLOP/s (products and attention; rounds) | GiB |\n|---|---|---|---|---|")
    sizes = [("135M", b, t) for b, t in [(1, 256), (1, 512), (2, 512), (4, 512), (2, 1024), (1, 2048), (4, 1024), (1, 4096), (8, 1024), (2, 4096)]]
    sizes += [(shape, b, 512) for shape in ("360M", "C 2048", "C 2560", "odd") for b in (1, 4)]
    found = {size: [] for size in sizes}
    for _ in range(a.rounds):
        for shape, batch, length in sizes:
            found[shape, batch, length].append(vft(a, shape, batch, length, 5 if batch * length <= 2048 else 4))
    for (shape, batch, length), runs in found.items():
        rates = sorted(r["tokens_per_s"] for r in runs)
        work = flops(shape, length) / 1e9
        print(f"| {shape} | {batch} x {length} | {statistics.median(rates):.0f} | {statistics.median(rates) * work:.0f} ({', '.join(f'{r * work:.0f}' for r in rates)}) | {runs[0]['peak']:.2f} |", flush=True)


def plan(a):
    print("| shape | sequences | rank | weights | checkpointing | planned GiB | peak GiB | error |\n|---|---|---|---|---|---|---|---|")
    runs = [("135M", b, t, r, q, k) for b, t in [(1, 256), (4, 512)] for r, q, k in [(8, None, "none"), (64, None, "mlp"), (8, "bnb.nf4-dq", "full"), (16, "bnb.nf4", "none"), (8, "f32", "none"), (8, "f32", "full")]]
    runs += [("360M", 1, 512, 8, None, "none"), ("360M", 2, 1024, 8, "bnb.nf4-dq", "full"), ("C 2048", 1, 512, 16, None, "mlp"), ("C 2048", 2, 512, 16, "bnb.nf4", "none"), ("C 2560", 1, 512, 8, None, "full"), ("C 2560", 2, 512, 8, "bnb.nf4-dq", "mlp"), ("odd", 2, 512, 8, None, "none"), ("odd", 4, 512, 8, "bnb.nf4-dq", "full")]
    for shape, batch, length, rank, how, policy in runs:
        f32 = how == "f32"
        r = vft(a, shape, batch, length, 3, precision="32-true" if f32 else "bf16-true", quantize=None if f32 else how, checkpointing=policy, lora_r=rank)
        print(f"| {shape} | {batch} x {length} | {rank} | {how or 'bf16'} | {policy} | {r['planned']:.2f} | {r['peak']:.2f} | {100 * (r['planned'] / r['peak'] - 1):+.1f} % |", flush=True)


def decode(a):
    print("| weights | round | transformers tokens/s | vft tokens/s | ratio |\n|---|---|---|---|---|")
    for kind in ("bf16", "nf4"):
        def seconds(n):
            command = [a.vft, "generate", "--base", model("135M"), "--device", "cpu", "--raw", "--prompt", "a b c d e f", "--precision", "bf16-true", "--max-new-tokens", str(n)]
            command += ["--quantize", "bnb.nf4"] if kind == "nf4" else []
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            return time.perf_counter() - start
        seconds(8)
        for i in range(a.rounds):
            theirs = float(subprocess.run([sys.executable, "-c", DECODE, model("135M"), kind], check=True, capture_output=True, text=True).stdout)
            ours = 64 / (seconds(72) - seconds(8))
            print(f"| {kind} | {i + 1} | {theirs:.0f} | {ours:.0f} | {ours / theirs:.2f} |", flush=True)


def losses(a):
    """50 steps from PEFT's own start over 20 rows again and again, and rows that were not seen but share half of their tokens with those that were."""
    rows = [json.loads(l) for l in open(data("135M", 2, 256, 10))]
    folder = f"{HOME.name}/losses"
    os.makedirs(folder, exist_ok=True)
    held = [dict(input_ids=r["input_ids"][:128] + q["input_ids"][128:]) for r, q in zip(rows[:4], rows[4:8])]
    for name, of in (("train", rows * 5), ("val", [h | dict(labels=h["input_ids"]) for h in held])):
        with open(f"{folder}/{name}.jsonl", "w") as f:
            f.writelines(json.dumps(r) + "\n" for r in of)
    p = peer("135M", 2, 256, 50, data=f"{folder}/train.jsonl", held_out=f"{folder}/val.jsonl", start=f"{folder}-start")
    own = dict(adapter_path=f"{folder}-start", lora_r=None, lora_alpha=None, lora_dropout=None, lora_target_modules=None)
    v = vft(a, "135M", 2, 256, 50, **own, **{"data.path": folder, "data.val_split_fraction": "null", "train.min_lr": 2e-4})
    worst = max(abs(x / y - 1) for x, y in zip(v["losses"], p["losses"]))
    print("| step | PEFT bf16 | vft bf16 | relative |\n|---|---|---|---|")
    for i in (0, 9, 19, 29, 39, 49):
        print(f"| {i + 1} | {p['losses'][i]:.5f} | {v['losses'][i]:.5f} | {v['losses'][i] / p['losses'][i] - 1:+.1e} |")
    print(f"| held out | {p['held']:.5f} | {v['held']:.5f} | {v['held'] / p['held'] - 1:+.1e} |\n\nworst of {len(v['losses'])} steps: {worst:.1e}")


# What the tables of products and of parts are made of.
STEPS = [("135M", "bf16"), ("360M", "bf16"), ("135M", "f32")]


@functools.cache
def least_products(bench, rounds_of, shape, dtype):
    """Seconds of y and of dx for each weight, by torch and by vft, at 512 rows: the least of all rounds."""
    rounds = []
    for _ in range(rounds_of):
        commands = ([sys.executable, "-c", TORCH, dtype, "512"], [bench, dtype, "512"])
        rounds.append([json.loads(subprocess.run([*command, *weights(shape, part)], check=True, capture_output=True, text=True).stdout) for command, part in zip(commands, HEAD_ROWS)])
    return [[[min(r[side][w][i] for r in rounds) for i in (0, 1)] for w in weights(shape, part)] for side, part in enumerate(HEAD_ROWS)]


def products(a):
    """A step's frozen products alone, one by one, 512 rows, at their fastest."""
    print("| shape | weight | torch y, GFLOP/s | torch dx | vft y | vft dx |\n|---|---|---|---|---|---|")
    limits, totals = json.loads(a.limits) if a.limits else {}, []
    for shape, dtype in STEPS:
        both = least_products(a.products, a.rounds, shape, dtype)
        for i, names in enumerate(zip(*(weights(shape, part) for part in HEAD_ROWS))):
            rates = [1024 * out * inp / s / 1e9 for side, name in zip(both, names) for out, inp in [map(int, name.split("x"))] for s in side[i]]
            print(f"| {shape} {dtype} | {' / '.join(dict.fromkeys(names)).replace('x', ' x ')} | " + " | ".join(f"{r:.0f}" for r in rates) + " |", flush=True)
        totals += [(shape, dtype, name, again, *(products_alone(shape, side, part, again) for side, part in zip(both, HEAD_ROWS))) for name, again in again_cases(shape, dtype)]
    print("\n| all products of a step of 512 tokens | torch, s | vft, s | tokens/s of products alone, torch | vft | share of the register peak, torch | vft |\n|---|---|---|---|---|---|---|")
    for shape, dtype, name, again, *seconds in totals:
        peak = limits.get(f"{dtype}_gflops")
        done = 512 * (flops(shape) + again_flops(shape, again)) / 1e9
        shares = [f"{100 * done / s / peak:.0f} %" if peak else "" for s in seconds]
        print(f"| {shape} {dtype}, {name} again | " + " | ".join([f"{s:.3f}" for s in seconds] + [f"{512 / s:.0f}" for s in seconds] + shares) + " |")


def again_cases(shape, dtype):
    # 16 layers are what the row of `auto` takes.
    return [("nothing", {})] + [("full checkpointing's", {"full": SHAPES[shape][3] - 1})] * (dtype == "bf16") + [("gate and up of 16 layers", {"mlp": 16})] * (shape == "360M")


def parts(a):
    """All that a step of 512 tokens computes, each part of it alone and at its fastest; of what is computed again the products and attention only."""
    found, rank = {}, 8
    for shape, dtype in STEPS:
        sequences, length = {"135M": (2, 256), "360M": (1, 512)}[shape]
        v, c, f, l, h, k = SHAPES[shape]
        command = [a.parts, dtype, *map(str, (sequences, length, v, c, f, h, k, rank, l))]
        runs = [json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(a.rounds)]
        own = least_products(a.products, a.rounds, shape, dtype)[1]
        head = v / HEAD_ROWS[1] * sum(own[4])
        layers = products_alone(shape, own, HEAD_ROWS[1], {}) - head
        wide = 2 * rank * l * (2 * (c + h * (c // h)) + 2 * (c + k * (c // h)) + 3 * (c + f)) # of the adapters, in the frozen products' tiles
        rate = (flops(shape) - 4 * v * c) / layers
        seconds = {"frozen products of the layers": layers, "adapters' wide sides, at the products' rate": wide / rate}
        seconds |= {name: min(run[name] for run in runs) for name in runs[0]}
        found[shape, dtype] = (own, seconds)
    print(f"| part | {', ms | '.join(map(' '.join, STEPS))}, ms |\n|---|" + "---|" * len(STEPS))
    for name in next(iter(found.values()))[1]:
        print(f"| {name} | " + " | ".join(f"{1e3 * seconds[name]:.1f}" for _, seconds in found.values()) + " |")
    print("\n| a step of 512 tokens | all parts, s | tokens/s |\n|---|---|---|")
    for (shape, dtype), (own, seconds) in found.items():
        for name, again in again_cases(shape, dtype):
            more = products_alone(shape, own, HEAD_ROWS[1], again) - products_alone(shape, own, HEAD_ROWS[1], {})
            more += again.get("full", 0) / SHAPES[shape][3] * seconds["attention, forward"]
            total = sum(seconds.values()) + more
            print(f"| {shape} {dtype}, {name} again | {total:.3f} | {512 / total:.0f} |")


def start(a):
    print("| shape | weights | round | PEFT, start to first step, s | vft, s | ratio |\n|---|---|---|---|---|---|")
    for shape, quantize, batch, length in [("135M", None, 2, 256), ("135M", "bnb.nf4-dq", 2, 256), ("360M", "bnb.nf4-dq", 1, 512)]:
        for i in range(a.rounds):
            p, v = (of(shape, batch, length, 1, quantize=quantize) for of in (peer, functools.partial(vft, a)))
            print(f"| {shape} | {quantize or 'bf16'} | {i + 1} | {p['first']:.1f} | {v['first']:.2f} | {v['first'] / p['first']:.3f} |", flush=True)


def main():
    tables = dict(compare=compare, products=products, parts=parts, checkpointing=checkpointing, growth=growth, plan=plan, decode=decode, start=start, losses=losses)
    p = argparse.ArgumentParser()
    p.add_argument("vft"); p.add_argument("tables", nargs="*", choices=[[], *tables])
    p.add_argument("--rounds", type=int, default=3); p.add_argument("--limits", default=""); p.add_argument("--only", default="")
    p.add_argument("--products", help="the bench of that name"); p.add_argument("--parts", help="the bench of that name")
    a = p.parse_args()
    if not (a.products and a.parts) and {"products", "parts"} & set(a.tables or tables):
        p.error("the tables of products and of parts need --products and --parts, as scripts/bench_vs_peft.sh gives them")
    print(f"{machine()}; limits {a.limits}")
    for name in a.tables or tables:
        print(f"\n## {name}\n")
        tables[name](a)


main()
