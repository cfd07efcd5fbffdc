import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads_overrides.imagenet_vit_fashion_mnist import dataset
from workloads_overrides.imagenet_vit_fashion_mnist.dataset import Images
from workloads_overrides.imagenet_vit_fashion_mnist.image_batches import (
    EvalBatches,
    TrainBatches,
    epoch_order,
    normalise,
    random_crop_and_flip,
)

KEY = (11, 22)
TINY = Images(
    np.random.RandomState(0).randint(0, 256, size=(10, 28, 28)).astype(np.uint8),
    np.arange(10),
)


def assert_same_batch(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def to_pixels(inputs):
    return np.rint(inputs * dataset.TRAIN_STDDEV + dataset.TRAIN_MEAN).astype(int)


@settings(max_examples=25, deadline=None)
@given(
    batch_size=st.integers(1, 10), built=st.integers(0, 7), skipped=st.integers(0, 25)
)
def test_skip_equals_building_the_batches(batch_size, built, skipped):
    walked, jumped = (TrainBatches(TINY, batch_size, KEY) for _ in range(2))
    for _ in range(built):
        assert_same_batch(next(walked), next(jumped))
    for _ in range(skipped):
        next(walked)
    jumped.skip(skipped)
    for _ in range(3):
        assert_same_batch(next(walked), next(jumped))


def test_skip_is_quick_and_refuses_to_go_back(random_images):
    batches = TrainBatches(random_images, 8, KEY)
    start = time.perf_counter()
    batches.skip(10**9)
    next(batches)
    assert time.perf_counter() - start < 0.5
    with pytest.raises(ValueError, match='-1'):
        batches.skip(-1)


def test_an_epoch_holds_each_image_at_most_once(random_images):
    batches = TrainBatches(random_images, 8, KEY)
    epochs = [
        np.concatenate([next(batches)['targets'] for _ in range(4)]) for _ in range(30)
    ]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == 32
    assert not np.array_equal(epochs[0], epochs[1])
    # What one epoch leaves out is not left out for ever.
    assert set(np.concatenate(epochs)) == set(range(37))


def test_batches_depend_on_both_halves_of_the_key(random_images):
    def first(key):
        return next(TrainBatches(random_images, 8, key))

    assert_same_batch(first((1, 2)), first(np.array([1, 2], np.int32)))
    for other in ((1, 3), (2, 2), (2, 1)):
        assert not np.array_equal(first((1, 2))['inputs'], first(other)['inputs'])


def test_negative_words_of_a_key_are_accepted(random_images):
    next(TrainBatches(random_images, 8, np.array([-5, 7], np.int32)))


def test_order_is_a_permutation_that_depends_on_the_epoch():
    orders = [epoch_order(KEY, epoch, 50) for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(50))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[1], orders[2])


def test_training_images_are_shifted_and_mirrored_windows(random_images):
    batches = TrainBatches(random_images, 32, KEY)
    found = set()
    for _ in range(12):
        batch = next(batches)
        assert batch['inputs'].shape == (32, 1, 28, 28)
        assert batch['inputs'].dtype == np.float32
        for image, label in zip(
            to_pixels(batch['inputs'][:, 0]), batch['targets'], strict=True
        ):
            found.add(find_window(image, random_images.pixels[label]))
    assert found == {
        (row, column, flip)
        for row in range(-2, 3)
        for column in range(-2, 3)
        for flip in (False, True)
    }


def find_window(image, original):
    """Returns the shift and mirroring that make `image` out of `original`."""
    matches = []
    for row, column in itertools.product(range(-2, 3), repeat=2):
        window = np.zeros((28, 28), int)
        top, bottom = max(0, -row), min(28, 28 - row)
        left, right = max(0, -column), min(28, 28 - column)
        window[top:bottom, left:right] = original[
            top + row : bottom + row, left + column : right + column
        ]
        if np.array_equal(window, image):
            matches.append((row, column, False))
        if np.array_equal(window[:, ::-1], image):
            matches.append((row, column, True))
    assert len(matches) == 1
    return matches[0]


def test_crops_do_not_change_the_source(random_images):
    padded = np.pad(random_images.pixels, ((0, 0), (2, 2), (2, 2)))
    before = padded.copy()
    random_crop_and_flip(padded, np.arange(37), np.random.RandomState(0))
    np.testing.assert_array_equal(padded, before)


def test_augmentation_differs_between_visits(random_images):
    one_image = Images(random_images.pixels[:1], random_images.labels[:1])
    batches = TrainBatches(one_image, 1, KEY)
    assert len({next(batches)['inputs'].tobytes() for _ in range(40)}) > 20


def test_augmentation_differs_between_the_batches_of_an_epoch(random_images):
    copies = Images(np.repeat(random_images.pixels[:1], 80, axis=0), np.arange(80))
    batches = TrainBatches(copies, 8, KEY)
    assert len({next(batches)['inputs'].tobytes() for _ in range(10)}) == 10


def test_normalise_formula_and_layouts():
    pixels = np.arange(2 * 28 * 28).reshape(2, 28, 28).astype(np.uint8)
    channels_first = normalise(pixels, channels_last=False)
    channels_last = normalise(pixels, channels_last=True)
    assert channels_last.shape == (2, 28, 28, 1)
    np.testing.assert_array_equal(channels_first[:, 0], channels_last[..., 0])
    expected = (int(pixels[1, 3, 4]) - 73.1038200255102) / 90.27320602832212
    assert channels_first[1, 0, 3, 4] == pytest.approx(expected, rel=1e-6)


def test_queues_pass_the_layout_on(random_images):
    train_first, train_last = (
        next(TrainBatches(random_images, 4, KEY, channels_last=last))['inputs']
        for last in (False, True)
    )
    np.testing.assert_array_equal(train_first, train_last.transpose(0, 3, 1, 2))
    eval_first, eval_last = (
        next(EvalBatches(random_images, 4, channels_last=last))['inputs']
        for last in (False, True)
    )
    np.testing.assert_array_equal(eval_first, eval_last.transpose(0, 3, 1, 2))


def test_batch_larger_than_the_training_set(random_images):
    assert len(next(TrainBatches(random_images, 37, KEY))['targets']) == 37
    with pytest.raises(ValueError, match='batch of 38'):
        TrainBatches(random_images, 38, KEY)


@pytest.mark.parametrize(('batch_size', 'num_batches'), [(10, 4), (37, 1), (50, 1)])
def test_evaluation_covers_each_image_once(random_images, batch_size, num_batches):
    batches = EvalBatches(random_images, batch_size)
    for _ in range(2):
        a_pass = [next(batches) for _ in range(num_batches)]
        assert {len(batch[name]) for batch in a_pass for name in batch} == {batch_size}
        joined = {
            name: np.concatenate([batch[name] for batch in a_pass])
            for name in ('inputs', 'targets', 'weights')
        }
        assert joined['weights'].dtype == np.float32
        assert joined['weights'].tolist() == [1.0] * 37 + [0.0] * (
            num_batches * batch_size - 37
        )
        np.testing.assert_array_equal(joined['targets'][:37], np.arange(37))
        np.testing.assert_array_equal(
            to_pixels(joined['inputs'][:37, 0]), random_images.pixels
        )


def test_evaluation_can_stop_early(random_images):
    batches = EvalBatches(random_images, 10, num_batches=2)
    starts = [int(next(batches)['targets'][0]) for _ in range(5)]
    assert starts == [0, 10, 0, 10, 0]
