"""Names that an entry has no use for, by the rule that forbids them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ForbiddenNames:
    """A rule that forbids using some names.

    Attributes:
      rule: Name of the rule.
      advice: Why, and what to do.
      names: Dotted names; each stands for all below it too.
      members: Attributes that are refused whatever they are taken from.
    """

    rule: str
    advice: str
    names: frozenset[str]
    members: frozenset[str] = frozenset()


FORBIDDEN = (
    ForbiddenNames(
        'environment',
        'a submission may not change environment variables',
        frozenset(
            {'nt', 'os.environ', 'os.environb', 'os.putenv', 'os.unsetenv', 'posix'}
        ),
    ),
    ForbiddenNames(
        'command_line',
        'the flags of the runner are not for submissions; they name the workload',
        frozenset({'absl.flags', 'argparse', 'sys.argv', 'sys.orig_argv'}),
    ),
    ForbiddenNames(
        'kernel',
        'a submission may not bring compiled kernels',
        frozenset(
            {
                'cffi',
                'ctypes',
                'cupy',
                'cutlass',
                'cython',
                'helion',
                'jax.experimental.mosaic',
                'jax.experimental.pallas',
                'jax.extend.ffi',
                'jax.ffi',
                'jax.pallas',
                'jax_triton',
                'numba',
                'pycuda',
                'tilelang',
                'torch.classes.load_library',
                'torch.cuda._compile_kernel',
                'torch.cuda.jiterator',
                'torch.library.triton_op',
                'torch.library.wrap_triton',
                'torch.ops.load_library',
                'torch.utils.cpp_extension',
                'triton',
                'tvm',
            }
        ),
    ),
    ForbiddenNames(
        'files',
        'a submission may not read or write files; state belongs in the optimiser',
        frozenset(
            {
                'bz2',
                'codecs.open',
                'fileinput',
                'ftplib',
                'glob',
                'gzip',
                'h5py',
                'http',
                'importlib.resources',
                'io.open',
                'io.FileIO',
                'jax.numpy.load',
                'jax.numpy.save',
                'jax.numpy.savez',
                'json.dump',
                'json.load',
                'linecache',
                'lzma',
                'mmap',
                'numpy.fromfile',
                'numpy.genfromtxt',
                'numpy.load',
                'numpy.loadtxt',
                'numpy.memmap',
                'numpy.save',
                'numpy.savetxt',
                'numpy.savez',
                'numpy.savez_compressed',
                'open',
                'os.listdir',
                'os.makedirs',
                'os.mkdir',
                'os.open',
                'os.remove',
                'os.rename',
                'os.scandir',
                'os.walk',
                'pathlib',
                'pickle.dump',
                'pickle.load',
                'pkgutil.get_data',
                'requests',
                'safetensors',
                'shelve',
                'shutil',
                'socket',
                'sqlite3',
                'tarfile',
                'tempfile',
                'torch.from_file',
                'torch.hub',
                'torch.jit.load',
                'torch.load',
                'torch.save',
                'urllib',
                'zipfile',
            }
        ),
        frozenset({'read_bytes', 'read_text', 'tofile', 'write_bytes', 'write_text'}),
    ),
    ForbiddenNames(
        'background_work',
        'work outside the calls of the runner could go on during untimed evaluations',
        frozenset(
            {
                'asyncio',
                'atexit',
                'concurrent',
                'multiprocessing',
                'os.execl',
                'os.execv',
                'os.execve',
                'os.execvp',
                'os.fork',
                'os.popen',
                'os.posix_spawn',
                'os.spawnl',
                'os.spawnv',
                'os.system',
                'signal',
                'subprocess',
                '_thread',
                'threading',
                'torch.multiprocessing',
            }
        ),
    ),
    ForbiddenNames(
        'hidden_code',
        'code that is put together at run time cannot be reviewed',
        frozenset(
            {
                '__builtins__',
                '__import__',
                'builtins',
                'compile',
                'eval',
                'exec',
                'globals',
                'importlib',
                'runpy',
            }
        ),
    ),
)
