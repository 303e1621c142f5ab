#!/usr/bin/env python3
"""Checks that vft and huggingface_hub find each other's downloads.

A loopback server plays the Hub. vft fetches a model and a dataset, and huggingface_hub finds them without a request; then the other way
round. Needs huggingface_hub and cargo; run from the repository's root:

    python scripts/check_hub_cache.py

Last run with huggingface_hub 2.4.0, Python 3.11.7: all found both ways.
"""

import hashlib
import json
import os
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHARDS = {f"model-0000{i}-of-00002.safetensors": bytes([i]) * 1000 for i in (1, 2)}
INDEX = json.dumps({"weight_map": {f"w{i}": name for i, name in enumerate(SHARDS)}}).encode()
REPOS = {
    "models/org/tiny": {
        "README.md": b"# tiny\n",
        "config.json": b"{}",
        "model.safetensors.index.json": INDEX,
        "pytorch_model.bin": b"pickle",
        "tokenizer.json": b'{"t": 1}',
        **SHARDS,
    },
    "datasets/org/rows": {"README.md": b"# rows\n", "data/train.jsonl": b"{}\n"},
}
MODEL_FILES = ["config.json", "tokenizer.json", "model.safetensors.index.json", *SHARDS]
REQUESTS: list[str] = []


def is_large(name: str) -> bool:
    return name.endswith(".safetensors")


def etag(name: str, body: bytes) -> str:
    """LFS files: SHA-256; others: git's blob id."""
    if is_large(name):
        return hashlib.sha256(body).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        REQUESTS.append(f"{self.command} {path}")
        for key, files in REPOS.items():
            address = key.removeprefix("models/")
            if path.startswith(f"/api/{key}/revision/") or path == f"/api/{key}":
                siblings = [self.sibling(name, body) for name, body in files.items()]
                info = {"_id": "0", "id": "org/x", "sha": COMMIT, "siblings": siblings, "private": False}
                info |= {"disabled": False, "downloads": 0, "likes": 0, "tags": []}
                return self.reply(200, {"Content-Type": "application/json"}, json.dumps(info).encode())
            if path.startswith(f"/api/{key}/tree/"):
                tree = [self.entry(name, body) for name, body in files.items()]
                return self.reply(200, {"Content-Type": "application/json"}, json.dumps(tree).encode())
            name = path.removeprefix(f"/{address}/resolve/{COMMIT}/")
            if name in files:
                headers = {"ETag": f'"{etag(name, files[name])}"', "X-Repo-Commit": COMMIT}
                return self.reply(200, headers, files[name])
        return self.reply(404, {"X-Error-Code": "EntryNotFound"}, b"")

    do_HEAD = do_GET

    @staticmethod
    def sibling(name: str, body: bytes) -> dict:
        lfs = {"lfs": {"sha256": etag(name, body), "size": len(body), "pointerSize": 130}} if is_large(name) else {}
        return {"rfilename": name, "size": len(body), "blobId": "0" * 40, **lfs}

    @staticmethod
    def entry(name: str, body: bytes) -> dict:
        lfs = {"lfs": {"oid": etag(name, body), "size": len(body), "pointerSize": 130}} if is_large(name) else {}
        return {"type": "file", "path": name, "size": len(body), "oid": "0" * 40, **lfs}


def vft(home: str, endpoint: str, offline: bool) -> None:
    """Fetches the model and the dataset with vft, and checks their contents."""
    test = "python::a_model_and_a_dataset_with_the_environment"
    command = ["cargo", "test", "--quiet", "--test", "hub", "--", "--ignored", "--exact", test]
    drop = ("HF_HUB_CACHE", "HF_TOKEN", "TRANSFORMERS_OFFLINE")
    env = {name: value for name, value in os.environ.items() if name not in drop}
    env |= {"HF_HOME": home, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": str(int(offline))}
    result = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    output = result.stdout + result.stderr
    assert result.returncode == 0 and "1 passed" in output, output


def find(home: str, endpoint: str) -> None:
    """Finds them with huggingface_hub in the cache alone."""
    cache = f"{home}/hub"
    for name in MODEL_FILES:
        found = huggingface_hub.try_to_load_from_cache("org/tiny", name, cache_dir=cache)
        assert isinstance(found, str), name
        with open(found, "rb") as file:
            assert file.read() == REPOS["models/org/tiny"][name], name
    folder = huggingface_hub.snapshot_download("org/tiny", cache_dir=cache, local_files_only=True)
    assert sorted(os.listdir(folder)) == sorted(MODEL_FILES), os.listdir(folder)
    rows = {"repo_type": "dataset", "cache_dir": cache, "local_files_only": True}
    train = huggingface_hub.hf_hub_download("org/rows", "data/train.jsonl", **rows)
    with open(train, "rb") as file:
        assert file.read() == b"{}\n"
    scan = huggingface_hub.scan_cache_dir(cache)
    assert {(r.repo_type, r.repo_id) for r in scan.repos} == {("model", "org/tiny"), ("dataset", "org/rows")}
    assert not scan.warnings, scan.warnings
    REQUESTS.clear()
    huggingface_hub.snapshot_download("org/tiny", cache_dir=cache, endpoint=endpoint, allow_patterns=MODEL_FILES)
    assert not [r for r in REQUESTS if r.startswith("GET /org")], REQUESTS


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    with tempfile.TemporaryDirectory() as home:
        vft(home, endpoint, offline=False)
        fetched = [r for r in REQUESTS if r.endswith(".bin")]
        assert not fetched, fetched
        find(home, endpoint)
        print(f"huggingface_hub {huggingface_hub.__version__} finds what vft fetched")
    with tempfile.TemporaryDirectory() as home:
        where = {"cache_dir": f"{home}/hub", "endpoint": endpoint}
        huggingface_hub.snapshot_download("org/tiny", allow_patterns=MODEL_FILES, **where)
        huggingface_hub.snapshot_download("org/rows", repo_type="dataset", **where)
        REQUESTS.clear()
        vft(home, endpoint, offline=True)
        assert not REQUESTS, REQUESTS
        vft(home, endpoint, offline=False)
        assert not [r for r in REQUESTS if "/resolve/" in r], REQUESTS
        print("vft finds what huggingface_hub fetched")


main()
