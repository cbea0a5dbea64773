"""An export format: `tenfold export RUN --to npz` writes class names and weights as NumPy arrays."""

import copy
import io

import numpy as np
import torch

import tenfold
from tenfold.serving.source import Source


@tenfold.register_exporter("npz")
class Npz(tenfold.Exporter):
    """Arrays by name: `classes`, `mean`, `std`, `temperature`, and `weights/…` as in model.safetensors."""

    file = "model.npz"
    runtime = "NumPy"

    def write(self, source: Source) -> bytes:
        """The content of the file."""
        self.network = source.model.network
        tensors = self.network.state_dict().items()
        arrays = {f"weights/{name}": tensor.cpu().numpy() for name, tensor in tensors}
        arrays |= {"classes": np.array(source.model.classes), "temperature": np.array(source.about.temperature)}
        mean, std = (np.array(values, np.float32) for values in source.model.normalization)
        file = io.BytesIO()
        np.savez(file, mean=mean, std=std, **arrays)
        return file.getvalue()

    def predict(self, content: bytes, images: np.ndarray) -> np.ndarray:
        """What the network answers with the weights that are in the file: uint8 N×H×W×3 to N×K probabilities."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            weights = {n.removeprefix("weights/"): torch.from_numpy(arrays[n]) for n in arrays if "weights/" in n}
            pixels = torch.from_numpy((images / np.float32(255) - arrays["mean"]) / arrays["std"])
            temperature = float(arrays["temperature"])
        network = copy.deepcopy(self.network)
        network.load_state_dict(weights)
        with torch.no_grad():
            logits = network.eval()(pixels.permute(0, 3, 1, 2))
        return torch.softmax(logits / temperature, dim=1).numpy()
