"""The words of crops around objects."""

import pytest
import torch

from cgsaliency.core.errors import InputError
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.synth.write_flickr30k import write_flickr30k
from cgsaliency.train.object_crops import ObjectCrops


@pytest.fixture(scope="module")
def make_crops(tmp_path_factory):
    samples = load_flickr30k(write_flickr30k(tmp_path_factory.mktemp("crops"), 12, 1, 1), "train").samples
    vocabulary = Vocabulary.from_captions([caption.tokens for sample in samples for caption in sample.captions])
    return lambda labels, max_shift: ObjectCrops(
        samples, vocabulary, 64, 24, (0.5,) * 3, (0.5,) * 3, max_shift=max_shift, labels=labels
    )


def test_labels_of_the_middle_are_those_of_all_objects_over_it(make_crops):
    crops = make_crops("middle", 0)
    images, labels = crops.batch(torch.arange(len(crops)))
    num_shared = 0
    for row, (index, _, _) in enumerate(crops.objects):
        x, y = crops.middles[row].round().tolist()
        over_middle = {row} | {
            other
            for other, (other_index, boxes, _) in enumerate(crops.objects)
            if other_index == index and any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in boxes.tolist())
        }
        words = {token_id for other in over_middle for token_id in crops.objects[other][2]}
        assert set(labels[row].nonzero()[:, 0].tolist()) == words
        num_shared += len(over_middle) > 1
    assert num_shared > 5 and images.shape[2:] == (24, 24)
    # the labels of the objects themselves are not changed
    assert torch.equal(crops.labels, make_crops("object", 0).labels)


def test_the_crops_do_not_depend_on_their_labels(make_crops):
    indices = torch.arange(10)
    batches = [make_crops(name, 8).batch(indices, torch.Generator().manual_seed(3)) for name in ("object", "middle")]
    assert torch.equal(batches[0][0], batches[1][0]) and not torch.equal(batches[0][1], batches[1][1])


def test_unknown_labels_are_reported(make_crops):
    with pytest.raises(InputError, match="there are no 'all'"):
        make_crops("all", 0)
