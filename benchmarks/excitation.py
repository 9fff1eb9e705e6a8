"""The cost of excitation backprop, relative to passes of the same network and to TorchRay: `python
benchmarks/excitation.py`.

VGG-16 with random weights and one image of 224 × 224. A clip of 128 frames goes through the CNN in chunks of 16;
its LSTM has the paper's 256 units. TorchRay's rows are omitted if it is not installed."""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import vgg16

from cgsaliency.explain.cnn_rnn import eb_r
from cgsaliency.explain.excitation import trace_forward
from cgsaliency.features.frame_extractor import FC7_LAYER, extract_layer_features
from cgsaliency.models.cnn_lstm import ActionLSTM
from measure import main, seconds

CONV5 = "features.25"  # conv5_1 after its ReLU


def forward_and_backward(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    inputs = image.clone().requires_grad_()
    return torch.autograd.grad(network(inputs)[0, 5], inputs)[0]


def plain_loop(
    network: nn.Module, excites: dict[nn.Module, torch.Tensor], image: torch.Tensor, seed: torch.Tensor
) -> torch.Tensor:
    "Compute EB of VGG-16 to pixels layer by layer, with weights that are clamped in advance."
    layers, responses, x = [*network.features, *network.classifier], [], image
    with torch.inference_mode():
        for k, layer in enumerate(layers):
            if k == len(network.features):
                x = x.flatten(1)
            responses.append(x)
            x = layer(x)
        for layer, x in zip(reversed(layers), reversed(responses), strict=True):
            if isinstance(layer, nn.MaxPool2d):
                seed = F.max_unpool2d(
                    seed.view(1, x.shape[1], x.shape[2] // 2, -1),
                    F.max_pool2d(x, 2, 2, return_indices=True)[1],
                    2,
                    2,
                    output_size=x.shape,
                )
            elif layer in excites:
                weight = excites[layer]
                total = F.linear(x, weight) if weight.ndim == 2 else F.conv2d(x, weight, None, 1, 1)
                shares = seed / total.masked_fill(total == 0, torch.inf)
                seed = x * (shares @ weight if weight.ndim == 2 else F.conv_transpose2d(shares, weight, None, 1, 1))
    return seed


def measured(device: torch.device, repeats: int, frames: int = 128):
    "Yield rows of name, value, unit, relative_to."
    torch.manual_seed(0)
    network = vgg16(init_weights=False).to(device).eval().requires_grad_(False)
    image, seed = torch.randn(1, 3, 224, 224, device=device), torch.zeros(1, 1000, device=device)
    seed[0, 5] = 1

    def forward():
        with torch.inference_mode():
            return network(image)

    def eb():
        return trace_forward(network, image, [""]).backprop(seed, [""])

    after = trace_forward(network, image, [""])

    def further():
        return after.backprop(seed, [""])

    def ceb():
        return trace_forward(network, image, [CONV5]).backprop(seed, [CONV5], "top")

    excites = {
        layer: layer.weight.detach().clamp(min=0)
        for layer in network.modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    }
    assert torch.allclose(
        plain_loop(network, excites, image, seed), eb()[""], rtol=1e-3, atol=1e-4 * float(eb()[""].abs().max())
    )
    calls = {
        "forward": forward,
        "both": lambda: forward_and_backward(network, image),
        "EB": eb,
        "another EB": further,
        "cEB": ceb,
        "loop": lambda: plain_loop(network, excites, image, seed),
    }
    try:
        from torchray.attribution.excitation_backprop import contrastive_excitation_backprop, excitation_backprop
    except ImportError:
        print("TorchRay is not installed: its rows are omitted")
    else:
        calls["their EB"] = lambda: excitation_backprop(network, image.clone(), 5, saliency_layer="")

        def their_ceb(image: torch.Tensor):
            return contrastive_excitation_backprop(
                network, image, 5, saliency_layer=CONV5, contrast_layer=FC7_LAYER, classifier_layer="classifier.6"
            )

        calls["their cEB"] = lambda: their_ceb(image.clone().requires_grad_())
        calls["their cEB, shorter"] = lambda: their_ceb(image.clone())
    times = dict(zip(calls, seconds(device, repeats, *calls.values()), strict=True))
    yield "forward of VGG-16", times["forward"], "s", ""
    yield (
        "EB to pixels / forward+backward",
        times["EB"] / times["both"],
        "times",
        "one forward and backward-to-input pass of VGG-16",
    )
    yield (
        "EB to pixels of a further class / forward+backward",
        times["another EB"] / times["both"],
        "times",
        "the same; the network has run already",
    )
    yield (
        "EB to pixels / plain loop",
        times["EB"] / times["loop"],
        "times",
        "the same by hand, weights clamped beforehand",
    )
    yield "cEB to conv5 / forward", times["cEB"] / times["forward"], "times", "one forward pass of VGG-16"
    if "their EB" in times:
        yield "EB / TorchRay EB", times["EB"] / times["their EB"], "times", "TorchRay's excitation_backprop to pixels"
    for name, image_note in (
        ("their cEB", "whose image asks for a gradient, so that it goes on to the pixels"),
        (
            "their cEB, shorter",
            "whose image asks for none",
        ),
    ):
        if name not in times:
            continue
        suffix = "" if name == "their cEB" else ", no gradient"
        yield f"TorchRay cEB{suffix} / forward", times[name] / times["forward"], "times", "one forward pass of VGG-16"
        yield (
            f"cEB / TorchRay cEB{suffix}",
            times["cEB"] / times[name],
            "times",
            f"TorchRay's contrastive_excitation_backprop, both to conv5, {image_note}",
        )

    video = torch.randn(frames, 3, 224, 224, device=device)
    classifier = ActionLSTM([f"class {k}" for k in range(101)]).to(device).eval()
    forward_time, eb_r_time = seconds(
        device,
        max(repeats // 3, 1),
        lambda: extract_layer_features(network, video, batch_size=16),
        lambda: eb_r(network, FC7_LAYER, classifier, video, {"a": 5}, CONV5),
    )
    yield (
        f"cEB-R of {frames} frames / forward of the CNN over them",
        eb_r_time / forward_time,
        "times",
        f"{frames} frames through VGG-16, 16 at a time",
    )


if __name__ == "__main__":
    main(__file__, __doc__, measured)
