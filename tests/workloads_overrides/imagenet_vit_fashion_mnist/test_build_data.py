import subprocess
import sys

MODULE = 'workloads_overrides.imagenet_vit_fashion_mnist.build_data'


def test_a_missing_source_is_an_error_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, '-m', MODULE, f'--source={tmp_path}/gone'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f'Error: {tmp_path}/gone/train-images')
    assert done.stderr.count('\n') == 1
