"""Write a model to a file in a foreign format and run what was written."""

import keras
import numpy as np


def exported(model, export, signature, folder):
    """The content of an exported model's file, as a function of arrays.

    Args:
        model: to export.
        export: `"tf_saved_model"`, `"onnx"` or `"torch"`.
        signature: `keras.InputSpec`, or a dictionary of them; the function
            takes the like.
        folder: where the file goes.
    """
    path = str(folder / {"onnx": "m.onnx", "torch": "m.pt2"}.get(export, "m"))
    model.export(path, export, verbose=False, input_signature=[signature])
    if export == "tf_saved_model":
        import tensorflow as tf

        loaded = tf.saved_model.load(path)
        return lambda inputs: loaded.serve(inputs).numpy()
    if export == "onnx":
        return _onnx(path)
    import torch

    program = torch.export.load(path).module()

    def run(inputs):
        inputs = keras.tree.map_structure(torch.tensor, inputs)
        return program(inputs).detach().numpy()

    return run


def _onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [one.name for one in session.get_inputs()]

    def run(inputs):
        if isinstance(inputs, np.ndarray):
            inputs = {names[0]: inputs}
        return session.run(None, {name: inputs[name] for name in names})[0]

    return run
