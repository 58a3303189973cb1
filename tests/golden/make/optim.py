# optim.py: prints tests/golden/optim.h: trajectories by torch.optim, learning rates by transformers, LoRA+ groups by
# PEFT.  Needs torch, transformers and peft:
#   python3 tests/golden/make/optim.py | clang-format --assume-filename=tests/golden/optim.h > tests/golden/optim.h
import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer

KEYS = "lr weight_decay momentum beta1 beta2 eps clip_norm nesterov skip_without_grad".split()
ADAM = dict(beta1=0.9, beta2=0.999, eps=1e-8)
HEAD = """/* optim.h: written by tests/golden/make/optim.py, as its first lines say. */
#ifndef TEST_GOLDEN_OPTIM_H
#define TEST_GOLDEN_OPTIM_H
#include <lorikeet/optim.h>

#define STEPS 10

/* Ten steps by torch.optim in double: net.w[5], net.b[2] and the norm of the gradients after each. */
typedef struct trajectory {
  const char *cls;
  lk_optim_options options;
  int sparse;         /* net.b gets no gradient in steps 0, 3, 6, 9 */
  double rate, decay; /* factors of net.b */
  double expect[STEPS][3];
} trajectory;

static const trajectory trajectories[] = {"""
SCHEDULES = """
/* Rates of steps 0 .. total, by transformers. */
static const struct {
  lk_schedule schedule;
  double lr[9];
} schedules[] = {"""
LORAPLUS = """
/* What PEFT's create_loraplus_optimizer gives with lr 0.01, ratio 16, weight decay 0.1, embedding rate 0.001. */
static const struct {
  const char *name;
  int ndim;
  double lr, weight_decay;
} loraplus[] = {"""
CASES = [
    ("sgd", dict(lr=0.1)),
    ("sgd", dict(lr=0.1, weight_decay=0.3)),
    ("sgd", dict(lr=0.1, momentum=0.9, clip_norm=1.4)),
    ("sgd", dict(lr=0.1, momentum=0.9, weight_decay=0.3, nesterov=1, sparse=1)),
    ("sgd", dict(lr=0.1, momentum=0.9, sparse=1, skip_without_grad=0)),
    ("adam", dict(ADAM, lr=0.05)),
    ("adam", dict(ADAM, lr=0.05, weight_decay=0.3, sparse=1)),
    ("adam", dict(lr=0.05, beta1=0.8, beta2=0.95, eps=0.01, clip_norm=1.4)),
    ("adamw", dict(ADAM, lr=0.05, weight_decay=0.3)),
    ("adamw", dict(ADAM, lr=0.05, weight_decay=0.3, sparse=1)),
    ("adamw", dict(ADAM, lr=0.05, weight_decay=0.3, sparse=1, skip_without_grad=0)),
    ("adamw", dict(ADAM, lr=0.05, weight_decay=0.3, clip_norm=1.4, rate=4, decay=0.5)),
]


def gradient(x, t):
    flat = x.detach().reshape(-1)
    i = torch.arange(flat.numel())
    g = flat * (1 + i % 3) / 4 + ((i * 13 + t * 7) % 23 - 11).double() / 16
    return g.reshape(x.shape)


def trajectory(name, case):
    o = {"skip_without_grad": 1, "sparse": 0, "rate": 1, "decay": 1, **case}
    w = torch.tensor([(i * 37 % 101 - 50) / 64 for i in range(12)], dtype=torch.float64).reshape(3, 4)
    b = torch.tensor([(i * 29 % 53 - 26) / 32 for i in range(5)], dtype=torch.float64)
    w.requires_grad_(), b.requires_grad_()
    decay = o.get("weight_decay", 0)
    groups = [
        dict(params=[w], lr=o["lr"], weight_decay=decay),
        dict(params=[b], lr=o["lr"] * o["rate"], weight_decay=decay * o["decay"]),
    ]
    if name == "sgd":
        opt = torch.optim.SGD(groups, momentum=o.get("momentum", 0), nesterov=bool(o.get("nesterov", 0)))
    else:
        cls = torch.optim.Adam if name == "adam" else torch.optim.AdamW
        opt = cls(groups, betas=(o["beta1"], o["beta2"]), eps=o["eps"])
    rows = []
    for t in range(10):
        opt.zero_grad()
        w.grad = gradient(w, t)
        if not o["sparse"] or t % 3:
            b.grad = gradient(b, t)
        elif not o["skip_without_grad"]:
            b.grad = torch.zeros_like(b)
        norm = torch.nn.utils.clip_grad_norm_([w, b], o.get("clip_norm", 0) or float("inf"))
        opt.step()
        rows.append((w.detach().reshape(-1)[5].item(), b.detach()[2].item(), norm.item()))
    options = ", ".join(f".{k} = {o[k]}" for k in KEYS if o.get(k))
    print(f'{{"{name}", {{{options}}}, {o["sparse"]}, {o["rate"]}, {o["decay"]}, {{')
    print(",".join("{%.17g, %.17g, %.17g}" % r for r in rows) + "}},")


def schedules():
    make = {
        "CONSTANT": lambda opt, warmup, total: transformers.get_constant_schedule_with_warmup(opt, warmup),
        "LINEAR": transformers.get_linear_schedule_with_warmup,
        "COSINE": transformers.get_cosine_schedule_with_warmup,
        "COSINE 0.1": lambda opt, warmup, total: transformers.get_cosine_with_min_lr_schedule_with_warmup(
            opt, warmup, total, min_lr_rate=0.1
        ),
    }
    for kind, make in make.items():
        for warmup, total in ((0, 6), (3, 8)):
            opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.02)
            schedule = make(opt, warmup, total)
            rates = []
            for _ in range(total + 1):
                rates.append(schedule.get_last_lr()[0])
                opt.step()
                schedule.step()
            name, final = (kind.split() + ["0"])[:2]
            print(f"{{{{LK_SCHEDULE_{name}, 0.02, {warmup}, {total}, {final}}}, {{")
            print(", ".join("%.17g" % r for r in rates) + "}},")


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(7, 6)
        self.norm = torch.nn.LayerNorm(6)
        self.fc = torch.nn.Linear(6, 5)
        self.head = torch.nn.Linear(5, 2)


def loraplus():
    torch.manual_seed(0)
    config = LoraConfig(
        r=2, target_modules=["embed", "fc"], use_dora=True, bias="lora_only", modules_to_save=["norm", "head"]
    )
    model = get_peft_model(Model(), config)
    opt = create_loraplus_optimizer(
        model, torch.optim.SGD, lr=0.01, loraplus_lr_ratio=16, loraplus_weight_decay=0.1, loraplus_lr_embedding=1e-3
    )
    factors = {id(p): (g["lr"], g["weight_decay"]) for g in opt.param_groups for p in g["params"]}
    for name, p in model.named_parameters():
        if id(p) in factors:
            short = name.replace("base_model.model.", "").replace(".default", "")
            print('{"%s", %d, %.17g, %.17g},' % (short, p.ndim, *factors[id(p)]))


print(HEAD)
for name, case in CASES:
    trajectory(name, case)
print("};")
print(SCHEDULES)
schedules()
print("};")
print(LORAPLUS)
loraplus()
print("};\n\n#endif")
