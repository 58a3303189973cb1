"""Makes tests/golden/lora/plain_*.safetensors: LoRA cases that HuggingFace's code did not record.

    python lora.py DIRECTORY         (numpy)

Other shapes, storages and options than the case_*.safetensors, from the formulas in their README alone.  Outputs are the
formulas in f64; gradients of sum(y g) are complex-step derivatives (Im f(v + ih) / h), which need no second formula and
are exact to rounding.  A length without gradient is taken from the real part.
"""
import json
import pathlib
import struct
import sys

import numpy as np

out = pathlib.Path(sys.argv[1])
STEP = 1e-100


def save(name, tensors, **metadata):
    header, data = {"__metadata__": {k: v if isinstance(v, str) else repr(v) for k, v in metadata.items()}}, b""
    for key, value in tensors.items():
        raw = np.ascontiguousarray(value)
        dtype = {"f8": "F64", "f4": "F32", "i8": "I64", "u1": "U8"}[raw.dtype.str[1:]]
        header[key] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [len(data), len(data) + raw.nbytes]}
        data += raw.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (out / f"plain_{name}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def pair(p):
    """A number if both are the same: both spellings occur."""
    return p[0] if p[0] == p[1] else list(p)


def gradients(f, values, names, g):
    """d sum(f(values) g) / d values[name]"""
    result = {}
    for name in names:
        grad = np.zeros(values[name].shape)
        for i in np.ndindex(grad.shape):
            moved = {k: v.astype(complex) if v.dtype.kind == "f" else v for k, v in values.items()}
            moved[name][i] += STEP * 1j
            grad[i] = (f(moved) * g).sum().imag / STEP
        result[name] = grad
    return result


def conv(x, w, stride, padding, dilation):
    """x [N, C, H, W], w [O, C / groups, k0, k1]"""
    groups = x.shape[1] // w.shape[1]
    if groups > 1:
        parts = zip(np.split(x, groups, 1), np.split(w, groups))
        return np.concatenate([conv(*p, stride, padding, dilation) for p in parts], 1)
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    k = w.shape[2:]
    size = [(x.shape[2 + d] - dilation[d] * (k[d] - 1) - 1) // stride[d] + 1 for d in range(2)]
    y = 0
    for i in range(k[0]):
        for j in range(k[1]):
            a, b = i * dilation[0], j * dilation[1]
            part = x[:, :, a : a + stride[0] * (size[0] - 1) + 1 : stride[0], b : b + stride[1] * (size[1] - 1) + 1 : stride[1]]
            y = y + np.einsum("nchw,oc->nohw", part, w[:, :, i, j])
    return y


def layer(name, kind, shape, r, alpha, n_out=0, bias=True, dora=False, rslora=False, lora_bias=False, dropout=0.0,
          flipped=False, kernel=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1,
          skip=(), dtype=None):
    rng = np.random.default_rng(sum(name.encode()))
    s = alpha / (np.sqrt(r) if rslora else r)
    v = {}
    if kind == "embedding":
        vocabulary, n_out = n_out, shape[-1]
        ids = rng.integers(0, vocabulary, shape[:-1])
        v["W0"], v["A"], v["B"] = rng.normal(size=(vocabulary, n_out)), rng.normal(size=(r, vocabulary)), rng.normal(size=(n_out, r))
        delta = lambda v: (v["B"] @ v["A"]).T
        axes, channel = (0,), (1, -1)
    elif kind == "conv2d":
        n_in = shape[-3]
        v["x"], v["W0"] = rng.normal(size=shape), rng.normal(size=(n_out, n_in // groups, *kernel))
        v["A"], v["B"] = rng.normal(size=(r, n_in, *kernel)), rng.normal(size=(n_out, r // groups, 1, 1))
        product = lambda B, A: np.einsum("or,rchw->ochw", B[:, :, 0, 0], A)
        delta = lambda v: np.concatenate([product(*p) for p in zip(np.split(v["B"], groups), np.split(v["A"], groups))])
        axes, channel = (1, 2, 3), (-1, 1, 1, 1)
    else:
        n_in = shape[-1]
        v["x"], v["W0"] = rng.normal(size=shape), rng.normal(size=(n_out, n_in))
        v["A"], v["B"] = rng.normal(size=(r, n_in)), rng.normal(size=(n_out, r))
        delta = lambda v: v["B"] @ v["A"]
        axes, channel = (1,), (-1, 1)
    if bias:
        v["b0"] = rng.normal(size=n_out)
    if lora_bias:
        v["c"] = rng.normal(size=n_out)
    length = lambda v: np.sqrt(((v["W0"] + s * delta(v)).real ** 2).sum(axes))
    magnitude_init = length(v) if groups == 1 else None
    if dora:
        v["m"] = magnitude_init * rng.uniform(0.5, 1.5, n_out)
    keep = (rng.uniform(size=shape) >= dropout).astype(float)

    def apply(x, w):
        if kind == "embedding":
            return w[ids]
        if kind == "conv2d":
            return conv(x if x.ndim == 4 else x[None], w, stride, padding, dilation)
        return x @ w.T

    def to_output(q):
        return q.reshape(-1, 1, 1) if kind == "conv2d" else q

    def forward(v, train):
        x = v.get("x")
        dropped = x * keep / (1 - dropout) if train and dropout and x is not None else x
        q = to_output(v["m"] / length(v)) if dora else 1
        y = apply(x, v["W0"]) + (q - 1) * apply(dropped, v["W0"]) + q * s * apply(dropped, delta(v))
        if bias:
            y = y + to_output(v["b0"])
        return y + to_output(s * v["c"]) if lora_bias else y

    y = {"y_train": forward(v, True), "y_eval": forward(v, False)}
    g = rng.normal(size=y["y_eval"].shape)
    names = [k for k in ("x", "A", "B", "c", "m") if k in v]
    grads = {k: gradients(lambda v: forward(v, k == "train"), v, names, g) for k in ("train", "eval")}
    merged = None if groups > 1 else (v["W0"] + s * delta(v)) * ((v["m"] / magnitude_init).reshape(channel) if dora else 1)
    b_merged = (v["b0"] if bias else 0) + (s * v["c"] if lora_bias else 0)

    pre = "lora_embedding_" if kind == "embedding" else "lora_"
    call = {"x": "x", "A": pre + "A", "B": pre + "B", "c": "lora_B_bias", "m": "magnitude"}
    t = {call.get(k, k): a for k, a in v.items()} | {"g": g}
    stored = (lambda w: w.T) if flipped else (lambda w: w)
    t["W0"] = stored(t["W0"])
    if kind != "conv2d" or v["x"].ndim == 4:
        t |= y
    else:
        t |= {k: a[0] for k, a in y.items()} | {"g": g[0]}
    if kind == "embedding":
        t |= {"ids": ids, "y": t.pop("y_eval")} | {"grad." + call[k]: a for k, a in grads["eval"].items()}
        del t["y_train"]
    else:
        t |= {f"grad_{mode}.{call[k]}": a for mode in grads for k, a in grads[mode].items()}
    if dropout:
        t["drop_keep"] = keep.astype(np.uint8)
    if groups == 1 and (bias or not lora_bias):
        t["W_merged"] = stored(merged)
        if bias:
            t["b_merged"] = b_merged
    if dora:
        t["magnitude_init"] = magnitude_init
    if dtype:
        t = {k: a.astype(dtype) if a.dtype.kind == "f" else a for k, a in t.items()}
    t = {k: a for k, a in t.items() if not k.startswith(tuple(skip) or "?")}
    save(name, t, method="lora", kind=kind, r=r, lora_alpha=alpha, use_dora=dora, use_rslora=rslora, lora_bias=lora_bias,
         lora_dropout=dropout, fan_in_fan_out=flipped, base_bias=bias,
         **(dict(stride=pair(stride), padding=pair(padding), dilation=pair(dilation),
              **(dict(groups=groups) if groups > 1 else {})) if kind == "conv2d" else {}))


def init(name, rows, cols, r, alpha, rslora=False):
    rng = np.random.default_rng(sum(name.encode()))
    W, s = rng.normal(size=(rows, cols)), alpha / (np.sqrt(r) if rslora else r)
    U, S, V = np.linalg.svd(W, full_matrices=False)
    Q, R = np.linalg.qr(W)
    t = {"W0": W, "svd_S": S}
    for kind, BA in (("pissa", U[:, :r] * S[:r] @ V[:r] / s), ("olora", Q[:, :r] @ R[:r])):
        t |= {kind + ".BA_f64": BA, kind + ".W_res_f64": W - s * BA}
        t |= {kind + ".BA": BA.astype("f4"), kind + ".W_res": (W - s * BA).astype("f4")}
    save(name, t, method="lora", kind="init", r=r, lora_alpha=alpha, use_rslora=rslora)


layer("flipped_vector", "linear", (7,), 3, 5, n_out=5, bias=False, flipped=True)
layer("flipped_dora", "linear", (4, 9), 2, 3, n_out=11, flipped=True, dora=True)
layer("rslora_dora_dropout", "linear", (2, 1, 3, 5), 5, -1.5, n_out=3, rslora=True, dora=True, dropout=0.25)
layer("dropout_no_bias", "linear", (3, 7), 1, 2, n_out=13, bias=False, dropout=0.5)
layer("lora_bias_alone", "linear", (6, 5), 2, 2, n_out=3, bias=False, lora_bias=True)
layer("single", "linear", (5, 4), 2, 2, n_out=3, dropout=0.2, dtype="f4", skip=("grad_eval", "y_train"))
layer("outputs_only", "linear", (1, 1), 1, 1, n_out=1, skip=("grad", "g", "W_merged"))
layer("conv_uneven", "conv2d", (2, 3, 7, 6), 2, 3, n_out=5, bias=False, kernel=(3, 2), stride=(2, 1), padding=(1, 2),
      dilation=(1, 2))
layer("conv_dora_dropout", "conv2d", (2, 2, 5, 4), 3, 4, n_out=3, kernel=(2, 3), padding=(1, 1), dora=True, dropout=0.3)
layer("conv_lora_bias", "conv2d", (1, 2, 4, 3), 2, 5, n_out=3, kernel=(1, 3), padding=(0, 1), lora_bias=True)
layer("conv_groups", "conv2d", (2, 6, 5, 4), 4, 3, n_out=4, kernel=(3, 2), stride=(1, 2), padding=(1, 0), groups=2,
      lora_bias=True, dropout=0.3)
layer("conv_image", "conv2d", (2, 5, 5), 2, 3, n_out=3, kernel=(3, 3), stride=(2, 2), rslora=True)
layer("embedding_dora", "embedding", (3, 5), 2, 5, n_out=7, bias=False, dora=True, dropout=0.4)
init("init_tall", 11, 7, 3, 5)
init("init_wide_rslora", 5, 9, 5, 2, rslora=True)
