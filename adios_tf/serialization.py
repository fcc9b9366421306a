"""How Keras saves what is ours, and finds it again.

Keras 3 rebuilds a class from a file only if the class is registered at that moment: it imports a
config's `module` for its own packages alone. But importing ours would bring in TensorFlow, and
`import adios_tf` is to be light. So the names in `CLASSES` are entered into Keras's registry as
soon as both packages are imported, in whichever order, each with a stand-in that imports the
class when a file asks for it.
"""

import importlib.abc
import inspect
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any, TypeVar

PACKAGE = "adios_tf"
_Class = TypeVar("_Class", bound=type)

# Every class that `serializable` decorates, by the module that defines it.
CLASSES = {
    "adios_tf.encoders.vit": "ClassTokenAndPositions",
    "adios_tf.losses": "CosineDistance InfoNCE MixMask NTXent NegativeCosine",
    "adios_tf.masking.adversarial": "Adversarial AdversarialOne",
    "adios_tf.masking.base": "NoMasking",
    "adios_tf.masking.fill": "Blur Erase Mean Noise",
    "adios_tf.masking.grid": "Blocks Cells",
    "adios_tf.masking.mix": "Mix",
    "adios_tf.masking.mscn": "MSCN",
    "adios_tf.masking.objects": "Objects",
    "adios_tf.masking.patches": "Patches Rectangles",
    "adios_tf.masking.sequential": "Recursion SequentialMasking SequentialOne",
    "adios_tf.masking.unmix": "UnMix UnMixBlocks",
    "adios_tf.objectives.byol": "BYOL",
    "adios_tf.objectives.moco": "MoCo",
    "adios_tf.objectives.simclr": "SimCLR",
    "adios_tf.objectives.simsiam": "SimSiam",
    "adios_tf.optimizers": "AdamW LARS SGD",
    "adios_tf.pretrained": "PretrainedModel",
    "adios_tf.schedules": "WarmupCosine",
    "adios_tf.training.pretrainer": "Pretrainer",
    "adios_tf.training.probe": "Probe",
}


def serializable(target: _Class) -> _Class:
    """Class decorator: registers the class with Keras as `adios_tf>NAME`."""
    import keras

    return keras.saving.register_keras_serializable(PACKAGE)(target)


class Configured:
    """Mixed into a layer or model: its config is what its constructor was given.

    Keras does that by itself for numbers and strings; here layers and models (an encoder, a
    masker, a fill) may be among the arguments. Weights are no part of a config.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__new__(cls, *args, **kwargs)
        signature = inspect.signature(cls.__init__)
        given = signature.bind(made, *args, **kwargs)
        given.apply_defaults()
        arguments = dict(list(given.arguments.items())[1:])
        for parameter in signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= arguments.pop(parameter.name)
        # Past Keras's tracking, which would save the weights of these layers a second time.
        object.__setattr__(made, "_arguments", SimpleNamespace(**arguments))
        return made

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, serialized."""
        import keras

        base = super().get_config()
        parameters = inspect.signature(type(self).__init__).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            base = {name: value for name, value in base.items() if name in parameters}
        given = vars(self._arguments).items()
        return {name: keras.saving.serialize_keras_object(value) for name, value in given} | base

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> Any:
        """Returns a new object with fresh weights."""
        import keras

        read = keras.saving.deserialize_keras_object
        return cls(**{name: read(value, custom_objects) for name, value in config.items()})


class _StandIn:
    """What Keras's registry holds of a class until its module is imported."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def from_config(self, config: dict[str, Any]) -> Any:
        return getattr(importlib.import_module(self.module), self.name).from_config(config)


def _register() -> None:
    import keras

    registry = keras.saving.get_custom_objects()
    for module, names in CLASSES.items():
        for name in names.split():
            registry.setdefault(f"{PACKAGE}>{name}", _StandIn(module, name))


class _AfterKeras(importlib.abc.MetaPathFinder):
    """Runs `_register` right after somebody's `import keras`; used once."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "keras":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            loader, execute = spec.loader, spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                # Not before: a spec may be asked for to see whether Keras is there, and dropped.
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                loader.exec_module = execute
                execute(module)
                _register()

            loader.exec_module = execute_and_register
        return spec


def register_with_keras() -> None:
    """Makes Keras find `CLASSES`, now or, where it is not imported yet, once it is."""
    if "keras" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterKeras())
