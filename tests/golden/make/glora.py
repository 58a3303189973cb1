"""Makes tests/golden/glora/interchange_*: adapters that HuggingFace PEFT writes, with their base model and outputs.

    python glora.py DIRECTORY         (torch, peft 0.21.2, safetensors)

Small models of the kind that tests/methods/directory.c describes, two layers each, some of them without biases.
"""
import pathlib
import shutil
import sys

import torch
from peft import GloraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn

out = pathlib.Path(sys.argv[1])


class Attention(nn.Module):
    def __init__(self, d, bias):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(d, d, bias=bias))

    def forward(self, x):
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.out_proj((q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v)


class Layer(nn.Module):
    def __init__(self, d, hidden, bias):
        super().__init__()
        self.attn = Attention(d, bias)
        self.fc1, self.fc2 = nn.Linear(d, hidden), nn.Linear(hidden, d)

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.fc2(torch.tanh(self.fc1(x)))


class Tiny(nn.Module):
    def __init__(self, d, hidden, bias):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.embed = nn.Embedding(9, d)
        self.encoder.layers = nn.ModuleList(Layer(d, hidden, bias) for _ in range(2))
        self.classifier = nn.Linear(d, 3)

    def forward(self, ids):
        x = self.encoder.embed(ids)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.classifier(x.mean(1))


def case(name, d, hidden, biases, **options):
    torch.manual_seed(sum(name.encode()))
    model, folder, ids = Tiny(d, hidden, biases), out / f"interchange_{name}", torch.randint(0, 9, (3, 4))
    base = {k: v.clone() for k, v in model.state_dict().items()}
    y_base = model(ids)
    adapted = get_peft_model(model, GloraConfig(**options))
    count = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    with torch.no_grad():
        for p in adapted.parameters():
            if p.requires_grad:
                p += 0.3 * torch.randn_like(p)
    y = adapted(ids)
    shutil.rmtree(folder, ignore_errors=True)
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    save_file(base, folder / "base_model.safetensors")
    save_file({"ids": ids, "y_base": y_base.detach(), "y_adapter": y.detach(), "trainable_count": torch.tensor([count])},
              folder / "io.safetensors")
    print(name, count, float((y - y_base).detach().abs().max()))


case("lora", 6, 7, True, r=3, target_modules=["q_proj", "fc1"], config_D_E="vector", modules_to_save=["classifier"])
case("vector_no_bias", 5, 8, False, r=2, target_modules=["q_proj", "v_proj", "fc2"], config_A_B="vector",
     config_D_E="vector", bias="glora_only")
case("constant_regex", 4, 5, True, target_modules=r"encoder\.layers\.\d\.(attn\.out_proj|fc1)", config_A_B="constant",
     config_C="vector", init_weights=False)
case("none", 4, 6, True, target_modules=["fc2"], config_A_B="none", config_C="lora", config_D_E="none", r=1, bias="all")
