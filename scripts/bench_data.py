"""Rows a second from JSON lines to ids and labels: vft against `datasets.map(batched=True)` with transformers' fast tokenizer, in turns.

usage: python scripts/bench_data.py VFT [--rows 200000] [--rounds 3] [--work DIR] [--kind smollm2|llama3] [--jobs chat alpaca]

Rows are Alpaca's, half English (a Markov chain over the docstrings of Python's library), half Vietnamese (syllables of its onsets, rhymes
and tones, by Zipf's law), a tenth with code and numbers; 100 to 300 tokens each. The tokenizer is a byte-level BPE of 32,000 tokens,
trained here on such text, split as SmolLM2's or as Llama 3's, with SmolLM2's chat template.

jobs   chat: the whole conversation by the chat template, the answer trained; as TRL does it, prompt and whole are rendered and encoded
       alpaca: Alpaca's prompt and the answer encoded apart, EOS, the answer trained; as Axolotl and LitGPT do it
sides  map: `datasets.map(batched=True)` alone, the rows already loaded, with num_proc=None (rayon's threads) and 2 (processes)
       vft: `vft data preview -n 0` with an empty cache, from its start to its end: rows hashed, read, encoded, written
       limit: `Tokenizer.encode_batch_fast` of the tokenizers library over the same texts, each encoded once, on as many threads
Ids and labels of both sides are compared, all of them. In brackets stand seconds of CPU: they suffer less where others use the machine.
                                (datasets 5.x, transformers 5.x, tokenizers, numpy)
"""
import argparse, json, os, platform, random, re, resource, statistics, subprocess, sys, sysconfig, tempfile, time
from pathlib import Path

EOS = "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ALPACA = "Below is an instruction that describes a task{also}. Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n"
ALSO = ", paired with an input that provides further context"


def english(rng):
    """A walk over the words of the library's docstrings."""
    after, starts = {}, []
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        for text in re.findall(r'"""(.*?)"""', path.read_text("utf8", "ignore"), re.S):
            words = text.split()
            if len(words) > 8:
                starts.append(words[0])
                for a, b in zip(words, words[1:]):
                    after.setdefault(a, []).append(b)
    word = None

    def walk(n):
        nonlocal word
        out = []
        for _ in range(n):
            next = after.get(word)
            word = next[int(rng.random() * len(next))] if next else starts[int(rng.random() * len(starts))]
            out.append(word)
        return " ".join(out)

    return walk


def vietnamese(rng):
    """Words of one or two syllables, rarer by their rank."""
    onsets = "b c ch d đ g gh gi h kh l m n ng ngh nh ph qu r s t th tr v x".split()
    vowels = ["aàáảãạ", "ăằắẳẵặ", "âầấẩẫậ", "eèéẻẽẹ", "êềếểễệ", "iìíỉĩị", "oòóỏõọ", "ôồốổỗộ", "ơờớởỡợ", "uùúủũụ", "ưừứửữự"]
    ends = ["", "", "c", "ch", "i", "m", "n", "ng", "nh", "o", "p", "t", "u", "y"]
    syllables = sorted({o + v[t] + e for o in onsets for v in vowels for t in range(6) for e in ends})
    rng.shuffle(syllables)
    syllables = syllables[:4000]
    zipf = [1 / (rank + 4) for rank in range(len(syllables))]
    words = [" ".join(rng.choices(syllables, zipf, k=rng.choice((1, 2, 2)))) for _ in range(20000)]
    zipf, total = [], 0.0
    for rank in range(len(words)):
        total += 1 / (rank + 8)
        zipf.append(total)

    def walk(n):
        out, sentence = [], True
        for word in rng.choices(words, cum_weights=zipf, k=n * 2 // 3 + 1):
            word = word.capitalize() if sentence else word
            sentence = rng.random() < 0.07
            out.append(word + ("." if sentence else "," if rng.random() < 0.05 else ""))
        return " ".join(out)

    return walk


def rows(count, seed=7):
    rng = random.Random(seed)
    languages = [english(rng), vietnamese(rng)]

    def code():
        name = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz_", k=rng.randint(3, 9)))
        return f"\n```python\ndef {name}(x, y={rng.randint(0, 999)}):\n    return x * {rng.random():.4f} + y[{rng.randint(0, 99)}]\n```\n"

    for i in range(count):
        words = languages[i % 2]
        output = words(rng.randint(40, 130))
        if rng.random() < 0.1:
            output += code() + words(10)
        yield {"instruction": words(rng.randint(8, 25)), "input": words(rng.randint(20, 50)) if rng.random() < 0.5 else "", "output": output}


def make(work, count, kind):
    """The data, the model directory without weights, the configs."""
    data, model = work / f"rows-{count}.jsonl", work / f"model-{kind}"
    if not data.exists():
        with open(work / "making", "w") as f:
            for row in rows(count):
                f.write(json.dumps(row, ensure_ascii=False) + "\n")
        os.rename(work / "making", data)
    if not (model / "tokenizer_config.json").exists():
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers as pre, trainers
        from transformers import PreTrainedTokenizerFast

        t = Tokenizer(models.BPE())
        if kind == "smollm2":
            t.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False, use_regex=True)])
        else:
            t.pre_tokenizer = pre.Sequence([pre.Split(Regex(LLAMA3), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)])
        t.decoder = decoders.ByteLevel()
        special = ["<|endoftext|>", "<|im_start|>", EOS, "<repo_name>", "<file_sep>", "<jupyter_start>", "<jupyter_text>", "<jupyter_code>"]
        text = (" ".join(r.values()) for r in rows(40000, seed=8))
        t.train_from_iterator(text, trainers.BpeTrainer(vocab_size=32000, special_tokens=special, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False))
        tok = PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<|im_start|>", eos_token=EOS, pad_token=EOS, unk_token="<|endoftext|>")
        tok.chat_template = TEMPLATE
        tok.save_pretrained(model)
    shape = dict(architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=32000, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, rope_theta=100000.0, hidden_act="silu", tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)
    (model / "config.json").write_text(json.dumps(shape))
    return data, model


def texts(job, row, tok):
    """Prompt and answer of a row, as text."""
    if job == "alpaca":
        input = f"### Input:\n{row['input']}\n\n" if row["input"] else ""
        return ALPACA.format(also=ALSO if row["input"] else "", instruction=row["instruction"], input=input), row["output"]
    turns = [{"role": "user", "content": row["instruction"] + ("\n" + row["input"] if row["input"] else "")}, {"role": "assistant", "content": row["output"]}]
    return tok.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True), tok.apply_chat_template(turns, tokenize=False)


def mapped(job, tok):
    """The function for `map`."""

    def chat(batch):
        pairs = [texts("chat", dict(zip(batch, values)), tok) for values in zip(*batch.values())]
        prompts = tok([p for p, _ in pairs], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        ids = tok([t for _, t in pairs], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        # The line break that the template writes after the last turn is not trained.
        return {"input_ids": ids, "labels": [[-100] * len(p) + t[len(p) : -1] + [-100] for p, t in zip(prompts, ids)]}

    def alpaca(batch):
        pairs = [texts("alpaca", dict(zip(batch, values)), tok) for values in zip(*batch.values())]
        prompts = tok([p for p, _ in pairs], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        answers = tok([a for _, a in pairs], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        eos = [tok.eos_token_id]
        return {"input_ids": [p + a + eos for p, a in zip(prompts, answers)], "labels": [[-100] * len(p) + a + eos for p, a in zip(prompts, answers)]}

    return chat if job == "chat" else alpaca


def cpu():
    """Seconds of CPU of this process and of the children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def peer(job, data, model, processes, out):
    """In a process of its own: seconds of `map`, and of CPU; ids and labels to `out` if it is named."""
    import datasets, numpy
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        loaded = datasets.load_dataset("json", data_files=data, split="train", cache_dir=cache)
        tok = AutoTokenizer.from_pretrained(model)
        began, before = time.perf_counter(), cpu()
        done = loaded.map(mapped(job, tok), batched=True, num_proc=processes, remove_columns=loaded.column_names, load_from_cache_file=False)
        seconds = time.perf_counter() - began, cpu() - before
        if out:
            for column in ("input_ids", "labels"):
                chunks = [numpy.asarray(c.flatten()) for c in done.with_format("arrow").data.column(column).chunks]
                numpy.concatenate(chunks).astype("<i4").tofile(f"{out}.{column}")
    print(json.dumps(seconds))


def limit(job, data, model):
    """In a process of its own: seconds of the tokenizer alone, and of CPU."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    inner, tok = Tokenizer.from_file(f"{model}/tokenizer.json"), AutoTokenizer.from_pretrained(model)
    pairs = [texts(job, json.loads(line), tok) for line in open(data)]
    flat = [t for _, t in pairs] if job == "chat" else [t for pair in pairs for t in pair]
    seconds = used = 0.0
    for i in range(0, len(flat), 2000):
        chunk = flat[i : i + 2000]
        began, before = time.perf_counter(), cpu()
        inner.encode_batch_fast(chunk, add_special_tokens=False)
        seconds, used = seconds + time.perf_counter() - began, used + cpu() - before
    print(json.dumps((seconds, used)))


def alone(*arguments, **env):
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def ours(vft, config, keep=None):
    """Seconds, and of CPU, of a cold and of a warm start."""
    with tempfile.TemporaryDirectory(dir=keep) as cache:
        times = []
        for _ in range(2):
            began, before = time.perf_counter(), cpu()
            done = subprocess.run([vft, "data", "preview", "--config", config, "-n", "0"], capture_output=True, text=True, env={**os.environ, "VFT_CACHE": cache})
            times.append((time.perf_counter() - began, cpu() - before))
            assert done.returncode == 0, done.stderr
        (store,) = [p for p in Path(cache, "data").iterdir() if not p.name.startswith(".")]
        return times, {n: (store / f"{f}.bin").read_bytes() for n, f in (("input_ids", "tokens"), ("labels", "labels"))} if keep else None


def main():
    p = argparse.ArgumentParser()
    p.add_argument("vft")
    p.add_argument("--rows", type=int, default=200000)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--work", default=os.path.join(tempfile.gettempdir(), "vft-bench-data"))
    p.add_argument("--kind", choices=["smollm2", "llama3"], default="smollm2")
    p.add_argument("--jobs", nargs="+", choices=["chat", "alpaca"], default=["chat", "alpaca"])
    a = p.parse_args()
    import datasets, tokenizers, transformers

    work, vft = Path(a.work), os.path.abspath(a.vft)
    work.mkdir(parents=True, exist_ok=True)
    data, model = make(work, a.rows, a.kind)
    cores = len(os.sched_getaffinity(0))
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    print(f"{cpu}, {cores} cores; Python {platform.python_version()}, datasets {datasets.__version__}, transformers {transformers.__version__}, tokenizers {tokenizers.__version__}")
    print(f"{a.rows} rows, {data.stat().st_size / 1e6:.0f} MB, tokenizer split as {a.kind}\n")
    print("| job | round | map, threads | map, 2 processes | vft | tokenizer alone | vft / best map | the same by CPU | vft / tokenizer alone | the same by CPU | vft, from its cache |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for job in a.jobs:
        config = work / f"{job}-{a.kind}.yml"
        style = "" if job == "chat" else "\n    prompt_style: alpaca"
        config.write_text(f"checkpoint_dir: {model}\ndata:\n  class_path: JSON\n  init_args:\n    path: {data}\n    mask_prompt: true\n    val_split_fraction: 0.001{style}\n")
        rounds, same = [], None
        for r in range(a.rounds):
            threads = alone("--peer", job, data, model, 0, work / "theirs" if r == 0 else "", TOKENIZERS_PARALLELISM="true")
            (cold, warm), store = ours(vft, config, work if r == 0 else None)
            processes = alone("--peer", job, data, model, cores, "", TOKENIZERS_PARALLELISM="false")
            bound = alone("--limit", job, data, model, TOKENIZERS_PARALLELISM="true")
            if r == 0:
                same = all((work / f"theirs.{column}").read_bytes() == store[column] for column in store)
            best = [min(pair) for pair in zip(threads, processes)]
            rounds.append([side[i] / cold[i] for side in (best, bound) for i in (0, 1)])
            rates = " | ".join(f"{a.rows / s:,.0f} ({used:.1f} s)" for s, used in (threads, processes, cold, bound))
            ratios = " | ".join(f"{x:.2f}" for x in rounds[-1])
            print(f"| {job} | {r + 1} | {rates} | {ratios} | {warm[0]:.2f} s |", flush=True)
        medians = " | ".join(f"**{statistics.median(column):.2f}**" for column in zip(*rounds))
        print(f"| {job} | median | | | | | {medians} | ids and labels {'the same' if same else 'DIFFER'} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        job, data, model, processes, out = sys.argv[2:]
        peer(job, data, model, int(processes) or None, out)
    elif sys.argv[1:2] == ["--limit"]:
        limit(*sys.argv[2:])
    else:
        main()
