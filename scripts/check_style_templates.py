"""Render the chat templates that vft makes from prompt styles with transformers, and compare with the texts that are trained.

usage: VFT_CASES=cases.json cargo test --test style_templates every_style
       python scripts/check_style_templates.py cases.json [ADAPTER_DIR]        (transformers; 5.23.0 when last run: 7104 of 7104)
The cases go through `apply_chat_template` of the bundled tokenizer, each with and without `add_generation_prompt`. With an adapter's directory its own
template, as transformers finds it there, writes one conversation, which is printed with its tokens.
"""
import json, sys
import transformers
from transformers import AutoTokenizer

cases, *adapter = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained("configs/smoke/model")
count, wrong = 0, 0
for case in json.load(open(cases)):
    for opened in (True, False):
        text = tokenizer.apply_chat_template(case["messages"], chat_template=case["template"], tokenize=False, add_generation_prompt=opened)
        count += 1
        if text != case["text"]:
            wrong += 1
            print(f"{case['style']} {case['messages']}\n  want {case['text']!r}\n  got  {text!r}")
print(f"transformers {transformers.__version__}: {count - wrong} of {count} texts are those that are trained")
if adapter:
    tokenizer = AutoTokenizer.from_pretrained(adapter[0])
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    print(repr(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)))
    print(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])
sys.exit(wrong > 0)
