"""Slices through a loss: known surfaces, known distances, and a model that is left as it was."""

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from hbnn_larq import loss_surface, plots, poincare
from hbnn_larq.loss_surface import Surface, between, draw, random_direction, surface
from hbnn_larq.optimizers import is_base_point
from hbnn_larq.quantizers import EPC, Hyperbolic
from hbnn_larq.rivals import Mapped

CLASSES = 3


@pytest.fixture(autouse=True)
def plain_ops(monkeypatch):
    """Compiling each small shape would take most of the time; test_span.py compares both paths."""
    monkeypatch.setenv("HBNN_LARQ_XLA", "0")


def small_model(kernel_quantizer=None, seed=0, input_quantizer="ste_sign"):
    """A real and a binary convolution, with statistics as training leaves them."""
    tf.keras.utils.set_random_seed(seed)
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Conv2D(4, 3, input_shape=(6, 6, 1)),
            tf.keras.layers.BatchNormalization(),
            lq.layers.QuantConv2D(
                5, 3, input_quantizer=input_quantizer,
                kernel_quantizer=kernel_quantizer or Hyperbolic(r=0.5, start=0.3),
            ),
            tf.keras.layers.BatchNormalization(),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(CLASSES),
        ]
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.moving_mean.assign(rng.normal(size=layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(1, 9, layer.moving_variance.shape))
    return model


def linear_model(seed=0):
    tf.keras.utils.set_random_seed(seed)
    return tf.keras.Sequential([tf.keras.layers.Dense(CLASSES, input_shape=(7,))])


@pytest.fixture
def model():
    return small_model()


@pytest.fixture
def images(rng):
    return rng.normal(size=(20, 6, 6, 1)).astype("float32")


@pytest.fixture
def labels(rng):
    return rng.integers(0, CLASSES, 20)


def own_figures(model, images, labels):
    """What Keras itself says."""
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    return model.evaluate(images, labels, verbose=0)


def points_of(model):
    return [v.latent_variable for v in model.weights if is_base_point(v)]


def bits(model):
    return [loss_surface._raw(v).numpy().tobytes() for v in model.weights]


def moved(model, direction, t):
    """The weights of a model at t, each as it is stored."""
    with loss_surface._put_back(model.weights):
        loss_surface._mover(model.weights, [direction])([t])
        return [loss_surface._raw(v).numpy() for v in model.weights]


# ---------------------------------------------------------------- known surfaces


def test_cross_entropy_of_a_linear_model_along_a_line(rng):
    model, x = linear_model(), rng.normal(size=(50, 7))
    y = rng.integers(0, CLASSES, 50)
    direction = random_direction(model, 3)
    found = surface(model, x.astype("float32"), y, direction, points=9, reach=2, batch_size=16)
    kernel = model.layers[0].kernel.numpy().astype("float64")
    np.testing.assert_array_equal(found.axes[0], np.linspace(-2, 2, 9))
    for t, loss, accuracy in zip(found.axes[0], found.loss, found.accuracy, strict=True):
        logits = x @ (kernel + t * direction.tangents[0])
        expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(50), y]
        assert loss == pytest.approx(expected.mean(), rel=1e-5)
        assert accuracy == np.mean(logits.argmax(1) == y)


def test_a_quadratic_loss_over_a_plane_is_a_quadratic_form(rng):
    """|x (W + a D + b E)|^2 with a loss of one's own."""
    model, x = linear_model(), rng.normal(size=(30, 7)).astype("float32")
    plane = [random_direction(model, seed) for seed in (1, 2)]
    found = surface(
        model, x, np.zeros(30, int), plane, points=5,
        loss=lambda labels, outputs: tf.reduce_sum(outputs**2, -1),
    )  # fmt: skip
    vectors = [model.layers[0].kernel.numpy(), *(d.tangents[0] for d in plane)]
    gram = np.array([[np.sum((x @ u) * (x @ v)) / 30 for v in vectors] for u in vectors])
    a, b = np.meshgrid(*found.axes, indexing="ij")
    at = np.stack([np.ones_like(a), a, b])
    np.testing.assert_allclose(found.loss, np.einsum("iab,ij,jab->ab", at, gram, at), rtol=1e-5)


@pytest.mark.parametrize("of", ["weights", "latents", "base_points", "all"])
@pytest.mark.parametrize("batch_size", [7, 256])
def test_the_centre_is_the_model_itself(model, images, labels, of, batch_size):
    plane = [random_direction(model, seed, of) for seed in (0, 1)]
    found = surface(model, images, labels, plane, points=3, batch_size=batch_size)
    loss, accuracy = own_figures(model, images, labels)
    assert found.loss[1, 1] == pytest.approx(loss, rel=1e-6)
    assert found.accuracy[1, 1] == pytest.approx(accuracy)
    assert len(np.unique(found.loss)) == 9


def test_one_direction_is_the_middle_row_of_the_plane(model, images, labels):
    first, second = (random_direction(model, seed, "all") for seed in (0, 1))
    line = surface(model, images, labels, first, points=3)
    plane = surface(model, images, labels, [first, second], points=3)
    np.testing.assert_array_equal(plane.loss[:, 1], line.loss)


def test_a_tie_is_no_hit(images, labels):
    model = small_model()
    model.layers[-1].kernel.assign(tf.zeros_like(model.layers[-1].kernel))
    found = surface(model, images, labels, random_direction(model, 0), points=3)
    assert found.accuracy.tolist() == [0, 0, 0]
    np.testing.assert_allclose(found.loss, np.log(CLASSES))


# ---------------------------------------------------------------- random directions


def test_every_filter_of_a_direction_is_as_long_as_that_of_the_weights():
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Conv2D(4, 3, input_shape=(8, 8, 2)),
            lq.layers.QuantConv2DTranspose(5, 3, kernel_quantizer="ste_sign"),
            lq.layers.QuantDepthwiseConv2D(3, depthwise_quantizer="ste_sign"),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(2),
        ]
    )
    direction = random_direction(model, 0)
    rows = {0: (0, 1, 2), 2: (0, 1, 3), 4: (0, 1), 6: (0,)}
    assert direction.tangents.keys() == rows.keys()  # and no bias
    for place, axis in rows.items():
        both = direction.tangents[place], loss_surface._value(model.weights[place])
        np.testing.assert_allclose(*(np.sqrt(np.sum(x * x, axis)) for x in both))


def test_parts_of_one_seed_together_are_its_all(model):
    parts = [random_direction(model, 5, of).tangents for of in ("weights", "base_points")]
    together = random_direction(model, 5, "all").tangents
    assert together.keys() == parts[0].keys() | parts[1].keys()
    for place, tangent in together.items():
        np.testing.assert_array_equal(tangent, {**parts[0], **parts[1]}[place])
    (latents,) = random_direction(model, 5, "latents").tangents
    assert model.weights[latents].name.endswith("kernel:0") and latents in parts[0]


def test_a_seed_is_all_that_a_direction_depends_on(model):
    first = random_direction(model, 4, "all")
    tf.random.set_seed(99)
    np.random.seed(99)
    again, other = (random_direction(model, seed, "all") for seed in (4, 5))
    for place, tangent in first.tangents.items():
        np.testing.assert_array_equal(tangent, again.tangents[place])
        assert not np.any(tangent == other.tangents[place])


def test_frozen_layers_do_not_move_at_random(model):
    model.layers[0].trainable = False
    places = random_direction(model, 0, "all").tangents
    assert not any(model.weights[place] is model.layers[0].kernel for place in places)


@pytest.mark.parametrize("granularity", ["filter", "layer"])
def test_base_points_move_as_far_as_the_weights_are_out(granularity):
    model = small_model(Hyperbolic(r=0.5, granularity=granularity, start=0.3))
    (point,) = points_of(model)
    ball = poincare.ball_of(point)
    moves = {"r": ball.r, "axis": ball.axis}
    direction = random_direction(model, 0, "base_points")
    (tangent,) = direction.tangents.values()
    start = tf.cast(point, tf.float64)
    travelled = poincare.distance(start, poincare.expmap(start, tangent, **moves), **moves)
    out = np.ravel(ball.length())  # of each vector
    as_far = np.zeros(point.shape)
    as_far[0, 0, 0, : len(out)] = out
    expected = poincare.distance(np.zeros(point.shape), as_far, **moves)
    np.testing.assert_allclose(travelled, expected, rtol=1e-6)


@pytest.mark.parametrize("t", [-50.0, -1.0, 0.3, 50.0, 1e6])
def test_base_points_stay_in_their_ball_and_the_rest_where_it_is(model, t):
    before = [loss_surface._raw(v).numpy() for v in model.weights]
    after = moved(model, random_direction(model, 0, "base_points"), t)
    for variable, old, new in zip(model.weights, before, after, strict=True):
        ball = poincare.ball_of(variable)
        if ball is None:
            np.testing.assert_array_equal(old, new)
        else:
            assert not np.array_equal(old, new)
            assert ball.r * np.max(np.sum(new.astype("float64") ** 2, ball.axis)) < 1


# ---------------------------------------------------------------- between two models


@pytest.mark.parametrize("given_as", ["model", "weights"])
def test_the_way_to_another_model_ends_there(model, images, labels, given_as):
    other = small_model(seed=1)
    way = between(model, other if given_as == "model" else other.get_weights())
    found = surface(model, images, labels, way)
    assert found.axes[0][[2, 12]] == pytest.approx([0, 1]) and found.axes[0][2] == 0
    for at, net in ((2, model), (12, other)):
        loss, accuracy = own_figures(net, images, labels)
        assert found.loss[at] == pytest.approx(loss, rel=1e-5)
        assert found.accuracy[at] == pytest.approx(accuracy)
    for one, theirs in zip(moved(model, way, 1.0), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, theirs, atol=1e-6)


def test_distances_along_the_geodesic_are_proportional_to_t(model):
    other = small_model(seed=1)
    way = between(model, other, "base_points")
    (place,) = way.tangents
    ball = poincare.ball_of(model.weights[place])
    start, end = points_of(model)[0].numpy(), points_of(other)[0].numpy()
    moves = {"r": ball.r, "axis": ball.axis}
    whole = poincare.distance(start, end, **moves).numpy()
    for t in (0.25, 0.5, 1.0, 1.2):
        part = poincare.distance(start, moved(model, way, t)[place], **moves)
        np.testing.assert_allclose(part, t * whole, rtol=1e-5)


def test_the_corners_of_weights_times_base_points(model, images, labels):
    other = small_model(seed=1)
    plane = [between(model, other, of) for of in ("weights", "base_points")]
    found = surface(model, images, labels, plane, points=2, reach=1)
    assert found.loss[0, 0] == pytest.approx(own_figures(model, images, labels)[0], rel=1e-5)
    assert found.loss[1, 1] == pytest.approx(own_figures(other, images, labels)[0], rel=1e-5)
    other.layers[2].kernel_quantizer.base_points[0].assign(points_of(model)[0])
    assert found.loss[1, 0] == pytest.approx(own_figures(other, images, labels)[0], rel=1e-5)


def test_statistics_do_not_go_beyond_either_model(model, images, labels):
    other = small_model(seed=1)
    norm = model.layers[1], other.layers[1]
    norm[1].moving_variance.assign(norm[0].moving_variance / 100)
    way = between(model, other)
    assert np.all(np.isfinite(surface(model, images, labels, way, points=5, reach=5).loss))
    place = next(i for i, v in enumerate(model.weights) if v is norm[0].moving_variance)
    for t, end in ((-4, norm[0]), (5, norm[1])):
        np.testing.assert_allclose(moved(model, way, t)[place], end.moving_variance)


def test_a_part_leaves_the_rest(model):
    other = small_model(seed=1)
    for of, count in (("latents", 1), ("base_points", 1)):
        assert len(between(model, other, of).tangents) == count
    # Biases, shifts and scales of both models start equal.
    assert len(between(model, other, "weights").tangents) == 3 + 4


# ---------------------------------------------------------------- deployed and relaxed


def test_the_deployed_net_sees_signs_and_no_sizes(images, labels):
    """With base points at 0; so the surface is constant while all latents of a filter grow."""
    model = small_model(Hyperbolic(r=0.5))
    place = next(i for i, v in enumerate(model.weights) if loss_surface.is_latent(v))
    latent = loss_surface._value(model.weights[place])
    larger = np.zeros_like(latent)
    larger[..., 2] = latent[..., 2]
    way = loss_surface.Direction("latents", 0, {place: larger})
    found = surface(model, images, labels, way, points=9, reach=0.9)
    assert len(np.unique(found.loss)) == 1
    through_zero = surface(model, images, labels, way, points=8, reach=4)
    assert len(np.unique(through_zero.loss)) == 2  # all of the filter, and none of it


def test_the_deployed_surface_is_a_staircase_and_the_relaxed_one_is_not(model, images, labels):
    way = random_direction(model, 0, "base_points")
    deployed, relaxed = (
        surface(model, images, labels, way, points=101, reach=1e-3, relaxed=relaxed).loss
        for relaxed in (False, True)
    )
    assert len(np.unique(deployed)) < 5
    assert len(np.unique(relaxed)) > 90
    assert np.ptp(relaxed) < 0.01


@pytest.mark.parametrize(
    "make",
    [
        lambda: Hyperbolic(r=0.5, start=0.4),
        lambda: EPC(r=0.5, start=0.4),
        lambda: Mapped(Hyperbolic(r=0.5, start=0.4), "irnet"),
        lambda: "xnor",
        lambda: "ste_sign",
    ],
    ids=["hyperbolic", "epc", "mapped", "xnor", "ste_sign"],
)
def test_the_relaxed_kernel_is_the_image_as_large_as_the_deployed_one(make, images, labels):
    model = small_model(make())
    layer = model.layers[2]
    quantizer = layer.kernel_quantizer
    latent = tf.convert_to_tensor(layer.kernel)
    image = getattr(quantizer, "map", quantizer)
    image = image.image(latent) if hasattr(image, "image") else latent
    with lq.context.quantized_scope(True):
        deployed = layer.kernel.numpy()
    size = np.sqrt(np.mean(deployed**2, (0, 1, 2)) / np.mean(image**2, (0, 1, 2)))
    way = random_direction(model, 0)
    found = surface(model, images, labels, way, points=3, relaxed=True)
    assert layer.kernel.quantizer is quantizer
    plain = lq.layers.QuantConv2D(5, 3, input_quantizer="ste_sign")
    relaxed = tf.keras.Sequential([*model.layers[:2], plain, *model.layers[3:]])
    plain.set_weights([image * size, layer.bias.numpy()])
    assert found.loss[1] == pytest.approx(own_figures(relaxed, images, labels)[0], rel=1e-5)


def test_without_binary_kernels_the_relaxed_net_is_the_deployed_one(rng):
    model, x = linear_model(), rng.normal(size=(9, 7)).astype("float32")
    way, y = random_direction(model, 0), np.arange(9) % 3
    both = [surface(model, x, y, way, points=3, relaxed=relaxed) for relaxed in (False, True)]
    np.testing.assert_array_equal(both[0].loss, both[1].loss)


def test_half_precision_rounds_no_tiny_latent_away(images, labels):
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = small_model(Hyperbolic(r=0.5))
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    way = random_direction(model, 0)
    before = surface(model, images, labels, way, points=3, relaxed=True).loss
    place = next(i for i, v in enumerate(model.weights) if loss_surface.is_latent(v))
    loss_surface._raw(model.weights[place]).assign(1e-9 * loss_surface._value(model.weights[place]))
    after = surface(model, images, labels, way, points=3, relaxed=True).loss
    assert after[1] == pytest.approx(before[1], abs=0.01)


# ---------------------------------------------------------------- the model afterwards


@pytest.mark.parametrize("relaxed", [False, True])
def test_weights_are_put_back_bit_for_bit(model, images, labels, relaxed):
    before, quantizer = bits(model), model.layers[2].kernel.quantizer
    plane = [random_direction(model, 0, "all"), between(model, small_model(seed=1))]
    surface(model, images, labels, plane, points=2, relaxed=relaxed)
    assert bits(model) == before
    assert model.layers[2].kernel.quantizer is quantizer


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_are_put_back_when_a_point_fails(model, images, labels, error):
    before, calls = bits(model), []

    def loss(labels, outputs):
        calls.append(bits(model) != before)
        if len(calls) == 3:
            raise error
        return tf.zeros(len(labels))

    with pytest.raises(error):
        surface(model, images, labels, random_direction(model, 0, "all"), points=5, loss=loss)
    assert calls[-1], "nothing had moved yet"
    assert bits(model) == before


def test_the_graph_is_traced_once(images, labels, monkeypatch):
    traced = []

    class Noted(tf.keras.layers.Layer):
        def call(self, inputs):
            traced.append(tf.inside_function())
            return inputs

    model = tf.keras.Sequential([Noted(input_shape=(6, 6, 1)), *small_model().layers])
    traced.clear()
    surface(model, images, labels, random_direction(model, 0), points=5, batch_size=8)
    assert traced == [True]


def test_progress_tells_the_time_left_once_a_second(model, images, labels, monkeypatch):
    clock, said = iter(np.arange(0, 100, 0.4)), []
    monkeypatch.setattr(loss_surface.time, "monotonic", lambda: float(next(clock)))
    surface(model, images, labels, random_direction(model, 0), points=7, say=said.append)
    assert said == ["  3 of 7 points  2 s left", "  6 of 7 points  0 s left",
                    "  7 of 7 points  0 s left"]  # fmt: skip


# ---------------------------------------------------------------- files


def made_up(directions, relaxed=False, loss=None):
    axes = tuple(np.linspace(-1, 1, 3 + place) for place in range(directions))
    rng = np.random.default_rng(0)
    shape = tuple(map(len, axes))
    figures = rng.lognormal(size=shape) if loss is None else np.broadcast_to(loss, shape)
    of, seeds = ("base_points", "weights")[:directions], (7, None)[:directions]
    return Surface(axes, figures, rng.random(shape), of, seeds, relaxed)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("loss", [None, np.inf, np.nan])
def test_a_csv_file_gives_the_same_surface_back(tmp_path, directions, loss):
    one = made_up(directions, relaxed=directions == 2, loss=loss)
    path = one.to_csv(tmp_path / "surface.csv")
    two = Surface.from_csv(path)
    for a, b in zip((*one.axes, one.loss, one.accuracy), (*two.axes, two.loss, two.accuracy),
                    strict=True):  # fmt: skip
        np.testing.assert_array_equal(a, b)
    assert (one.of, one.seeds, one.relaxed) == (two.of, two.seeds, two.relaxed)
    assert [file.name for file in tmp_path.iterdir()] == ["surface.csv"]
    header = ["x,loss,accuracy,relaxed,x_of,x_seed",
              "x,y,loss,accuracy,relaxed,x_of,x_seed,y_of,y_seed"]  # fmt: skip
    assert path.read_text().splitlines()[0] == header[directions - 1]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = made_up(1).to_csv(tmp_path / "surface.csv")
    before = path.read_text()

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        made_up(2).to_csv(path)
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["surface.csv"]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "x,loss,accuracy,relaxed,x_of,x_seed\n"])
def test_another_file_is_no_surface(tmp_path, text):
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        Surface.from_csv(path)
    assert str(error.value) == (
        f"Surface.from_csv(path={str(path)!r}): no file that Surface.to_csv wrote, whole and of "
        "one surface."
    )


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    def draw_and_read(surfaces):
        kept = []
        write = plots._write
        monkeypatch.setattr(plots, "_write", lambda fig, path: kept.append(fig) or write(fig, path))
        assert draw(surfaces, tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
        return kept[0].axes

    return draw_and_read


@pytest.mark.filterwarnings("error")
def test_lines_share_one_picture(drawn):
    loss, accuracy = drawn([made_up(1), made_up(1, relaxed=True)])
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["deployed", "relaxed"]
    assert loss.get_xlabel() == accuracy.get_xlabel() == "t (base points, seed 7)"
    np.testing.assert_array_equal(accuracy.lines[0].get_ydata(), 100 * made_up(1).accuracy)
    assert loss.lines[-1].get_xdata() == [0, 0]  # the model itself


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("loss", [None, 0.0, 2.5, np.nan, np.geomspace(1e-3, 1e3, 4)])
def test_planes_stand_below_each_other(drawn, loss):
    axes = drawn([made_up(2, loss=loss), made_up(2, relaxed=True, loss=loss)])
    assert [each.get_title() for each in axes[:4]] == ["deployed"] * 2 + ["relaxed"] * 2
    assert axes[0].get_xlabel() == "base points, seed 7"
    assert axes[0].get_ylabel() == "weights, to the other model"
    marks = [tuple(np.ravel(line.get_xydata())) for line in axes[0].lines]
    assert marks == [(0, 0), (0, 1)]


@pytest.mark.parametrize("kinds", [[], [1, 2]])
def test_nothing_and_mixtures_are_not_drawn(tmp_path, kinds):
    with pytest.raises(ValueError) as error:
        draw([made_up(kind) for kind in kinds], tmp_path / "plot.png")
    assert str(error.value) == (
        f"draw(surfaces: {len(kinds)}): at least one, all along one direction or all over two; "
        "draw lines and planes apart."
    )


# ---------------------------------------------------------------- bad input

MAKES = "random_direction(model, seed) or between(model, other)"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"points": 1}, "surface(points=1): a whole number, 2 or above."),
        ({"reach": 0}, "surface(reach=0): a finite number above 0, the largest t."),
        ({"reach": np.inf}, "surface(reach=inf): a finite number above 0, the largest t."),
        ({"batch_size": 0}, "surface(batch_size=0): a whole number, 1 or above."),
        ({"labels": np.zeros(19, int)},
         "surface(labels: shape (19,), int64): one for each of the 20 images, in their order."),
        ({"labels": np.zeros((20, 3))},
         "surface(labels: shape (20, 3), float64): classes as whole numbers of the shape "
         "(images,); of one-hot rows take argmax(axis=1)."),
        ({"labels": np.full(20, 3)},
         "surface(labels: from 3 to 3): classes from 0 to 2, which is what 'net' has outputs for."),
        ({"images": np.zeros((0, 6, 6, 1))},
         "surface(images: shape (0, 6, 6, 1)): at least one image, of the shape (images, ...)."),
        ({"images": np.full((20, 6, 6, 1), np.nan)},
         "surface(images: shape (20, 6, 6, 1)): they hold numbers that are not finite; leave "
         "these images out."),
        ({"directions": []}, f"surface(directions: 0): one or two, each made by {MAKES}."),
        ({"directions": ["weights"]}, f"surface(directions: 1): one or two, each made by {MAKES}."),
        ({"directions": [random_direction(linear_model(), 0)]},
         "surface(directions: 1): they fit another model than 'net'; make them of this one with "
         f"{MAKES}."),
        ({"directions": "twice"},
         "surface(directions: 2): they are one and the same, which spans no plane; give them "
         "different seeds."),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_bad_arguments_are_named(model, images, labels, bad, message):
    model._name = "net"
    direction = random_direction(model, 0)
    arguments = {"images": images, "labels": labels, "directions": direction, **bad}
    if bad.get("directions") == "twice":
        arguments["directions"] = [direction, random_direction(model, 0)]
    with pytest.raises(ValueError) as error:
        surface(model, **arguments)
    assert str(error.value) == message


def test_probabilities_are_no_logits(model, images, labels):
    probable = tf.keras.Sequential([*model.layers, tf.keras.layers.Softmax()], name="net")
    direction = random_direction(probable, 0)
    with pytest.raises(ValueError) as error:
        surface(probable, images, labels, direction)
    assert str(error.value) == (
        "surface(model='net'): it ends in probabilities, not in logits; add "
        "loss=tf.keras.losses.sparse_categorical_crossentropy."
    )
    loss = tf.keras.losses.sparse_categorical_crossentropy
    found = surface(probable, images, labels, direction, points=3, loss=loss)
    assert found.loss[1] == pytest.approx(np.mean(loss(labels, probable(images).numpy())), rel=1e-5)


def test_a_loss_is_one_an_image(model, images, labels):
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(ValueError, match=r"for 20 of them not an array of shape \(\); .*reduction"):
        surface(model, images, labels, random_direction(model, 0), loss=loss)


def test_a_model_gives_one_row_of_logits_an_image(images, labels):
    model = tf.keras.Sequential([tf.keras.layers.Conv2D(3, 3, input_shape=(6, 6, 1))], name="net")
    with pytest.raises(ValueError) as error:
        surface(model, images, labels, random_direction(model, 0))
    assert str(error.value) == (
        "surface(model='net'): its output must be one logit for each class, of the shape "
        "(images, classes)."
    )


def test_models_are_checked_first(model, images, labels):
    model._name = "net"
    with pytest.raises(TypeError, match=r"^random_direction\(model=3\): a tf.keras.Model.$"):
        random_direction(3, 0)
    with pytest.raises(ValueError) as error:
        random_direction(tf.keras.Sequential([tf.keras.layers.Dense(2)], name="late"), 0)
    assert str(error.value) == (
        "random_direction(model='late'): it has no weights yet; give it an input shape or call it "
        "once on images."
    )
    direction = random_direction(model, 0)
    model.layers[-1].bias.assign([0, np.nan, 0])
    with pytest.raises(ValueError) as error:
        surface(model, images, labels, direction)
    assert str(error.value) == (
        f"surface(model='net'): {model.layers[-1].bias.name} is not finite; take weights from "
        "before training broke down."
    )


def test_a_part_that_a_model_has_not_is_named():
    plain = linear_model()
    plain._name = "net"
    end = (
        "'net' has none. Kernel quantizers such as hbnn_larq.quantizers.Hyperbolic hold them; "
        'of="weights" moves everything else.'
    )
    for call, argument in ((random_direction, 0), (between, linear_model(1))):
        with pytest.raises(ValueError) as error:
            call(plain, argument, of="base_points")
        assert str(error.value) == f"{call.__name__}(of='base_points'): {end}"
    with pytest.raises(ValueError) as error:
        random_direction(plain, 0, of="points")
    assert str(error.value) == (
        'random_direction(of=\'points\'): one of "weights", "latents", "base_points", "all".'
    )
    with pytest.raises(ValueError, match=r"^random_direction\(seed=-1\): a whole number, 0 or ab"):
        random_direction(plain, -1)


def test_models_that_do_not_fit_are_told_apart(model):
    model._name = "net"
    way_out = "give one of the same architecture, or what its get_weights() gave"
    cases = [
        (linear_model().get_weights(),
         f"other=2 arrays): it has 2 weights and 'net' has 15; {way_out}."),
        ([w[..., :1] for w in model.get_weights()],
         f"other=15 arrays): {model.weights[0].name} has shape (3, 3, 1, 4) in 'net' and "
         f"(3, 3, 1, 1) there; {way_out}."),
        (model.get_weights(),
         "other=15 arrays): all of the two are equal, so there is no way from one to the other; "
         "give a model trained longer, from its start, or from another seed."),
        ([w * np.nan for w in model.get_weights()],
         f"other=15 arrays): {model.weights[0].name} is not finite there; give finite weights."),
    ]  # fmt: skip
    for other, message in cases:
        with pytest.raises(ValueError) as error:
            between(model, other)
        assert str(error.value) == f"between({message}"
    other_ball = small_model(Hyperbolic(r=1.0))
    with pytest.raises(
        ValueError, match=r"in the ball \(r, axis\) = \(0.5, \(0, 1, 2\)\) of 'net'"
    ):
        between(model, other_ball)
