"""What excitation backprop costs, beside the passes of the same network and beside TorchRay: `python benchmarks/excitation.py`.

VGG-16 with random weights and one picture of 224 × 224. A clip of 128 frames goes through the CNN in chunks of 16; its LSTM has the paper's 256 units.
TorchRay's row is left out where it is not installed.
"""
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import vgg16

from cgsaliency.explain.excitation import follow
from cgsaliency.explain.frames import eb_r
from cgsaliency.models.action import SOURCE, ActionRecogniser, features_of
from measure import main, seconds

CONV5 = "features.25"     # conv5_1 after its ReLU


def forward_and_backward(network: nn.Module, picture: torch.Tensor) -> torch.Tensor:
    inside = picture.clone().requires_grad_()
    return torch.autograd.grad(network(inside)[0, 5], inside)[0]


def plain_loop(network: nn.Module, excites: dict[nn.Module, torch.Tensor], picture: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    "EB of VGG-16 to pixels by hand: its layers one after the other, weights clamped beforehand."
    layers, responses, there = [*network.features, *network.classifier], [], picture
    with torch.inference_mode():
        for k, layer in enumerate(layers):
            if k == len(network.features): there = there.flatten(1)
            responses.append(there)
            there = layer(there)
        for layer, x in zip(reversed(layers), reversed(responses)):
            if isinstance(layer, nn.MaxPool2d): seed = F.max_unpool2d(seed.view(1, x.shape[1], x.shape[2] // 2, -1), F.max_pool2d(x, 2, 2, return_indices=True)[1], 2, 2, output_size=x.shape)
            elif layer in excites:
                weight = excites[layer]
                total = F.linear(x, weight) if weight.ndim == 2 else F.conv2d(x, weight, None, 1, 1)
                shares = seed / total.masked_fill(total == 0, torch.inf)
                seed = x * (shares @ weight if weight.ndim == 2 else F.conv_transpose2d(shares, weight, None, 1, 1))
    return seed


def measured(device: torch.device, repeats: int, frames: int = 128):
    "Rows of name, value, unit, relative_to."
    torch.manual_seed(0)
    network = vgg16(init_weights=False).to(device).eval().requires_grad_(False)
    picture, seed = torch.randn(1, 3, 224, 224, device=device), torch.zeros(1, 1000, device=device)
    seed[0, 5] = 1

    def forward():
        with torch.inference_mode(): return network(picture)
    def eb(): return follow(network, picture, [""]).evidence(seed, [""])
    after = follow(network, picture, [""])
    def further(): return after.evidence(seed, [""])
    def ceb(): return follow(network, picture, [CONV5]).evidence(seed, [CONV5], "top")
    excites = {layer: layer.weight.detach().clamp(min=0) for layer in network.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}
    assert torch.allclose(plain_loop(network, excites, picture, seed), eb()[""], rtol=1e-3, atol=1e-4 * float(eb()[""].abs().max()))
    works = {"forward": forward, "both": lambda: forward_and_backward(network, picture), "EB": eb, "another EB": further, "cEB": ceb, "loop": lambda: plain_loop(network, excites, picture, seed)}
    try: from torchray.attribution.excitation_backprop import contrastive_excitation_backprop, excitation_backprop
    except ImportError: print("TorchRay is not installed: its rows are left out")
    else:
        works["their EB"] = lambda: excitation_backprop(network, picture.clone(), 5, saliency_layer="")
        def their_ceb(picture: torch.Tensor): return contrastive_excitation_backprop(network, picture, 5, saliency_layer=CONV5, contrast_layer=SOURCE, classifier_layer="classifier.6")
        works["their cEB"] = lambda: their_ceb(picture.clone().requires_grad_())
        works["their cEB, shorter"] = lambda: their_ceb(picture.clone())
    times = dict(zip(works, seconds(device, repeats, *works.values())))
    yield "forward of VGG-16", times["forward"], "s", ""
    yield "EB to pixels / forward+backward", times["EB"] / times["both"], "times", "one forward and backward-to-input pass of VGG-16"
    yield "EB to pixels of a further class / forward+backward", times["another EB"] / times["both"], "times", "the same; the network has run already"
    yield "EB to pixels / plain loop", times["EB"] / times["loop"], "times", "the same by hand, weights clamped beforehand"
    yield "cEB to conv5 / forward", times["cEB"] / times["forward"], "times", "one forward pass of VGG-16"
    if "their EB" in times: yield "EB / TorchRay EB", times["EB"] / times["their EB"], "times", "TorchRay's excitation_backprop to pixels"
    for name, picture_is in ("their cEB", "whose picture asks for a gradient, so that it goes on to the pixels"), ("their cEB, shorter", "whose picture asks for none"):
        if name not in times: continue
        more = "" if name == "their cEB" else ", no gradient"
        yield f"TorchRay cEB{more} / forward", times[name] / times["forward"], "times", "one forward pass of VGG-16"
        yield f"cEB / TorchRay cEB{more}", times["cEB"] / times[name], "times", f"TorchRay's contrastive_excitation_backprop, both to conv5, {picture_is}"

    film, recogniser = torch.randn(frames, 3, 224, 224, device=device), ActionRecogniser([f"class {k}" for k in range(101)]).to(device).eval()
    once, explained = seconds(device, max(repeats // 3, 1), lambda: features_of(network, film, together=16), lambda: eb_r(network, SOURCE, recogniser, film, {"a": 5}, CONV5))
    yield f"cEB-R of {frames} frames / forward of the CNN over them", explained / once, "times", f"{frames} frames through VGG-16, 16 at a time"


if __name__ == "__main__": main(__file__, __doc__, measured)
