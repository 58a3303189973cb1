#!/usr/bin/env python3
"""peft_roundtrip.py [LIBRARY]: adapters between HuggingFace PEFT and lorikeet, both ways, the same outputs to 1e-5.

Optional: the build and `make check` need neither Python nor this.  Wants torch, transformers, peft and the shared library
(default .libs/liblorikeet.so, made by `make`); writes into a temporary directory.  Prints a line per case and exits
non-zero if one differs.  The ViT cases want transformers 4: version 5 renamed the ViT's modules, so that adapters made with
one version do not load in the other, whoever wrote them.
"""
import ctypes as C
import os
import sys
import tempfile
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.simplefilter("ignore")
import torch  # noqa: E402
import transformers  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

# ---- lorikeet by ctypes: include/lorikeet/{tensor,param,adapter}.h ----


class Tensor(C.Structure):
    _fields_ = [("id", C.c_uint32), ("gen", C.c_uint32)]


class View(C.Structure):
    _fields_ = [("p", C.c_void_p), ("dtype", C.c_int), ("ndim", C.c_int), ("shape", C.c_int64 * 6), ("stride", C.c_int64 * 6)]


class Param(C.Structure):
    _fields_ = [("ctx", C.c_void_p), ("name", C.c_char_p), ("value", View)]


class Override(C.Structure):
    _fields_ = [("pattern", C.c_char_p), ("options", C.c_char_p)]


class Options(C.Structure):
    _fields_ = [("name", C.c_char_p), ("spec", C.c_char_p), ("targets", C.c_char_p), ("exclude", C.c_char_p),
                ("modules_to_save", C.c_char_p), ("bias", C.c_int), ("layers", C.POINTER(C.c_int)), ("nlayers", C.c_int),
                ("layers_pattern", C.c_char_p), ("overrides", C.POINTER(Override)), ("noverrides", C.c_int),
                ("lenient", C.c_int)]


class Conv(C.Structure):
    _fields_ = [("stride", C.c_int64 * 2), ("padding", C.c_int64 * 2), ("dilation", C.c_int64 * 2), ("groups", C.c_int64)]


lib = C.CDLL(sys.argv[1] if len(sys.argv) > 1 else ".libs/liblorikeet.so")
POINTERS = """ctx_new model_new model_root module_new linear_new embedding_new conv2d_new vit_load tape_new trainable"""
TENSORS = """linear_forward embedding_forward conv2d_forward vit_forward input add scale matmul transpose softmax tanh relu
             mean"""
for name in POINTERS.split():
    getattr(lib, "lk_" + name).restype = C.c_void_p
for name in TENSORS.split():
    getattr(lib, "lk_" + name).restype = Tensor
ctx = C.c_void_p(lib.lk_ctx_new(None))


def fine():
    message = C.c_char_p()
    if lib.lk_error(ctx, C.byref(message)):
        text = message.value.decode()
        lib.lk_error_clear(ctx)
        raise RuntimeError(text)


def make(kind, *args):
    return C.c_void_p(getattr(lib, f"lk_{kind}_new")(*args))


def linear(parent, name, n, m):
    return make("linear", parent, name, C.c_int64(n), C.c_int64(m), 0)


def forward(kind, layer, t, x):
    return getattr(lib, f"lk_{kind}_forward")(layer, t, x)


class OurTiny:
    def __init__(self, model, base):
        def node(parent, name):
            return make("module", parent, name, b"block", C.c_size_t(256))

        root = C.c_void_p(lib.lk_model_root(model))
        encoder = node(root, b"encoder")
        self.embed = make("embedding", encoder, b"embed", C.c_int64(11), C.c_int64(8))
        layers = node(encoder, b"layers")
        self.blocks = []
        for i in range(3):
            block = node(layers, b"%d" % i)
            attn = node(block, b"attn")
            b = {n: linear(attn, n.encode(), 8, 8) for n in ("q_proj", "k_proj", "v_proj", "out_proj")}
            self.blocks.append({**b, "fc1": linear(block, b"fc1", 8, 12), "fc2": linear(block, b"fc2", 12, 8)})
        self.head = linear(root, b"classifier", 8, 4)
        lib.lk_model_load(model, base, 0)

    def __call__(self, t, x):
        x = forward("embedding", self.embed, t, x)
        for b in self.blocks:
            q, k, v = (forward("linear", b[n], t, x) for n in ("q_proj", "k_proj", "v_proj"))
            scores = lib.lk_scale(t, lib.lk_matmul(t, q, lib.lk_transpose(t, k, 1, 2)), C.c_double(8**-0.5))
            v = lib.lk_matmul(t, lib.lk_softmax(t, scores, -1), v)
            x = lib.lk_add(t, x, forward("linear", b["out_proj"], t, v))
            x = lib.lk_add(t, x, forward("linear", b["fc2"], t, lib.lk_tanh(t, forward("linear", b["fc1"], t, x))))
        return forward("linear", self.head, t, lib.lk_mean(t, x, 1, (C.c_int * 1)(1), 0))


class OurConv:
    def __init__(self, model, base):
        root = C.c_void_p(lib.lk_model_root(model))
        features = make("module", root, b"features", b"list", C.c_size_t(256))
        two, one, none = (C.c_int64 * 2)(2, 2), (C.c_int64 * 2)(1, 1), (C.c_int64 * 2)(0, 0)
        self.convs = [make("conv2d", features, n, C.c_int64(i), C.c_int64(o), (C.c_int64 * 2)(*k), C.byref(options), 0)
                      for n, i, o, k, options in ((b"0", 3, 6, (3, 3), Conv(two, one, one, 1)),
                                                  (b"2", 6, 5, (2, 3), Conv(one, none, one, 1)))]
        self.fc = linear(root, b"fc", 5, 4)
        lib.lk_model_load(model, base, 0)

    def __call__(self, t, x):
        for conv in self.convs:
            x = lib.lk_relu(t, forward("conv2d", conv, t, x))
        return forward("linear", self.fc, t, lib.lk_mean(t, x, 2, (C.c_int * 2)(2, 3), 0))


class OurVit:
    def __init__(self, model, base):
        self.vit = C.c_void_p(lib.lk_vit_load(model, base, C.c_int64(0), 0))

    def __call__(self, t, x):
        return lib.lk_vit_forward(self.vit, t, x)


def our_output(net, x):
    t = C.c_void_p(lib.lk_tape_new(ctx))
    data = x.contiguous()
    shape = (C.c_int64 * x.dim())(*x.shape)
    y = net(t, lib.lk_input(t, 2 if x.dtype == torch.int64 else 0, x.dim(), shape, C.c_void_p(data.data_ptr())))
    view = View()
    lib.lk_get(t, y, C.byref(view))
    fine()
    n = [view.shape[i] for i in range(view.ndim)]
    result = torch.tensor((C.c_float * (n[0] * n[1])).from_address(view.p)[:]).view(n)
    lib.lk_tape_free(t)
    return result


def stir(model):
    """Moves every trained number, so that nothing is a no-op."""
    n = C.c_int()
    params = C.cast(lib.lk_trainable(model, C.byref(n)), C.POINTER(C.POINTER(Param)))
    generator = torch.Generator().manual_seed(2)
    for i in range(n.value):
        view = params[i].contents.value
        count = 1
        for d in range(view.ndim):
            count *= view.shape[d]
        values = (C.c_float * count).from_address(view.p)
        values[:] = (torch.tensor(values[:]) + 0.15 * torch.randn(count, generator=generator)).tolist()
        lib.lk_param_touch(params[i])


# ---- the same models in torch ----


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        for n in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, n, nn.Linear(8, 8))

    def forward(self, x):
        p = torch.softmax(self.q_proj(x) @ self.k_proj(x).transpose(1, 2) / 8**0.5, -1)
        return self.out_proj(p @ self.v_proj(x))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.fc1, self.fc2 = Attention(), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.fc2(torch.tanh(self.fc1(x)))


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.embed = nn.Embedding(11, 8)
        self.encoder.layers = nn.ModuleList(Block() for _ in range(3))
        self.classifier = nn.Linear(8, 4)

    def forward(self, ids):
        x = self.encoder.embed(ids)
        for block in self.encoder.layers:
            x = block(x)
        return self.classifier(x.mean(1))


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 5, (2, 3)), nn.ReLU())
        self.fc = nn.Linear(5, 4)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


def vit():
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
                                    image_size=8, patch_size=4, num_channels=1, num_labels=3)
    return transformers.ViTForImageClassification(config)


KINDS = {"tiny": (Tiny, OurTiny, lambda: torch.randint(0, 11, (3, 5))), "conv": (ConvNet, OurConv, lambda: torch.randn(2, 3, 9, 10)),
         "vit": (vit, OurVit, lambda: torch.randn(3, 1, 8, 8))}


def both(kind, home):
    """The same base in torch and in lorikeet, and an input."""
    torch.manual_seed(1)
    theirs, ours, data = KINDS[kind]
    net = theirs().eval()
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    x = data()
    base = os.path.join(home, kind)
    if kind == "vit":
        net.save_pretrained(base)
    else:
        save_file(net.state_dict(), base)
    model = C.c_void_p(lib.lk_model_new(ctx, 0, 0))
    mine = ours(model, base.encode())
    fine()
    return net, model, mine, x


def their_output(net, x):
    with torch.no_grad():
        y = net(x)
    return getattr(y, "logits", y)


# ---- the cases ----
bad = 0


def judge(title, a, b):
    global bad
    d = (a - b).abs().max().item()
    bad += not d < 1e-5
    print(f"{'PASS' if d < 1e-5 else 'FAIL'} {d:.1e}  {title}")


def same_directory(a, b):
    x, y = (load_file(d + "/adapter_model.safetensors") for d in (a, b))
    y = {k: v for k, v in y.items() if not k.endswith((".modules_to_save.bias", ".original_module.bias"))}
    return set(x) == set(y) and all(torch.equal(x[k], y[k]) for k in x)


def to_peft(home, kind, spec, targets, overrides=(), layers=(), **more):
    global bad
    net, model, mine, x = both(kind, home)
    table = (Override * max(1, len(overrides)))(*[Override(*(s.encode() for s in o)) for o in overrides])
    numbers = (C.c_int * max(1, len(layers)))(*layers)
    text = {k: v.encode() for k, v in more.items() if k != "bias"}
    options = Options(spec=spec.encode(), targets=targets.encode(), bias=more.get("bias", 0), layers=numbers,
                      nlayers=len(layers), overrides=table, noverrides=len(overrides), **text)
    lib.lk_attach_with(model, C.byref(options))
    fine()
    if "pissa" not in spec and "olora" not in spec:
        stir(model)
    folder, again = os.path.join(home, "ours"), os.path.join(home, "again")
    name = more.get("name", "default").encode()
    lib.lk_adapter_save(model, name, folder.encode(), None)
    fine()
    peft = PeftModel.from_pretrained(net, folder).eval()
    judge(f"to PEFT, {kind}: {spec} at {targets} {dict(more, o=overrides, l=layers)}", our_output(mine, x), their_output(peft, x))
    peft.save_pretrained(again)
    if not same_directory(folder, again):
        bad += 1
        print("FAIL    PEFT does not write back the same tensors")
    lib.lk_model_free(model)


def from_peft(home, kind, name="default", **config):
    net, model, mine, x = both(kind, home)
    peft = get_peft_model(net, LoraConfig(**config), adapter_name=name).eval()
    torch.manual_seed(3)
    for p in peft.parameters():
        if p.requires_grad:
            p.data += 0.05 * torch.randn_like(p)
    folder = os.path.join(home, "theirs")
    peft.save_pretrained(folder)
    lib.lk_adapter_load(model, name.encode(), folder.encode(), 0)
    fine()
    judge(f"from PEFT, {kind}: {config}", our_output(mine, x), their_output(peft, x))
    lib.lk_model_free(model)


TO = [
    ("tiny", "lora r=3 alpha=7", "q_proj,v_proj,fc1", {}),
    ("tiny", "lora r=3 alpha=7.5 dropout=0.25", "fc1", {}),
    ("tiny", "lora r=3 alpha=7 | magnitude", "q_proj,embed,fc1", {}),
    ("tiny", "dropout p=0.25 (lora r=3 rslora | magnitude)", "q_proj,v_proj,fc1", {}),
    ("tiny", "lora r=4 alpha=5 bias", "out_proj,fc1", {}),
    ("tiny", "lora r=2 rslora init=gaussian", "embed,fc2", {}),
    ("tiny", "lora r=4 init=random", "fc1", {}),
    ("tiny", "lora r=4 init=pissa alpha=3", "fc1,q_proj", {}),
    ("tiny", "lora r=4 init=olora | magnitude", "fc1,q_proj", {}),
    ("tiny", "lora r=4", "q_proj,v_proj,fc1", {"overrides": [("fc1", "r=2"), ("1.attn.q_proj", "r=3 alpha=5")]}),
    ("tiny", "lora r=4", "q_proj,fc1", {"overrides": [("*.1.*", "r=2"), ("fc1", "r=3")]}),
    ("tiny", "lora r=4", "q_proj,fc1", {"bias": 1}),
    ("tiny", "lora r=4", "q_proj,fc1", {"bias": 2, "modules_to_save": "classifier"}),
    ("tiny", "lora r=4", "q_proj", {"modules_to_save": "classifier,layers.0.fc2", "name": "other"}),
    ("tiny", "lora r=4", "*.1.*_proj", {"exclude": "k_proj"}),
    ("tiny", "lora r=4", "all-linear", {"modules_to_save": "classifier"}),
    ("tiny", "lora r=4", "re:.*layers\\.[01]\\..*", {"exclude": "re:.*k_proj"}),
    ("tiny", "lora r=4", "q_proj,fc1", {"layers": (0, 2), "layers_pattern": "layers"}),
    ("conv", "lora r=2", "0,2,fc", {}),
    ("conv", "lora r=2 rslora | magnitude", "0,2,fc", {"bias": 1}),
    ("vit", "lora r=2 alpha=8", "query,value", {}),
    ("vit", "dropout p=0.1 (lora r=2 | magnitude)", "query,projection,dense", {"modules_to_save": "classifier", "bias": 1}),
    ("vit", "lora r=2", "all-linear", {"modules_to_save": "classifier", "overrides": [("1.attention.attention.query", "r=3")]}),
]
qf = ["q_proj", "fc1"]
FROM = [
    ("tiny", dict(r=3, lora_alpha=7, target_modules=qf + ["embed"], lora_dropout=0.1)),
    ("tiny", dict(r=3, lora_alpha=7, target_modules=qf + ["embed"], use_dora=True, lora_dropout=0.1)),
    ("tiny", dict(r=3, target_modules="all-linear", use_rslora=True, modules_to_save=["classifier"])),
    ("tiny", dict(r=3, target_modules=r".*\.(fc1|q_proj)", exclude_modules=r".*0.*")),
    ("tiny", dict(r=3, target_modules=qf, rank_pattern={"fc1": 2, "^encoder.layers.1.attn.q_proj": 5}, alpha_pattern={r"layers\.(0|2)\.fc1": 3})),
    ("tiny", dict(r=3, target_modules=qf, bias="lora_only")),
    ("tiny", dict(r=3, target_modules=qf, bias="all", modules_to_save=["classifier"], name="other")),
    ("tiny", dict(r=3, target_modules=qf, lora_bias=True, layers_to_transform=[0, 2], layers_pattern="layers")),
    ("tiny", dict(r=4, target_modules=qf, layers_to_transform=1, init_lora_weights="orthogonal")),
    ("tiny", dict(r=3, target_modules=qf, init_lora_weights="pissa")),
    ("tiny", dict(r=3, target_modules=qf, init_lora_weights="olora")),
    ("tiny", dict(r=3, target_modules=qf, init_lora_weights=False)),
    ("conv", dict(r=2, target_modules=["0", "2", "fc"])),
    ("conv", dict(r=2, target_modules=["0", "2", "fc"], use_dora=True, use_rslora=True)),
    ("vit", dict(r=2, target_modules=["query", "value"], modules_to_save=["classifier"])),
    ("vit", dict(r=2, target_modules="all-linear", use_dora=True, bias="all", modules_to_save=["classifier"], rank_pattern={"query": 3})),
]

if __name__ == "__main__":
    skip = {"vit"} if int(transformers.__version__.split(".")[0]) >= 5 else set()
    for kind in skip:
        print(f"SKIP {kind}: transformers {transformers.__version__} calls its modules otherwise")
    for kind, spec, targets, more in TO:
        if kind not in skip:
            with tempfile.TemporaryDirectory() as home:
                to_peft(home, kind, spec, targets, **more)
    for kind, config in FROM:
        if kind not in skip:
            with tempfile.TemporaryDirectory() as home:
                from_peft(home, kind, **config)
    sys.exit(bad != 0)
