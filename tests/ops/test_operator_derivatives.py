"""Derivatives of the operators where their arguments depend on each other, in both modes, under `torch.func`."""

import _op_cases as cases
import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

from _oracle import assert_close, local_aggregation_unfold
from ctxvision.ops import backends, contextual_conv2d, local_aggregation, use_backend
from ctxvision.ops._geometry import as_pair
from ctxvision.ops.contextual_conv import reference


def conv_in_plain_torch(x, weight, offset, weight_offset, mask, bias, stride, padding, dilation, groups):
    """The differentiable reference, called as `contextual_conv2d` is; torchvision's has first derivatives only."""
    pairs = (as_pair(stride, "", 1), as_pair(padding, "", 0), as_pair(dilation, "", 1))
    return reference.contextual_conv(x, weight, offset, weight_offset, mask, bias, *pairs, groups)


def entangled_aggregation(operator, **options):
    return lambda x, weight: operator(
        x.sin(), (weight * x.mean((2, 3))[:, :1, None, None, None]).tanh(), **options
    )


def entangled_conv(operator, stride, padding, dilation, groups):
    """As in a layer, everything depends on x."""

    def function(x, weight, offset, weight_offset=None, mask=None, bias=None):
        pooled = x.mean((2, 3))
        first = pooled[:, :1, None, None]
        return operator(
            x.sin(),
            weight * x.mean(),
            offset + 0.1 * first.tanh(),
            None if weight_offset is None else weight_offset * pooled[:, :, None, None],
            None if mask is None else mask * first.cos(),
            bias,
            stride=stride, padding=padding, dilation=dilation, groups=groups,
        )  # fmt: skip

    return function


def aggregation(grouping="interleaved", stride=2):
    options = {"stride": stride, "grouping": grouping}
    function, plain = (entangled_aggregation(f, **options) for f in (local_aggregation, local_aggregation_unfold))
    return function, plain, cases.aggregation_case(2, 4, 2, size=(4, 3), stride=stride)


def conv(kind="depthwise", present=cases.ALL):
    tensors, options = cases.contextual_case(
        cases.KINDS[kind], kernel=(1, 2), size=(3, 4), present=present, smooth=True, spread=1.0
    )
    function, plain = (entangled_conv(f, **options) for f in (contextual_conv2d, conv_in_plain_torch))
    return function, plain, tuple(t for t in tensors if t is not None)


CASES = {
    "blocked": lambda: aggregation("blocked", 1),
    "interleaved": aggregation,
    **{kind: lambda kind=kind: conv(kind) for kind in cases.KINDS},
    "plain": lambda: conv("grouped", cases.PLAIN | {"sampling_offset"}),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def directions(tensors, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in tensors)


def energy(function):
    return lambda *tensors: function(*tensors).pow(2).sum()


def dot(ones, others):
    return sum((a * b).sum() for a, b in zip(ones, others, strict=True))


def nested_gradients(function, tensors, vectors, order):
    """Differentiate again and again in ``vectors`` with plain autograd; all but the last with `create_graph`."""
    leaves = tuple(t.clone().requires_grad_() for t in tensors)
    scalar, results = energy(function)(*leaves), []
    for n in range(order):
        grads = torch.autograd.grad(scalar, leaves, create_graph=n + 1 < order, materialize_grads=True)
        results.extend(g.detach() for g in grads)
        scalar = dot(grads, vectors)
    return results


@every_case
@pytest.mark.parametrize("order", [2, 3])
def test_higher_derivatives_reach_what_the_arguments_depend_on(case, order):
    function, plain, tensors = case()
    v = directions(tensors)
    assert_close(
        nested_gradients(function, tensors, v, order), nested_gradients(plain, tensors, v, order), torch.float64
    )


@every_case
def test_tangents(case):
    function, plain, tensors = case()
    v = directions(tensors)
    assert_close(jvp(function, tensors, v), jvp(plain, tensors, v), torch.float64)
    assert_close(linearize(function, *tensors)[1](*v), jvp(plain, tensors, v)[1], torch.float64)
    for n in range(len(tensors)):  # each argument by itself: the others have no tangent at all

        def in_one(tensor, operator, n=n):
            return operator(*tensors[:n], tensor, *tensors[n + 1 :])

        actual, expected = (jvp(lambda t, f=f: in_one(t, f), (tensors[n],), (v[n],))[1] for f in (function, plain))
        assert_close(actual, expected, torch.float64, f"tangent by argument {n}")


@every_case
@pytest.mark.parametrize("with_graph", [False, True])
def test_dual_tensors(case, with_graph):
    function, plain, tensors = case()
    v, results = directions(tensors), []
    for f in (function, plain):
        leaves = tuple(t.clone().requires_grad_(with_graph) for t in tensors)
        with forward_ad.dual_level(), torch.set_grad_enabled(with_graph):
            duals = tuple(forward_ad.make_dual(t, u) for t, u in zip(leaves, v, strict=True))
            tangent = forward_ad.unpack_dual(f(*duals)).tangent
            results.append([tangent.detach()])
            if with_graph:  # reverse over forward, and forward over reverse
                results[-1] += torch.autograd.grad(tangent.sum(), leaves, materialize_grads=True)
                grads = torch.autograd.grad(energy(f)(*duals), leaves, create_graph=True)
                results[-1] += [forward_ad.unpack_dual(g).tangent.detach() for g in grads]
    assert_close(*results, torch.float64)


@every_case
def test_products_with_the_hessian_in_every_order_of_modes(case):
    function, plain, tensors = case()
    v, every = directions(tensors), tuple(range(len(tensors)))
    expected = nested_gradients(plain, tensors, v, 2)[len(tensors) :]
    f = energy(function)
    assert_close(jvp(grad(f, every), tensors, v)[1], expected, torch.float64)
    assert_close(grad(lambda *t: jvp(f, t, v)[1], every)(*tensors), expected, torch.float64)
    assert_close(grad(lambda *t: dot(grad(f, every)(*t), v), every)(*tensors), expected, torch.float64)
    assert_close(vjp(grad(f, every), *tensors)[1](v), expected, torch.float64)
    twice, thrice = (jvp(lambda *t, g=g: jvp(g, t, v)[1], tensors, v)[1] for g in (function, plain))
    assert_close(twice, thrice, torch.float64)


@pytest.mark.parametrize("name", ["interleaved", "depthwise", "plain"])
def test_jacobians_and_hessians(name):
    function, plain, tensors = CASES[name]()

    def shifted(operator):
        return lambda by: operator(*(t + by[n] for n, t in enumerate(tensors)))[0, :2, 0, 0]

    zero = torch.zeros(len(tensors), dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(shifted(plain), zero)
    assert_close(jacfwd(shifted(function))(zero), expected, torch.float64)
    assert_close(jacrev(shifted(function), chunk_size=3)(zero), expected, torch.float64)
    expected = torch.autograd.functional.hessian(energy(shifted(plain)), zero)
    for transform in (hessian, lambda f: jacrev(jacrev(f)), lambda f: jacrev(jacfwd(f))):
        assert_close(transform(energy(shifted(function)))(zero), expected, torch.float64)


@every_case
def test_vmap_over_any_arguments_and_dimensions(case):
    function, _, tensors = case()
    every = tuple(range(len(tensors)))
    stacks = tuple(torch.stack([t, 2 * t], n % t.dim()) for n, t in enumerate(tensors))
    functions = {"value": function, "gradient": grad(energy(function), every)}
    for batched in filter(None, (every, (0,), (1,), every[2:])):
        dims = tuple(n % tensors[n].dim() if n in batched else None for n in every)
        inputs = tuple(stacks[n] if n in batched else tensors[n] for n in every)
        calls = [[t if d is None else t.select(d, i) for t, d in zip(inputs, dims, strict=True)] for i in (0, 1)]
        for what, f in functions.items():
            expected = [f(*call) for call in calls]
            together = vmap(f, dims)(*inputs)
            if what == "value":
                together, expected = (together,), [(each,) for each in expected]
            assert_close(
                together, [torch.stack(parts) for parts in zip(*expected, strict=True)], torch.float64, what
            )


def test_vmap_in_vmap():
    x, weight = cases.aggregation_case()
    factors = torch.arange(1.0, 7.0, dtype=x.dtype).reshape(2, 3)
    stack = factors[:, :, None, None, None, None] * x
    together = vmap(vmap(local_aggregation, (0, None)), (1, None))(stack, weight)
    single = local_aggregation(x, weight)
    assert_close(together, factors.T[:, :, None, None, None, None] * single, torch.float64)


def test_vmap_of_the_regular_grid():
    """Without offsets there is nothing to sample, and `conv2d` computes."""
    tensors, options = cases.contextual_case(present=cases.PLAIN | {"weight_offset"})
    x, weight, _, bend, *_ = tensors
    for layout in (torch.contiguous_format, torch.channels_last):
        batch = torch.stack([x, -x]).flatten(0, 1).to(memory_format=layout).unflatten(0, (2, 2))
        together = vmap(lambda x: contextual_conv2d(x, weight, None, bend, **options))(batch)
        assert_close(together[1], contextual_conv2d(-x, weight, None, bend, **options), torch.float64)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("backend", [b.name for b in backends() if b.available])
@pytest.mark.parametrize("operator", ["aggregation", "conv"])
def test_every_backend_transforms(backend, operator, channels_last):
    """A transformed call reaches the kernels as any other: in float32 results are those of float64."""
    if operator == "aggregation":
        function, exact = lambda x, w: local_aggregation(x, w), cases.aggregation_case(2, 8, 2)
    else:
        (x, weight, offset, *_), options = cases.contextual_case(
            present=cases.PLAIN | {"sampling_offset"}, smooth=True
        )
        function, exact = lambda *t: contextual_conv2d(*t, **options), (x, weight, offset)
    rounded = tuple(t.float() for t in exact)
    if channels_last:
        rounded = (rounded[0].contiguous(memory_format=torch.channels_last), *rounded[1:])
    exact, every = tuple(t.double() for t in rounded), tuple(range(len(exact)))
    results = []
    for tensors, name in ((rounded, backend), (exact, "torch")):
        v = tuple(u.to(tensors[0].dtype) for u in directions(exact))
        with use_backend(name):
            results.append(
                [
                    jvp(function, tensors, v)[1],
                    *grad(energy(function), every)(*tensors),
                    *jvp(grad(energy(function), every), tensors, v)[1],
                    vmap(function)(*(torch.stack([t, u]) for t, u in zip(tensors, v, strict=True))),
                ]
            )
    assert_close(*results, torch.float32)


def test_bfloat16_tangents_by_the_offsets_are_not_differences_of_rounded_numbers():
    tensors, options = cases.contextual_case(present=cases.PLAIN | {"sampling_offset"}, smooth=True, spread=1.0)
    tensors = [None if t is None else t.bfloat16() for t in tensors[:3]]
    tensors[0] = tensors[0] + 100  # a large mean is no difference
    step = torch.randn_like(tensors[2])
    (actual,) = jvp(lambda o: contextual_conv2d(*tensors[:2], o, **options), (tensors[2],), (step,))[1:]
    exact = [t.double() for t in tensors]
    (expected,) = jvp(lambda o: contextual_conv2d(*exact[:2], o, **options), (exact[2],), (step.double(),))[1:]
    assert actual.dtype == torch.bfloat16
    assert_close(actual, expected, torch.bfloat16)


@pytest.mark.slow
def test_compiled_and_traced_transforms_equal_eager_ones():
    torch._dynamo.reset()
    function, _, tensors = conv("grouped", cases.PLAIN | {"sampling_offset"})
    v, f = directions(tensors), energy(function)
    transforms = {
        "grad": lambda x: grad(f)(x, *tensors[1:]),
        "jvp": lambda x: jvp(function, (x, *tensors[1:]), v)[1],
        "product": lambda x: jvp(grad(f), (x, *tensors[1:]), v)[1],
        "vmap": lambda x: vmap(grad(f), (0, None, None))(torch.stack([x, 2 * x]), *tensors[1:]),
    }
    for name, transform in transforms.items():
        compiled = torch.compile(transform, fullgraph=True, backend="aot_eager")
        assert_close(compiled(tensors[0]), transform(tensors[0]), torch.float64, name)


def test_autocast_inside_a_transform():
    tensors = cases.aggregation_case(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, tangent = jvp(local_aggregation, tensors, directions(tensors))
        gradients = vmap(grad(lambda x, w: local_aggregation(x[None], w[None]).float().sum()))(*tensors)
    assert (y.dtype, tangent.dtype, gradients.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    exact = tuple(t.bfloat16().double() for t in tensors)
    v = tuple(t.bfloat16().double() for t in directions(tensors))
    assert_close(tangent, jvp(local_aggregation_unfold, exact, v)[1], torch.bfloat16)


def test_empty_batches():
    for case in (aggregation, conv):
        function, _, tensors = case()
        x, *others = (t[:0] if t.shape[0] == 2 else t for t in tensors)
        y, tangent = jvp(lambda x, f=function, o=others: f(x, *o), (x,), (x,))
        assert y.shape == tangent.shape == (0, *y.shape[1:])
        assert grad(lambda x, f=function, o=others: f(x, *o).sum())(x).shape == x.shape
        assert vmap(lambda x, f=function, o=others: f(x, *o), 0)(x[None]).shape == (1, *y.shape)
