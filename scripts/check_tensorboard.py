"""Read a run's event file with TensorBoard's own reader and compare every number with metrics.jsonl.

usage: python scripts/check_tensorboard.py OUT_DIR      (tensorboard)
A run with `logger_name: tensorboard` wrote OUT_DIR. Prints the tags and how many numbers each has.
"""
import glob, json, struct, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

out = sys.argv[1]
(log,) = glob.glob(f"{out}/logs/tensorboard/version_0")
events = EventAccumulator(log, size_guidance={"scalars": 0}).Reload()
NAMES = {"lr": "learning_rate", "skipped": None, "elapsed_s": None, "target_tokens": None, "step": None}
f32 = lambda x: struct.unpack("f", struct.pack("f", x))[0]
want = {}
for line in open(f"{out}/metrics.jsonl", encoding="utf-8"):
    row = json.loads(line)
    for key, value in row.items():
        tag = NAMES.get(key, key)
        if tag and value is not None:
            want.setdefault(tag, []).append((row["step"], f32(value)))
assert sorted(events.Tags()["scalars"]) == sorted(want), (events.Tags()["scalars"], sorted(want))
for tag, numbers in sorted(want.items()):
    got = [(e.step, e.value) for e in events.Scalars(tag)]
    assert got == numbers, f"{tag}: {[(g, w) for g, w in zip(got, numbers) if g != w][:3]}"
    print(f"{tag}: {len(got)}")
