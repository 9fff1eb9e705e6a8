"""What the evidence for words costs, beside the captioner's own passes: `python benchmarks/words.py`.

VGG-16 with random weights and a MeanPool of the paper's sizes, one picture of 224 × 224 and a sentence of 12 words; then the language parts
alone, over 64 cells of one picture and 64 cells of each of 26 frames: CGVS through S2VT, cEB-R through MeanPool, each beside one pass of its captioner
over what it reads for its own caption.
"""
import torch
from torchvision.models import vgg16

from cgsaliency.core.contracts import Descriptors, frame_means
from cgsaliency.core.geometry import Grid, View
from cgsaliency.core.layers import watched
from cgsaliency.data.text import Vocabulary
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.explain.spacetime import spacetime
from cgsaliency.explain.words import eb_r_caption, eb_r_words
from cgsaliency.models.mean_pool import MeanPool
from cgsaliency.models.s2vt import S2VT
from measure import main, seconds

CONV5, FC7 = "features.25", "classifier.4"     # after their ReLUs


def measured(device: torch.device, repeats: int, words: int = 12_593, length: int = 12, side: int = 8, frames: int = 26):
    "Rows of name, value, unit, relative_to."
    torch.manual_seed(0)
    names = [f"w{k}" for k in range(words)]
    vocabulary = Vocabulary.of([names])            # and the end of a sentence
    network, captioner = vgg16(init_weights=False).to(device).eval().requires_grad_(False), MeanPool(vocabulary).to(device).eval().requires_grad_(False)
    up = torch.nn.Sequential(network.features, network.avgpool, torch.nn.Flatten(), network.classifier[:5])
    picture, sentence = torch.randn(1, 3, 224, 224, device=device), names[:length]
    said = captioner.encode_words(sentence)[0].to(device)[None]

    def forward():
        with torch.no_grad(): return captioner.log_probs(up(picture)[:, None], said)
    def both():
        inside = picture.clone().requires_grad_()
        return torch.autograd.grad(captioner.log_probs(up(inside)[:, None], said)[0, -1, said[0, -1]], inside)[0]
    def grounded(spans=None): return eb_r_caption(network, FC7, captioner, picture, sentence, CONV5, spans)
    def last(): return grounded([slice(length - 1, length)])
    with torch.no_grad(), watched(network, [FC7]) as outputs: network(picture)
    assert torch.allclose(up(picture), outputs[FC7], atol=1e-5) and torch.allclose(last().saliency[0], grounded().saliency[-1], rtol=1e-3, atol=1e-6)
    once, there_and_back, one, all_words = seconds(device, repeats, forward, both, last, grounded)
    back = there_and_back - once
    yield "captioner forward: VGG-16 and log p of 12 words", once, "s", ""
    yield "captioner backward / forward", back / once, "times", "from log p of the 12th word to the pixels, by autograd"
    yield "cEB-R of one word / (forward + 1.2 backward) (must stay below 1)", one / (once + 1.2 * back), "times", "captioner forward and backward"
    yield "cEB-R of 12 words / of one word (must stay below 3)", all_words / one, "times", "cEB-R of the 12th word, to conv5_1"

    del network, up, captioner
    def cells(times: int) -> Descriptors: return Descriptors(torch.rand(times * side * side, 2048, device=device), Grid.even(side, side, 299, 299), View.whole(500, 375, 299), tuple(map(float, range(times))))
    still, film = cells(1), cells(frames)
    s2vt, pooling = S2VT(vocabulary).to(device).eval(), MeanPool(vocabulary, features=2048).to(device).eval()
    def read(model, seen):
        with torch.inference_mode(): return model.log_probs(seen.values[None], said)
    reads_one, alone, pools_one, shared = seconds(device, repeats, lambda: read(s2vt, still), lambda: cgvs(s2vt, still, sentence), lambda: read(pooling, still), lambda: eb_r_words(pooling, still, sentence))
    yield "S2VT's language pass over 64 descriptors", reads_one, "s", ""
    yield "CGVS of 64 descriptors and 12 words / language pass", alone / reads_one, "times", "S2VT's language pass over 64 descriptors"
    yield "MeanPool's language pass over 64 descriptors", pools_one, "s", ""
    yield "cEB-R of 64 descriptors and 12 words / language pass", shared / pools_one, "times", "MeanPool's language pass over 64 descriptors"
    yield "CGVS / cEB-R, 64 descriptors and 12 words", alone / shared, "times", "cEB-R through MeanPool"
    reads_film, alone, pools_film, shared = seconds(device, max(repeats // 3, 1), lambda: read(s2vt, frame_means(film)), lambda: spacetime(s2vt, film, sentence), lambda: read(pooling, film), lambda: eb_r_words(pooling, film, sentence))
    yield f"CGVS in space and time, {frames} frames × 64 cells / language pass", alone / reads_film, "times", f"S2VT's language pass over the means of {frames} frames"
    yield f"cEB-R of {frames} frames × 64 cells / language pass", shared / pools_film, "times", f"MeanPool's language pass over the {frames * 64} descriptors"
    yield f"CGVS / cEB-R, {frames} frames × 64 cells", alone / shared, "times", "cEB-R through MeanPool"


if __name__ == "__main__": main(__file__, __doc__, measured)
