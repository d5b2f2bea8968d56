"""`BatchFunction`: a run's methods as functions of batches of NumPy arrays; in a local Ray cluster on tar shards."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.api import BatchFunction, load
from pipelines.data.digits import Digits
from pipelines.files.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
MNIST = ROOT / "pretrained" / "mnist"
ITEMS = 12


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """uint8 (n, 28, 28), of the size that the run was trained on."""
    small = Digits().split("validation").batch(torch.arange(ITEMS)).x[:, 0].numpy()
    return np.stack([np.asarray(Image.fromarray(image).resize((28, 28))) for image in small])


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def objects(items: list) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def test_codes_of_a_batch_are_those_of_the_run(images):
    run, function = load(MNIST), BatchFunction(MNIST, "encode", column="png")
    expected = run.encode(images).numpy()
    for column in (images, objects([png(image) for image in images])):
        made = function({"png": column, "__key__": np.arange(ITEMS)})
        assert made["codes"].dtype == np.uint8 and np.array_equal(made["codes"], expected)
        assert made.keys() == {"codes", "__key__"} and np.array_equal(made["__key__"], np.arange(ITEMS))
        assert np.array_equal(function({"png": column[3:4]})["codes"], expected[3:4])


def test_scores_and_compressed_files_of_a_batch_are_those_of_the_run(images):
    run = load(MNIST)
    scores = run.score(images[:3])
    made = BatchFunction(MNIST, "score")({"x": images[:3]})
    assert made.keys() == {"code_bits", "data_bits", "bits_per_dim", "bits_per_code"}
    assert np.array_equal(made["bits_per_dim"], scores.bits_per_dim.numpy())
    made = BatchFunction(MNIST, "compress")({"x": images[:3], "__key__": np.array(["a", "b", "c"])})
    assert made["count"].tolist() == [3]
    assert torch.equal(run.decompress(made["file"][0], ["c"])[0], run.decode(run.encode(images[2])))


def test_what_does_not_fit_is_refused(images):
    with pytest.raises(InputError, match="^method: expected encode, score or compress, found 'decode'$"):
        BatchFunction(MNIST, "decode")
    with pytest.raises(InputError, match="^column: expected one of image, found 'x'$"):
        BatchFunction(MNIST, "encode")({"image": images})
    with pytest.raises(InputError, match="^images: expected the content of an image file, found"):
        BatchFunction(MNIST, "encode")({"x": objects([b"no image"])})
    with pytest.raises(InputError, match="^names: expected one for each of 12 items, found 2$"):
        load(MNIST).compress(images, names=["a", "b"])


CLUSTER = """
import sys
import ray
from ray.cluster_utils import Cluster
from pipelines.api import BatchFunction

shards, run, out = sys.argv[1:]
node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args=node)
cluster.add_node(**node)
ray.init(address=cluster.address)
assert len(ray.nodes()) == 2
codes = ray.data.read_webdataset(shards).map_batches(
    BatchFunction, fn_constructor_kwargs={"run": run, "method": "encode", "column": "png"}, batch_size=4, concurrency=1)
codes.select_columns(["__key__", "codes"]).write_parquet(out)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_codes_of_tar_shards_in_a_cluster_of_two_nodes(images, tmp_path):
    pytest.importorskip("ray")
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "shards" / f"{shard}.tar", "w") as tar:
            for number in range(shard, ITEMS, 2):
                content = png(images[number])
                entry = tarfile.TarInfo(f"{number:03d}.png")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    subprocess.run([sys.executable, "-c", CLUSTER, tmp_path / "shards", MNIST, tmp_path / "codes"], check=True,
                   cwd=tmp_path, timeout=1200, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    rows = parquet.read_table(tmp_path / "codes").to_pylist()
    found = {row["__key__"]: np.array(row["codes"]).reshape(7, 7) for row in rows}  # Parquet has lists
    expected = load(MNIST).encode(images).numpy()
    assert len(rows) == len(found) == ITEMS
    assert all(np.array_equal(found[f"{number:03d}"], codes) for number, codes in enumerate(expected))
