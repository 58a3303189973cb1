#!/usr/bin/env python3
"""peft_models.py [-v] [LIBRARY [NAME ...]]: adapters of HuggingFace's models between PEFT, transformers and lorikeet.

    to       lorikeet attaches a spec, moves every trained number and saves: PEFT loads the directory onto transformers' model
    merged   lorikeet merges that and saves the model: transformers loads the directory
    from     PEFT makes a random adapter and saves it: lorikeet loads it
    theirs   PEFT merges that and transformers saves the model: lorikeet opens the directory

Compared are logits on real tokens, |a - b| <= 1e-5 max(1, max |b|); a line per difference (-v: per case), and a table of
the largest ones by family and method.  Models: those of tests/golden/models, and classifiers made here.  Optional: the
build and `make check` need neither Python nor this.  Wants torch, transformers, peft and the shared library (default
.libs/liblorikeet.so, made by `make`); run it in the top directory.  Exits non-zero if anything differs.

    peft_models.py --keep tests/golden/models [LIBRARY]    writes what tests/test_pretrained_peft.c reads: <model>/adapter_<case>/
"""
import ctypes as C
import json
import os
import pathlib
import sys
import tempfile
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.simplefilter("ignore")
import peft  # noqa: E402
import torch  # noqa: E402
import transformers as hf  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

hf.logging.set_verbosity_error()
hf.logging.disable_progress_bar()

# ---- lorikeet by ctypes: include/lorikeet/{tensor,param,adapter,pretrained,optim}.h ----


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


class Inputs(C.Structure):
    _fields_ = [("ids", Tensor), ("types", Tensor), ("mask", Tensor), ("cache", C.c_void_p), ("last", C.c_int)]


class Opening(C.Structure):
    _fields_ = [("task", C.c_int), ("classes", C.c_int64), ("no_dropout", C.c_int), ("flags", C.c_int), ("quantise", C.c_void_p)]


arguments = [a for a in sys.argv[1:] if not a.startswith("-")]
verbose = "-v" in sys.argv
keep = pathlib.Path(arguments.pop(0)) if "--keep" in sys.argv else None
lib = C.CDLL(arguments[0] if arguments else ".libs/liblorikeet.so")
for name in "ctx_new model_new tape_new trainable pretrained_open optim_new optim_find".split():
    getattr(lib, "lk_" + name).restype = C.c_void_p
for name in "pretrained_forward input mean mul adapter_loss plus".split():
    getattr(lib, "lk_" + name).restype = Tensor
ctx = C.c_void_p(lib.lk_ctx_new(None))
TASKS = {"ForSequenceClassification": 0, "LMHeadModel": 1, "ForCausalLM": 1, "ForMaskedLM": 2, "Model": 3}


class Refused(Exception):
    pass


def fine():
    message = C.c_char_p()
    if lib.lk_error(ctx, C.byref(message)):
        text = message.value.decode()
        lib.lk_error_clear(ctx)
        raise Refused(text)


class Ours:
    """A model directory in lorikeet."""

    def __init__(self, directory):
        name = json.loads((pathlib.Path(directory) / "config.json").read_text())["architectures"][0]
        self.task = next(t for end, t in TASKS.items() if name.endswith(end))
        self.model = C.c_void_p(lib.lk_model_new(ctx, 0, 0))
        options = Opening(task=self.task, no_dropout=1)
        self.p = C.c_void_p(lib.lk_pretrained_open(self.model, str(directory).encode(), C.byref(options)))
        self.tape = C.c_void_p(lib.lk_tape_new(ctx))
        fine()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        lib.lk_tape_free(self.tape)
        lib.lk_model_free(self.model)
        lib.lk_error_clear(ctx)

    def forward(self, batch):
        inputs = Inputs()
        lib.lk_tape_reset(self.tape)
        for key, x in zip(("ids", "types", "mask"), batch):
            if x is not None:
                dtype = {torch.int64: 2, torch.uint8: 4}[x.dtype]
                setattr(inputs, key, lib.lk_input(self.tape, dtype, x.dim(), (C.c_int64 * x.dim())(*x.shape), C.c_void_p(x.data_ptr())))
        return lib.lk_pretrained_forward(self.p, self.tape, C.byref(inputs))

    def __call__(self, batch):
        view = View()
        y = self.forward(batch)
        fine()
        lib.lk_get(self.tape, y, C.byref(view))
        fine()
        n = [view.shape[i] for i in range(view.ndim)]
        return torch.tensor((C.c_float * torch.Size(n).numel()).from_address(view.p)[:]).view(n)

    def trainable(self):
        n = C.c_int()
        params = lib.lk_trainable(self.model, C.byref(n))
        return C.cast(params, C.POINTER(C.POINTER(Param))), n.value

    def stir(self):
        """Moves every trained number, so that nothing is a no-op."""
        params, n = self.trainable()
        generator = torch.Generator().manual_seed(2)
        for i in range(n):
            view = params[i].contents.value
            count = torch.Size([view.shape[d] for d in range(view.ndim)]).numel()
            values = (C.c_float * count).from_address(view.p)
            values[:] = (torch.tensor(values[:]) + 0.15 * torch.randn(count, generator=generator)).tolist()
            lib.lk_param_touch(params[i])

    def train(self, batch, steps):
        """SGD on the mean of squared logits."""
        params, n = self.trainable()
        opt = C.c_void_p(lib.lk_optim_new(ctx, C.c_void_p(lib.lk_optim_find(b"sgd")), None, params, n))
        lib.lk_adapter_follow(self.model, opt)
        for step in range(steps):
            y = self.forward(batch)
            loss = lib.lk_mean(self.tape, lib.lk_mul(self.tape, y, y), 0, None, 0)
            lib.lk_backward(self.tape, lib.lk_plus(self.tape, loss, lib.lk_adapter_loss(self.model, self.tape)))
            lib.lk_step(opt)
            fine()
        lib.lk_optim_free(opt)

    def attach(self, spec, targets, overrides=(), layers=(), bias=0, **more):
        table = (Override * max(1, len(overrides)))(*[Override(*(s.encode() for s in o)) for o in overrides])
        numbers = (C.c_int * max(1, len(layers)))(*layers)
        options = Options(spec=spec.encode(), targets=targets.encode(), bias=bias, layers=numbers, nlayers=len(layers),
                          overrides=table, noverrides=len(overrides), **{k: v.encode() for k, v in more.items()})
        lib.lk_attach_with(self.model, C.byref(options))
        fine()


# ---- transformers ----


def theirs(directory):
    name = json.loads((pathlib.Path(directory) / "config.json").read_text())["architectures"][0]
    return getattr(hf, name).from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa").eval()


def their_output(model, batch):
    ids, types, mask = batch
    more = {"token_type_ids": types} if types is not None else {}
    with torch.no_grad():
        y = model(input_ids=ids, attention_mask=mask.long(), **more)
    if "logits" in y:
        return y.logits
    h = y.last_hidden_state * mask[..., None]
    return torch.nn.functional.normalize(h.sum(1) / mask.sum(1, keepdim=True), dim=-1)


def batch_of(directory):
    config = hf.AutoConfig.from_pretrained(directory)
    torch.manual_seed(5)
    ids = torch.randint(3, config.vocab_size, (3, 7))
    mask = torch.ones(3, 7, dtype=torch.uint8)
    mask[1, 5:] = mask[2, 6:] = 0
    ids[mask == 0] = config.pad_token_id
    types = (torch.arange(7) > 3).long().expand(3, 7).contiguous() if config.model_type == "bert" else None
    return ids, types, mask


def difference(a, b, mask):
    if b.dim() == 3:
        a, b = a[mask == 1], b[mask == 1]
    return ((a - b).abs().max() / max(1, b.abs().max())).item()


def make_classifiers(home):
    """Classifiers of the decoders, which tests/golden/models has not."""
    small = dict(vocab_size=53, num_labels=3, pad_token_id=0)
    torch.manual_seed(9)
    llama = dict(**small, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=36,
                 max_position_embeddings=32)
    for name, model in (("gpt2_classify", hf.GPT2ForSequenceClassification(hf.GPT2Config(**small, n_embd=24, n_layer=2, n_head=3, n_positions=16))),
                        ("llama_classify", hf.LlamaForSequenceClassification(hf.LlamaConfig(**llama))),
                        ("qwen3_classify", hf.Qwen3ForSequenceClassification(hf.Qwen3Config(**llama, head_dim=10)))):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
        model.save_pretrained(home / name)
        yield home / name


# ---- the cases ----
worst, bad, refused = {}, 0, {}


def judge(way, family, method, title, a, b, mask):
    global bad
    d = difference(a, b, mask)
    tolerance = 1e-4 if "pissa" in title else 1e-5  # singular vectors of close singular values are what rounding makes them
    key = family, method, way
    worst[key] = max(worst.get(key, 0), d)
    bad += not d < tolerance
    if verbose or not d < tolerance:
        print(f"{'PASS' if d < tolerance else 'FAIL'} {d:.1e}  {way:6} {family:16} {title}", flush=True)


def failed(way, family, title, why):
    global bad
    bad += 1
    print(f"FAIL          {way:6} {family:16} {title}: {type(why).__name__}: {str(why)[:400]}", flush=True)


def names_of(directory):
    """Names of modules: attention's, the MLP's, the head to save or None, the words' embedding; what comes before a layer's number."""
    config = json.loads((directory / "config.json").read_text())
    kind, task = config["model_type"], config["architectures"][0]
    head = "score" if kind not in ("bert", "roberta") else "classifier"
    head = head if "Classification" in task else None
    if kind == "gpt2":
        return ["c_attn"], ["c_fc", "mlp.c_proj"], head, "wte", "h"
    if kind in ("bert", "roberta"):
        return ["query", "value"], ["intermediate.dense", "output.dense"], head, "word_embeddings", "layer"
    if head is None and not config.get("tie_word_embeddings"):
        head = "lm_head"
    return ["q_proj", "v_proj"], ["gate_proj", "down_proj"], head, "embed_tokens", "layers"


def to_cases(directory):
    a, m, head, words, layers = names_of(directory)
    some, conv = ",".join(a + m), words == "wte"
    yield "LORA", "lora r=4 alpha=8", ",".join(a), {}
    yield "LORA", "lora r=4 alpha=8 rslora dropout=0.1", some, {}
    if words == "word_embeddings":
        yield "LORA", "lora r=4", "query,dense", {}
        yield "DORA", "lora r=4 | magnitude", "query,dense", {}
    yield "LORA", "lora r=4 bias", some, {}
    yield "LORA", "lora r=4", "all-linear", dict(modules_to_save=head) if head else {}
    yield "LORA", "lora r=4", some, dict(overrides=[(a[0], "r=2 alpha=3"), (f"{layers}.1.*", "r=3")])
    yield "LORA", "lora r=4", some, dict(overrides=[("*.1.*", "alpha=3"), (m[0], "r=2")])
    yield "LORA", "lora r=4", some, dict(bias=1)
    yield "LORA", "lora r=4", a[0], dict(bias=2)
    yield "LORA", "lora r=4", f"re:.*{layers}\\.[01]\\..*({'|'.join(a)})", {}
    yield "LORA", "lora r=4", f"*.1.*{a[0]},{m[0]}", {}
    yield "LORA", "lora r=4", some, dict(layers=(1,))
    yield "LORA", "lora r=4", some, dict(layers=(0,), layers_pattern=layers, name="other")
    yield "LORA", "lora r=4", some, dict(exclude=a[0])
    yield "LORA", "lora r=4 init=pissa", a[0], {}
    if head:
        yield "LORA", "lora r=4", ",".join(a), dict(modules_to_save=head, bias=1)
        yield "LORA", "lora r=4", ",".join([head] if head != "classifier" else a), {}
    yield "LORA", "lora r=4", f"{a[0]},{words}", {}
    yield "LORA", "lora r=4", a[0], dict(modules_to_save=words)
    if is_tied(directory) and words != "word_embeddings":
        yield "LORA", "lora r=4", f"{a[0]},lm_head", {}
        yield "LORA", "lora r=4", f"{words},lm_head", {}
        yield "LORA", "lora r=4", a[0], dict(modules_to_save="lm_head")
        yield "DORA", "lora r=4 | magnitude", f"{a[0]},lm_head", {}
    yield "DORA", "lora r=4 | magnitude", some, {}
    yield "DORA", "dropout p=0.1 (lora r=4 rslora | magnitude)", ",".join(a), dict(overrides=[(a[0], "r=2")])
    yield "DORA", "lora r=4 | magnitude", f"all-linear", dict(modules_to_save=head, bias=1) if head else {}
    yield "DORA", "lora r=4 | magnitude", f"{a[0]},{words}", {}
    yield "ADALORA", "adalora init_r=4 target_r=2 tinit=1 tfinal=2 total=8 alpha=4", some, dict(steps=8)
    yield "ADALORA", "adalora init_r=4 target_r=2 tinit=1 tfinal=2 total=8", ",".join(a), dict(steps=3, **(dict(modules_to_save=head) if head else {}))
    yield "EXPORT", "mlae r=4 p=0", some, dict(modules_to_save=head) if head else {}
    yield "EXPORT", "neat r=4", ",".join(a), {}
    yield "EXPORT", "adalora init_r=4 target_r=2 tinit=1 tfinal=2 total=8", some, dict(steps=8)
    yield "IA3", "ia3", some, dict(overrides=[(n, "ff") for n in m])
    if head:
        yield "IA3", "ia3", some, dict(modules_to_save=head, overrides=[(m[0], "ff")])
    if not conv:
        yield "PEANUT", "neat r=4 act=gelu depth=1", some, {}
        yield "PEANUT", "neat r=4", ",".join(a), dict(layers=(1,), **(dict(modules_to_save=head) if head else {}))
        for forms in ("A=lora B=lora C=lora D=vector E=vector", "A=vector B=vector C=vector D=constant E=constant",
                      "A=constant B=constant C=none D=none E=none"):
            yield "GLORA", f"glora r=3 {forms} allow_new_bias=0", some, {}
        yield "GLORA", "glora r=3 A=lora B=lora C=lora D=vector E=vector allow_new_bias=0", ",".join(a), dict(modules_to_save=head, bias=1) if head else {}


def is_tied(directory):
    config = json.loads((directory / "config.json").read_text())
    has_head = config["architectures"][0].endswith(("ForMaskedLM", "ForCausalLM", "LMHeadModel"))
    return has_head and config.get("tie_word_embeddings", config["model_type"] in ("bert", "roberta", "gpt2"))


def bf16_in(directory):
    """Merging rounds the weights: then merged models are compared, not the merged with the unmerged one."""
    return "bf16" in directory.name


def why_not_merged(directory, spec, targets, more):
    """The words of the refusal; None: it can be merged."""
    words = names_of(directory)[3]
    if is_tied(directory) and words == "word_embeddings" and (words in targets or words in more.get("modules_to_save", "")):
        return "from the embedding that it was tied to"
    config = json.loads((directory / "config.json").read_text())
    if spec.endswith(" bias") and config["model_type"] in ("llama", "mistral", "qwen2", "qwen3") and not config.get("mlp_bias"):
        return "a bias, which models of its type have not"
    return None


def expect_refusal(words, call):
    try:
        call()
        fine()
    except Refused as why:
        if words not in str(why):
            raise
        refused[words] = str(why)
        return
    raise AssertionError(f"no refusal: {words}")


def to_peft(directory, family, home, method, spec, targets, more):
    title = f"{spec} at {targets} {more or ''}"
    more = dict(more)
    steps = more.pop("steps", 0)
    batch = batch_of(directory)
    folder, merged = home / "ours", home / "merged"
    try:
        with Ours(directory) as ours:
            ours.attach(spec, targets, **more)
            if "pissa" not in spec:
                ours.stir()
            if steps:
                ours.train(batch, steps)
            y = ours(batch)
            save = lib.lk_adapter_export_lora if method == "EXPORT" else lib.lk_adapter_save
            save(ours.model, more.get("name", "default").encode(), str(folder).encode(), None)
            fine()
            model = peft.PeftModel.from_pretrained(theirs(directory), folder).eval()
            judge("to", family, method, title, y, their_output(model, batch), batch[2])
            words = why_not_merged(directory, spec, targets, more)

            def merge():
                lib.lk_merge(ours.model, None)
                lib.lk_pretrained_save(ours.p, str(merged).encode())
                fine()

            if words:
                return expect_refusal(words, merge)
            merge()
            if bf16_in(directory):
                y = ours(batch)
        judge("merged", family, method, title, y, their_output(theirs(merged), batch), batch[2])
    except Exception as why:
        failed("to", family, title, why)


def from_cases(directory):
    a, m, head, words, layers = names_of(directory)
    some, conv = a + m, words == "wte"
    L, fan = peft.LoraConfig, dict(fan_in_fan_out=True) if conv else {}
    task = {"classifier": "SEQ_CLS", "score": "SEQ_CLS", "lm_head": "CAUSAL_LM"}.get(head)
    yield "LORA", L(r=4, lora_alpha=8, **fan)  # PEFT's default targets
    yield "LORA", L(r=4, lora_alpha=8, target_modules=a, use_rslora=True, lora_dropout=0.1, task_type=task, **fan)
    yield "LORA", L(r=4, target_modules="all-linear", task_type=task, **fan)
    if words == "word_embeddings":
        yield "LORA", L(r=4, target_modules=["query", "key", "value", "dense"])
        yield "LORA", L(r=4, target_modules=["query", "dense"], task_type=task)
    yield "LORA", L(r=4, target_modules=some, lora_bias=words != "embed_tokens", **fan)  # wants layers with biases
    yield "LORA", L(r=4, target_modules=some, rank_pattern={a[0]: 2, f"{layers}.1.*{m[0]}": 3}, alpha_pattern={a[0]: 5}, **fan)
    yield "LORA", L(r=4, target_modules=a, bias="lora_only", **fan)
    yield "LORA", L(r=4, target_modules=a, bias="all", modules_to_save=[head] if head else None, **fan)
    yield "LORA", L(r=4, target_modules=f".*{layers}\\.[01]\\..*({'|'.join(a)})", **fan)
    yield "LORA", L(r=4, target_modules=some, layers_to_transform=[1], layers_pattern=layers, **fan)
    yield "LORA", L(r=4, target_modules=some, exclude_modules=[a[0]], **fan)
    yield "LORA", L(r=4, target_modules=[a[0], words], **fan)
    yield "LORA", L(r=4, target_modules=[a[0]], modules_to_save=[words], **fan)
    yield "LORA", L(r=4, target_modules=a, init_lora_weights="pissa", **fan)
    if head == "lm_head":
        yield "LORA", L(r=4, target_modules=a, modules_to_save=["embed_tokens", "lm_head"], **fan)
        yield "LORA", L(r=4, target_modules=a + ["lm_head"], **fan)
    if is_tied(directory) and words != "word_embeddings":
        yield "LORA", L(r=4, target_modules=a + ["lm_head"], **fan)
        yield "LORA", L(r=4, target_modules=[words, "lm_head"], **fan)
        yield "LORA", L(r=4, target_modules=a, modules_to_save=["lm_head"], **fan)
        yield "DORA", L(r=4, target_modules=["lm_head"], use_dora=True, **fan)
    elif is_tied(directory):
        yield "LORA", L(r=4, target_modules=a + ["decoder"])
    yield "DORA", L(r=4, target_modules=some, use_dora=True, lora_dropout=0.1, **fan)
    yield "DORA", L(r=4, target_modules="all-linear", use_dora=True, task_type=task, rank_pattern={a[0]: 2}, **fan)
    yield "DORA", L(r=4, target_modules=[a[0], words], use_dora=True, **fan)
    yield "ADALORA", peft.AdaLoraConfig(init_r=4, target_r=2, tinit=1, tfinal=2, total_step=8, lora_alpha=4, target_modules=some, **fan)
    yield "ADALORA", peft.AdaLoraConfig(init_r=4, target_r=2, tinit=1, tfinal=2, total_step=8, target_modules=a, task_type=task, **fan)
    yield "IA3", peft.IA3Config(**fan)
    yield "IA3", peft.IA3Config(target_modules=some, feedforward_modules=m, task_type=task, **fan)
    if not conv:
        yield "PEANUT", peft.PeanutConfig(r=4, depth=1, act_fn="gelu", target_modules=some)
        yield "PEANUT", peft.PeanutConfig(r=4, target_modules=a, task_type=task)
        for ab, c, de in (("lora", "lora", "vector"), ("vector", "vector", "constant"), ("constant", "none", "none")):
            yield "GLORA", peft.GloraConfig(r=3, target_modules=some, config_A_B=ab, config_C=c, config_D_E=de)
        yield "GLORA", peft.GloraConfig(r=3, target_modules=a, task_type=task, modules_to_save=[head] if head else None)


def said(config):
    plain = type(config)(**({"init_r": config.init_r, "tinit": 1, "tfinal": 2, "total_step": 8} if config.peft_type == "ADALORA" else {})).to_dict()
    return {k: v for k, v in config.to_dict().items() if plain.get(k) != v and k not in ("peft_version", "runtime_config")}


def random_adapter(directory, config, batch):
    """PEFT's model with every trained number moved; AdaLoRA's trained for a few steps, so that ranks have fallen."""
    model = peft.get_peft_model(theirs(directory), config).eval()
    torch.manual_seed(3)
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in trained:
            p.add_(0.1 * torch.randn_like(p))
    if config.peft_type == "ADALORA":
        opt = torch.optim.SGD(trained, 0.01)
        more = {"token_type_ids": batch[1]} if batch[1] is not None else {}
        for step in range(8):
            y = model(input_ids=batch[0], attention_mask=batch[2].long(), **more)
            y[0].square().mean().backward()
            opt.step()
            model.base_model.update_and_allocate(step)
            opt.zero_grad()
    return model


def from_peft(directory, family, home, method, config):
    title = f"{config.peft_type} {said(config)}"
    folder, merged = home / "theirs", home / "theirs_merged"
    batch = batch_of(directory)
    try:
        model = random_adapter(directory, config, batch)
        model.save_pretrained(folder)
        y = their_output(model, batch)
    except Exception as why:  # not ours to judge
        print(f"PEFT's own error  {family:16} {title}: {type(why).__name__}: {str(why)[:200]}", flush=True)
        return
    words = names_of(directory)[3]
    targets = config.target_modules
    try:
        with Ours(directory) as ours:
            lib.lk_adapter_load(ours.model, None, str(folder).encode(), 0)
            fine()
            judge("from", family, method, title, ours(batch), y, batch[2])
        if is_tied(directory) and {words, "lm_head", "decoder"} & set(targets):
            return  # PEFT's own merged model differs from its unmerged one: head and embedding change together
        if is_tied(directory) and words == "word_embeddings" and words in (config.modules_to_save or []):
            return  # and the parted decoder's bias is in no file
    except Exception as why:
        return failed("from", family, title, why)
    try:
        merged_model = model.merge_and_unload().eval()
        if bf16_in(directory):
            for p in merged_model.parameters():  # not the rotary frequencies
                p.data = p.data.bfloat16().float()
            y = their_output(merged_model, batch)
        merged_model.save_pretrained(merged)
    except Exception as why:
        print(f"PEFT's own error  {family:16} merging {title}: {type(why).__name__}: {str(why)[:200]}", flush=True)
        return
    try:
        with Ours(merged) as ours:
            judge("theirs", family, method, title, ours(batch), y, batch[2])
    except Exception as why:
        failed("theirs", family, title, why)


KEPT = {  # model: (case, config)
    "bert_classify": ("lora_patterns", lambda: peft.LoraConfig(r=2, target_modules=["query", "value", "output.dense"], rank_pattern={"layer.1.*query": 3},
                                                               alpha_pattern={"value": 5}, modules_to_save=["classifier"])),
    "bert_embed": ("dora_pooler", lambda: peft.LoraConfig(r=2, target_modules="all-linear", use_dora=True, use_rslora=True)),
    "bert_masked_lm": ("saved_words", lambda: peft.LoraConfig(r=2, target_modules=["query"], bias="all", modules_to_save=["word_embeddings"])),
    "roberta_classify": ("bias_all", lambda: peft.LoraConfig(r=2, target_modules=["query"], bias="all", task_type="SEQ_CLS")),
    "gpt2_lm": ("words", lambda: peft.LoraConfig(r=2, target_modules=["c_attn", "wte"], fan_in_fan_out=True)),
    "llama_mha_tied": ("head", lambda: peft.LoraConfig(r=2, target_modules=["lm_head"], modules_to_save=["embed_tokens"])),
    "llama_lm": ("adalora", lambda: peft.AdaLoraConfig(init_r=4, target_r=2, tinit=1, tfinal=2, total_step=8, target_modules=["q_proj", "v_proj"])),
    "llama_bias": ("peanut", lambda: peft.PeanutConfig(r=3, depth=1, act_fn="gelu", target_modules=["q_proj", "down_proj"])),
    "mistral": ("regex", lambda: peft.LoraConfig(r=2, target_modules=r".*layers\.1\..*(q_proj|up_proj)", modules_to_save=["lm_head"])),
    "qwen2": ("glora", lambda: peft.GloraConfig(r=2, target_modules=["q_proj", "o_proj"], config_D_E="vector")),
    "qwen3": ("ia3", lambda: peft.IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"])),
}


def keep_all():
    """adapter_<case>/ beside each model of KEPT: what PEFT saves, and the logits for the batch in io.safetensors."""
    for name, (case, config) in KEPT.items():
        io = load_file(keep / name / "io.safetensors")
        batch = io["ids"], io.get("types"), io["mask"]
        folder = keep / name / f"adapter_{case}"
        model = random_adapter(keep / name, config(), batch)
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        written = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**written, "base_model_name_or_path": name}, indent=2, sort_keys=True) + "\n")
        save_file({"logits": their_output(model, batch).contiguous()}, folder / "logits.safetensors")
        print(folder, sum(f.stat().st_size for f in folder.iterdir()), "bytes")


def main():
    if keep:
        return keep_all()
    here = pathlib.Path("tests/golden/models")
    with tempfile.TemporaryDirectory() as home:
        home = pathlib.Path(home)
        chosen = [here / n for n in ("bert_classify", "bert_masked_lm", "bert_embed", "roberta_classify", "roberta_masked_lm", "gpt2_lm",
                                     "gpt2_inner", "llama_lm", "llama_bf16", "llama_bias", "llama_mha_tied", "mistral", "qwen2", "qwen3")]
        chosen += list(make_classifiers(home))
        for directory in chosen:
            if arguments[1:] and directory.name not in arguments[1:]:
                continue
            for case in to_cases(directory):
                to_peft(directory, directory.name, pathlib.Path(tempfile.mkdtemp(dir=home)), *case)
            for case in from_cases(directory):
                from_peft(directory, directory.name, pathlib.Path(tempfile.mkdtemp(dir=home)), *case)
        families = list(dict.fromkeys(f for f, _, _ in worst))
        methods = list(dict.fromkeys((m, w) for _, m, w in worst))
        print(f"{'':16}" + "".join(f" {f:>16}" for f in families))
        for m, w in sorted(methods):
            print(f"{m:9}{w:7}" + "".join(f" {worst.get((f, m, w), '-'):>16{'.1e' if (f, m, w) in worst else ''}}" for f in families))
    for text in refused.values():
        print("refused as it should be:", text)
    print(f"{bad} failed")
    return bad != 0


if __name__ == "__main__":
    sys.exit(main())
