"""In what precision a GPU multiplies matrices of single-precision values.

By PyTorch's default that is single precision, and whoever trains may have chosen
otherwise for the model. K-FAC's own products have needs of their own.

TensorFloat-32 keeps 10 bits of each value's fraction and sums in single precision, at
several times the speed. A Gram matrix stays positive semi-definite, being that of the
rounded rows, which differ from the others by less than one part in 2000: far less than
a batch differs from the next. An inverse needs all bits: what rounding adds to its
smallest eigenvalues is in units of the largest.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

Precision = Literal['tf32', 'ieee']


@contextlib.contextmanager
def matmul_precision(values: Tensor, precision: Precision) -> Iterator[None]:
    """Sets the precision of products for a while; nothing where it makes no difference.

    Args:
      values: What is multiplied.
      precision: `'tf32'`, or `'ieee'` for single precision.
    """
    if not values.is_cuda or values.dtype != torch.float32:
        yield
        return
    matmul = torch.backends.cuda.matmul
    # The second name is that of PyTorch before 2.9. After it, only the first can be
    # set back to what it was, whichever of both the caller has used.
    name, chosen = (
        ('fp32_precision', precision)
        if hasattr(matmul, 'fp32_precision')
        else ('allow_tf32', precision == 'tf32')
    )
    before = getattr(matmul, name)
    setattr(matmul, name, chosen)
    try:
        yield
    finally:
        setattr(matmul, name, before)
