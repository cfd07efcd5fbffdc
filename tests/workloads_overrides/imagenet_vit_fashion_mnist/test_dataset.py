import gzip
import pathlib

import numpy as np
import pytest
from absl import logging

from workloads_overrides.imagenet_vit_fashion_mnist import dataset, idx_files, subset

DEBIAN_FOLDER = pathlib.Path('/usr/share/datasets/fashion-mnist')


@pytest.fixture(scope='module')
def committed():
    return dataset.load()


def test_committed_file_is_small_enough():
    assert dataset.SUBSET_PATH.stat().st_size <= 6_000_000


@pytest.mark.parametrize(
    ('split', 'per_class'), [('train', 1_000), ('validation', 200), ('test', 150)]
)
def test_splits_are_class_balanced(committed, split, per_class):
    images = committed[split]
    assert images.pixels.shape == (10 * per_class, 28, 28)
    assert images.pixels.dtype == np.uint8
    assert images.labels.dtype == np.int64
    assert np.bincount(images.labels).tolist() == [per_class] * 10


def test_classes_are_mixed_within_each_split(committed):
    for images in committed.values():
        assert set(images.labels[:100]) == set(range(10))


def test_no_image_occurs_twice(committed):
    seen = [image.tobytes() for name in committed for image in committed[name].pixels]
    assert len(set(seen)) == len(seen) == 13_500


def test_normalisation_constants_are_those_of_the_training_images(committed):
    pixels = committed['train'].pixels.astype(np.float64)
    assert pixels.mean() == pytest.approx(dataset.TRAIN_MEAN, rel=1e-12)
    assert pixels.std() == pytest.approx(dataset.TRAIN_STDDEV, rel=1e-12)


@pytest.mark.parametrize('field', ['pixels', 'labels'])
def test_content_hash_notices_one_changed_value(committed, field):
    assert dataset.content_hash(committed) == dataset.SUBSET_SHA256
    changed = getattr(committed['test'], field).copy()
    changed.flat[7] ^= 1
    altered = {**committed, 'test': committed['test']._replace(**{field: changed})}
    assert dataset.content_hash(altered) != dataset.SUBSET_SHA256


def test_missing_subset_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'gone\.npz is missing.*build_data'):
        dataset.load_subset(tmp_path / 'gone.npz')


def test_truncated_subset_is_named(tmp_path):
    path = tmp_path / 'short.npz'
    path.write_bytes(dataset.SUBSET_PATH.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r'short\.npz cannot be read.*build_data'):
        dataset.load_subset(path)


def test_damaged_subset_is_named(tmp_path):
    content = bytearray(dataset.SUBSET_PATH.read_bytes())
    content[1_000_000] ^= 255
    path = tmp_path / 'damaged.npz'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'damaged\.npz cannot be read'):
        dataset.load_subset(path)


def test_other_content_is_named(tmp_path, random_images):
    path = tmp_path / 'other.npz'
    subset.write(dict.fromkeys(dataset.SPLITS, random_images), path)
    with pytest.raises(ValueError, match=r'other\.npz: the images or labels are not'):
        dataset.load_subset(path)


@pytest.mark.parametrize('sub_folder', ['.', 'fashion-mnist'])
def test_full_set_is_used_where_it_is(tmp_path, write_full_set, sub_folder):
    write_full_set(tmp_path / sub_folder, num_train=10_030, num_test=20)
    splits = dataset.load(tmp_path)
    numbers = {
        name: images.pixels[:, 0, :2].astype(int) @ [256, 1]
        for name, images in splits.items()
    }
    assert numbers['train'].tolist() == list(range(30))
    assert numbers['validation'].tolist() == list(range(30, 10_030))
    assert numbers['test'].tolist() == list(range(20))
    for name, images in splits.items():
        assert images.labels.tolist() == [number % 10 for number in numbers[name]]


def test_folder_without_data_falls_back_to_the_subset(tmp_path, monkeypatch):
    lines = []
    for level in ('info', 'warning'):
        monkeypatch.setattr(
            logging, level, lambda text, *values: lines.append(text % values)
        )
    assert len(dataset.load(tmp_path)['train'].labels) == 10_000
    assert lines == [
        f'{tmp_path} holds no Fashion-MNIST; using the subset.',
        f'Data: committed subset of Fashion-MNIST, {dataset.SUBSET_PATH}.',
    ]


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'data_dir .*gone: there is no such'):
        dataset.load(tmp_path / 'gone')


def test_home_directory_is_filled_in(tmp_path, monkeypatch, write_full_set):
    monkeypatch.setenv('HOME', str(tmp_path))
    write_full_set(tmp_path / 'images', num_train=10_030, num_test=20)
    assert len(dataset.load('~/images')['train'].labels) == 30


def test_no_folder_is_none_or_empty(tmp_path, monkeypatch, write_full_set):
    write_full_set(tmp_path, num_train=10_030, num_test=20)
    monkeypatch.chdir(tmp_path)
    for none in (None, ''):
        assert len(dataset.load(none)['train'].labels) == 10_000


def test_incomplete_full_set_names_what_is_missing(tmp_path, write_full_set):
    write_full_set(tmp_path, num_train=3, num_test=3)
    (tmp_path / 't10k-labels-idx1-ubyte.gz').unlink()
    with pytest.raises(FileNotFoundError, match=r'lacks t10k-labels-idx1-ubyte\.gz;'):
        dataset.load(tmp_path)


def test_too_small_full_set_is_refused(tmp_path, write_full_set):
    write_full_set(tmp_path, num_train=50, num_test=3)
    with pytest.raises(ValueError, match=r'train-images.*holds 50 images'):
        dataset.load(tmp_path)


def test_idx_file_that_is_cut_short(tmp_path, write_idx):
    path = tmp_path / 'cut.gz'
    write_idx(path, np.arange(256, dtype=np.uint8).reshape(4, 8, 8))
    assert idx_files.read_idx(path).tolist()[3][7][7] == 255
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r'cut\.gz is not a complete gzip file'):
        idx_files.read_idx(path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'not an idx file'),
        (b'\x00\x00\x0d\x01\x00\x00\x00\x00', 'not an idx file'),
        (b'\x00\x00\x08\x03\x00\x00', 'not an idx file'),
        (b'\x00\x00\x08\x01\x00\x00\x00\x05abc', r'holds 3 bytes.*\(5,\)'),
    ],
)
def test_idx_file_with_a_wrong_header(tmp_path, content, message):
    path = tmp_path / 'wrong.gz'
    path.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=rf'wrong\.gz.*{message}'):
        idx_files.read_idx(path)


def test_images_and_labels_must_belong_together(tmp_path, write_full_set, write_idx):
    write_full_set(tmp_path, num_train=5, num_test=5)
    write_idx(tmp_path / 'train-labels-idx1-ubyte.gz', np.zeros(4, np.uint8))
    with pytest.raises(ValueError, match=r'\(5, 28, 28\).*\(4,\)'):
        idx_files.read_images_and_labels(tmp_path, 'train')


def test_first_of_each_class_keeps_the_order_of_the_file():
    labels = np.concatenate([np.arange(10)[::-1], np.arange(10), np.arange(10)])
    assert subset.first_of_each_class(labels, 2).tolist() == list(range(20))


def test_too_few_images_of_a_class():
    with pytest.raises(ValueError, match=r'Classes \[9\] have fewer than 1'):
        subset.first_of_each_class(np.arange(9), 1)


def test_written_subset_has_the_same_bytes_each_time(tmp_path, random_images):
    splits = dict.fromkeys(dataset.SPLITS, random_images)
    for name in ('a.npz', 'b.npz'):
        subset.write(splits, tmp_path / name)
    assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()
    with np.load(tmp_path / 'a.npz') as arrays:
        np.testing.assert_array_equal(arrays['test_pixels'], random_images.pixels)
        np.testing.assert_array_equal(arrays['test_labels'], random_images.labels)


def test_sources_must_be_as_published(tmp_path, write_full_set):
    with pytest.raises(FileNotFoundError, match=r'train-images.* is missing'):
        subset.check_sources(tmp_path)
    write_full_set(tmp_path, num_train=3, num_test=3)
    with pytest.raises(ValueError, match=r'train-images.* is not the published file'):
        subset.check_sources(tmp_path)


@pytest.mark.skipif(
    not DEBIAN_FOLDER.exists(), reason='needs the Debian package dataset-fashion-mnist'
)
def test_subset_lies_within_the_full_set(committed):
    subset.check_sources(DEBIAN_FOLDER)
    full = dataset.load(DEBIAN_FOLDER)
    assert [len(full[name].labels) for name in full] == [50_000, 10_000, 10_000]
    selected = subset.select(full)
    for name in dataset.SPLITS:
        np.testing.assert_array_equal(selected[name].pixels, committed[name].pixels)
        np.testing.assert_array_equal(selected[name].labels, committed[name].labels)
