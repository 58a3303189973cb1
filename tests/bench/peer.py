#!/usr/bin/env python3
"""peer.py: the steps of step.c in plain PyTorch: the side that bench.sh compares with.  Prints one line of JSON.

The same shapes, LoRA as a frozen linear layer plus scaled low-rank product, AdamW, random data.  Needs torch."""
import argparse
import json
import math
import os
import resource
import statistics
import time

SHAPES = {"vit-b16": (768, 12, 3072, 12, 197), "vit-s16": (384, 6, 1536, 12, 197),
          "minilm": (384, 12, 1536, 6, 64), "gpt2": (768, 12, 3072, 12, 256)}

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="vit-b16", choices=[*SHAPES, "mlp"])
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--seq", type=int, default=0, help="tokens; 0: the model's")
parser.add_argument("--rank", type=int, default=8)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--targets", default="qv", choices=["qv", "all-linear"])
parser.add_argument("--full", action="store_true", help="train everything")
parser.add_argument("--infer", action="store_true", help="no backward")
parser.add_argument("--bf16", action="store_true", help="autocast")
o = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(o.threads)

import torch  # noqa: E402  (reads the environment)
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

torch.set_num_threads(o.threads)
torch.manual_seed(0)


class Lora(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.scaling = base, 2.0
        self.A = nn.Parameter(torch.empty(o.rank, base.in_features).uniform_(-1, 1) / math.sqrt(base.in_features))
        self.B = nn.Parameter(torch.zeros(base.out_features, o.rank))

    def forward(self, x):
        return self.base(x) + F.linear(F.linear(x, self.A), self.B) * self.scaling


class Attention(nn.Module):
    def __init__(self, width, heads, causal):
        super().__init__()
        self.heads, self.causal = heads, causal
        for name in ("query", "key", "value", "output"):
            setattr(self, name, nn.Linear(width, width))

    def forward(self, x):
        n, t, width = x.shape
        q, k, v = (f(x).view(n, t, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.output(y.transpose(1, 2).reshape(n, t, width))


class Block(nn.Module):
    def __init__(self, width, heads, hidden, causal):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def adapt(module):
    """Every linear layer, or the queries and values, below module."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            if o.targets == "all-linear" or name in ("query", "value") or o.model == "mlp":
                setattr(module, name, Lora(child))
        else:
            adapt(child)


def network():
    if o.model == "mlp":
        net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        return net, nn.Identity(), torch.randn(o.batch, 64)
    width, heads, hidden, layers, tokens = SHAPES[o.model]
    tokens = o.seq or tokens
    net = nn.Sequential(*(Block(width, heads, hidden, o.model == "gpt2") for _ in range(layers)))
    return net, nn.Linear(width, 10), torch.randn(o.batch, tokens, width)


net, head, x = network()
if not o.full:
    net.requires_grad_(False)
    adapt(net)
token = -1 if o.model == "gpt2" else 0
labels = torch.randint(0, 10, (o.batch,))
trained = [p for p in [*net.parameters(), *head.parameters()] if p.requires_grad]
optimiser = torch.optim.AdamW(trained, lr=1e-4)


def logits():
    y = net(x)
    return y if o.model == "mlp" else head(y[:, token])


def step():
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=o.bf16):
        if o.infer:
            with torch.no_grad():
                logits()
        else:
            optimiser.zero_grad()
            F.cross_entropy(logits(), labels).backward()
            optimiser.step()
    return time.perf_counter() - start


for _ in range(2):
    step()
seconds = statistics.median(step() for _ in range(o.steps))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"model": o.model, "torch": torch.__version__, "threads": o.threads, "step_ms": seconds * 1e3,
                  "peak_rss_mb": peak, "trainable": sum(p.numel() for p in trained)}))
