"""Write a model to a file in a foreign format and run what was written.

Each file runs in a runtime of its own; that of LiteRT is the plain interpreter,
without TensorFlow's operators.
"""

import keras
import numpy as np

NAMES = {
    "onnx": "m.onnx",
    "torch": "m.pt2",
    "litert": "m.tflite",
    "openvino": "m.xml",
}


def exported(model, export, signature, folder):
    """The content of an exported model's file, as a function of arrays.

    Args:
        model: to export.
        export: `"tf_saved_model"`, `"onnx"`, `"torch"`, `"litert"` or
            `"openvino"`.
        signature: `keras.InputSpec`, or a dictionary of them; the function
            takes the like.
        folder: where the file goes.
    """
    path = str(folder / NAMES.get(export, "m"))
    model.export(path, export, verbose=False, input_signature=[signature])
    if export == "tf_saved_model":
        import tensorflow as tf

        loaded = tf.saved_model.load(path)
        return lambda inputs: loaded.serve(inputs).numpy()
    if export in RUNTIMES:
        return RUNTIMES[export](path)
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


def _openvino(path):
    import openvino

    # Some CPUs would else compute in bfloat16.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", options)

    def run(inputs):
        if isinstance(inputs, np.ndarray):
            inputs = [inputs]
        return compiled(inputs)[0]

    return run


def _litert(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()

    def run(inputs):
        values = keras.tree.flatten(inputs)
        for one in details:
            # Names are the exporter's; no two inputs here share a dtype.
            (value,) = (v for v in values if v.dtype == one["dtype"])
            if tuple(one["shape"]) != value.shape:
                interpreter.resize_tensor_input(one["index"], value.shape)
            one["value"] = value
        interpreter.allocate_tensors()
        for one in details:
            interpreter.set_tensor(one["index"], one["value"])
        interpreter.invoke()
        return interpreter.get_tensor(
            interpreter.get_output_details()[0]["index"]
        )

    return run


RUNTIMES = {"onnx": _onnx, "openvino": _openvino, "litert": _litert}
