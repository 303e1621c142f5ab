"""vft, PEFT + bitsandbytes and Unsloth in turns on one GPU: the same random-weight checkpoint, the same token ids, one table.

  python scripts/bench_gpu.py pack DIR      download the wheels that a GPU machine with torch, transformers and peft lacks, trimmed
  python scripts/bench_gpu.py run VFT       there (PYTHONPATH names the unpacked wheels); see --help for shapes and sizes

NF4 with nested scales, LoRA r 16 on the seven linears, dropout 0, AdamW, clipping at 1, every token labelled, no padding; all start
from one adapter. One process at a time, in turns; medians over steps after the warm-up; memory is the card's use sampled every 10 ms
less what was used before. Few tokens of the vocabulary occur, so that a loss that is trained falls: a contender's figure counts only
if PEFT's fell by a twentieth and its own stays within 1 % of PEFT's at every step. `vft` chooses what layers keep; `vft-full` computes
them again, as the peers do.
"""
import argparse, contextlib, csv, io, json, math, os, statistics, subprocess, sys, tempfile, threading, time, zipfile

WHEELS = """annotated_types==0.8.0 bitsandbytes==0.50.2 cut_cross_entropy==25.1.1 datasets==4.8.5 diffusers==0.42.1 dill==0.4.1
docstring_parser==0.18.0 hf_transfer==0.1.9 json5==0.17.3 liger_kernel==0.8.5 msgspec==0.22.0 multiprocess==0.70.19 nest_asyncio==1.6.0
pydantic==2.14.3 pydantic_core==2.50.4 structlog==26.1.0 torchao==0.18.0 trl==1.15.0 typeguard==4.6.0 tyro==1.0.17 unsloth==2026.10.9
unsloth_zoo==2026.10.9 xformers==0.0.35""".split()
UNUSED = {  # files of a wheel that the measurement does not need
    "bitsandbytes": lambda n: n.endswith(".so") and "libbitsandbytes_cuda130" not in n and "libbitsandbytes_cpu" not in n,
    "unsloth": lambda n: "studio/" in n,
}
SHAPES = {  # hidden, ffn, heads, kv heads, head size, layers, vocabulary, tied
    "llama-3.1-8b": (4096, 14336, 32, 8, 128, 32, 128256, False),
    "qwen2.5-7b-like": (3584, 18944, 28, 4, 128, 28, 152064, False),
    "smollm2-360m": (960, 2560, 15, 5, 64, 32, 49152, True),
    "tiny": (64, 192, 4, 2, 16, 2, 512, False),
}

MAKE = r'''
import json, os, sys, torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
out, shape, device, seq, rows = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
h, f, heads, kv, d, layers, v, tied = shape
torch.manual_seed(0)
config = LlamaConfig(vocab_size=v, hidden_size=h, intermediate_size=f, num_hidden_layers=layers, num_attention_heads=heads,
    num_key_value_heads=kv, head_dim=d, tie_word_embeddings=tied, max_position_embeddings=8192, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)
torch.set_default_dtype(torch.bfloat16)
with torch.device(device):
    model = LlamaForCausalLM(config)
model.save_pretrained(out)
modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
lora = LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, target_modules=modules, task_type="CAUSAL_LM")
get_peft_model(model, lora).save_pretrained(out + "/adapter")
draw = torch.Generator().manual_seed(1)
some = torch.randperm(v - 5, generator=draw)[:256] + 5
ids = some[torch.randint(256, (rows, seq), generator=draw)].tolist()
with open(out + "/rows.jsonl.new", "w") as file:
    file.writelines(json.dumps(dict(input_ids=r, labels=r)) + "\n" for r in ids)
os.rename(out + "/rows.jsonl.new", out + "/rows.jsonl")
'''

PEER = r'''
import json, sys, time
a = json.loads(sys.argv[1])
if a["who"] == "unsloth":
    from unsloth import FastLanguageModel
import torch
rows = [json.loads(line)["input_ids"] for line in open(a["model"] + "/rows.jsonl")]
modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
dtype = getattr(torch, a["dtype"])
if a["who"] == "unsloth":
    m, _ = FastLanguageModel.from_pretrained(a["model"], max_seq_length=a["seq"], dtype=dtype, load_in_4bit=True)
    m = FastLanguageModel.get_peft_model(m, r=16, lora_alpha=16, lora_dropout=0, bias="none", target_modules=modules,
        use_gradient_checkpointing="unsloth", random_state=0)
else:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    q = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    m = AutoModelForCausalLM.from_pretrained(a["model"], dtype=dtype, device_map=a["device"], quantization_config=q)
    m = prepare_model_for_kbit_training(m, use_gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False})
    m = get_peft_model(m, LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, target_modules=modules, task_type="CAUSAL_LM"))
m.config.use_cache = False
m.train()
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
missed = set_peft_model_state_dict(m, load_file(a["model"] + "/adapter/adapter_model.safetensors"))
assert not missed.unexpected_keys, missed.unexpected_keys
params = [p for p in m.parameters() if p.requires_grad]
opt = torch.optim.AdamW(params, lr=a["lr"])
cuda = a["device"] != "cpu"
times, losses = [], []
for s in range(a["steps"]):
    ids = torch.tensor(rows[s * a["bs"]:(s + 1) * a["bs"]], device=a["device"])
    t = time.perf_counter()
    loss = m(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    opt.step(); opt.zero_grad(set_to_none=True)
    losses.append(float(loss))
    if cuda: torch.cuda.synchronize()
    times.append(time.perf_counter() - t)
print("RESULT " + json.dumps(dict(times=times, losses=losses)))
'''


def pack(out):
    os.makedirs(out, exist_ok=True)
    tags = [f"manylinux_2_{n}_x86_64" for n in (28, 27, 24, 17)] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
    platforms = [x for tag in tags for x in ("--platform", tag)]
    for wheel in WHEELS:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.12",
                        "--implementation", "cp", *platforms, "-d", out, wheel], check=True)
    for name in os.listdir(out):
        unused = UNUSED.get(name.split("-")[0].lower())
        if unused:
            trim(os.path.join(out, name), unused)
    size = sum(os.path.getsize(os.path.join(out, n)) for n in os.listdir(out))
    print(f"{size / 2**20:.1f} MiB in {out}; there: python3 -m pip install -q --no-index --no-deps --target SITE {out}/*.whl; export PYTHONPATH=SITE")


def trim(path, unused):
    """Writes a wheel again without the files that `unused` names and without their rows in RECORD."""
    source = zipfile.ZipFile(path)
    with zipfile.ZipFile(path + ".new", "w", zipfile.ZIP_DEFLATED) as target:
        for item in source.infolist():
            if unused(item.filename):
                continue
            data = source.read(item)
            if item.filename.endswith(".dist-info/RECORD"):
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows(r for r in csv.reader(io.StringIO(data.decode())) if r and not unused(r[0]))
                data = text.getvalue().encode()
            target.writestr(item, data)
    os.replace(path + ".new", path)


class Memory:
    """The card's memory in use, sampled while a contender runs; no figure where NVML is not to be had."""

    def __init__(self, device):
        self.gib = self.thread = None
        self.number = int(device.partition(":")[2] or 0)
        self.stop = threading.Event()

    def __enter__(self):
        try:
            import pynvml
            pynvml.nvmlInit()
            visible = [v for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v]
            named = visible[self.number] if visible else str(self.number)
            card = (pynvml.nvmlDeviceGetHandleByIndex(int(named)) if named.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(named))
            used = lambda: pynvml.nvmlDeviceGetMemoryInfo(card).used
            self.base = self.peak = used()
        except Exception:
            return self

        def watch():
            while not self.stop.wait(0.01):
                self.peak = max(self.peak, used())

        self.thread = threading.Thread(target=watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        if self.thread:
            self.thread.join()
            self.gib = (self.peak - self.base) / 2**30


def run_vft(a, who, model, home, turn):
    out = f"{home}/{who}{turn}"
    keys = {"checkpoint_dir": model, "out_dir": out, "device": a.device, "precision": {"bfloat16": "bf16-true", "float16": "16-true"}[a.dtype],
            "quantize": "bnb.nf4-dq", "adapter_path": f"{model}/adapter", "data": "JSON",
            "train.gradient_checkpointing": "full" if who == "vft-full" else "auto",
            "data.path": f"{model}/rows.jsonl", "data.val_split_fraction": 0, "train.global_batch_size": a.bs, "train.micro_batch_size": a.bs,
            "train.epochs": 1, "train.lr_warmup_steps": 0, "train.shuffle": "false", "train.max_norm": 1.0, "train.min_lr": a.lr,
            "optimizer.lr": a.lr, "optimizer.weight_decay": 0.01}
    done = subprocess.run([a.vft, "finetune", *[x for k, v in keys.items() for x in (f"--{k}", str(v))]], capture_output=True, text=True)
    if done.returncode:
        return None, done.stderr.strip().splitlines()[-2:]
    steps = [json.loads(line) for line in open(f"{out}/metrics.jsonl")]
    return dict(times=[s["tokens"] / s["tokens_per_s"] for s in steps], losses=[s["loss"] for s in steps]), None


def run_peer(a, who, model):
    arguments = dict(who=who, model=model, device=a.device, dtype=a.dtype, bs=a.bs, seq=a.seq, steps=a.steps, lr=a.lr)
    environment = dict(os.environ, HF_HUB_OFFLINE="1", UNSLOTH_DISABLE_STATISTICS="1")
    done = subprocess.run([sys.executable, "-c", PEER, json.dumps(arguments)], capture_output=True, text=True, env=environment)
    line = next((l for l in done.stdout.splitlines() if l.startswith("RESULT ")), None)
    return (json.loads(line[7:]), None) if line else (None, done.stderr.strip().splitlines()[-2:])


def run(a):
    shape = list(SHAPES[a.shape])
    shape[5] = a.layers or shape[5]
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    versions = "; ".join(f"{n} {v}" for n, v in installed())
    print(f"{a.shape}, {shape[5]} layers, {a.bs} x {a.seq} tokens, {a.dtype}, {a.steps} steps of which {a.warm_up} warm up\n{card()}\n{versions}\n")
    print("| turn | contender | tokens/s | spread | peak GiB | loss against PEFT | |\n|---|---|---|---|---|---|---|", flush=True)
    best, failed, began = {}, False, time.monotonic()
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(dir=a.dir))
        name = "-".join(map(str, (a.shape, shape[5], a.bs, a.seq, a.steps)))
        model = os.path.join(os.path.abspath(a.dir) if a.dir else home, f"bench-{name}")
        if not os.path.exists(f"{model}/rows.jsonl"):
            subprocess.run([sys.executable, "-c", MAKE, model, json.dumps(shape), a.device, str(a.seq), str(a.bs * a.steps)], check=True)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            with open(f"{model}/{name}", "w") as to:
                to.write(open(f"{root}/configs/smoke/model/{name}").read())
        for turn in range(1, a.turns + 1):
            reference = None
            for who in ("peft", *a.contenders):
                if time.monotonic() - began > a.budget:
                    print(f"| {turn} | {who} | left out: the budget of {a.budget} s is spent | | | | |", flush=True)
                    continue
                with Memory(a.device) as memory:
                    result, failure = run_vft(a, who, model, home, turn) if who.startswith("vft") else run_peer(a, who, model)
                if result is None:
                    failed = True
                    print(f"| {turn} | {who} | failed: {' '.join(failure)} | | | | |", flush=True)
                    continue
                if who == "peft":
                    reference = result["losses"]
                far, verdict = gate(result["losses"], reference, a.steps)
                rates = sorted(a.bs * a.seq / t for t in result["times"][a.warm_up:])
                rate, spread = statistics.median(rates), (rates[-1] - rates[0]) / statistics.median(rates)
                gib = "–" if memory.gib is None else f"{memory.gib:.2f}"
                print(f"| {turn} | {who} | {rate:.0f} | {spread:.0%} | {gib} | {far} | {verdict} |", flush=True)
                if verdict:
                    failed = True
                else:
                    best.setdefault(who, {})[turn] = (rate, memory.gib)
    for ours in (who for who in a.contenders if who.startswith("vft")):
        for peer in ("peft", *(who for who in a.contenders if not who.startswith("vft"))):
            compare(best, ours, peer)
    return 1 if failed else 0


def gate(losses, reference, steps):
    """The largest distance from PEFT's losses, and why a figure does not count, if it does not."""
    if reference is None:
        return "–", "does not count: PEFT gave no losses"
    if len(losses) != steps or len(reference) != steps:
        return "–", f"does not count: {len(losses)} steps, PEFT {len(reference)}, asked {steps}"
    if not all(map(math.isfinite, losses + reference)):
        return "–", "does not count: a loss is no number"
    far = max(abs(x / y - 1) for x, y in zip(losses, reference))
    if reference[-1] > 0.95 * reference[0]:
        return f"{far:.1e}", f"does not count: PEFT's loss went from {reference[0]:.3f} to {reference[-1]:.3f} only"
    return f"{far:.1e}", "" if far <= 0.01 else "does not count"


def compare(best, ours, peer):
    """Medians of ratios of the turns in which both counted."""
    turns = sorted(best.get(ours, {}).keys() & best.get(peer, {}).keys())
    if not turns:
        return
    pairs = [(best[ours][t], best[peer][t]) for t in turns]
    speed = statistics.median(v[0] / p[0] for v, p in pairs)
    memory = [v[1] / p[1] for v, p in pairs if v[1] and p[1]]
    print(f"\n{ours} against {peer}, {len(turns)} turns: {speed:.2f} x tokens/s"
          + (f", {statistics.median(memory):.2f} x memory" if memory else ""))


def installed():
    from importlib import metadata
    for name in ("torch", "transformers", "peft", "bitsandbytes", "unsloth"):
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "absent"


def card():
    query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.draw", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no nvidia-smi"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = p.add_subparsers(required=True)
    v = verbs.add_parser("pack")
    v.add_argument("out")
    v.set_defaults(do=lambda a: pack(a.out))
    v = verbs.add_parser("run")
    v.add_argument("vft")
    v.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    v.add_argument("--layers", type=int, help="fewer layers than the shape has, for a quick look")
    v.add_argument("--bs", type=int, default=4)
    v.add_argument("--seq", type=int, default=2048)
    v.add_argument("--steps", type=int, default=40)
    v.add_argument("--warm-up", type=int, default=10)
    v.add_argument("--turns", type=int, default=3)
    v.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    v.add_argument("--device", default="cuda")
    v.add_argument("--lr", type=float, default=1e-3)
    v.add_argument("--contenders", nargs="*", default=["vft", "vft-full", "unsloth"], choices=("vft", "vft-full", "unsloth"),
                   help="beside PEFT, in this order")
    v.add_argument("--dir", help="where the checkpoint is written; there it is kept and used again")
    v.add_argument("--budget", type=float, default=math.inf, help="seconds after which nothing more is started")
    v.set_defaults(do=run)
    a = p.parse_args()
    sys.exit(a.do(a))


if __name__ == "__main__":
    main()
