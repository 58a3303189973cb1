"""Makes tests/golden/models/vit_tiny: a small random HuggingFace ViT with its logits, loss and gradients.

    python vit.py DIRECTORY         (torch, transformers, safetensors)

config.json and model.safetensors are what save_pretrained writes (f32).  io.safetensors holds, computed in f64 from these
weights: images, labels, logits, loss (mean cross entropy), and "grad.<tensor>" for every tensor of the model.
"""
import copy
import pathlib
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification

out = pathlib.Path(sys.argv[1])
torch.manual_seed(7)
config = ViTConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37, image_size=15,
                   patch_size=5, num_channels=2, num_labels=3, layer_norm_eps=1e-6,
                   id2label={0: "ant", 1: "bee", 2: "cat"}, label2id={"ant": 0, "bee": 1, "cat": 2},
                   attn_implementation="sdpa")  # eager rounds softmax to f32
model = ViTForImageClassification(config).eval()
with torch.no_grad():
    for p in model.parameters():  # no zero bias, no unit norm
        p.add_(0.2 * torch.randn_like(p))
model.save_pretrained(out)

model = model.double()
images = torch.randn(3, 2, 15, 15, dtype=torch.float64)
labels = torch.tensor([2, 0, 1])
logits = model(images).logits
loss = torch.nn.functional.cross_entropy(logits, labels)
loss.backward()

# The gradients as a model, so that save_pretrained gives them the names of the file.
grads = copy.deepcopy(model)
for g, p in zip(grads.parameters(), model.parameters()):
    g.data = p.grad
with tempfile.TemporaryDirectory() as d:
    grads.save_pretrained(d)
    tensors = {"grad." + k: v for k, v in load_file(d + "/model.safetensors").items()}
tensors |= {"images": images, "labels": labels, "logits": logits.detach(), "loss": loss.detach()}
save_file(tensors, out / "io.safetensors", {"torch": torch.__version__})
