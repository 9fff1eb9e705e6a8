"""The cost of evidence for words, relative to the captioner's passes: `python benchmarks/excitation_captions.py`.

VGG-16 with random weights and a MeanPoolCaptioner of the paper's sizes, one image of 224 × 224 and a caption of 12
words; then the language models alone, over 64 cells of one image and 64 cells of each of 26 frames: CGVS through S2VT
and cEB-R through MeanPoolCaptioner, each relative to one pass of its captioner over the descriptors of a caption."""

import torch
from torchvision.models import vgg16

from cgsaliency.core.geometry import CellGrid, ImageCrop
from cgsaliency.core.hooks import capture_activations
from cgsaliency.core.protocols import Descriptors, pool_frames
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.explain.cgvs_video import spacetime
from cgsaliency.explain.excitation_captions import eb_r_caption, eb_r_words
from cgsaliency.models.mean_pool import MeanPoolCaptioner
from cgsaliency.models.s2vt import S2VT
from measure import main, seconds

CONV5, FC7 = "features.25", "classifier.4"  # after their ReLUs


def measured(
    device: torch.device, repeats: int, words: int = 12_593, length: int = 12, side: int = 8, frames: int = 26
):
    "Yield rows of name, value, unit, relative_to."
    torch.manual_seed(0)
    names = [f"w{k}" for k in range(words)]
    vocabulary = Vocabulary.from_captions([names])  # and the end of a sentence
    network = vgg16(init_weights=False).to(device).eval().requires_grad_(False)
    captioner = MeanPoolCaptioner(vocabulary).to(device).eval().requires_grad_(False)
    fc7 = torch.nn.Sequential(network.features, network.avgpool, torch.nn.Flatten(), network.classifier[:5])
    image, caption = torch.randn(1, 3, 224, 224, device=device), names[:length]
    token_ids = captioner.encode_words(caption)[0].to(device)[None]

    def forward():
        with torch.no_grad():
            return captioner.log_probs(fc7(image)[:, None], token_ids)

    def forward_and_backward():
        inputs = image.clone().requires_grad_()
        log_prob = captioner.log_probs(fc7(inputs)[:, None], token_ids)[0, -1, token_ids[0, -1]]
        return torch.autograd.grad(log_prob, inputs)[0]

    def all_maps(spans=None):
        return eb_r_caption(network, FC7, captioner, image, caption, CONV5, spans)

    def last_map():
        return all_maps([slice(length - 1, length)])

    with torch.no_grad(), capture_activations(network, [FC7]) as outputs:
        network(image)
    assert torch.allclose(fc7(image), outputs[FC7], atol=1e-5) and torch.allclose(
        last_map().saliency[0], all_maps().saliency[-1], rtol=1e-3, atol=1e-6
    )
    calls = (forward, forward_and_backward, last_map, all_maps)
    forward_time, full_time, one_word, all_words = seconds(device, repeats, *calls)
    backward_time = full_time - forward_time
    yield "captioner forward: VGG-16 and log p of 12 words", forward_time, "s", ""
    yield (
        "captioner backward / forward",
        backward_time / forward_time,
        "times",
        "from log p of the 12th word to the pixels, by autograd",
    )
    yield (
        "cEB-R of one word / (forward + 1.2 backward) (must stay below 1)",
        one_word / (forward_time + 1.2 * backward_time),
        "times",
        "captioner forward and backward",
    )
    yield (
        "cEB-R of 12 words / of one word (must stay below 3)",
        all_words / one_word,
        "times",
        "cEB-R of the 12th word, to conv5_1",
    )

    network.cpu()
    captioner.cpu()

    def cells(times: int) -> Descriptors:
        return Descriptors(
            torch.rand(times * side * side, 2048, device=device),
            CellGrid.uniform(side, side, 299, 299),
            ImageCrop.full(500, 375, 299),
            tuple(map(float, range(times))),
        )

    image_cells, video_cells = cells(1), cells(frames)
    s2vt = S2VT(vocabulary).to(device).eval()
    pooling = MeanPoolCaptioner(vocabulary, feature_dim=2048).to(device).eval()

    def read(model, descriptors):
        with torch.inference_mode():
            return model.log_probs(descriptors.features[None], token_ids)

    s2vt_pass, cgvs_time, pooling_pass, ceb_r_time = seconds(
        device,
        repeats,
        lambda: read(s2vt, image_cells),
        lambda: cgvs(s2vt, image_cells, caption),
        lambda: read(pooling, image_cells),
        lambda: eb_r_words(pooling, image_cells, caption),
    )
    yield "S2VT's language pass over 64 descriptors", s2vt_pass, "s", ""
    yield (
        "CGVS of 64 descriptors and 12 words / language pass",
        cgvs_time / s2vt_pass,
        "times",
        "S2VT's language pass over 64 descriptors",
    )
    yield "MeanPoolCaptioner's language pass over 64 descriptors", pooling_pass, "s", ""
    yield (
        "cEB-R of 64 descriptors and 12 words / language pass",
        ceb_r_time / pooling_pass,
        "times",
        "MeanPoolCaptioner's language pass over 64 descriptors",
    )
    yield (
        "CGVS / cEB-R, 64 descriptors and 12 words",
        cgvs_time / ceb_r_time,
        "times",
        "cEB-R through MeanPoolCaptioner",
    )
    s2vt_video_pass, cgvs_time, pooling_video_pass, ceb_r_time = seconds(
        device,
        max(repeats // 3, 1),
        lambda: read(s2vt, pool_frames(video_cells)),
        lambda: spacetime(s2vt, video_cells, caption),
        lambda: read(pooling, video_cells),
        lambda: eb_r_words(pooling, video_cells, caption),
    )
    yield (
        f"CGVS in space and time, {frames} frames × 64 cells / language pass",
        cgvs_time / s2vt_video_pass,
        "times",
        f"S2VT's language pass over the means of {frames} frames",
    )
    yield (
        f"cEB-R of {frames} frames × 64 cells / language pass",
        ceb_r_time / pooling_video_pass,
        "times",
        f"MeanPoolCaptioner's language pass over the {frames * 64} descriptors",
    )
    yield (
        f"CGVS / cEB-R, {frames} frames × 64 cells",
        cgvs_time / ceb_r_time,
        "times",
        "cEB-R through MeanPoolCaptioner",
    )


if __name__ == "__main__":
    main(__file__, __doc__, measured)
