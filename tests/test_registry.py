"""Names, suggestions, and which settings reach a constructor."""

import keras
import pytest

from adios_tf.errors import UserError
from adios_tf.registry import Registry, construct, unknown_name


def test_registered_names_in_their_order():
    shapes = Registry("shape")
    shapes.register("square", "four sides")(1)
    shapes.register("circle", "no side")(2)
    assert (shapes["square"], shapes["circle"]) == (1, 2)
    assert list(shapes) == ["square", "circle"]
    assert shapes.lines() == {"square": "four sides", "circle": "no side"}
    assert "square" in shapes
    assert "cube" not in shapes


def test_the_decorator_returns_its_target():
    things = Registry("thing")

    @things.register("hello", "a greeting")
    def hello():
        return 3

    assert hello() == things["hello"]() == 3


def test_a_name_is_given_once():
    things = Registry("thing")
    things.register("a", "first")(1)
    with pytest.raises(ValueError, match="thing 'a' is registered already"):
        things.register("a", "second")
    assert things["a"] == 1


def test_unknown_names_suggest_the_nearest():
    things = Registry("masking")
    for name in ("adversarial", "blocks", "none"):
        things.register(name, "")(name)
    with pytest.raises(UserError, match=r"unknown masking 'block': did you mean 'blocks'\?") as e:
        things["block"]
    assert "known are adversarial, blocks, none" in str(e.value)
    assert "did you mean" not in str(unknown_name("masking", "zzz", ["blocks"]))


class Base:
    def __init__(self, depth=1, name="base"):
        self.depth, self.name = depth, name


class Middle(Base):
    """Has no constructor of its own."""


class Passing(Middle):
    def __init__(self, width=2, **kwargs):
        super().__init__(**kwargs)
        self.width = width


class Closed(Passing):
    def __init__(self, width=7):
        super().__init__(width=width)


SETTINGS = {"depth": 5, "width": 6, "other": 9}


def test_construct_gives_a_function_what_it_names():
    assert construct(lambda width, depth=0: (width, depth), SETTINGS) == (6, 5)
    assert construct(lambda *rest, width, **more: (rest, width, more), SETTINGS) == ((), 6, {})


def test_construct_follows_kwargs_up_the_bases():
    made = construct(Passing, SETTINGS)
    assert (made.width, made.depth, made.name) == (6, 5, "base")
    assert construct(Middle, SETTINGS).depth == 5
    # Closed passes nothing on, so its bases' parameters are not its own.
    closed = construct(Closed, SETTINGS)
    assert (closed.width, closed.depth) == (6, 1)


def test_construct_leaves_defaults_where_a_setting_is_none():
    made = construct(Passing, {"width": None, "depth": None})
    assert (made.width, made.depth) == (2, 1)


def test_what_is_given_wins_over_settings():
    assert construct(Passing, SETTINGS, width=1, name="mine").name == "mine"
    assert construct(Passing, SETTINGS, width=1).width == 1


def test_construct_stops_at_keras():
    """Keras's own parameters (name, dtype, ...) are no settings of ours."""

    class Layer(keras.layers.Layer):
        def __init__(self, width=1, **kwargs):
            super().__init__(**kwargs)
            self.width = width

    layer = construct(Layer, {"width": 3, "name": "nonsense name/", "dtype": "float99"})
    assert layer.width == 3
    assert layer.name != "nonsense name/"
