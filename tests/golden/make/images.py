"""Makes tests/golden/images: small PNG and JPEG files, their pixels, and what Pillow and transformers make of them.

    python images.py DIRECTORY         (pillow 13, numpy, torch, transformers, safetensors)

pixels.safetensors holds u8 tensors [height, width, channels]: "<file> <channels>" is Pillow's image turned as EXIF says and
converted to L or RGB; "resize <filter> <file>" is Image.resize of its RGB to the tensor's size; and f32 tensors
[3, height, width] "<directory>" are what the processor of <directory>/preprocessor_config.json makes of rgb.png.
"""
import pathlib
import sys

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file
from transformers import CLIPImageProcessorPil, DeiTImageProcessorPil, ViTImageProcessorPil

out = pathlib.Path(sys.argv[1])
rng = np.random.default_rng(1)
y, x = np.mgrid[0:19, 0:23]
waves = [127 + 90 * np.sin(x / (2 + k) + y / (4 - k)) + rng.normal(0, 25, x.shape) for k in range(3)]
rgb = Image.fromarray(np.stack(waves, -1).clip(0, 255).astype(np.uint8))
grey = rgb.convert("L")
alpha = Image.fromarray(rng.integers(0, 256, x.shape, dtype=np.uint8))
exif = Image.Exif()

tensors = {}


def put(name, image, **options):
    image.save(out / name, **options)
    opened = ImageOps.exif_transpose(Image.open(out / name))
    if opened.mode == "I;16":  # Pillow would clip at 255
        opened = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8))
    tensors[name + " 3"] = np.asarray(opened.convert("RGB")).copy()
    if opened.mode in ("L", "RGB"):
        tensors[name + " 1"] = np.asarray(opened.convert("L"))[..., None].copy()


def with_alpha(image):
    image = image.copy()
    image.putalpha(alpha)
    return image


put("rgb.png", rgb)
put("rgba.png", with_alpha(rgb))
put("grey.png", grey)
put("grey_alpha.png", with_alpha(grey))
put("grey_16.png", Image.fromarray(np.asarray(grey).astype(np.uint16) * 256 + 77))
put("bits.png", grey.convert("1"))
for bits in (1, 2, 4, 8):
    put(f"palette_{bits}.png", rgb.quantize(2**bits), bits=bits, transparency=1)
for subsampling in (0, 1, 2):
    put(f"ycc_{subsampling}.jpg", rgb, quality=80, subsampling=subsampling)
put("progressive.jpg", rgb, quality=80, progressive=True)
put("grey.jpg", grey, quality=80)
put("cmyk.jpg", rgb.convert("CMYK"), quality=80)
for turn in range(1, 9):
    exif[0x112] = turn
    put(f"turn_{turn}.jpg", rgb.crop((0, 0, 9, 5)), quality=80, exif=exif)
exif[0x112] = 6
put("turn_6.png", rgb.crop((0, 0, 9, 5)), exif=exif)

sizes = ((19, 12), (8, 23), (7, 11), (40, 51), (1, 1), (3, 40), (37, 5), (18, 23), (19, 24))
for filter in range(6):
    for h, w in sizes:
        tensors[f"resize {filter} rgb.png {h}x{w}"] = np.asarray(rgb.resize((w, h), filter)).copy()

processors = {
    "vit": ViTImageProcessorPil(size={"height": 16, "width": 14}),
    "vit_raw": ViTImageProcessorPil(do_resize=False, do_normalize=False, rescale_factor=1 / 127.5),
    "vit_values": ViTImageProcessorPil(size={"height": 8, "width": 8}, do_rescale=False, resample=3,
                                       image_mean=[120.0, 110.0, 100.0], image_std=[60.0, 55.0, 50.0]),
    "deit": DeiTImageProcessorPil(size={"height": 15, "width": 18}, crop_size={"height": 11, "width": 20}),
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 12}, crop_size={"height": 10, "width": 12}),
}
for name, processor in processors.items():
    processor.save_pretrained(out / name)
    tensors[name] = processor(rgb, return_tensors="np")["pixel_values"][0].astype(np.float32)
save_file(tensors, out / "pixels.safetensors")
